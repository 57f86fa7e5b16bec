//! A concurrency limit, alone in a tower stack: what is too much is refused at once and never waits.

use std::{convert::Infallible, num::NonZeroUsize, time::Duration};

use kit::{
    BoxError, Rejection,
    classify::AnySuccess,
    concurrency::{ConcurrencyConfig, ConcurrencyLimitLayer},
    event,
};
use tower::{ServiceBuilder, ServiceExt, service_fn};

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let config = ConcurrencyConfig {
        limit: NonZeroUsize::new(2).expect("not zero"),
        ..ConcurrencyConfig::default()
    };
    let limit =
        ConcurrencyLimitLayer::new("sleep", config, event::nobody()).with_classify(AnySuccess);
    let service = ServiceBuilder::new()
        .layer(limit.clone())
        .service(service_fn(async |millis: u64| {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            Ok::<_, Infallible>(millis)
        }));

    let (first, second, third) = tokio::join!(
        service.clone().oneshot(10),
        service.clone().oneshot(20),
        service.clone().oneshot(30),
    );
    assert_eq!((first?, second?), (10, 20));
    let error = third.expect_err("refused");
    let overloaded = Rejection::Overloaded { limit: 2 };
    assert_eq!(Rejection::find(&*error), Some(&overloaded));
    assert_eq!(limit.limiter().in_flight(), 0);
    Ok(())
}
