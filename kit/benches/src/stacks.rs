//! Whole client stacks over a set of endpoints.

use tower::{
    Layer, Service, ServiceBuilder, buffer::Buffer, limit::ConcurrencyLimit, retry::Retry,
    timeout::Timeout,
};

use crate::{
    Inner, Request, Subject,
    kit_layers::{CONCURRENCY, RATE, balancer, circuit, upstream},
    peer_layers::{
        Governed, P2c, Policy, TIMEOUT, failsafe_around, p2c_over, tr_breaker_layer,
        tr_bulkhead_layer, tr_rate_layer, tr_retry_layer, tr_timeout_layer,
    },
    shared,
};
use kit::{
    client::{ClientConfig, Outbound},
    endpoint::Endpoint,
    event::nobody,
};

/// Everything: metrics, trace, deadline, concurrency limit, rate limit, retry with its budget and attempt timeout as the
/// kit's client has them, and a circuit breaker for each endpoint of the balancer.
pub(crate) fn kit<const N: usize>(inner: Inner) -> Box<dyn Subject> {
    let config = ClientConfig {
        concurrency: Some(CONCURRENCY),
        rate_limit: Some(RATE),
        ..ClientConfig::default()
    };
    let balance = balancer(N, inner, |_: &Endpoint| circuit());
    shared(Outbound::from_config(&config, &upstream(), nobody()).layer(balance))
}

/// tower's balancer cannot be cloned, so it stands behind a queue and a task.
fn buffered<const N: usize>(inner: Inner) -> Buffer<Request, <P2c as Service<Request>>::Future> {
    Buffer::new(p2c_over(N, inner), 1024)
}

pub(crate) fn tower_balance<const N: usize>(inner: Inner) -> Box<dyn Subject> {
    shared(buffered::<N>(inner))
}

/// The cheapest peer for each job: timeout, retry and concurrency limit of tower, failsafe, governor. No metrics,
/// no trace.
pub(crate) fn best5<const N: usize>(inner: Inner) -> Box<dyn Subject> {
    let stack = ConcurrencyLimit::new(buffered::<N>(inner), 1024);
    let stack = failsafe_around(Governed::new(stack));
    shared(Timeout::new(Retry::new(Policy::default(), stack), TIMEOUT))
}

/// The same five of tower-resilience, in the order of its documentation. No metrics, no trace.
pub(crate) fn tr5<const N: usize>(inner: Inner) -> Box<dyn Subject> {
    shared(
        ServiceBuilder::new()
            .layer(tr_timeout_layer())
            .layer(tr_retry_layer())
            .layer(tr_breaker_layer())
            .layer(tr_rate_layer())
            .layer(tr_bulkhead_layer())
            .service(buffered::<N>(inner)),
    )
}
