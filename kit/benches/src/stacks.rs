//! Whole stacks: a client's over a set of endpoints, and a server's around a handler.

use tower::{
    Layer, Service, ServiceBuilder, ServiceExt, buffer::Buffer, limit::ConcurrencyLimit,
    retry::Retry, service_fn, timeout::Timeout, util::MapResponse,
};

use crate::{
    Bare, Inner, Reply, Request, Subject,
    kit_layers::{CONCURRENCY, RATE, balancer, circuit, upstream},
    peer_layers::{
        Governed, P2c, Policy, TIMEOUT, failsafe_around, p2c_over, tr_breaker_layer,
        tr_bulkhead_layer, tr_rate_layer, tr_retry_layer, tr_timeout_layer,
    },
    shared,
};
use http::Response;
use kit::{
    Body, BoxError,
    client::{ClientConfig, Outbound},
    endpoint::Endpoint,
    event::nobody,
    server::{Inbound, ServerConfig},
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

fn inbound_around(
    inner: Inner,
) -> impl Service<Request, Response = Response<Body>, Error = BoxError, Future: Send> + Clone + Send
{
    let config = ServerConfig {
        concurrency: CONCURRENCY,
        rate_limit: Some(RATE),
        ..ServerConfig::default()
    };
    let handler = MapResponse::new(Bare(inner), |reply: Reply| reply.map(|_| Body::empty()));
    Inbound::from_config(&config, &upstream())
        .layer(handler)
        .map_request(|request: Request| request.map(|_| Body::empty()))
}

/// All that stands around a handler in a server.
pub(crate) fn inbound(inner: Inner) -> Box<dyn Subject> {
    shared(inbound_around(inner))
}

/// The same where each request gets a clone, as from servers that keep one service for all connections.
pub(crate) fn inbound_cloned(inner: Inner) -> Box<dyn Subject> {
    let service = inbound_around(inner);
    shared(service_fn(move |request| service.clone().oneshot(request)))
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
