//! The table: each layer that there is, and how it is brought to where it refuses.

use std::{
    future::Ready,
    num::{NonZeroU16, NonZeroU32, NonZeroUsize},
};

use kit::{
    Code,
    authenticate::{AuthenticateLayer, StaticTokens},
    body::Collected,
    circuit_breaker::{Circuit, CircuitBreakerConfig, CircuitBreakerLayer, CircuitState},
    client::{ClientConfig, Outbound, Whole},
    clock::SharedClockLayer,
    coalesce::{
        Coalesce, CoalesceConfig, CoalesceLayer, CoalesceSameLayer, Collect, CollectLayer, Same,
    },
    concurrency::{Adaptive, ConcurrencyConfig, ConcurrencyLimitLayer},
    deadline::{AttemptTimeoutLayer, DeadlineConfig, DeadlineLayer},
    event::nobody,
    fallback::FallbackLayer,
    fault::{Delay, Fail, FaultConfig, FaultLayer},
    hedge::{HedgeConfig, HedgeLayer},
    metrics::MetricsLayer,
    policy::{Admit, Permit, Ratio},
    rate_limit::{KeyedRate, KeyedRateLimitLayer, Rate, RateLimitLayer},
    retry::{Budget, RetryConfig, RetryLayer},
    server::{BodyLimitLayer, Inbound, RespondLayer, ServerConfig},
    trace::{InboundTraceLayer, TraceLayer},
};
use tokio::time::Instant;
use tower::util::MapResponse;

use super::*;

const NO_TIME: DeadlineConfig = DeadlineConfig {
    timeout: Duration::ZERO,
};

fn deadline_inbound() -> DeadlineLayer {
    DeadlineLayer::inbound(DeadlineConfig::default())
}
contract!(
    deadline_inbound,
    Spoil::By(|layer: &DeadlineLayer| layer.config().set(NO_TIME))
);

fn deadline_outbound() -> DeadlineLayer {
    DeadlineLayer::outbound(DeadlineConfig::default())
}
contract!(
    deadline_outbound,
    Spoil::By(|layer: &DeadlineLayer| layer.config().set(NO_TIME))
);

fn attempt_timeout() -> AttemptTimeoutLayer {
    AttemptTimeoutLayer::new(SECOND)
}
contract!(
    attempt_timeout,
    Spoil::By(|layer: &AttemptTimeoutLayer| layer.timeout().set(Duration::ZERO))
);

/// One place, so that the next call misses it if it is not given back.
fn concurrency_limit() -> ConcurrencyLimitLayer {
    let config = ConcurrencyConfig {
        limit: NonZeroUsize::MIN,
        ..ConcurrencyConfig::default()
    };
    ConcurrencyLimitLayer::new("peer", config, nobody())
}
contract!(concurrency_limit, Spoil::Hold);

/// The same with a limit that adapts itself.
fn adaptive_concurrency_limit() -> ConcurrencyLimitLayer {
    let config = ConcurrencyConfig {
        limit: NonZeroUsize::MIN,
        adaptive: Some(Adaptive {
            initial: NonZeroUsize::MIN,
            ..Adaptive::default()
        }),
    };
    ConcurrencyLimitLayer::new("peer", config, nobody())
}
contract!(adaptive_concurrency_limit, Spoil::Hold);

/// Enough for the test that drops calls; what was taken from a bucket is not given back.
fn rate_limit() -> RateLimitLayer {
    RateLimitLayer::new(Rate {
        burst: NonZeroU32::new(100).unwrap(),
        interval: SECOND,
    })
}
contract!(rate_limit);

type PathOf = fn(&Request<Body>) -> Option<String>;

fn keyed_rate_limit_of(burst: u32) -> KeyedRateLimitLayer<PathOf> {
    let rate = Rate {
        burst: NonZeroU32::new(burst).unwrap(),
        interval: SECOND * 3600,
    };
    KeyedRateLimitLayer::new(KeyedRate::new(rate), |request| {
        Some(request.uri().to_string())
    })
}

fn keyed_rate_limit() -> KeyedRateLimitLayer<PathOf> {
    keyed_rate_limit_of(100)
}
contract!(keyed_rate_limit);

