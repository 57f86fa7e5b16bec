//! Answers in place of a peer that failed: with what was known before, with less, with a default.
//!
//! A function sees each request on its way in and returns what would answer it: a second function, which is called
//! with the failure if there is one, and keeps of the request what it needs. It may also hand the failure on, as it
//! is or as another one. What the request itself did wrong is no failure, and reaches the caller.
//!
//! An answer that looks like any other hides that the peer is down: each one is an
//! [`Event::FellBack`], and is counted.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    BoxError,
    classify::{Classify, HttpClassify, Outcome},
    event::{Event, SharedObserver},
};

/// Answers in place of what fails. It has no state; clones share the observer.
#[derive(Clone)]
pub struct FallbackLayer<F, C = HttpClassify> {
    fallback: F,
    classify: C,
    observer: SharedObserver,
}

impl<F> FallbackLayer<F> {
    /// Answers as `fallback` says: `Fn(&Request) -> FnOnce(Result<Response, BoxError>) -> impl Future<Output =
    /// Result<Response, BoxError>>`, where the result is the failing one, a response that reports a failure or an
    /// error. What happens is told to `observer`.
    pub fn new(fallback: F, observer: SharedObserver) -> Self {
        Self {
            fallback,
            classify: HttpClassify,
            observer,
        }
    }
}

impl<F, C> FallbackLayer<F, C> {
    /// The same with another judge of results.
    pub fn with_classify<D>(self, classify: D) -> FallbackLayer<F, D> {
        FallbackLayer {
            fallback: self.fallback,
            classify,
            observer: self.observer,
        }
    }
}

impl<F, C: fmt::Debug> fmt::Debug for FallbackLayer<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackLayer")
            .field("classify", &self.classify)
            .finish_non_exhaustive()
    }
}

impl<S, F: Clone, C: Clone> Layer<S> for FallbackLayer<F, C> {
    type Service = Fallback<S, F, C>;

    fn layer(&self, inner: S) -> Self::Service {
        Fallback {
            inner,
            layer: self.clone(),
        }
    }
}

/// Answers in place of what fails, be it the peer, the way to it, or a layer further in that refused. An inner
/// service that cannot become ready is an error still: there is no request yet that could be answered.
#[derive(Clone, Debug)]
pub struct Fallback<S, F, C = HttpClassify> {
    inner: S,
    layer: FallbackLayer<F, C>,
}

impl<S, F, C, Req, A, Fut> Service<Req> for Fallback<S, F, C>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    F: Fn(&Req) -> A,
    A: FnOnce(Result<S::Response, BoxError>) -> Fut,
    Fut: Future<Output = Result<S::Response, BoxError>>,
    C: Classify<S::Response>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = FallbackFuture<S::Future, A, Fut, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let answer = (self.layer.fallback)(&request);
        FallbackFuture {
            state: State::Called {
                future: self.inner.call(request),
                answer: Some(answer),
            },
            classify: self.layer.classify.clone(),
            observer: self.layer.observer.clone(),
        }
    }
}

pin_project! {
    /// Waits for the answer, and for the one in its place.
    pub struct FallbackFuture<F, A, Fut, C> {
        #[pin]
        state: State<F, A, Fut>,
        classify: C,
        observer: SharedObserver,
    }
}

pin_project! {
    #[project = Project]
    enum State<F, A, Fut> {
        Called {
            #[pin]
            future: F,
            answer: Option<A>,
        },
        Answering {
            #[pin]
            future: Fut,
        },
    }
}

impl<F, A, Fut, C> fmt::Debug for FallbackFuture<F, A, Fut, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fell_back = matches!(self.state, State::Answering { .. });
        f.debug_struct("FallbackFuture")
            .field("fell_back", &fell_back)
            .finish_non_exhaustive()
    }
}

