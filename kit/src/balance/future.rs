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
use tokio::time::{Instant, timeout_at};

use tower_service::Service;

use super::{
    Balance,
    group::{Node, View},
    load::{Terms, millis},
};
use crate::{
    BoxError, Rejection,
    asked::Asked,
    classify::{Classify, Outcome, Verdict},
    clock,
    context::Deadline,
    endpoint::Watch,
    policy::{Admit, Permit},
};

/// How long a request waits.
#[derive(Clone, Copy, Default)]
pub(super) struct Patience {
    pub(super) ends: Option<Deadline>,
    /// Whether nobody gets more: it is not its caller who is in a hurry.
    is_full: bool,
}

impl Patience {
    pub(super) fn of(context: &crate::Context) -> Self {
        match (context.answer_by, context.deadline) {
            (Some(by), Some(deadline)) if deadline < by => Self {
                ends: Some(deadline),
                is_full: false,
            },
            (Some(by), _) => Self {
                ends: Some(by),
                is_full: true,
            },
            (None, ends) => Self {
                ends,
                is_full: false,
            },
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.ends.is_some_and(|ends| ends.has_passed(now))
    }
}

/// A request's place among those in flight at an endpoint, and its permit; given back when this is dropped.
pub(super) struct InFlight<S, G: Admit> {
    node: Arc<Node<S, G>>,
    /// `None` where the gate was overruled.
    permit: Option<G::Permit>,
    /// In nanoseconds of [`clock::nanos`].
    since: u64,
    patience: Patience,
    /// As they were when the request was sent.
    terms: Terms,
    finished: bool,
}

impl<S, G: Admit> InFlight<S, G> {
    pub(super) fn new(
        node: Arc<Node<S, G>>,
        permit: Option<G::Permit>,
        view: &View<'_>,
        patience: Patience,
    ) -> Self {
        node.load.enter(view.millis);
        Self {
            node,
            permit,
            since: view.nanos,
            patience,
            terms: *view.terms,
            finished: false,
        }
    }

    /// Until so many nanoseconds of [`clock::nanos`], in seconds.
    fn waited(&self, now: u64) -> f32 {
        now.saturating_sub(self.since) as f32 / 1e9
    }

    /// The request was answered, or failed.
    fn finish(mut self, verdict: Verdict) {
        let now = clock::now();
        let nanos = clock::nanos(now);
        let (load, terms, millis) = (&self.node.load, &self.terms, millis(nanos));
        self.finished = true;
        match verdict.outcome {
            Outcome::Success | Outcome::CallerFault => {
                load.heard(millis);
                load.answered(millis, self.waited(nanos), terms);
            }
            Outcome::Failure | Outcome::Overload => {
                load.heard(millis);
                let leave_alone = verdict.retry_after.max(verdict.pushback);
                load.failed(millis, leave_alone.unwrap_or_default(), terms);
            }
            Outcome::Rejected => load.leave(),
        }
        if let Some(permit) = self.permit.take() {
            permit.finish(now, verdict.outcome);
        }
    }
}

impl<S, G: Admit> Drop for InFlight<S, G> {
    fn drop(&mut self) {
        if !self.finished {
            self.given_up();
        }
    }
}

impl<S, G: Admit> InFlight<S, G> {
    /// Nobody waits for the answer any more.
    #[cold]
    fn given_up(&mut self) {
        self.node.load.leave();
        let now = clock::now();
        let nanos = clock::nanos(now);
        let (load, terms, millis) = (&self.node.load, &self.terms, millis(nanos));
        let waited = self.waited(nanos);
        let Patience { is_full, .. } = self.patience;
        if self.patience.is_over(now) && (is_full || load.answers_within(waited, terms)) {
            // Not the caller's whim: the endpoint had its time and did not answer.
            load.failed(millis, Duration::ZERO, terms);
            if let Some(permit) = self.permit.take() {
                permit.finish(now, Outcome::Failure);
            }
        }
        // Its latency too, which is forgotten more slowly: who does not answer is dearer to try again than who fails.
        load.unanswered(millis, waited, terms);
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
        classify: K,
    }
}

pin_project! {
    #[project = Project]
    pub(super) enum Stage<S, G, B>
    where
        S: Service<http::Request<B>>,
        G: Admit,
    {
        Waits {
            // Boxed, because they are there only while there is nobody to ask.
            changed: Pin<Box<dyn Future<Output = ()> + Send>>,
            until: Instant,
            request: Option<Box<http::Request<B>>>,
            balance: Balance<S, G, ()>,
        },
        Called {
            // Dropped before `inner`, so that a request's place is given back even if that panics.
            in_flight: Option<InFlight<S, G>>,
            #[pin]
            inner: Asked<S, http::Request<B>>,
        },
        Rejected {
            reason: Option<Rejection>,
        },
    }
}

impl<S, G, K, B> ResponseFuture<S, G, K, B>
where
    S: Service<http::Request<B>> + Clone + 'static,
    S::Error: Into<BoxError>,
    G: Admit,
    K: Clone,
{
    pub(super) fn new(balance: &Balance<S, G, K>, request: http::Request<B>) -> Self {
        Self {
            stage: balance.start(request, None),
            classify: balance.classify.clone(),
        }
    }
}

impl<S, G, B> Stage<S, G, B>
where
    S: Service<http::Request<B>>,
    G: Admit,
{
    pub(super) fn called(inner: Asked<S, http::Request<B>>, in_flight: InFlight<S, G>) -> Self {
        Self::Called {
            in_flight: Some(in_flight),
            inner,
        }
    }

    /// Asks `balance` again as soon as the endpoints change, or at last then.
    #[cold]
    pub(super) fn waits(
        request: http::Request<B>,
        balance: Balance<S, G, ()>,
        mut watch: Watch,
        until: Instant,
    ) -> Self {
        Self::Waits {
            changed: Box::pin(async move {
                // Whether it was in time is seen by looking again.
                let _ = timeout_at(until, watch.changed()).await;
            }),
            until,
            request: Some(Box::new(request)),
            balance,
        }
    }

    #[cold]
    pub(super) fn rejected(reason: Rejection) -> Self {
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
                Project::Waits {
                    changed,
                    until,
                    request,
                    balance,
                } => {
                    ready!(changed.as_mut().poll(cx));
                    let request = request.take().expect("there until this stage ends");
                    balance.start(*request, Some(*until))
                }
                Project::Called { in_flight, inner } => {
                    let result = ready!(inner.poll(cx));
                    if let Some(in_flight) = in_flight.take() {
                        in_flight.finish(this.classify.classify_result(&result));
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