mod keyed_rate_limit_of_one {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn clones_share_one_state_and_two_layers_nothing() {
        let make = || keyed_rate_limit_of(1);
        super::clones_share_one_state_and_two_layers_nothing(make, Spoil::Succeed).await;
    }
}

mod rate_limit_of_one {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn clones_share_one_state_and_two_layers_nothing() {
        let make = || {
            RateLimitLayer::new(Rate {
                burst: NonZeroU32::MIN,
                interval: SECOND * 3600,
            })
        };
        super::clones_share_one_state_and_two_layers_nothing(make, Spoil::Succeed).await;
    }
}

fn circuit() -> Circuit {
    let config = CircuitBreakerConfig {
        consecutive_failures: NonZeroU32::MIN,
        probes: NonZeroU16::MIN,
        // Longer than the test takes, when it is asked whether others share it.
        open_for: SECOND * 3600,
        max_open_for: SECOND * 3600,
        ..CircuitBreakerConfig::default()
    };
    Circuit::new("peer", config, nobody())
}

fn circuit_breaker() -> CircuitBreakerLayer {
    CircuitBreakerLayer::new(circuit())
}
contract!(circuit_breaker, Spoil::Fail);

/// With its one probe to give away.
async fn circuit_breaker_half_open() -> CircuitBreakerLayer {
    let circuit = circuit();
    let now = Instant::now();
    let permit = circuit.admit(now).unwrap();
    permit.finish(now, kit::classify::Outcome::Failure);
    tokio::time::advance(SECOND * 3600).await;
    assert_eq!(circuit.state(), CircuitState::Open);
    CircuitBreakerLayer::new(circuit)
}

mod circuit_breaker_with_one_probe {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn releases_everything_when_dropped() {
        super::releases_everything_when_dropped(circuit_breaker_half_open().await).await;
    }

    #[tokio::test(start_paused = true)]
    async fn drives_the_service_that_it_polled_ready() {
        super::drives_the_service_that_it_polled_ready(circuit_breaker_half_open().await).await;
    }
}

mod between_attempts {
    use super::*;

