//! Bounds the body of a request.

use std::{
    future::Future,
    pin::Pin,
    task::{self, Poll},
};

use http::{Request, Response, header};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{Body, body::BodyLimit, wire::Wire};

/// Refuses bodies that are announced to be too large with status 413 (gRPC: 11, OUT_OF_RANGE), and lets no
/// more than the limit be read of the others. A generated server finds the limit in the request's extensions as
/// [`BodyLimit`].
#[derive(Clone, Copy, Debug)]
pub struct BodyLimitLayer {
    limit: usize,
}

impl BodyLimitLayer {
    /// Lets bodies of up to `limit` bytes pass.
    pub fn new(limit: usize) -> Self {
        Self { limit }
    }
}

impl<S> Layer<S> for BodyLimitLayer {
    type Service = LimitBody<S>;

    fn layer(&self, inner: S) -> LimitBody<S> {
        LimitBody {
            inner,
            limit: self.limit,
        }
    }
}

/// Bounds the body of a request, see [`BodyLimitLayer`]. Fails only as the inner service fails.
#[derive(Clone, Copy, Debug)]
pub struct LimitBody<S> {
    inner: S,
    limit: usize,
}

impl<S> Service<Request<Body>> for LimitBody<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let limit = self.limit;
        let announced = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let state = if announced.is_some_and(|length| length > limit as u64) {
            State::Refused {
                answer: Some(Wire::of(request.headers()).too_large(limit)),
            }
        } else {
            request.extensions_mut().insert(BodyLimit(limit));
            State::Called {
                inner: self.inner.call(request.map(|body| body.limited(limit))),
            }
        };
        ResponseFuture { state }
    }
}

pin_project! {
    /// The future of [`LimitBody`].
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = Project]
    enum State<F> {
        Called { #[pin] inner: F },
        Refused { answer: Option<Response<Body>> },
    }
}

impl<F, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            Project::Called { inner } => inner.poll(cx),
            Project::Refused { answer } => {
                Poll::Ready(Ok(answer.take().expect("not polled after it was ready")))
            }
        }
    }
}
