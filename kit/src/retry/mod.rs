//! Makes a call again that failed, if that cannot do harm.
//!
//! What went wrong is judged by [`classify`]. A request that provably never reached the peer may
//! always be made again, any other one only if doing it twice is doing it once: its [`Method`](crate::name::Method)
//! says so, or it has an idempotency key, or, for a request that no generated client made, its HTTP method is
//! idempotent (RFC 9110, section 9.2.2). A request that arrives as a retry already is not multiplied here.
//!
//! Three bounds hold together: attempts per call, a [`Budget`] for all calls, and the request's deadline, behind
//! which no retry is begun. Between attempts it waits, doubling, with full jitter, and at least as long as the peer
//! asked for in `Retry-After`, or exactly as long as it asked for by gRPC's pushback (gRFC A6), which may also ask
//! for no other attempt at all.
//!
//! Where a call could have been made again and any of these bounds was in the way, the failure says so: a response by
//! the same pushback, an error by [`RetriesSpent`]. Handed on, it keeps the hops before this one from trying again what
//! was tried here: else each of them would add its share, and only the one next to the trouble should (Beyer et al.,
//! "Site Reliability Engineering", 2016, chapter 22).

mod head;
mod policy;
mod replay;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    BoxError,
    asked::Origin,
    body::TryClone,
    classify::{self, Classify, HttpClassify, Verdict},
    clock,
    context::Context,
    event::{Event, SharedObserver},
    policy::{Live, Reader, Terms},
    rejection::RetriesSpent,
    wire,
};
use head::Head;
use policy::Call;
use replay::Spare;

pub use crate::policy::{Backoff, Budget, BudgetConfig, Withdrawal};
pub use policy::RetryConfig;
pub use replay::Replay;

/// Retries the requests of all services that it, or a clone of it, builds: they share configuration and budget.
#[derive(Clone, Debug)]
pub struct RetryLayer<C = HttpClassify> {
    shared: Arc<Shared>,
    classify: C,
}

#[derive(Debug)]
struct Shared {
    config: Live<RetryConfig>,
    budget: Budget,
    observer: SharedObserver,
}

impl RetryLayer {
    /// Retries as `config` says, out of `budget`, which others may share; `config.budget` is only what a budget of
    /// one's own is made from.
    pub fn new(config: RetryConfig, budget: Budget, observer: SharedObserver) -> Self {
        Self {
            shared: Arc::new(Shared {
                config: Live::new(config),
                budget,
                observer,
            }),
            classify: HttpClassify,
        }
    }
}

impl<C> RetryLayer<C> {
    /// The same with another judge of results.
    pub fn with_classify<D>(self, classify: D) -> RetryLayer<D> {
        RetryLayer {
            shared: self.shared,
            classify,
        }
    }

    /// The handle that replaces the configuration, all but the budget's.
    pub fn config(&self) -> &Live<RetryConfig> {
        &self.shared.config
    }

    /// The budget.
    pub fn budget(&self) -> &Budget {
        &self.shared.budget
    }
}

impl<S: Clone, C: Clone> Layer<S> for RetryLayer<C> {
    type Service = Retry<S, C>;

    fn layer(&self, inner: S) -> Retry<S, C> {
        Retry {
            config: self.config().reader(),
            budget: self.budget().reader(),
            origin: Arc::new(Origin::new(inner.clone(), self.clone())),
            inner,
        }
    }
}

/// Makes a call again that failed. Clones share configuration and budget.
///
/// The inner service gets the request with [`Context::previous_attempts`](crate::Context::previous_attempts) set, and
/// with a body that can be sent again. It must be `Clone`; the body must be `Unpin` and say whether it can be cloned,
/// as [`kit::Body`](crate::Body) does, into which any other one can be put.
#[derive(Clone, Debug)]
pub struct Retry<S, C = HttpClassify> {
    inner: S,
    config: Reader<RetryConfig>,
    budget: Reader<Terms>,
    origin: Arc<Origin<S, RetryLayer<C>>>,
}

impl<S, C, B, R> Service<Request<B>> for Retry<S, C>
where
    S: Service<Request<Replay<B>>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    C: Classify<Response<R>>,
    B: Body<Data = Bytes> + TryClone + Unpin,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = RetryFuture<S, C, B>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let config = self.config.get();
        let context = request.extensions().get::<Context>();
        // Then an earlier hop makes this call again already.
        let is_retry = context.is_some_and(|context| context.previous_attempts > 0);
        if !is_retry {
            self.budget.get().deposit(clock::now());
        }
        let is_only_one = is_retry || config.attempts.get() == 1;
        let head = (!is_only_one).then(|| Head::of(&mut request));
        let mut again = None;
        let request = request.map(|body| {
            let Some(head) = head else {
                return Replay::once(body);
            };
            let (body, spare) = Spare::of(body, config.replay_limit);
            again = Some(Again {
                head,
                spare,
                previous_attempts: 0,
            });
            body
        });
        RetryFuture {
            state: State::Called {
                future: self.inner.call(request),
            },
            origin: Arc::clone(&self.origin),
            again,
        }
    }
}

