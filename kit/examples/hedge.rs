//! Hedging, alone in a tower stack: when an answer is late, the peer is asked a second time.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use http::{Request, Response};
use kit::{
    Body, BoxError, Context,
    hedge::{HedgeConfig, HedgeLayer},
    policy::Budget,
};
use tower::{ServiceBuilder, ServiceExt, service_fn};

static CALLS: AtomicU32 = AtomicU32::new(0);

/// A peer whose every first answer takes for ever.
async fn peer(request: Request<Body>) -> Result<Response<Body>, BoxError> {
    CALLS.fetch_add(1, Relaxed);
    if Context::of(request.extensions()).previous_attempts == 0 {
        std::future::pending::<()>().await;
    }
    Ok(Response::new(Body::full("hedged")))
}

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let config = HedgeConfig {
        delay: Some(Duration::from_millis(5)), // By default: the observed 95th percentile.
        ..HedgeConfig::default()
    };
    let hedge = HedgeLayer::new(config, Budget::default(), kit::metrics::observer());
    let service = ServiceBuilder::new().layer(hedge).service(service_fn(peer));
    service.oneshot(Request::new(Body::empty())).await?;
    println!("one call, {} attempts", CALLS.load(Relaxed));
    assert_eq!(CALLS.load(Relaxed), 2);
    Ok(())
}
