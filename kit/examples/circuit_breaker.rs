//! A circuit breaker, alone in a tower stack: after three failures in a row nobody asks the peer any more.

use std::num::NonZeroU32;

use kit::{
    BoxError, Rejection,
    circuit_breaker::{Circuit, CircuitBreakerConfig, CircuitBreakerLayer, CircuitState},
    classify::AnySuccess,
    metrics,
};
use tower::{ServiceBuilder, ServiceExt, service_fn};

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let config = CircuitBreakerConfig {
        consecutive_failures: NonZeroU32::new(3).expect("not zero"),
        ..CircuitBreakerConfig::default()
    };
    // The observer logs and counts what the circuit does.
    let circuit = Circuit::new("peer", config, metrics::observer());
    let service = ServiceBuilder::new()
        .layer(CircuitBreakerLayer::new(circuit.clone()).with_classify(AnySuccess))
        .service(service_fn(async |()| Err::<(), _>("connection reset")));

    for _ in 0..3 {
        let error = service.clone().oneshot(()).await.expect_err("refused");
        assert_eq!(error.to_string(), "connection reset");
    }
    assert_eq!(circuit.state(), CircuitState::Open);
    let error = service.oneshot(()).await.expect_err("refused");
    println!("{error}");
    let refused = Rejection::find(&*error);
    assert!(matches!(refused, Some(Rejection::CircuitOpen { .. })));
    Ok(())
}