    /// Hedges are under way side by side, and so are never waited for with none.
    #[tokio::test(start_paused = true)]
    async fn retry_releases_everything_when_dropped() {
        releases_everything_when_dropped_between_attempts(retry()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn fallback_releases_everything_when_dropped() {
        releases_everything_when_dropped_between_attempts(slow_fallback()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn outbound_releases_everything_when_dropped() {
        releases_everything_when_dropped_between_attempts(outbound()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn outbound_with_hedges_releases_everything_when_dropped() {
        releases_everything_when_dropped_between_attempts(outbound_with_hedges()).await;
    }
}

fn retry() -> RetryLayer {
    RetryLayer::new(RetryConfig::default(), Budget::default(), nobody())
}
contract!(retry);

/// Early enough for the test that drops calls to see a hedge under way.
const HEDGE: HedgeConfig = HedgeConfig {
    delay: Some(Duration::from_millis(50)),
    quantile: Ratio::ONE,
    min_samples: NonZeroU32::MIN,
    min_delay: Duration::ZERO,
};

fn hedge() -> HedgeLayer {
    HedgeLayer::new(HEDGE, Budget::default(), nobody())
}
contract!(hedge);

/// Reads answers to their end, so that they can be shared, and gives them a body again.
#[derive(Clone)]
struct Coalesced(CoalesceSameLayer);

type Shared =
    Coalesce<Collect<Inner>, Same, Response<Collected>, fn(&Request<Body>) -> Option<Same>>;

impl Layer<Inner> for Coalesced {
    type Service = MapResponse<Shared, fn(Response<Collected>) -> Response<Body>>;

    fn layer(&self, inner: Inner) -> Self::Service {
        let inner = CollectLayer::new(1024).layer(inner);
        MapResponse::new(self.0.layer(inner), |answer| answer.map(Body::from))
    }
}

/// One place, so that a call that stays behind is joined by the next one, which is then never answered.
fn coalesce() -> Coalesced {
    let config = CoalesceConfig {
        max_calls: NonZeroUsize::MIN,
    };
    Coalesced(CoalesceLayer::same(config))
}
contract!(coalesce);

type Failed = Result<Response<Body>, BoxError>;

type HandOn = fn(Failed) -> Ready<Failed>;

fn fallback() -> FallbackLayer<fn(&Request<Body>) -> HandOn> {
    FallbackLayer::new(|_| std::future::ready, nobody())
}
contract!(fallback);

type HandOnSlowly = fn(Failed) -> Pin<Box<dyn Future<Output = Failed> + Send>>;

/// What it answers instead takes its time.
fn slow_fallback() -> FallbackLayer<fn(&Request<Body>) -> HandOnSlowly> {
    let slowly: fn(&Request<Body>) -> HandOnSlowly = |_| {
        |failed| {
            Box::pin(async {
                tokio::time::sleep(SECOND * 9).await;
                failed
            })
        }
    };
    FallbackLayer::new(slowly, nobody())
}

const FAILING: FaultConfig = FaultConfig {
    delay: None,
    error: Some(Fail {
        ratio: Ratio::ONE,
        code: Code::Unavailable,
    }),
};

fn fault() -> FaultLayer {
    FaultLayer::default()
}
contract!(
    fault,
    Spoil::By(|layer: &FaultLayer| layer.config().set(FAILING))
);

fn fault_delay() -> FaultLayer {
    FaultLayer::new(FaultConfig {
        delay: Some(Delay {
            ratio: Ratio::ONE,
            duration: SECOND,
        }),
        error: None,
    })
}
contract!(fault_delay);

fn shared_clock() -> SharedClockLayer {
    SharedClockLayer
}
contract!(shared_clock);

fn trace_inbound() -> InboundTraceLayer {
    TraceLayer::inbound()
}
contract!(trace_inbound);

fn trace_outbound() -> TraceLayer {
    TraceLayer::outbound("users".parse().unwrap())
}
contract!(trace_outbound);

fn trace_attempt() -> TraceLayer {
    TraceLayer::attempt()
}
contract!(trace_attempt);

/// Other tests of this program count; what passes before the recorder is there would never be counted.
fn metrics_inbound() -> MetricsLayer {
    kit::metrics::install();
    MetricsLayer::inbound(&"users".parse().unwrap())
}
contract!(metrics_inbound);

fn metrics_outbound() -> MetricsLayer {
    kit::metrics::install();
    MetricsLayer::outbound(&"users".parse().unwrap())
}
contract!(metrics_outbound);

fn authenticate() -> AuthenticateLayer {
    AuthenticateLayer::new(StaticTokens::parse("").unwrap())
}
contract!(authenticate);

fn body_limit() -> BodyLimitLayer {
    BodyLimitLayer::new(1024)
}
contract!(body_limit);

fn respond() -> RespondLayer {
    RespondLayer
}
contract!(respond);

/// The whole way of a request through a server, with one place.
fn inbound() -> Inbound {
    kit::metrics::install();
    let mut config = ServerConfig::default();
    config.concurrency.limit = NonZeroUsize::MIN;
    Inbound::from_config(&config, &"users".parse().unwrap())
}
contract!(inbound, Spoil::Hold);

/// Waits for the body of an answer, of which there is none here.
#[derive(Clone)]
struct WholeLayer;

impl Layer<Inner> for WholeLayer {
    type Service = Whole<Inner>;

    fn layer(&self, inner: Inner) -> Whole<Inner> {
        Whole::new(inner, 1024)
    }
}

fn whole() -> WholeLayer {
    WholeLayer
}
contract!(whole);

/// The whole way of a call through a client, without its balancer.
fn outbound() -> Outbound {
    kit::metrics::install();
    Outbound::from_config(
        &ClientConfig::default(),
        &"users".parse().unwrap(),
        nobody(),
    )
}
contract!(
    outbound,
    Spoil::By(|layer: &Outbound| layer.deadline.config().set(NO_TIME))
);

/// The same with hedging.
fn outbound_with_hedges() -> Outbound {
    kit::metrics::install();
    let config = ClientConfig {
        hedge: Some(HEDGE),
        ..ClientConfig::default()
    };
    Outbound::from_config(&config, &"users".parse().unwrap(), nobody())
}
contract!(outbound_with_hedges);
