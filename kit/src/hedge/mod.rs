//! Asks a second time when the first answer is late, and takes whichever answer comes first.
//!
//! Dean and Barroso, "The Tail at Scale" (2013): a second request after the 95th percentile of the latency cuts the
//! tail for five percent more load. That latency is observed here, or the delay is fixed. Only a call that is the
//! same when it is made twice is hedged, once, and not if it arrives as a retry; its body must be known whole. Both
//! attempts run side by side; a good answer ends the other attempt, by dropping it; a failure gives way to the other
//! attempt. Hedges come out of the [`Budget`] that retries come out of.
//!
//! What is observed is the time that first attempts take to a good answer. Of one that lost to its hedge it is known
//! only that it took longer; it counts with the time that it had, so that hedging does not make the percentile sink
//! and with it more hedges.

//!
//! An endpoint that hangs is told apart by a balancer inside, by its load: the attempt that is dropped counts there with
//! the time that it had, so the next calls go elsewhere until that is forgotten. Its circuit breaker is not told: an
//! attempt that lost may only have been a little slower. Where the budget has no more hedges, the attempt's own timeout
//! says what there is to say.

mod latency;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    num::NonZeroU32,
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll, ready},
    time::Duration,
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    BoxError,
    asked::Origin,
    body::TryClone,
    classify::{Classify, HttpClassify, Outcome, is_idempotent},
    clock,
    context::Context,
    event::{Event, SharedObserver},
    policy::{Budget, Live, Ratio, Reader, Withdrawal},
};
use latency::Latency;

/// When a second attempt is made.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HedgeConfig {
    /// How long the first attempt has before the second one; `None` is the observed latency. Default `None`.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub delay: Option<Duration>,
    /// The share of the answers that come before a hedge is made, where the latency is observed. Default 0.95.
    pub quantile: Ratio,
    /// How many answers must have been observed, the older ones counting less, before anything is hedged. Default
    /// 100.
    pub min_samples: NonZeroU32,
    /// An observed latency below this counts as this: the clock of timers has milliseconds. Default 1 ms.
    #[serde(with = "humantime_serde")]
    pub min_delay: Duration,
}

impl Default for HedgeConfig {
    fn default() -> Self {
        Self {
            delay: None,
            quantile: Ratio::new(0.95).expect("nineteen of twenty"),
            min_samples: NonZeroU32::new(100).expect("not zero"),
            min_delay: Duration::from_millis(1),
        }
    }
}

/// Hedges the requests of all services that it, or a clone of it, builds: they share configuration, what was
/// observed, and the budget.
#[derive(Clone, Debug)]
pub struct HedgeLayer<C = HttpClassify> {
    shared: Arc<Shared>,
    classify: C,
}

#[derive(Debug)]
struct Shared {
    config: Live<Option<HedgeConfig>>,
    latency: Latency,
    budget: Budget,
    /// Whether calls are counted into the budget here, or by a layer further out.
    deposits: bool,
    observer: SharedObserver,
}

impl Shared {
    /// How long to wait for the first answer, or `None` if that is not known yet.
    fn delay(&self, config: &HedgeConfig, now: Instant) -> Option<Duration> {
        config.delay.or_else(|| {
            let min = config.min_samples.get();
            let observed = self.latency.quantile(now, config.quantile, min)?;
            Some(observed.max(config.min_delay))
        })
    }
}

impl HedgeLayer {
    /// Hedges as `config` says, or not at all, out of `budget`, into which it counts the calls.
    pub fn new(
        config: impl Into<Option<HedgeConfig>>,
        budget: Budget,
        observer: SharedObserver,
    ) -> Self {
        Self::with_deposits(config.into(), budget, observer, true)
    }

    /// The same inside of a layer that counts the calls into `budget` already, as [`retry`](crate::retry) does:
    /// retries and hedges together are then the share that the budget allows.
    pub fn inside(
        config: impl Into<Option<HedgeConfig>>,
        budget: Budget,
        observer: SharedObserver,
    ) -> Self {
        Self::with_deposits(config.into(), budget, observer, false)
    }

