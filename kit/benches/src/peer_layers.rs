//! The counterparts of the kit's layers in tower, failsafe, governor and tower-resilience ("tr"), each alone.
//!
//! Failsafe and governor are no tower layers; the few lines that make them one are here.

use std::{
    fmt,
    future::{Ready, ready},
    num::NonZeroU32,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use failsafe::{FailurePolicy, Instrument, StateMachine, futures::CircuitBreaker};
use futures_util::{
    TryFutureExt,
    future::{Either, MapErr as MapErrFuture},
};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota};
use kit::BoxError;
use tokio::time::Instant;
use tower::{
    Layer, Service,
    balance::p2c,
    discover::ServiceList,
    limit::{ConcurrencyLimit, RateLimit, rate::Rate},
    load::{CompleteOnResponse, PeakEwma},
    retry::{
        Retry,
        budget::{Budget, TpsBudget},
    },
    timeout::Timeout,
    util::MapErr,
};
use tower_http::trace::TraceLayer;
use tower_resilience_adaptive::{AdaptiveLimiterLayer, Gradient2};
use tower_resilience_bulkhead::BulkheadLayer;
use tower_resilience_chaos::ChaosLayer;
use tower_resilience_circuitbreaker::{CircuitBreakerLayer, DefaultClassifier};
use tower_resilience_coalesce::CoalesceLayer;
use tower_resilience_fallback::FallbackLayer;
use tower_resilience_hedge::HedgeLayer;
use tower_resilience_outlier::{OutlierDetectionLayer, OutlierDetector};
use tower_resilience_ratelimiter::RateLimiterLayer;
use tower_resilience_retry::{RetryBudgetBuilder, RetryLayer};
use tower_resilience_timelimiter::{FixedTimeout, TimeLimiterLayer};

use crate::{Bare, Inner, Payload, Reply, Request, Subject, alone, next_key, shared};

/// As long as the kit waits by default.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn tower_timeout(inner: Inner) -> Box<dyn Subject> {
    shared(Timeout::new(Bare(inner), TIMEOUT))
}

pub(crate) fn tr_timeout_layer() -> TimeLimiterLayer<FixedTimeout> {
    TimeLimiterLayer::builder()
        .timeout_duration(TIMEOUT)
        .cancel_running_future(true)
        .build()
}

pub(crate) fn tr_time_limiter(inner: Inner) -> Box<dyn Subject> {
    shared(tr_timeout_layer().layer(Bare(inner)))
}

/// Up to two retries of what failed, within the budget, as tower's documentation has it.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    budget: Arc<TpsBudget>,
    left: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            budget: Arc::new(TpsBudget::new(Duration::from_secs(10), 3, 0.2)),
            left: 2,
        }
    }
}

impl<T, E> tower::retry::Policy<Request, T, E> for Policy {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Request, result: &mut Result<T, E>) -> Option<Ready<()>> {
        if result.is_ok() {
            self.budget.deposit();
            return None;
        }
        if self.left == 0 || !self.budget.withdraw() {
            return None;
        }
        self.left -= 1;
        Some(ready(()))
    }

    fn clone_request(&mut self, request: &Request) -> Option<Request> {
        Some(request.clone())
    }
}

pub(crate) fn tower_retry(inner: Inner) -> Box<dyn Subject> {
    shared(Retry::new(Policy::default(), Bare(inner)))
}

pub(crate) fn tr_retry_layer<E>() -> RetryLayer<Request, Reply, E> {
    let budget = RetryBudgetBuilder::new().token_bucket().build();
    RetryLayer::builder()
        .max_attempts(3)
        .exponential_backoff(Duration::from_millis(25))
        .budget(budget.expect("it has defaults"))
        .build()
}

pub(crate) fn tr_retry(inner: Inner) -> Box<dyn Subject> {
    shared(tr_retry_layer().layer(Bare(inner)))
}

/// A service behind a governor `L`, which `passes` asks.
#[derive(Debug)]
pub(crate) struct Governed<S, L = DefaultDirectRateLimiter> {
    inner: S,
    limiter: Arc<L>,
    passes: fn(&L) -> bool,
}

