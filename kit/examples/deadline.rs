//! A deadline, alone in a tower stack: the caller says how long it waits, and the service is not asked for longer.

use std::{convert::Infallible, time::Duration};

use http::{Request, Response};
use kit::{
    BoxError, Context, Rejection,
    deadline::{DeadlineConfig, DeadlineLayer},
};
use tokio::time::Instant;
use tower::{ServiceBuilder, ServiceExt, service_fn};

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let service = ServiceBuilder::new()
        .layer(DeadlineLayer::inbound(DeadlineConfig::default()))
        .service(service_fn(async |request: Request<Duration>| {
            let deadline = Context::of(request.extensions()).deadline;
            tokio::time::sleep(*request.body()).await;
            Ok::<_, Infallible>(Response::new(deadline))
        }));

    let quick = Request::new(Duration::ZERO);
    let deadline = service.clone().oneshot(quick).await?.into_body();
    let left = deadline
        .expect("the layer set it")
        .remaining(Instant::now());
    println!("{left:?} were left");

    // The caller waits for 20 ms.
    let slow = Request::builder().header("request-timeout", "20m");
    let slow = slow.body(Duration::from_secs(60))?;
    let error = service.oneshot(slow).await.expect_err("refused");
    println!("{error}");
    let exceeded = Rejection::DeadlineExceeded;
    assert_eq!(Rejection::find(&*error), Some(&exceeded));
    Ok(())
}
