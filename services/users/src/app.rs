//! The way of a request through this service.

use kit::{
    authenticate::AuthenticateLayer,
    concurrency::ConcurrencyLimitLayer,
    deadline::DeadlineLayer,
    fault::FaultLayer,
    metrics::{self, MetricsLayer},
    name::ServiceName,
    rate_limit::RateLimitLayer,
    server::{BodyLimitLayer, Check, Inbound, ServerConfig},
    sqlite::Database,
    trace::TraceLayer,
};

/// What stands around the handlers, outermost first. Each layer has its reason at its field in [`Inbound`], which
/// keeps them in this order.
pub(crate) fn inbound(config: &ServerConfig, service: &ServiceName) -> Inbound {
    Inbound {
        trace: TraceLayer::inbound(),
        metrics: MetricsLayer::inbound(service),
        deadline: DeadlineLayer::inbound(config.deadline),
        concurrency: ConcurrencyLimitLayer::new(
            service.as_str(),
            config.concurrency,
            metrics::observer(),
        ),
        rate_limit: RateLimitLayer::new(config.rate_limit),
        authenticate: config.tokens.clone().map(AuthenticateLayer::new),
        fault: FaultLayer::new(config.fault),
        body_limit: BodyLimitLayer::new(config.body_limit),
    }
}

/// What readiness asks for: without its database an instance is of no use.
pub(crate) fn database(database: Database) -> Check {
    Check::new("database", move || {
        let database = database.clone();
        async move { Ok(database.ping().await?) }
    })
}
