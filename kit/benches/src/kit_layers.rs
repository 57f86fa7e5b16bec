//! The kit's layers, each alone, with what its configuration has by default.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use http::uri::Authority;
use kit::{
    balance::{Balance, BalanceConfig},
    circuit_breaker::{Circuit, CircuitBreakerConfig, CircuitBreakerLayer},
    concurrency::{ConcurrencyConfig, ConcurrencyLimitLayer},
    deadline::{DeadlineConfig, DeadlineLayer},
    endpoint::{Endpoint, Snapshot, Watch},
    event::nobody,
    hedge::{HedgeConfig, HedgeLayer},
    metrics::MetricsLayer,
    name::ServiceName,
    policy::{Admit, Budget, Live},
    rate_limit::{Rate, RateLimitLayer},
    retry::{RetryConfig, RetryLayer},
    trace::TraceLayer,
};
use tower::Layer;

use crate::{Bare, Inner, Subject, shared};

pub(crate) fn upstream() -> ServiceName {
    "users".parse().expect("it is a name")
}

pub(crate) fn deadline(inner: Inner) -> Box<dyn Subject> {
    shared(DeadlineLayer::outbound(DeadlineConfig::default()).layer(Bare(inner)))
}

pub(crate) fn retry(inner: Inner) -> Box<dyn Subject> {
    let layer = RetryLayer::new(RetryConfig::default(), Budget::default(), nobody());
    shared(layer.layer(Bare(inner)))
}

/// Above what any machine sends, so that all pass.
pub(crate) const RATE: Rate = Rate {
    burst: NonZeroU32::MAX,
    interval: Duration::from_nanos(1),
};

pub(crate) fn rate_limit(inner: Inner) -> Box<dyn Subject> {
    shared(RateLimitLayer::new(RATE).layer(Bare(inner)))
}

pub(crate) const CONCURRENCY: ConcurrencyConfig = ConcurrencyConfig {
    limit: NonZeroUsize::new(1024).expect("not zero"),
    adaptive: None,
};

pub(crate) fn concurrency(inner: Inner) -> Box<dyn Subject> {
    let layer = ConcurrencyLimitLayer::new("bench", CONCURRENCY, nobody());
    shared(layer.layer(Bare(inner)))
}

pub(crate) fn circuit() -> Circuit {
    Circuit::new("bench", CircuitBreakerConfig::default(), nobody())
}

pub(crate) fn circuit_breaker(inner: Inner) -> Box<dyn Subject> {
    shared(CircuitBreakerLayer::new(circuit()).layer(Bare(inner)))
}

/// The delay is observed; until it is known, and later where answers come before it, nothing is hedged.
pub(crate) fn hedge(inner: Inner) -> Box<dyn Subject> {
    let config = HedgeConfig {
        min_delay: Duration::from_secs(1),
        ..HedgeConfig::default()
    };
    shared(HedgeLayer::new(config, Budget::default(), nobody()).layer(Bare(inner)))
}

pub(crate) fn metrics(inner: Inner) -> Box<dyn Subject> {
    shared(MetricsLayer::outbound(&upstream()).layer(Bare(inner)))
}

/// The span of the call and the span of its attempt.
pub(crate) fn trace(inner: Inner) -> Box<dyn Subject> {
    let attempt = TraceLayer::attempt().layer(Bare(inner));
    shared(TraceLayer::outbound(upstream()).layer(attempt))
}

pub(crate) fn snapshot(endpoints: usize) -> Snapshot {
    (0..endpoints)
        .map(|n| {
            let address = format!("10.0.{}.{}:80", n / 256, n % 256);
            Endpoint::at(Authority::try_from(address).expect("host and port"))
        })
        .collect()
}

pub(crate) fn balancer<G: Admit>(
    endpoints: usize,
    inner: Inner,
    gate: impl Fn(&Endpoint) -> G + Send + Sync + 'static,
) -> Balance<Bare, G> {
    let watch = Watch::fixed(upstream(), snapshot(endpoints));
    let config = Live::new(BalanceConfig::default());
    Balance::new(watch, config, move |_: &Endpoint| Bare(inner), gate)
}

pub(crate) fn balance<const N: usize>(inner: Inner) -> Box<dyn Subject> {
    shared(balancer(N, inner, |_: &Endpoint| ()))
}