impl<S: Clone, L> Clone for Governed<S, L> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            limiter: Arc::clone(&self.limiter),
            passes: self.passes,
        }
    }
}

/// Above what any machine sends, so that all pass.
fn quota() -> Quota {
    Quota::per_second(NonZeroU32::MAX).allow_burst(NonZeroU32::MAX)
}

impl<S> Governed<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self {
            inner,
            limiter: Arc::new(DefaultDirectRateLimiter::direct(quota())),
            passes: |limiter| limiter.check().is_ok(),
        }
    }
}

impl<S, L, Q> Service<Q> for Governed<S, L>
where
    S: Service<Q, Error = BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Either<S::Future, Ready<Result<S::Response, BoxError>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Q) -> Self::Future {
        match (self.passes)(&self.limiter) {
            true => Either::Left(self.inner.call(request)),
            false => Either::Right(ready(Err("limited".into()))),
        }
    }
}

pub(crate) fn governor(inner: Inner) -> Box<dyn Subject> {
    shared(Governed::new(Bare(inner)))
}

pub(crate) fn governor_keyed(inner: Inner) -> Box<dyn Subject> {
    shared(Governed {
        inner: Bare(inner),
        limiter: Arc::new(DefaultKeyedRateLimiter::keyed(quota())),
        passes: |limiter| limiter.check_key(&next_key()).is_ok(),
    })
}

pub(crate) fn tower_rate_limit(inner: Inner) -> Box<dyn Subject> {
    let rate = Rate::new(u64::MAX, Duration::from_secs(1));
    alone(RateLimit::new(Bare(inner), rate))
}

pub(crate) fn tr_rate_layer() -> RateLimiterLayer {
    let builder = RateLimiterLayer::builder().limit_for_period(u32::MAX as usize);
    builder.build().expect("it limits little")
}

pub(crate) fn tr_rate_limiter(inner: Inner) -> Box<dyn Subject> {
    shared(tr_rate_layer().layer(Bare(inner)))
}

pub(crate) fn tower_concurrency(inner: Inner) -> Box<dyn Subject> {
    shared(ConcurrencyLimit::new(Bare(inner), 1024))
}

pub(crate) fn tr_bulkhead_layer() -> BulkheadLayer {
    let builder = BulkheadLayer::builder().max_concurrent_calls(1024);
    builder.build().expect("it limits little")
}

pub(crate) fn tr_bulkhead(inner: Inner) -> Box<dyn Subject> {
    shared(tr_bulkhead_layer().layer(Bare(inner)))
}

/// A service behind failsafe's state machine.
pub(crate) struct Failsafe<S, P, I> {
    inner: S,
    machine: StateMachine<P, I>,
}

impl<S: Clone, P, I> Clone for Failsafe<S, P, I> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            machine: self.machine.clone(),
        }
    }
}

/// With failsafe's own configuration: a success rate or five failures in a row.
pub(crate) fn failsafe_around<S>(
    inner: S,
) -> Failsafe<S, impl FailurePolicy + Send + Sync, impl Instrument + Send + Sync> {
    let machine = failsafe::Config::new().build();
    Failsafe { inner, machine }
}

impl<S, P, I, Q> Service<Q> for Failsafe<S, P, I>
where
    S: Service<Q, Error = BoxError>,
    P: FailurePolicy + Send + Sync,
    I: Instrument + Send + Sync,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = MapErrFuture<
        failsafe::futures::ResponseFuture<S::Future, P, I, fn(&BoxError) -> bool>,
        fn(failsafe::Error<BoxError>) -> BoxError,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Q) -> Self::Future {
        let flat: fn(failsafe::Error<BoxError>) -> BoxError = |error| match error {
            failsafe::Error::Inner(error) => error,
            failsafe::Error::Rejected => "circuit open".into(),
        };
        let any: fn(&BoxError) -> bool = |_| true;
        let call = self.inner.call(request);
        self.machine.call_with(any, call).map_err(flat)
    }
}

pub(crate) fn failsafe(inner: Inner) -> Box<dyn Subject> {
    shared(failsafe_around(Bare(inner)))
}

