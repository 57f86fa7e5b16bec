//! The one place where what is not an answer becomes one: errors, refusals of the kit, and panics.

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{self, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    Body, BoxError, Error,
    body::TooLarge,
    rejection::{Rejection, find_cause},
    wire::Wire,
};

/// Turns errors and panics into responses, on the wire on which the request came: problem documents or gRPC
/// statuses. It stands inside of traces and metrics, so that they see all answers, and outside of everything that
/// may refuse a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct RespondLayer;

impl<S> Layer<S> for RespondLayer {
    type Service = Respond<S>;

    fn layer(&self, inner: S) -> Respond<S> {
        Respond { inner }
    }
}

/// Turns errors and panics into responses, see [`RespondLayer`]. Fails only where the inner service does not
/// become ready.
#[derive(Clone, Copy, Debug)]
pub struct Respond<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for Respond<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let wire = Wire::of(request.headers());
        // A service that panicked is asked again by the next request; it has to look after its own state, as
        // anything that is shared between threads has to.
        let called = catch_unwind(AssertUnwindSafe(|| self.inner.call(request)));
        let state = match called {
            Ok(inner) => State::Called { inner },
            Err(panic) => State::Panicked {
                error: Some(panicked(&*panic)),
            },
        };
        ResponseFuture { state, wire }
    }
}

pin_project! {
    /// The future of [`Respond`].
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
        wire: Wire,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = Project]
    enum State<F> {
        Called { #[pin] inner: F },
        Panicked { error: Option<Error> },
    }
}

impl<F, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<Body>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let error = match this.state.project() {
            Project::Called { inner } => {
                let polled = catch_unwind(AssertUnwindSafe(|| inner.poll(cx)));
                match polled {
                    Ok(poll) => match ready!(poll) {
                        Ok(response) => return Poll::Ready(Ok(response)),
                        Err(error) => return Poll::Ready(Ok(respond(*this.wire, error.into()))),
                    },
                    Err(panic) => panicked(&*panic),
                }
            }
            Project::Panicked { error } => error.take().expect("not polled after it was ready"),
        };
        Poll::Ready(Ok(this.wire.error(error)))
    }
}

fn respond(wire: Wire, error: BoxError) -> Response<Body> {
    if let Some(TooLarge { limit }) = find_cause(&*error) {
        return wire.too_large(*limit);
    }
    let is_known = Rejection::find(&*error).is_some() || find_cause::<Error>(&*error).is_some();
    wire.error(if is_known {
        error.into()
    } else {
        // Not a peer that could not be reached, as it would be for a client: this is the server itself.
        Error::internal(error)
    })
}

/// A handler that panicked, as the source of an internal error.
#[derive(Debug, thiserror::Error)]
#[error("the handler panicked: {0}")]
struct Panicked(String);

fn panicked(payload: &(dyn Any + Send)) -> Error {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no text".into());
    Error::internal(Panicked(text))
}

#[cfg(test)]
mod tests {
    use http::{StatusCode, header};
    use tower::{ServiceExt, service_fn};

    use super::*;

    async fn answer(error: BoxError, content_type: &'static str) -> Response<Body> {
        let mut error = Some(error);
        let failing = service_fn(move |_: Request<()>| {
            let error = error.take().expect("asked once");
            async { Err::<Response<Body>, _>(error) }
        });
        let request = Request::builder().header(header::CONTENT_TYPE, content_type);
        let service = RespondLayer.layer(failing);
        service.oneshot(request.body(()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn an_error_is_answered_by_what_it_is_on_the_wire_of_the_request() {
        let timed_out = || BoxError::from(Rejection::DeadlineExceeded);
        let not_found = || BoxError::from(Error::not_found("no such user"));
        let too_large = || BoxError::from(TooLarge { limit: 3 });
        let unknown = || BoxError::from("disk on fire");
        for (error, status, code) in [
            (timed_out as fn() -> BoxError, 504, "4"),
            (not_found, 404, "5"),
            (too_large, 413, "11"),
            (unknown, 500, "13"),
        ] {
            let json = answer(error(), "application/json").await;
            assert_eq!(json.status(), status);
            let grpc = answer(error(), "application/grpc").await;
            assert_eq!(grpc.headers()["grpc-status"], code);
        }
    }

    #[tokio::test]
    async fn a_panic_before_the_first_await_is_caught_too() {
        let panicking = service_fn(
            |_: Request<()>| -> std::future::Ready<Result<_, BoxError>> { panic!("at once") },
        );
        let service = RespondLayer.layer(panicking);
        let response = service.oneshot(Request::new(())).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let error = response.extensions().get::<Error>().unwrap();
        let source = std::error::Error::source(error).unwrap();
        assert_eq!(source.to_string(), "the handler panicked: at once");
    }
}
