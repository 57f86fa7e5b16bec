//! A rate limit, alone in a tower stack: two requests at once, then one every second.

use std::{convert::Infallible, num::NonZeroU32, time::Duration};

use kit::{
    BoxError, Rejection,
    rate_limit::{Rate, RateLimitLayer},
};
use tower::{ServiceBuilder, ServiceExt, service_fn};

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let rate = |burst| Rate {
        burst: NonZeroU32::new(burst).expect("not zero"),
        interval: Duration::from_secs(1),
    };
    let limit = RateLimitLayer::new(rate(2));
    let service = ServiceBuilder::new()
        .layer(limit.clone())
        .service(service_fn(async |name: &str| {
            Ok::<_, Infallible>(format!("hello {name}"))
        }));

    // Clones share the limit.
    assert_eq!(service.clone().oneshot("Ada").await?, "hello Ada");
    assert_eq!(service.clone().oneshot("Grace").await?, "hello Grace");

    let error = service.clone().oneshot("Alan").await.expect_err("refused");
    println!("{error}");
    let Some(Rejection::RateLimited { retry_after }) = Rejection::find(&*error) else {
        return Err(error);
    };
    assert!(*retry_after <= Duration::from_secs(1));

    // The rate can be replaced while requests pass.
    limit.rate().set(Some(rate(3)));
    assert_eq!(service.oneshot("Alan").await?, "hello Alan");
    Ok(())
}
