//! Layers of tower-http stand around a handler like any others: CORS for browsers, inside of the kit's stack.

use std::convert::Infallible;

use http::{Method, Request, Response, header};
use kit::{
    Body, BoxError,
    server::{Inbound, ServerConfig},
};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_http::cors::{Any, CorsLayer};

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let handler = service_fn(async |_: Request<Body>| {
        Ok::<_, Infallible>(Response::new(Body::full("hello")))
    });
    let cors = CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::POST]);
    let service = ServiceBuilder::new()
        .layer(Inbound::from_config(
            &ServerConfig::default(),
            &"hello".parse()?,
        ))
        .layer(cors)
        .service(handler);

    let preflight = Request::options("/")
        .header(header::ORIGIN, "https://example.org")
        .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
        .body(Body::empty())?;
    let response = service.oneshot(preflight).await?;
    let allowed = &response.headers()[header::ACCESS_CONTROL_ALLOW_METHODS];
    println!("a browser may {}", allowed.to_str()?);
    assert_eq!(allowed, "POST");
    Ok(())
}
