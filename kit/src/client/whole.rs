//! Waits for the body of a small answer before it counts as an answer.
//!
//! A peer that breaks off in the middle of a body has answered nothing, but its head looked like a success, and a fast
//! one: the balancer would prefer it, its circuit breaker would stay closed, and nobody would try again. So an answer
//! that says how long it is, and is short, is read here, below all who judge; what breaks is then an error like any
//! other. What is long, or a stream of unknown length, is handed on as it comes and judged by its head.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Response, response::Parts};
use http_body::Body as _;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::{Body, BoxError, body::Collecting, policy::Live};

/// Answers when the whole of a short answer is there. Clones share what those of the inner service share.
#[derive(Clone, Debug)]
pub struct Whole<S> {
    inner: S,
    limit: Live<usize>,
}

impl<S> Whole<S> {
    /// Waits for answers of up to `limit` bytes, a number or a handle that replaces it; 0 waits for none.
    pub fn new(inner: S, limit: impl Into<Live<usize>>) -> Self {
        let limit = limit.into();
        Self { inner, limit }
    }
}

impl<S, Q> Service<Q> for Whole<S>
where
    S: Service<Q, Response = Response<Body>, Error = BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = WholeFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Q) -> Self::Future {
        WholeFuture {
            state: State::Asked {
                future: self.inner.call(request),
            },
            limit: **self.limit.get(),
        }
    }
}

pin_project! {
    /// The answer, whole or as it comes.
    pub struct WholeFuture<F> {
        #[pin]
        state: State<F>,
        limit: usize,
    }
}

impl<F> fmt::Debug for WholeFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WholeFuture").finish_non_exhaustive()
    }
}

pin_project! {
    #[project = Project]
    enum State<F> {
        Asked {
            #[pin]
            future: F,
        },
        // Boxed, because the body of most short answers is there with the head, and then this is not needed.
        Reading {
            reading: Box<Reading>,
        },
    }
}

/// A short answer whose body comes.
struct Reading {
    // None when it was given away.
    head: Option<Parts>,
    body: Collecting<Body>,
}

impl Reading {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<Body>, BoxError>> {
        let body = ready!(Pin::new(&mut self.body).poll(cx))?;
        let head = self.head.take().expect("not polled after it was ready");
        Poll::Ready(Ok(Response::from_parts(head, body.into())))
    }
}

impl<F> Future for WholeFuture<F>
where
    F: Future<Output = Result<Response<Body>, BoxError>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let future = match this.state.as_mut().project() {
            Project::Asked { future } => future,
            Project::Reading { reading } => return reading.poll(cx),
        };
        let response = ready!(future.poll(cx))?;
        let length = response.body().size_hint().exact();
        let length = length.and_then(|length| usize::try_from(length).ok());
        let short = length.filter(|length| length <= this.limit);
        if short.is_none() || response.body().is_end_stream() {
            return Poll::Ready(Ok(response));
        }
        let (head, body) = response.into_parts();
        let mut reading = Reading {
            head: Some(head),
            body: Collecting::new(body, *this.limit),
        };
        let polled = reading.poll(cx);
        if polled.is_pending() {
            let reading = Box::new(reading);
            this.state.set(State::Reading { reading });
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::{FutureExt, StreamExt, stream};
    use http::HeaderMap;
    use http_body::Frame;
    use http_body_util::{BodyExt, StreamBody};
    use tower::{ServiceExt, service_fn};

    use super::*;

    type Frames = Vec<Result<Frame<Bytes>, BoxError>>;

    fn data(text: &'static str) -> Result<Frame<Bytes>, BoxError> {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    /// A body that says how long it is, as one with a `content-length` does.
    struct Announced<B> {
        length: u64,
        body: B,
    }

    impl<B: http_body::Body + Unpin> http_body::Body for Announced<B> {
        type Data = B::Data;
        type Error = B::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
            Pin::new(&mut self.body).poll_frame(cx)
        }

        fn size_hint(&self) -> http_body::SizeHint {
            http_body::SizeHint::with_exact(self.length)
        }
    }

    /// What comes of an answer that says that it has `length` bytes, has these frames and then stays open. `None`:
    /// it is still waited for.
    fn answer(limit: usize, length: Option<u64>, frames: Frames) -> Option<Result<Body, BoxError>> {
        let mut response = Some({
            let open = stream::iter(frames).chain(stream::pending());
            let body = StreamBody::new(open);
            Response::new(match length {
                Some(length) => Body::stream(Announced { length, body }),
                None => Body::stream(body),
            })
        });
        let inner = service_fn(move |()| {
            let response = response.take().expect("asked once");
            async { Ok::<_, BoxError>(response) }
        });
        let answer = Whole::new(inner, limit).oneshot(()).now_or_never()?;
        Some(answer.map(Response::into_body))
    }

    #[test]
    fn a_short_answer_that_breaks_off_is_an_error() {
        let frames = vec![data("half"), Err("reset".into())];
        let broken = answer(64, Some(8), frames).expect("it is over");
        assert_eq!(broken.unwrap_err().to_string(), "reset");
    }

    #[test]
    fn a_short_answer_is_waited_for_and_given_in_one_piece_with_its_trailers() {
        assert!(answer(64, Some(8), vec![data("half")]).is_none());
        let trailers = HeaderMap::from_iter([(http::header::AGE, 7.into())]);
        let inner = service_fn(move |()| {
            let frames = [
                data("one, "),
                data("two, "),
                data("three"),
                Ok(Frame::trailers(trailers.clone())),
            ];
            let body = StreamBody::new(stream::iter(frames));
            let body = Body::stream(Announced { length: 15, body });
            async { Ok::<_, BoxError>(Response::new(body)) }
        });
        let response = Whole::new(inner, 15).oneshot(()).now_or_never();
        let body = response.expect("it is there").expect("whole").into_body();
        let read = body.collect().now_or_never().expect("it is there").unwrap();
        assert_eq!(read.trailers().unwrap()[http::header::AGE], "7");
        assert_eq!(read.to_bytes(), "one, two, three");
    }

    #[test]
    fn a_long_answer_or_a_stream_is_handed_on_as_it_comes() {
        for (limit, length) in [(7, Some(8)), (0, Some(8)), (64, None)] {
            let frames = vec![data("half"), Err("reset".into())];
            let body = answer(limit, length, frames)
                .expect("it is handed on")
                .unwrap();
            let read = body.collect().now_or_never().expect("it is over");
            assert_eq!(read.unwrap_err().to_string(), "reset");
        }
    }
}
