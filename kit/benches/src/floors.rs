//! What a call through a client cannot do without, whoever writes it: the parts that the full stack's cost has a floor of.

use std::task::{Context, Poll};

use http::{HeaderValue, request::Parts};
use kit::{
    BoxError,
    wire::{REQUEST_TIMEOUT, TRACEPARENT},
};
use metrics::{Histogram, Key, Label};
use tokio::time::Instant;
use tower::Service;

use crate::{Bare, Inner, Reply, Request, Subject, TRACE, shared};

/// Does one thing before the bare service is asked.
#[derive(Clone)]
struct Before<F> {
    inner: Bare,
    work: F,
}

impl<F: FnMut(Request) -> Request> Service<Request> for Before<F> {
    type Response = Reply;
    type Error = BoxError;
    type Future = <Bare as Service<Request>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let request = (self.work)(request);
        self.inner.call(request)
    }
}

fn before<F>(inner: Inner, work: F) -> Box<dyn Subject>
where
    F: FnMut(Request) -> Request + Clone + Send + 'static,
{
    let inner = Bare(inner);
    shared(Before { inner, work })
}

/// When the call began and when it ended.
pub(crate) fn two_clock_reads(inner: Inner) -> Box<dyn Subject> {
    before(inner, |request| {
        std::hint::black_box((Instant::now(), Instant::now()));
        request
    })
}

/// The place in the trace and the timeout, whose values are there already.
pub(crate) fn two_headers(inner: Inner) -> Box<dyn Subject> {
    let (trace, timeout) = (
        HeaderValue::from_static(TRACE),
        HeaderValue::from_static("2000000u"),
    );
    before(inner, move |mut request| {
        let headers = request.headers_mut();
        headers.insert(TRACEPARENT, trace.clone());
        headers.insert(REQUEST_TIMEOUT, timeout.clone());
        request
    })
}

/// What another attempt is made from, by the means of the crate `http`.
pub(crate) fn head_copied(inner: Inner) -> Box<dyn Subject> {
    before(inner, |request| {
        let (parts, body) = request.into_parts();
        let copy: Parts = parts.clone();
        drop(std::hint::black_box(copy));
        Request::from_parts(parts, body)
    })
}

/// A histogram of durations.
pub(crate) fn duration() -> Histogram {
    let key = Key::from_parts("floor_seconds", vec![Label::new("outcome", "success")]);
    let metadata = metrics::Metadata::new(module_path!(), metrics::Level::INFO, None);
    metrics::with_recorder(|recorder| recorder.register_histogram(&key, &metadata))
}

/// The duration, in a histogram whose handle is there already.
pub(crate) fn histogram(inner: Inner) -> Box<dyn Subject> {
    let histogram = duration();
    before(inner, move |request| {
        histogram.record(0.001);
        request
    })
}
