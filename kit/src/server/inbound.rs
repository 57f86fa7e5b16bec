//! The way of a request through a server, in its one right order.

use tower::util::{Either, option_layer};
use tower_layer::Layer;

use super::{BodyLimitLayer, LimitBody, Respond, RespondLayer, ServerConfig};
use crate::{
    authenticate::{AuthenticateLayer, Authenticated},
    concurrency::{ConcurrencyLimit, ConcurrencyLimitLayer},
    deadline::{DeadlineLayer, DeadlineService},
    fault::{Fault, FaultLayer},
    metrics::{Metrics, MetricsLayer, observer},
    name::ServiceName,
    rate_limit::{RateLimit, RateLimitLayer},
    trace::{InboundTrace, InboundTraceLayer, TraceLayer},
};

/// The layers around a service, outermost first. Written as a struct literal, it says by name what stands around
/// a service, and leaves no way to put them in another order:
///
/// ```
/// use kit::server::{Inbound, ServerConfig};
///
/// let config = ServerConfig::default();
/// let service = "users".parse()?;
/// let inbound = Inbound {
///     body_limit: kit::server::BodyLimitLayer::new(4096),
///     ..Inbound::from_config(&config, &service)
/// };
/// # Ok::<(), kit::name::InvalidName>(())
/// ```
///
/// What it builds shares the state of these layers: make one per service.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// Outermost, so that whatever happens inside is in the span and in the access log.
    pub trace: InboundTraceLayer,
    /// Sees every answer, whoever gave it. Inside of it errors, refusals and panics become responses.
    pub metrics: MetricsLayer,
    /// Before everything that may wait: what is too late is not begun.
    pub deadline: DeadlineLayer,
    /// Sheds what is too much at once, before anything is spent on it.
    pub concurrency: ConcurrencyLimitLayer,
    /// Refuses what is too much over time. Inside of the concurrency limit: what that refuses costs no token.
    pub rate_limit: RateLimitLayer,
    /// Finds out who calls. Inside of the limits: who shows one wrong token after the other is slowed down as well.
    pub authenticate: Option<AuthenticateLayer>,
    /// Injected faults look like the handler's own: all of the above has to cope with them.
    pub fault: FaultLayer,
    /// Innermost: only the handler reads the body.
    pub body_limit: BodyLimitLayer,
}

/// A service inside of [`Inbound`].
pub type InboundService<S> = InboundTrace<
    Metrics<Respond<DeadlineService<ConcurrencyLimit<RateLimit<Asked<Fault<LimitBody<S>>>>>>>>,
>;

/// A service that finds out who calls or one that does not.
type Asked<S> = Either<Authenticated<S>, S>;

impl Inbound {
    /// All layers as `config` says, for `service`.
    pub fn from_config(config: &ServerConfig, service: &ServiceName) -> Self {
        Self {
            trace: TraceLayer::inbound(),
            metrics: MetricsLayer::inbound(service),
            deadline: DeadlineLayer::inbound(config.deadline),
            concurrency: ConcurrencyLimitLayer::new(
                service.as_str(),
                config.concurrency,
                observer(),
            ),
            rate_limit: RateLimitLayer::new(config.rate_limit),
            authenticate: config.tokens.clone().map(AuthenticateLayer::new),
            fault: FaultLayer::new(config.fault),
            body_limit: BodyLimitLayer::new(config.body_limit),
        }
    }
}

impl<S> Layer<S> for Inbound {
    type Service = InboundService<S>;

    fn layer(&self, handler: S) -> InboundService<S> {
        let Self {
            trace,
            metrics,
            deadline,
            concurrency,
            rate_limit,
            authenticate,
            fault,
            body_limit,
        } = self;
        let service = body_limit.layer(handler);
        let service = fault.layer(service);
        let service = option_layer(authenticate.clone()).layer(service);
        let service = rate_limit.layer(service);
        let service = concurrency.layer(service);
        let service = deadline.layer(service);
        let service = RespondLayer.layer(service);
        let service = metrics.layer(service);
        trace.layer(service)
    }
}