    fn with_deposits(
        config: Option<HedgeConfig>,
        budget: Budget,
        observer: SharedObserver,
        deposits: bool,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                config: Live::new(config),
                latency: Latency::new(Instant::now()),
                budget,
                deposits,
                observer,
            }),
            classify: HttpClassify,
        }
    }
}

impl<C> HedgeLayer<C> {
    /// The same with another judge of results.
    pub fn with_classify<D>(self, classify: D) -> HedgeLayer<D> {
        HedgeLayer {
            shared: self.shared,
            classify,
        }
    }

    /// The handle that replaces the configuration; `None` hedges nothing, and observes nothing. What was observed stays.
    pub fn config(&self) -> &Live<Option<HedgeConfig>> {
        &self.shared.config
    }

    /// The budget.
    pub fn budget(&self) -> &Budget {
        &self.shared.budget
    }
}

impl<S: Clone, C: Clone> Layer<S> for HedgeLayer<C> {
    type Service = Hedge<S, C>;

    fn layer(&self, inner: S) -> Hedge<S, C> {
        Hedge {
            config: self.config().reader(),
            origin: Arc::new(Origin::new(inner.clone(), self.clone())),
            inner,
        }
    }
}

/// Asks a second time when the first answer is late. Clones share configuration, observations and budget.
///
/// The second attempt has [`Context::previous_attempts`] set, so that no deeper hop multiplies it. An error of it,
/// or of making the service ready for it, never reaches the caller while the first attempt is under way; if both
/// fail, the failure is that of the first one.
#[derive(Clone, Debug)]
pub struct Hedge<S, C = HttpClassify> {
    inner: S,
    config: Reader<Option<HedgeConfig>>,
    origin: Arc<Origin<S, HedgeLayer<C>>>,
}

impl<S, C, B, R> Service<Request<B>> for Hedge<S, C>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    C: Classify<Response<R>>,
    B: TryClone,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = HedgeFuture<S, C, B>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let shared = &self.origin.layer().shared;
        let config = self.config.get();
        if config.is_none() && !shared.deposits {
            // Apart, because with what is to be dropped at hand the compiler moves request and future once more.
            return HedgeFuture {
                first: Some(self.inner.call(request)),
                first_failed: None,
                observed: None,
                plan: None,
                second: None,
            };
        }
        let mut observed = None;
        let mut plan = None;
        let context = request.extensions().get::<Context>();
        let is_retry = context.is_some_and(|context| context.previous_attempts > 0);
        let now = clock::now();
        if !is_retry && shared.deposits {
            shared.budget.deposit(now);
        }
        if let Some(config) = config {
            observed = Some((Arc::clone(&self.origin), now));
            plan = (!is_retry && is_idempotent(&request))
                .then(|| shared.delay(config, now))
                .flatten()
                .and_then(|delay| Plan::of(&mut request, delay));
        }
        HedgeFuture {
            first: Some(self.inner.call(request)),
            first_failed: None,
            observed,
            plan: plan.map(Box::new),
            second: None,
        }
    }
}

/// What a second attempt is made from.
struct Plan<B> {
    delay: Duration,
    /// Armed when the first attempt does not answer at once.
    timer: Option<Pin<Box<Sleep>>>,
    request: Request<B>,
}

impl<B: TryClone> Plan<B> {
    fn of(request: &mut Request<B>, delay: Duration) -> Option<Self> {
        let mut again = Request::new(request.body().try_clone()?);
        // Both attempts carry one list.
        let tried = &mut Context::of_mut(request.extensions_mut()).tried;
        tried.get_or_insert_default();
        *again.method_mut() = request.method().clone();
        *again.uri_mut() = request.uri().clone();
        *again.version_mut() = request.version();
        *again.headers_mut() = request.headers().clone();
        *again.extensions_mut() = request.extensions().clone();
        Context::of_mut(again.extensions_mut()).previous_attempts = 1;
        Some(Self {
            delay,
            timer: None,
            request: again,
        })
    }
}

