//! Carries W3C Trace Context in and out, with a span per request, per call and per attempt.
//!
//! [W3C Trace Context](https://www.w3.org/TR/trace-context/) is the `traceparent` header; how often a call was
//! tried before travels beside it, in gRPC's `grpc-previous-rpc-attempts` (gRFC A6). Spans are `tracing`'s: the
//! log lines written while one is entered carry its trace id, see [`crate::log`].
//!
//! Inbound, the layer also writes the access log: one line per request at level info, target `kit::access`, and
//! a line at level error with the whole chain of sources where the server broke its own rules. What the caller
//! did wrong is no error of the server. Bodies and headers are never logged.
//!
//! A result is judged by the head of the response. Of a streamed gRPC answer that fails after its first message
//! the log therefore says that it began well.

mod inbound;

use std::{
    future::Future,
    pin::Pin,
    task::{self, Poll, ready},
};

use http::{HeaderName, HeaderValue, Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;
use tracing::{Level, Span};

pub use self::inbound::{InboundFuture, InboundTrace, InboundTraceLayer};
use crate::{
    BoxError, Context,
    classify::{Classify, HttpClassify, Outcome},
    context::TraceContext,
    error::Chain,
    name::{Method, ServiceName},
    wire::{IDEMPOTENCY_KEY, PREVIOUS_ATTEMPTS, TRACEPARENT, rare, short_value},
};

/// Names the span that answered, in a response that is no success, so that whoever gets it can say which one it
/// was (W3C Trace Context, level 2).
pub const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// Makes a span for every call or attempt that passes, and carries its place in the trace on.
///
/// Layers and their clones share nothing: all that they know travels with the request.
#[derive(Clone, Debug)]
pub struct TraceLayer {
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Outbound(ServiceName),
    Attempt,
}

impl TraceLayer {
    /// On a server, outermost: reads the headers into the request's [`Context`], makes the span `request`, and
    /// writes the access log.
    pub fn inbound() -> InboundTraceLayer {
        InboundTraceLayer::default()
    }

    /// On a client, around all attempts at one call to `upstream`: makes the span `call`. The headers are written
    /// by the [`attempt`](Self::attempt) inside.
    pub fn outbound(upstream: ServiceName) -> Self {
        Self {
            kind: Kind::Outbound(upstream),
        }
    }

    /// On a client, inside the retries: makes the span `attempt`, and writes the headers of this one attempt.
    pub fn attempt() -> Self {
        Self {
            kind: Kind::Attempt,
        }
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace {
            inner,
            kind: self.kind.clone(),
        }
    }
}

/// Makes a span per call or attempt, see [`TraceLayer`]. Fails only as the inner service fails.
#[derive(Clone, Debug)]
pub struct Trace<S> {
    inner: S,
    kind: Kind,
}

impl<S, B, R> Service<Request<B>> for Trace<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let span = match &self.kind {
            Kind::Outbound(upstream) => call_span(upstream, &mut request),
            Kind::Attempt => attempt_span(&mut request),
        };
        if span.is_disabled() {
            drop(span);
            // Apart, because with a span to leave the compiler moves request and future once more.
            return ResponseFuture {
                inner: self.inner.call(request),
                span: Span::none(),
            };
        }
        // Not `in_scope`, whose closure the request would be moved into.
        let entered = span.enter();
        let inner = self.inner.call(request);
        drop(entered);
        ResponseFuture { inner, span }
    }
}

pin_project! {
    /// The future of [`Trace`].
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        span: Span,
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let entered = this.span.enter();
        let result = ready!(this.inner.poll(cx)).map_err(Into::into);
        note_failure(&result);
        drop(entered);
        Poll::Ready(result)
    }
}

/// Steps into a new span of the trace, or into the first span of a new one.
fn step_into_child(context: &mut Context) -> TraceContext {
    let trace = match context.trace {
        Some(parent) => parent.child(),
        None => TraceContext::root(),
    };
    context.trace = Some(trace);
    trace
}

fn traceparent(trace: TraceContext) -> HeaderValue {
    short_value(&trace.traceparent())
}

fn call_span<B>(upstream: &ServiceName, request: &mut Request<B>) -> Span {
    let context = Context::of_mut(request.extensions_mut());
    if context.trace.is_some() && !tracing::span_enabled!(Level::INFO) {
        // A span that nobody keeps is nobody's parent.
        return Span::none();
    }
    let trace = step_into_child(context);
    tracing::info_span!(
        "call",
        trace_id = %trace.trace_id(),
        span_id = %trace.span_id(),
        upstream = upstream.as_str(),
        call = context.method.map(Method::full_name),
    )
}

