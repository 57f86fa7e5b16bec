//! The kit's layers, each alone, with what its configuration has by default.

use std::{
    future::ready,
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use http::uri::Authority;
use kit::{
    balance::{
        Balance, BalanceConfig, Call, ConsistentHash, HashKey, Picker, Random, RoundRobin, Weighted,
    },
    circuit_breaker::{Circuit, CircuitBreakerConfig, CircuitBreakerLayer, Fleet},
    classify::is_idempotent,
    coalesce::{CoalesceConfig, CoalesceLayer},
    concurrency::{Adaptive, ConcurrencyConfig, ConcurrencyLimitLayer},
    deadline::{AttemptTimeoutLayer, DeadlineConfig, DeadlineLayer},
    endpoint::{Endpoint, Snapshot, Watch},
    event::nobody,
    fallback::FallbackLayer,
    fault::FaultLayer,
    hedge::{HedgeConfig, HedgeLayer},
    metrics::MetricsLayer,
    name::ServiceName,
    policy::{Admit, Budget, Live, Ratio},
    rate_limit::{KeyedRate, KeyedRateLimitLayer, Rate, RateLimitLayer},
    retry::{RetryConfig, RetryLayer},
    trace::TraceLayer,
};
use tower::Layer;

use crate::{Bare, Inner, Request, Subject, next_key, shared};

pub(crate) fn upstream() -> ServiceName {
    "users".parse().expect("it is a name")
}

pub(crate) fn deadline(inner: Inner) -> Box<dyn Subject> {
    shared(DeadlineLayer::outbound(DeadlineConfig::default()).layer(Bare(inner)))
}

pub(crate) fn attempt_timeout(inner: Inner) -> Box<dyn Subject> {
    shared(AttemptTimeoutLayer::new(Duration::from_secs(2)).layer(Bare(inner)))
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

/// So many keys as [`next_key`] gives, each with a bucket of its own.
pub(crate) fn keyed_rate_limit(inner: Inner) -> Box<dyn Subject> {
    let layer = KeyedRateLimitLayer::new(KeyedRate::new(RATE), |_: &Request| Some(next_key()));
    shared(layer.layer(Bare(inner)))
}

pub(crate) const CONCURRENCY: ConcurrencyConfig = ConcurrencyConfig {
    limit: NonZeroUsize::new(1024).expect("not zero"),
    adaptive: None,
};

pub(crate) fn concurrency(inner: Inner) -> Box<dyn Subject> {
    let layer = ConcurrencyLimitLayer::new("bench", CONCURRENCY, nobody());
    shared(layer.layer(Bare(inner)))
}

pub(crate) fn adaptive_concurrency(inner: Inner) -> Box<dyn Subject> {
    let config = ConcurrencyConfig {
        adaptive: Some(Adaptive::default()),
        ..CONCURRENCY
    };
    let layer = ConcurrencyLimitLayer::new("bench", config, nobody());
    shared(layer.layer(Bare(inner)))
}

pub(crate) fn circuit() -> Circuit {
    Circuit::new("bench", CircuitBreakerConfig::default(), nobody())
}

pub(crate) fn circuit_breaker(inner: Inner) -> Box<dyn Subject> {
    shared(CircuitBreakerLayer::new(circuit()).layer(Bare(inner)))
}

/// One of a fleet, of which not all may be open.
pub(crate) fn circuit_in_fleet(inner: Inner) -> Box<dyn Subject> {
    let fleet = Fleet::new(upstream(), nobody());
    let circuit = Circuit::in_fleet("bench", CircuitBreakerConfig::default(), &fleet);
    shared(CircuitBreakerLayer::new(circuit).layer(Bare(inner)))
}

/// Nobody asks the same at the same time, on one thread.
pub(crate) fn coalesce(inner: Inner) -> Box<dyn Subject> {
    let layer = CoalesceLayer::new(CoalesceConfig::default(), |request: &Request| {
        is_idempotent(request).then(|| request.uri().clone())
    });
    shared(layer.layer(Bare(inner)))
}

/// No call fails.
pub(crate) fn fallback(inner: Inner) -> Box<dyn Subject> {
    shared(FallbackLayer::new(|_: &Request| ready, nobody()).layer(Bare(inner)))
}

/// No fault is injected.
pub(crate) fn fault(inner: Inner) -> Box<dyn Subject> {
    shared(FaultLayer::default().layer(Bare(inner)))
}

/// Answers come long before the delay, which is fixed as the peer's is: one that is observed differs from run to run,
/// and with it what a call costs.
pub(crate) fn hedge(inner: Inner) -> Box<dyn Subject> {
    let config = HedgeConfig {
        delay: Some(Duration::from_secs(1)),
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

fn picked<const N: usize>(inner: Inner, picker: impl Picker) -> Box<dyn Subject> {
    shared(balancer(N, inner, |_: &Endpoint| ()).with_picker(picker))
}

pub(crate) fn round_robin<const N: usize>(inner: Inner) -> Box<dyn Subject> {
    picked::<N>(inner, RoundRobin::default())
}

pub(crate) fn random<const N: usize>(inner: Inner) -> Box<dyn Subject> {
    picked::<N>(inner, Random)
}

pub(crate) fn weighted<const N: usize>(inner: Inner) -> Box<dyn Subject> {
    picked::<N>(inner, Weighted)
}

pub(crate) fn consistent_hash<const N: usize>(inner: Inner) -> Box<dyn Subject> {
    let key = |_: &Call<'_>| Some(HashKey::of(&next_key().to_be_bytes()));
    picked::<N>(inner, ConsistentHash::by(Ratio::ONE, key))
}