pin_project! {
    /// Waits for the better one of two answers.
    pub struct HedgeFuture<S, C, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        first: Option<S::Future>,
        // How the first attempt failed while the second one is under way. This and what follows is boxed, because few
        // calls have it, and all are moved about.
        first_failed: Option<Box<Result<S::Response, BoxError>>>,
        // By whom, and since when; None where nothing is hedged.
        observed: Option<(Arc<Origin<S, HedgeLayer<C>>>, Instant)>,
        // None: there will be no second attempt, or there is one already.
        plan: Option<Box<Plan<B>>>,
        second: Option<Pin<Box<Second<S, B>>>>,
    }
}

impl<S, C, B> fmt::Debug for HedgeFuture<S, C, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HedgeFuture")
            .field("hedged", &self.second.is_some())
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// The second attempt.
    #[project = SecondProject]
    enum Second<S, B>
    where
        S: Service<Request<B>>,
    {
        Readying {
            service: S,
            // Taken when it is called. Dropped before, it is paid back.
            next: Option<(Request<B>, Withdrawal)>,
        },
        Called {
            #[pin]
            future: S::Future,
        },
    }
}

impl<S, B> Future for Second<S, B>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Self::Output> {
        loop {
            let future = match self.as_mut().project() {
                SecondProject::Readying { service, next } => {
                    ready!(service.poll_ready(cx)).map_err(Into::into)?;
                    let (request, withdrawal) = next.take().expect("called once");
                    withdrawal.spend();
                    service.call(request)
                }
                SecondProject::Called { future } => return future.poll(cx).map_err(Into::into),
            };
            self.set(Second::Called { future });
        }
    }
}

impl<S, C, B, R> Future for HedgeFuture<S, C, B>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    C: Classify<Response<R>>,
{
    type Output = Result<Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some((origin, since)) = this.observed else {
            let first = this.first.as_pin_mut().expect("nothing takes it away");
            return first.poll(cx).map_err(Into::into);
        };
        let layer = origin.layer();
        let shared = &layer.shared;
        let is_good = |result: &_| {
            let verdict = layer.classify.classify_result(result);
            matches!(verdict.outcome, Outcome::Success | Outcome::CallerFault)
        };
        if let Some(first) = this.first.as_mut().as_pin_mut()
            && let Poll::Ready(result) = first.poll(cx)
        {
            this.first.set(None);
            let result = result.map_err(Into::into);
            let good = is_good(&result);
            if good {
                shared
                    .latency
                    .record(clock::now().saturating_duration_since(*since));
                *this.second = None;
            }
            if this.second.is_none() {
                return Poll::Ready(result);
            }
            *this.first_failed = Some(Box::new(result));
        }
        if let Some(plan) = this.plan.as_mut() {
            let at = clock::after(*since, plan.delay);
            let timer = plan.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
            ready!(timer.as_mut().poll(cx));
            let plan = this.plan.take().expect("looked at above");
            let Some(withdrawal) = shared.budget.withdraw(clock::now()) else {
                shared.observer.observe(Event::RetryBudgetExhausted);
                return Poll::Pending;
            };
            shared.observer.observe(Event::Hedged { after: plan.delay });
            *this.second = Some(Box::pin(Second::Readying {
                service: origin.service(),
                next: Some((plan.request, withdrawal)),
            }));
        }
        let Some(second) = this.second else {
            return Poll::Pending;
        };
        let result = ready!(second.as_mut().poll(cx));
        *this.second = None;
        if is_good(&result) {
            if this.first.is_some() {
                // It would have taken longer.
                shared
                    .latency
                    .record(clock::now().saturating_duration_since(*since));
                this.first.set(None);
            }
            shared.observer.observe(Event::HedgeWon);
            return Poll::Ready(result);
        }
        match this.first_failed.take() {
            Some(failed) => Poll::Ready(*failed),
            None => Poll::Pending,
        }
    }
}
