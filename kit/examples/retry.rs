//! Retries with a budget, alone in a tower stack. A GET is made again; a POST only if it has an idempotency key.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use http::{Request, Response, StatusCode};
use kit::{
    Body, BoxError,
    retry::{Budget, Replay, RetryConfig, RetryLayer},
};
use tower::{ServiceBuilder, ServiceExt, service_fn};

static CALLS: AtomicU32 = AtomicU32::new(0);

/// A peer that fails every other time.
async fn peer(_request: Request<Replay<Body>>) -> Result<Response<Body>, BoxError> {
    let mut response = Response::new(Body::empty());
    if CALLS.fetch_add(1, Relaxed).is_multiple_of(2) {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let config = RetryConfig::default();
    let budget = Budget::new(config.budget);
    let service = ServiceBuilder::new()
        .layer(RetryLayer::new(config, budget, kit::metrics::observer()))
        .service(service_fn(peer));

    let get = Request::get("/").body(Body::empty())?;
    assert_eq!(service.clone().oneshot(get).await?.status(), 200);
    let post = Request::post("/").body(Body::full("pay"))?;
    assert_eq!(service.oneshot(post).await?.status(), 503);
    println!("two calls, {} attempts", CALLS.load(Relaxed));
    assert_eq!(CALLS.load(Relaxed), 3);
    Ok(())
}