pub(crate) fn tr_breaker_layer() -> CircuitBreakerLayer<DefaultClassifier> {
    CircuitBreakerLayer::builder()
        .build()
        .expect("it has defaults")
}

pub(crate) fn tr_circuit_breaker(inner: Inner) -> Box<dyn Subject> {
    shared(tr_breaker_layer().layer(Bare(inner)))
}

/// An error that can be cloned, which tower-resilience's hedging asks for.
#[derive(Clone, Debug)]
struct Failed(Arc<BoxError>);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Failed {}

fn cloneable(inner: Inner) -> MapErr<Bare, fn(BoxError) -> Failed> {
    MapErr::new(Bare(inner), |error| Failed(Arc::new(error)))
}

pub(crate) fn tr_hedge(inner: Inner) -> Box<dyn Subject> {
    shared(HedgeLayer::new(Duration::from_secs(1)).layer(cloneable(inner)))
}

pub(crate) fn tr_adaptive(inner: Inner) -> Box<dyn Subject> {
    let gradient = Gradient2::builder().build().expect("it has defaults");
    shared(AdaptiveLimiterLayer::new(gradient).layer(cloneable(inner)))
}

/// One instance of a fleet.
pub(crate) fn tr_outlier(inner: Inner) -> Box<dyn Subject> {
    let detector = OutlierDetector::new();
    detector.register("bench", 5);
    let builder = OutlierDetectionLayer::builder().detector(detector);
    let layer = builder.instance_name("bench").build();
    shared(layer.expect("it has all parts").layer(cloneable(inner)))
}

pub(crate) fn tr_coalesce(inner: Inner) -> Box<dyn Subject> {
    let layer = CoalesceLayer::new(|request: &Request| request.uri().clone());
    shared(layer.layer(cloneable(inner)))
}

pub(crate) fn tr_fallback(inner: Inner) -> Box<dyn Subject> {
    let layer = FallbackLayer::<Request, Reply, Failed>::value(Reply::default());
    shared(layer.layer(cloneable(inner)))
}

/// No fault is injected.
pub(crate) fn tr_chaos(inner: Inner) -> Box<dyn Subject> {
    let layer = ChaosLayer::builder().latency_rate(0.0).build();
    shared(layer.layer(Bare(inner)))
}

/// What a service does that counts its calls by hand, with labels that it knows at run time.
pub(crate) fn metrics_macros(inner: Inner) -> Box<dyn Subject> {
    let mut bare = Bare(inner);
    shared(tower::service_fn(move |request: Request| {
        let began = Instant::now();
        let upstream = "users".to_owned();
        let method = request.method().as_str().to_owned();
        metrics::gauge!("active_requests", "upstream" => upstream.clone()).increment(1.0);
        let answer = bare.call(request);
        async move {
            let answer = answer.await?;
            metrics::gauge!("active_requests", "upstream" => upstream.clone()).decrement(1.0);
            let status = answer.status().as_str().to_owned();
            let labels = [
                ("upstream", upstream),
                ("method", method),
                ("status", status),
            ];
            metrics::histogram!("by_hand_duration_seconds", &labels).record(began.elapsed());
            Ok::<_, BoxError>(answer)
        }
    }))
}

pub(crate) fn tower_http_trace(inner: Inner) -> Box<dyn Subject> {
    shared(TraceLayer::new_for_http().layer(Bare(inner)))
}

pub(crate) type P2c<B = Payload> = p2c::Balance<ServiceList<Vec<PeakEwma<Bare>>>, http::Request<B>>;

pub(crate) fn p2c_over<B>(endpoints: usize, inner: Inner) -> P2c<B> {
    let endpoint = |_| {
        let nanos = |seconds: f64| seconds * 1e9;
        let measure = CompleteOnResponse::default();
        PeakEwma::new(Bare(inner), Duration::from_millis(30), nanos(10.0), measure)
    };
    let endpoints: Vec<_> = (0..endpoints).map(endpoint).collect();
    p2c::Balance::new(ServiceList::new::<http::Request<B>>(endpoints))
}

pub(crate) fn tower_p2c<const N: usize>(inner: Inner) -> Box<dyn Subject> {
    alone(p2c_over::<Payload>(N, inner))
}
