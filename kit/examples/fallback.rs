//! A fallback, alone in a tower stack: when the peer fails, what is known of old is good enough.

use std::future::{Ready, ready};

use http::{Response, StatusCode};
use kit::{BoxError, fallback::FallbackLayer};
use tower::{ServiceBuilder, ServiceExt, service_fn};

type Answer = Result<Response<&'static str>, BoxError>;

async fn peer(name: &'static str) -> Answer {
    let mut response = Response::new("new");
    if name != "well" {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}

/// What answers in place of a failed call, made from the request that it is for.
fn known(name: &&'static str) -> impl FnOnce(Answer) -> Ready<Answer> + use<> {
    let known = (*name == "known").then_some("old");
    move |failed| ready(known.map_or(failed, |known| Ok(Response::new(known))))
}

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let service = ServiceBuilder::new()
        .layer(FallbackLayer::new(known, kit::metrics::observer()))
        .service(service_fn(peer));

    assert_eq!(*service.clone().oneshot("well").await?.body(), "new");
    assert_eq!(*service.clone().oneshot("known").await?.body(), "old");
    let failed = service.oneshot("unknown").await?;
    println!("nothing to fall back on: {}", failed.status());
    assert_eq!(failed.status(), 503);
    Ok(())
}
