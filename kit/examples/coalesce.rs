//! Coalescing, alone in a tower stack: who asks the same while an answer is on its way shares it.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use http::{Request, Response};
use kit::{
    BoxError,
    classify::is_idempotent,
    coalesce::{CoalesceConfig, CoalesceLayer},
};
use tower::{ServiceBuilder, ServiceExt, service_fn};

static CALLS: AtomicU32 = AtomicU32::new(0);

/// A peer that takes its time. Its answers can be had twice, for their body is `Clone`.
async fn peer(request: Request<()>) -> Result<Response<String>, BoxError> {
    CALLS.fetch_add(1, Relaxed);
    tokio::task::yield_now().await;
    Ok(Response::new(request.uri().to_string()))
}

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let coalesce = CoalesceLayer::new(CoalesceConfig::default(), |request: &Request<()>| {
        is_idempotent(request).then(|| (request.method().clone(), request.uri().clone()))
    });
    let service = ServiceBuilder::new()
        .layer(coalesce)
        .service(service_fn(peer));

    let [first, second, other] = ["/a", "/a", "/b"].map(|path| Request::get(path).body(()));
    let calls = [first?, second?, other?].map(|request| service.clone().oneshot(request));
    let answers = futures_util::future::try_join_all(calls).await?;
    assert_eq!(answers[0].body(), answers[1].body());
    println!("three calls, {} made", CALLS.load(Relaxed));
    assert_eq!(CALLS.load(Relaxed), 2);
    Ok(())
}
