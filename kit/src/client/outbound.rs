//! The way of a call through a client, in its one right order.

use std::sync::Arc;

use tower_layer::Layer;

use super::ClientConfig;
use crate::{
    clock::{SharedClock, SharedClockLayer},
    concurrency::{ConcurrencyLimit, ConcurrencyLimitLayer},
    deadline::{
        AttemptTimeout, AttemptTimeoutLayer, DeadlineConfig, DeadlineLayer, DeadlineService,
    },
    event::SharedObserver,
    hedge::{Hedge, HedgeLayer},
    metrics::{Metrics, MetricsLayer},
    name::ServiceName,
    rate_limit::{RateLimit, RateLimitLayer},
    retry::{Budget, Retry, RetryLayer},
    trace::{Trace, TraceLayer},
};

/// The layers around a balancer, outermost first: the mirror of [`server::Inbound`](crate::server::Inbound). Written
/// as a struct literal, it says by name what stands around a call, and leaves no way to put them in another order.
///
/// What it builds shares the state of these layers: make one per service that is called. The endpoints' circuit
/// breakers are further in, one for each endpoint, at the balancer's gates.
#[derive(Clone, Debug)]
pub struct Outbound {
    /// Outermost: counts a call once, and times all of it, refusals and waits between attempts too.
    pub metrics: MetricsLayer,
    /// One span for the call, the parent of those of its attempts.
    pub trace: TraceLayer,
    /// Outside of the retries, so that it covers all attempts.
    pub deadline: DeadlineLayer,
    /// How many calls may be in flight. Outside of the retries, as the rate limit: a call takes one place and one token,
    /// however often it is tried.
    pub concurrency: ConcurrencyLimitLayer,
    /// How many calls there may be over time. Inside of the concurrency limit: what that refuses costs no token.
    pub rate_limit: RateLimitLayer,
    /// Each attempt goes through all that follows, and so to an endpoint of its own.
    pub retry: RetryLayer,
    /// Inside of the retries, whose budget it draws on; both of its attempts go through all that follows, to two
    /// endpoints.
    pub hedge: HedgeLayer,
    /// One span for each attempt, and the headers that differ between attempts.
    pub attempt: TraceLayer,
    /// Innermost: bounds the picking of an endpoint, the making of a connection and the answer. The balancer learns
    /// from it which endpoint let the time run out.
    pub attempt_timeout: AttemptTimeoutLayer,
}

/// A service inside of [`Outbound`]. It gets requests whose bodies can be sent again,
/// `http::Request<`[`Replay`](crate::retry::Replay)`<B>>`.
pub type OutboundService<S> =
    SharedClock<Metrics<Trace<DeadlineService<ConcurrencyLimit<RateLimit<Attempts<S>>>>>>>;

type Attempts<S> = Retry<Hedge<Trace<AttemptTimeout<S>>>>;

impl Outbound {
    /// All layers as `config` says, for calls to `upstream`, with a budget of their own for retries and hedges.
    pub fn from_config(
        config: &ClientConfig,
        upstream: &ServiceName,
        observer: SharedObserver,
    ) -> Self {
        let budget = Budget::new(config.retry.budget);
        Self {
            metrics: MetricsLayer::outbound(upstream),
            trace: TraceLayer::outbound(upstream.clone()),
            deadline: DeadlineLayer::outbound(DeadlineConfig {
                timeout: config.timeout,
            }),
            concurrency: ConcurrencyLimitLayer::new(
                upstream.as_str(),
                config.concurrency,
                Arc::clone(&observer),
            ),
            rate_limit: RateLimitLayer::new(config.rate_limit),
            hedge: HedgeLayer::inside(config.hedge, budget.clone(), Arc::clone(&observer)),
            retry: RetryLayer::new(config.retry, budget, observer),
            attempt: TraceLayer::attempt(),
            attempt_timeout: AttemptTimeoutLayer::new(config.attempt_timeout),
        }
    }
}

impl<S: Clone> Layer<S> for Outbound {
    type Service = OutboundService<S>;

    fn layer(&self, balance: S) -> OutboundService<S> {
        let Self {
            metrics,
            trace,
            deadline,
            concurrency,
            rate_limit,
            retry,
            hedge,
            attempt,
            attempt_timeout,
        } = self;
        let service = attempt_timeout.layer(balance);
        let service = attempt.layer(service);
        let service = hedge.layer(service);
        let service = retry.layer(service);
        let service = rate_limit.layer(service);
        let service = concurrency.layer(service);
        let service = deadline.layer(service);
        let service = trace.layer(service);
        let service = metrics.layer(service);
        // The clock is read once for all of them, in each call and each poll.
        SharedClockLayer.layer(service)
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, time::Duration};

    use http::{Request, Response};
    use tokio::task::yield_now;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{
        Body, BoxError,
        balance::{Balance, BalanceConfig},
        circuit_breaker::Circuit,
        clock,
        endpoint::{Endpoint, Watch},
        event::nobody,
        policy::Live,
        rate_limit::Rate,
    };

    #[tokio::test]
    async fn a_call_reads_the_clock_twice_and_once_more_each_time_that_it_waits() {
        let name: ServiceName = "users".parse().unwrap();
        let config = ClientConfig {
            concurrency: Some(Default::default()),
            rate_limit: Some(Rate {
                burst: NonZeroU32::MAX,
                interval: Duration::from_nanos(1),
            }),
            ..ClientConfig::default()
        };
        let endpoints = ["10.0.0.1:80", "10.0.0.2:80"].map(|at| Endpoint::at(at.parse().unwrap()));
        let balance = |waits: usize| {
            Balance::new(
                Watch::fixed(name.clone(), endpoints.iter().cloned().collect()),
                Live::new(BalanceConfig::default()),
                move |_: &Endpoint| {
                    service_fn(move |_: Request<_>| async move {
                        for _ in 0..waits {
                            yield_now().await;
                        }
                        Ok::<_, BoxError>(Response::new(Body::empty()))
                    })
                },
                |_: &Endpoint| Circuit::new("users", Default::default(), nobody()),
            )
        };
        let outbound = Outbound::from_config(&config, &name, nobody());
        for waits in [0, 1, 2] {
            let stack = outbound.layer(balance(waits));
            let request = || Request::new(Body::empty());
            // The first call sees the endpoints for the first time.
            stack.clone().oneshot(request()).await.unwrap();
            let before = clock::reads();
            stack.oneshot(request()).await.unwrap();
            assert_eq!(clock::reads() - before, 2 + waits);
        }
    }
}