/// What another attempt is made from.
struct Again<B> {
    head: Head,
    spare: Spare<B>,
    /// Attempts before the present one.
    previous_attempts: u32,
}

impl<B> Again<B> {
    /// What matters of the call. Asked when an attempt has failed, which few do.
    fn call(&self) -> Call {
        Call::of(&self.head.request((), self.previous_attempts))
    }
}

impl<B: Body + TryClone> Again<B> {
    /// What follows a failure: another attempt, paid for, and the time to wait for it; or the failure, to be handed on.
    #[cold]
    fn next<R>(
        &mut self,
        shared: &Shared,
        result: Result<Response<R>, BoxError>,
        verdict: &Verdict,
    ) -> Result<(Duration, Next<B>), Result<Response<R>, BoxError>> {
        let now = clock::now();
        let config = shared.config.get();
        let call = self.call();
        let backoff = call.backoff(verdict, &config, now, &mut rand::rng());
        let Some(backoff) = backoff else {
            let spent = call.may_be_repeated(verdict);
            return Err(if spent { give_up(result) } else { result });
        };
        let Some(body) = self.spare.rewind() else {
            return Err(result);
        };
        let Some(withdrawal) = shared.budget.withdraw(now) else {
            shared.observer.observe(Event::RetryBudgetExhausted);
            return Err(give_up(result));
        };
        self.previous_attempts += 1;
        shared.observer.observe(Event::Retried {
            previous_attempts: self.previous_attempts,
            backoff,
        });
        Ok((backoff, Next { body, withdrawal }))
    }
}

/// Says to whoever is told of this failure that there were attempts enough.
fn give_up<R>(result: Result<Response<R>, BoxError>) -> Result<Response<R>, BoxError> {
    let mut response = result.map_err(RetriesSpent)?;
    wire::push_back(response.headers_mut());
    Ok(response)
}

pin_project! {
    /// Waits for the answer of one attempt after the other.
    pub struct RetryFuture<S, C, B>
    where
        S: Service<Request<Replay<B>>>,
    {
        #[pin]
        state: State<S, S::Future, B>,
        origin: Arc<Origin<S, RetryLayer<C>>>,
        // None: this attempt is the only one.
        again: Option<Again<B>>,
    }
}

impl<S, C, B> fmt::Debug for RetryFuture<S, C, B>
where
    S: Service<Request<Replay<B>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let previous_attempts = self.again.as_ref().map(|again| again.previous_attempts);
        f.debug_struct("RetryFuture")
            .field("previous_attempts", &previous_attempts)
            .finish_non_exhaustive()
    }
}

pin_project! {
    #[project = Project]
    enum State<S, F, B> {
        Called {
            #[pin]
            future: F,
        },
        Waiting {
            #[pin]
            sleep: Sleep,
            next: Option<Next<B>>,
        },
        Readying {
            service: S,
            next: Option<Next<B>>,
        },
        Done,
    }
}

/// The next attempt, paid for; dropped before it is made, it is paid back.
struct Next<B> {
    body: Replay<B>,
    withdrawal: Withdrawal,
}

impl<S, C, B, R> Future for RetryFuture<S, C, B>
where
    S: Service<Request<Replay<B>>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    C: Classify<Response<R>>,
    B: Body<Data = Bytes> + TryClone + Unpin,
{
    type Output = Result<Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let layer = this.origin.layer();
        let shared = &layer.shared;
        loop {
            let state = match this.state.as_mut().project() {
                Project::Called { future } => {
                    let result = ready!(future.poll(cx)).map_err(Into::into);
                    // Dropped now, so that an unread body comes back.
                    this.state.set(State::Done);
                    let Some(again) = this.again else {
                        return Poll::Ready(result);
                    };
                    let verdict = layer.classify.classify_result(&result);
                    if verdict.retry == classify::Retry::No {
                        return Poll::Ready(result);
                    }
                    match again.next(shared, result, &verdict) {
                        Ok((backoff, next)) => State::Waiting {
                            sleep: sleep(backoff),
                            next: Some(next),
                        },
                        Err(result) => return Poll::Ready(result),
                    }
                }
                Project::Waiting { sleep, next } => {
                    ready!(sleep.poll(cx));
                    State::Readying {
                        service: this.origin.service(),
                        next: next.take(),
                    }
                }
                Project::Readying { service, next } => {
                    // Its own last word, but of a call that was tried before.
                    ready!(service.poll_ready(cx)).map_err(|error| RetriesSpent(error.into()))?;
                    let Next { body, withdrawal } = next.take().expect("made once");
                    let again = this.again.as_ref().expect("this is a retry");
                    withdrawal.spend();
                    let request = again.head.request(body, again.previous_attempts);
                    State::Called {
                        future: service.call(request),
                    }
                }
                Project::Done => unreachable!("not polled after it was ready"),
            };
            this.state.set(state);
        }
    }
}