fn attempt_span<B>(request: &mut Request<B>) -> Span {
    let context = Context::of_mut(request.extensions_mut());
    let trace = step_into_child(context);
    let attempts = context.previous_attempts;
    let key = context.idempotency_key.clone();
    let headers = request.headers_mut();
    headers.insert(TRACEPARENT, traceparent(trace));
    if attempts > 0 {
        headers.insert(PREVIOUS_ATTEMPTS, attempts.into());
    } else if rare(headers, &PREVIOUS_ATTEMPTS).is_some() {
        headers.remove(PREVIOUS_ATTEMPTS);
    }
    if let Some(key) = key {
        headers.insert(IDEMPOTENCY_KEY, short_value(key.as_str().as_bytes()));
    }
    tracing::info_span!(
        "attempt",
        trace_id = %trace.trace_id(),
        span_id = %trace.span_id(),
        attempt = attempts.saturating_add(1),
    )
}

/// A failed call is the business of whoever made it; here it is only noted for one who is searching.
fn note_failure<R>(result: &Result<Response<R>, BoxError>) {
    if !tracing::enabled!(Level::DEBUG) {
        return;
    }
    match result {
        Ok(response) => {
            let outcome = HttpClassify.classify(response).outcome;
            if outcome != Outcome::Success {
                let status = response.status().as_u16();
                tracing::debug!(outcome = outcome.as_str(), status, "no success");
            }
        }
        Err(error) => tracing::debug!(error = %Chain(&**error), "failed"),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use tower::{ServiceBuilder, ServiceExt, service_fn};

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";

    /// What arrives behind `layer`.
    async fn behind<L>(layer: L, request: Request<()>) -> (HeaderMap, Context)
    where
        L: Layer<tower::util::BoxCloneService<Request<()>, Response<()>, BoxError>>,
        L::Service: Service<Request<()>, Response = Response<()>, Error = BoxError>,
    {
        let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let inner = service_fn(move |request: Request<()>| {
            let (parts, ()) = request.into_parts();
            sender
                .send((parts.headers, Context::of(&parts.extensions)))
                .unwrap();
            async { Ok(Response::new(())) }
        });
        let service = layer.layer(tower::util::BoxCloneService::new(inner));
        service.oneshot(request).await.unwrap();
        seen.recv().await.unwrap()
    }

    fn parse(headers: &HeaderMap) -> TraceContext {
        headers[TRACEPARENT].to_str().unwrap().parse().unwrap()
    }

    #[tokio::test]
    async fn a_request_goes_on_in_the_trace_it_came_with() {
        let request = Request::builder()
            .header(TRACEPARENT, PARENT)
            .header(PREVIOUS_ATTEMPTS, "2")
            .header(IDEMPOTENCY_KEY, "abc")
            .body(())
            .unwrap();
        let (_, context) = behind(TraceLayer::inbound(), request).await;
        let trace = context.trace.unwrap();
        assert_eq!(trace.trace_id().to_string(), TRACE_ID);
        assert_ne!(trace.to_string(), PARENT, "in a span of its own");
        assert_eq!(context.previous_attempts, 2);
        assert_eq!(context.idempotency_key.unwrap().as_str(), "abc");
    }

    #[tokio::test]
    async fn headers_that_are_not_valid_are_as_if_they_were_not_there() {
        let request = Request::builder()
            .header(TRACEPARENT, "00-xyz")
            .header(PREVIOUS_ATTEMPTS, "-1")
            .header(IDEMPOTENCY_KEY, "")
            .body(())
            .unwrap();
        let (_, context) = behind(TraceLayer::inbound(), request).await;
        assert!(context.trace.is_some());
        assert_eq!(context.previous_attempts, 0);
        assert_eq!(context.idempotency_key, None);
    }

    #[tokio::test]
    async fn a_call_and_its_attempt_are_spans_of_the_callers_trace() {
        let mut request = Request::new(());
        let context = Context::of_mut(request.extensions_mut());
        context.trace = Some(PARENT.parse().unwrap());
        context.previous_attempts = 1;
        context.idempotency_key = Some("abc".parse().unwrap());
        let both = ServiceBuilder::new()
            .layer(TraceLayer::outbound("users".parse().unwrap()))
            .layer(TraceLayer::attempt());
        let (headers, context) = behind(both, request).await;
        let trace = parse(&headers);
        assert_eq!(trace, context.trace.unwrap());
        assert_eq!(trace.trace_id().to_string(), TRACE_ID);
        assert_eq!(headers.get_all(TRACEPARENT).iter().count(), 1);
        assert_eq!(headers[PREVIOUS_ATTEMPTS], "1");
        assert_eq!(headers[IDEMPOTENCY_KEY], "abc");
    }

    #[tokio::test]
    async fn a_call_that_begins_here_begins_a_trace() {
        let (headers, context) = behind(TraceLayer::attempt(), Request::new(())).await;
        assert_eq!(parse(&headers), context.trace.unwrap());
        assert!(!headers.contains_key(PREVIOUS_ATTEMPTS));
    }
}
