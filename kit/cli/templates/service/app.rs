//! The way of a request through this service.

use kit::metrics::{MetricsLayer, observer};
use kit::server::{BodyLimitLayer, Inbound, ServerConfig};
use kit::{
    authenticate::AuthenticateLayer, concurrency::ConcurrencyLimitLayer, deadline::DeadlineLayer,
    fault::FaultLayer, name::ServiceName, rate_limit::RateLimitLayer, trace::TraceLayer,
};

/// What stands around the methods, outermost first: logs and traces, numbers for Prometheus, then what bounds a
/// request. Each layer has its reason at its field in [`Inbound`], which keeps them in this order.
pub(crate) fn inbound(config: &ServerConfig, service: &ServiceName) -> Inbound {
    Inbound {
        trace: TraceLayer::inbound(),
        metrics: MetricsLayer::inbound(service),
        deadline: DeadlineLayer::inbound(config.deadline),
        concurrency: ConcurrencyLimitLayer::new(service.as_str(), config.concurrency, observer()),
        rate_limit: RateLimitLayer::new(config.rate_limit),
        authenticate: config.tokens.clone().map(AuthenticateLayer::new),
        fault: FaultLayer::new(config.fault),
        body_limit: BodyLimitLayer::new(config.body_limit),
    }
}
