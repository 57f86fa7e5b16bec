//! Answers over HTTP that several may have: read to their end, so that they can be cloned.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Response, response::Parts};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    BoxError,
    body::{Collected, Collecting},
};

/// Answers when the whole of an answer is there, with a [`Collected`] that can be cloned. Stands inside of a
/// [`CoalesceLayer`](super::CoalesceLayer).
#[derive(Clone, Copy, Debug)]
pub struct CollectLayer {
    limit: usize,
}

impl CollectLayer {
    /// Reads answers of up to `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit }
    }
}

impl<S> Layer<S> for CollectLayer {
    type Service = Collect<S>;

    fn layer(&self, inner: S) -> Collect<S> {
        let limit = self.limit;
        Collect { inner, limit }
    }
}

/// Answers when the whole of an answer is there. Clones share what those of the inner service share.
///
/// Fails with [`TooLarge`](crate::body::TooLarge) where an answer is longer than the limit, as the inner service does,
/// and where the answer breaks off.
#[derive(Clone, Debug)]
pub struct Collect<S> {
    inner: S,
    limit: usize,
}

impl<S, Q, B> Service<Q> for Collect<S>
where
    S: Service<Q, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = Response<Collected>;
    type Error = BoxError;
    type Future = CollectFuture<S::Future, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Q) -> Self::Future {
        CollectFuture {
            state: State::Asked {
                future: self.inner.call(request),
            },
            limit: self.limit,
        }
    }
}

pin_project! {
    /// The whole answer.
    pub struct CollectFuture<F, B> {
        #[pin]
        state: State<F, B>,
        limit: usize,
    }
}

pin_project! {
    #[project = Project]
    enum State<F, B> {
        Asked {
            #[pin]
            future: F,
        },
        Reading {
            // None when it was given away.
            head: Option<Parts>,
            #[pin]
            body: Collecting<B>,
        },
    }
}

impl<F, B> fmt::Debug for CollectFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CollectFuture")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl<F, B, E> Future for CollectFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<Collected>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                Project::Asked { future } => {
                    let answer = ready!(future.poll(cx)).map_err(Into::into)?;
                    let (head, body) = answer.into_parts();
                    State::Reading {
                        head: Some(head),
                        body: Collecting::new(body, *this.limit),
                    }
                }
                Project::Reading { head, body } => {
                    let body = ready!(body.poll(cx))?;
                    let head = head.take().expect("not polled after it was ready");
                    return Poll::Ready(Ok(Response::from_parts(head, body)));
                }
            };
            this.state.set(next);
        }
    }
}
