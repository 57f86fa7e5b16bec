//! One request on its way through a balancer.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, timeout};
use tower::util::Oneshot;
use tower_service::Service;

use super::{Balance, BalanceConfig, Start, set::State};
use crate::{
    BoxError, Rejection,
    classify::{Classify, Outcome, Verdict},
    context::Deadline,
    policy::{Admit, Live, Permit},
};

/// A request's place among those in flight at an endpoint, and its permit; given back when this is dropped.
pub(super) struct InFlight<G: Admit> {
    state: Arc<State<G>>,
    /// `None` where the gate was overruled.
    permit: Option<G::Permit>,
    since: Instant,
    deadline: Option<Deadline>,
    config: Live<BalanceConfig>,
    finished: bool,
}

impl<G: Admit> InFlight<G> {
    pub(super) fn new(
        state: Arc<State<G>>,
        permit: Option<G::Permit>,
        since: Instant,
        deadline: Option<Deadline>,
        config: Live<BalanceConfig>,
    ) -> Self {
        state.load.enter();
        Self {
            state,
            permit,
            since,
            deadline,
            config,
            finished: false,
        }
    }

    /// The request was answered, or failed.
    fn finish(mut self, verdict: Verdict) {
        self.finished = true;
        let (now, config) = (Instant::now(), self.config.get());
        let load = &self.state.load;
        match verdict.outcome {
            Outcome::Success | Outcome::CallerFault => {
                load.answered(now, now - self.since, &config);
            }
            Outcome::Failure | Outcome::Overload => {
                load.failed(now, verdict.retry_after.unwrap_or_default(), &config);
            }
            Outcome::Rejected => {}
        }
        if let Some(permit) = self.permit.take() {
            permit.finish(now, verdict.outcome);
        }
    }
}

impl<G: Admit> Drop for InFlight<G> {
    fn drop(&mut self) {
        self.state.load.leave();
        if self.finished {
            return;
        }
        let (now, config) = (Instant::now(), self.config.get());
        if self
            .deadline
            .is_some_and(|deadline| deadline.has_passed(now))
        {
            // Not the caller's whim: the endpoint had its time and did not answer.
            self.state.load.failed(now, Duration::ZERO, &config);
            if let Some(permit) = self.permit.take() {
                permit.finish(now, Outcome::Failure);
            }
        } else {
            self.state.load.unanswered(now, now - self.since, &config);
        }
    }
}

pin_project! {
    /// The answer of the endpoint that was picked.
    pub struct ResponseFuture<S, G, K, B>
    where
        S: Service<http::Request<B>>,
        G: Admit,
    {
        #[pin]
        stage: Stage<S, G, B>,
        balance: Balance<S, G, K>,
    }
}

pin_project! {
    #[project = Project]
    enum Stage<S, G, B>
    where
        S: Service<http::Request<B>>,
        G: Admit,
    {
        Unknown {
            // Boxed, because it is there only until the endpoints are known for the first time.
            known: Pin<Box<dyn Future<Output = ()> + Send>>,
            request: Option<http::Request<B>>,
        },
        Called {
            // Dropped before `inner`, so that a request's place is given back even if that panics.
            in_flight: Option<InFlight<G>>,
            #[pin]
            inner: Oneshot<S, http::Request<B>>,
        },
        Rejected {
            reason: Option<Rejection>,
        },
    }
}

impl<S, G, K, B> ResponseFuture<S, G, K, B>
where
    S: Service<http::Request<B>> + Clone + 'static,
    G: Admit,
{
    pub(super) fn new(balance: Balance<S, G, K>, request: http::Request<B>) -> Self {
        let shared = &balance.shared;
        let stage = match shared.start(request, balance.picker.as_deref()) {
            Start::Called(inner, in_flight) => Stage::called(inner, in_flight),
            Start::Rejected(reason) => Stage::rejected(reason),
            Start::Unknown(request, mut watch) => {
                let wait = shared.config.get().discovery_wait;
                Stage::Unknown {
                    known: Box::pin(async move {
                        // Whether it was in time is seen by looking again.
                        let _ = timeout(wait, watch.known()).await;
                    }),
                    request: Some(request),
                }
            }
        };
        Self { stage, balance }
    }
}

impl<S, G, B> Stage<S, G, B>
where
    S: Service<http::Request<B>>,
    G: Admit,
{
    fn called(inner: Oneshot<S, http::Request<B>>, in_flight: InFlight<G>) -> Self {
        Self::Called {
            in_flight: Some(in_flight),
            inner,
        }
    }

    fn rejected(reason: Rejection) -> Self {
        Self::Rejected {
            reason: Some(reason),
        }
    }
}

impl<S, G, K, B> Future for ResponseFuture<S, G, K, B>
where
    S: Service<http::Request<B>> + Clone + 'static,
    S::Error: Into<BoxError>,
    G: Admit,
    K: Classify<S::Response>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.stage.as_mut().project() {
                Project::Unknown { known, request } => {
                    ready!(known.as_mut().poll(cx));
                    let request = request.take().expect("there until this stage ends");
                    let picker = this.balance.picker.as_deref();
                    match this.balance.shared.start(request, picker) {
                        Start::Called(inner, in_flight) => Stage::called(inner, in_flight),
                        Start::Rejected(reason) => Stage::rejected(reason),
                        Start::Unknown(..) => Stage::rejected(Rejection::NoEndpoints {
                            service: this.balance.shared.service.clone(),
                        }),
                    }
                }
                Project::Called { in_flight, inner } => {
                    let result = ready!(inner.poll(cx)).map_err(Into::into);
                    if let Some(in_flight) = in_flight.take() {
                        in_flight.finish(this.balance.classify.classify_result(&result));
                    }
                    return Poll::Ready(result);
                }
                Project::Rejected { reason } => {
                    let reason = reason.take().expect("not polled after it was ready");
                    return Poll::Ready(Err(reason.into()));
                }
            };
            this.stage.set(next);
        }
    }
}

impl<S, G, K, B> fmt::Debug for ResponseFuture<S, G, K, B>
where
    S: Service<http::Request<B>>,
    G: Admit,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
