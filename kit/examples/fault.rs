//! Faults on purpose, alone in a tower stack: turned on and off while requests pass.

use std::convert::Infallible;

use kit::{
    BoxError, Code, Rejection,
    fault::{Fail, FaultConfig, FaultLayer},
    policy::Ratio,
};
use tower::{ServiceBuilder, ServiceExt, service_fn};

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let faults = FaultLayer::new(FaultConfig::default());
    let service = ServiceBuilder::new()
        .layer(faults.clone())
        .service(service_fn(async |name: &str| {
            Ok::<_, Infallible>(format!("hello {name}"))
        }));
    assert_eq!(service.clone().oneshot("Ada").await?, "hello Ada");

    faults.config().set(FaultConfig {
        error: Some(Fail {
            ratio: Ratio::ONE,
            code: Code::Unavailable,
        }),
        delay: None,
    });
    let error = service.clone().oneshot("Ada").await.expect_err("refused");
    println!("{error}");
    let code = Code::Unavailable;
    let injected = Rejection::FaultInjected { code };
    assert_eq!(Rejection::find(&*error), Some(&injected));
    Ok(())
}