impl<F, T, E, A, Fut, C> Future for FallbackFuture<F, A, Fut, C>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
    A: FnOnce(Result<T, BoxError>) -> Fut,
    Fut: Future<Output = Result<T, BoxError>>,
    C: Classify<T>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let future = match this.state.as_mut().project() {
                Project::Called { future, answer } => {
                    let result = ready!(future.poll(cx)).map_err(Into::into);
                    let outcome = this.classify.classify_result(&result).outcome;
                    if let Outcome::Success | Outcome::CallerFault = outcome {
                        return Poll::Ready(result);
                    }
                    this.observer.observe(Event::FellBack { outcome });
                    answer.take().expect("not polled after it was ready")(result)
                }
                Project::Answering { future } => return future.poll(cx),
            };
            // Drops the failed call, and with it all that it held.
            this.state.set(State::Answering { future });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{Ready, pending, ready},
        sync::{
            Arc, Mutex,
            atomic::{AtomicBool, Ordering::Relaxed},
        },
    };

    use http::{Request, Response, StatusCode};
    use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
    use tower_test::mock;

    use super::*;
    use crate::{
        Rejection,
        event::{Observer, nobody},
    };

    type Failed = Result<Response<String>, BoxError>;

    fn status(code: u16) -> Response<String> {
        let mut response = Response::default();
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
        response
    }

    /// Answers with the path that was asked for and what went wrong.
    fn known(request: &Request<()>) -> impl FnOnce(Failed) -> Ready<Failed> + use<> {
        let path = request.uri().path().to_owned();
        move |failed| {
            let why = match failed {
                Ok(response) => response.status().to_string(),
                Err(error) => error.to_string(),
            };
            ready(Ok(Response::new(format!("{path}: {why}"))))
        }
    }

    fn asked() -> Request<()> {
        Request::get("/list").body(()).unwrap()
    }

    #[tokio::test]
    async fn what_fails_is_answered_for_and_what_is_refused_and_nothing_else() {
        let layer = FallbackLayer::new(known, nobody());
        let (mut service, mut peer) = mock::spawn_layer::<_, Response<String>, _>(layer);
        let refusal = || BoxError::from(Rejection::Overloaded { limit: 1 });
        for (result, expected) in [
            (Ok(status(503)), "/list: 503 Service Unavailable"),
            (Ok(status(429)), "/list: 429 Too Many Requests"),
            (Err("reset".into()), "/list: reset"),
            (
                Err(refusal()),
                "/list: overloaded: 1 requests are in flight already",
            ),
            (Ok(status(404)), ""),
            (Ok(status(200)), ""),
        ] {
            assert_ready_ok!(service.poll_ready());
            let mut call = task::spawn(service.call(asked()));
            assert_pending!(call.poll());
            let (_, respond) = peer.next_request().await.unwrap();
            match result {
                Ok(response) => respond.send_response(response),
                Err(error) => respond.send_error(error),
            }
            assert_eq!(assert_ready_ok!(call.poll()).body(), expected);
        }
    }

    #[tokio::test]
    async fn a_failure_may_be_handed_on() {
        let layer = FallbackLayer::new(|_: &()| |failed: Failed| ready(failed), nobody());
        let (mut service, mut peer) = mock::spawn_layer(layer);
        assert_ready_ok!(service.poll_ready());
        let mut call = task::spawn(service.call(()));
        peer.next_request().await.unwrap().1.send_error("reset");
        assert_eq!(assert_ready_err!(call.poll()).to_string(), "reset");
    }

    /// Says when it is dropped.
    struct Held(Arc<AtomicBool>);

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }

    impl Future for Held {
        type Output = Failed;

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Failed> {
            Poll::Ready(Err("reset".into()))
        }
    }

    #[tokio::test]
    async fn the_failed_call_is_dropped_before_another_answer_is_looked_for() {
        let dropped = Arc::new(AtomicBool::new(false));
        let inner = {
            let dropped = Arc::clone(&dropped);
            tower::service_fn(move |()| Held(Arc::clone(&dropped)))
        };
        let layer = FallbackLayer::new(|_: &()| |_: Failed| pending(), nobody());
        let mut call = task::spawn(layer.layer(inner).call(()));
        assert_pending!(call.poll());
        assert!(dropped.load(Relaxed));
    }

    /// Hears in whose place there was an answer.
    #[derive(Default)]
    struct Log(Mutex<Vec<Outcome>>);

    impl Observer for Arc<Log> {
        fn observe(&self, event: Event<'_>) {
            if let Event::FellBack { outcome } = event {
                self.0.lock().unwrap().push(outcome);
            }
        }
    }

    #[tokio::test]
    async fn each_answer_in_place_of_another_is_told_of() {
        let log = Arc::new(Log::default());
        let layer = FallbackLayer::new(known, Arc::new(Arc::clone(&log)));
        let codes = [503, 200, 429];
        for code in codes {
            let inner = tower::service_fn(move |_| ready(Ok::<_, BoxError>(status(code))));
            layer.layer(inner).call(asked()).await.unwrap();
        }
        let told = log.0.lock().unwrap().clone();
        assert_eq!(told, [Outcome::Failure, Outcome::Overload]);
    }
}
