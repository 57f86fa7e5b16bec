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

use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    pin::Pin,
    task::{self, Poll, ready},
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;
use tracing::Span;

use crate::{
    BoxError, Code, Context, Error,
    classify::{Classify, HttpClassify, Outcome, grpc_code},
    context::TraceContext,
    error::Chain,
    name::{Method, ServiceName},
    rejection::Rejection,
    wire::{IDEMPOTENCY_KEY, PREVIOUS_ATTEMPTS, TRACEPARENT, Wire},
};

/// Names the span that answered, in a response that is no success, so that whoever gets it can say which one it
/// was (W3C Trace Context, level 2).
pub const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// Makes a span for everything that passes, and carries its place in the trace on.
///
/// Layers and their clones share nothing: all that they know travels with the request.
#[derive(Clone, Debug)]
pub struct TraceLayer {
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Inbound,
    Outbound(ServiceName),
    Attempt,
}

impl TraceLayer {
    /// On a server, outermost: reads the headers into the request's [`Context`], makes the span `request`, and
    /// writes the access log.
    pub fn inbound() -> Self {
        Self {
            kind: Kind::Inbound,
        }
    }

    /// On a client, around all attempts at one call to `upstream`: makes the span `call`.
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

/// Makes a span per request, see [`TraceLayer`]. Fails only as the inner service fails.
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
        let (span, access) = match &self.kind {
            Kind::Inbound => {
                let access = Access::begin(&mut request);
                (access.span.clone(), Some(access))
            }
            Kind::Outbound(upstream) => (call_span(upstream, &mut request), None),
            Kind::Attempt => (attempt_span(&mut request), None),
        };
        let inner = span.in_scope(|| self.inner.call(request));
        ResponseFuture {
            inner,
            span,
            access,
        }
    }
}

pin_project! {
    /// The future of [`Trace`].
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        span: Span,
        access: Option<Access>,
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
        let mut result = ready!(this.inner.poll(cx)).map_err(Into::into);
        match this.access.take() {
            Some(access) => access.end(&mut result),
            None => note_failure(&result),
        }
        drop(entered);
        Poll::Ready(result)
    }
}

/// Steps into a new span of the request's trace, or into the first span of a new one, and writes it into the
/// headers.
fn step_into_child<B>(request: &mut Request<B>) -> TraceContext {
    let context = Context::of_mut(request.extensions_mut());
    let trace = match context.trace {
        Some(parent) => parent.child(),
        None => TraceContext::root(),
    };
    context.trace = Some(trace);
    let attempts = context.previous_attempts;
    let key = context.idempotency_key.clone();
    let headers = request.headers_mut();
    headers.insert(TRACEPARENT, traceparent(trace));
    if attempts > 0 {
        headers.insert(PREVIOUS_ATTEMPTS, attempts.into());
    } else {
        headers.remove(PREVIOUS_ATTEMPTS);
    }
    if let Some(key) = key {
        let key = HeaderValue::from_str(key.as_str()).expect("a key is visible ASCII");
        headers.insert(IDEMPOTENCY_KEY, key);
    }
    trace
}

fn traceparent(trace: TraceContext) -> HeaderValue {
    HeaderValue::try_from(trace.to_string()).expect("digits and hyphens")
}

fn call_span<B>(upstream: &ServiceName, request: &mut Request<B>) -> Span {
    let trace = step_into_child(request);
    let method = Context::of_mut(request.extensions_mut()).method;
    tracing::info_span!(
        "call",
        trace_id = %trace.trace_id(),
        span_id = %trace.span_id(),
        upstream = upstream.as_str(),
        call = method.map(Method::full_name),
    )
}

fn attempt_span<B>(request: &mut Request<B>) -> Span {
    let trace = step_into_child(request);
    let attempt = Context::of_mut(request.extensions_mut()).previous_attempts;
    tracing::info_span!(
        "attempt",
        trace_id = %trace.trace_id(),
        span_id = %trace.span_id(),
        attempt = attempt.saturating_add(1),
    )
}

/// A failed call is the business of whoever made it; here it is only noted for one who is searching.
fn note_failure<R>(result: &Result<Response<R>, BoxError>) {
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

/// What is remembered of an inbound request until its line in the access log is written, which is when it is
/// dropped at the latest.
#[derive(Debug)]
struct Access {
    span: Span,
    trace: TraceContext,
    wire: Wire,
    method: http::Method,
    uri: Uri,
    began: Instant,
    logged: bool,
}

impl Access {
    fn begin<B>(request: &mut Request<B>) -> Self {
        fn read<T: std::str::FromStr>(headers: &HeaderMap, name: HeaderName) -> Option<T> {
            headers.get(name)?.to_str().ok()?.parse().ok()
        }
        let headers = request.headers();
        let wire = Wire::of(headers);
        let trace = match read::<TraceContext>(headers, TRACEPARENT) {
            Some(parent) => parent.child(),
            None => TraceContext::root(),
        };
        let previous_attempts = read(headers, PREVIOUS_ATTEMPTS).unwrap_or(0);
        let idempotency_key = read(headers, IDEMPOTENCY_KEY);
        let context = Context::of_mut(request.extensions_mut());
        context.trace = Some(trace);
        context.previous_attempts = previous_attempts;
        context.idempotency_key = idempotency_key;
        Self {
            // At the highest level, so that the trace id is there whichever lines are let through.
            span: tracing::error_span!(
                "request",
                trace_id = %trace.trace_id(),
                span_id = %trace.span_id(),
            ),
            trace,
            wire,
            method: request.method().clone(),
            uri: request.uri().clone(),
            began: Instant::now(),
            logged: false,
        }
    }

    fn end<R>(mut self, result: &mut Result<Response<R>, BoxError>) {
        let verdict = HttpClassify.classify_result(result);
        match result {
            Ok(response) => {
                let error = response.extensions().get::<Error>();
                let code = match grpc_code(response.headers()) {
                    Some(code) => code,
                    None => error.map(Error::code),
                };
                let status = response.status();
                let code = code.or_else(|| {
                    (status.as_u16() >= 400).then(|| Code::from_http(response.status()))
                });
                let rejection = error.and_then(Error::rejection);
                let outcome = match rejection {
                    Some(_) if verdict.outcome != Outcome::Success => Outcome::Rejected,
                    _ => verdict.outcome,
                };
                if let Some(error) = error {
                    self.log_error(error);
                }
                let method = response.extensions().get::<&'static Method>().copied();
                self.log(
                    method,
                    Some(status.as_u16()),
                    code,
                    outcome.as_str(),
                    rejection,
                );
                if outcome != Outcome::Success {
                    let value = traceparent(self.trace);
                    response.headers_mut().insert(TRACERESPONSE, value);
                }
            }
            Err(error) => {
                let rejection = Rejection::find(&**error);
                if rejection.is_none() {
                    tracing::error!(parent: &self.span, error = %Chain(&**error), "the request failed");
                }
                self.log(None, None, None, verdict.outcome.as_str(), rejection);
            }
        }
    }

    /// The line for the operator, with what the caller is not told. What the kit refused on purpose and what
    /// the caller did wrong needs none.
    fn log_error(&self, error: &Error) {
        if error.rejection().is_some() {
            return;
        }
        let code = error.code().as_str();
        match error.code() {
            Code::Unknown | Code::Internal | Code::DataLoss => {
                tracing::error!(parent: &self.span, code, error = %Chain(error), "the request failed");
            }
            Code::Unavailable | Code::DeadlineExceeded if error.source().is_some() => {
                tracing::warn!(parent: &self.span, code, error = %Chain(error), "the request failed");
            }
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated => {
                tracing::debug!(parent: &self.span, code, error = %Chain(error), "the request was refused");
            }
        }
    }

    fn log(
        &mut self,
        method: Option<&'static Method>,
        status: Option<u16>,
        code: Option<Code>,
        outcome: &'static str,
        rejection: Option<&Rejection>,
    ) {
        self.logged = true;
        let line = |method: &dyn tracing::Value| {
            tracing::info!(
                target: "kit::access",
                parent: &self.span,
                method,
                wire = self.wire.as_str(),
                status,
                code = code.map(Code::as_str),
                outcome,
                rejection = rejection.map(Rejection::as_str),
                // To the microsecond; more digits are noise.
                duration_ms = self.began.elapsed().as_micros() as f64 / 1000.0,
                "request",
            );
        };
        match method {
            Some(method) => line(&method.full_name()),
            None => line(&tracing::field::display(Unknown(&self.method, &self.uri))),
        }
    }
}

/// The request was dropped before it was answered: the caller went away, or the server was stopped.
impl Drop for Access {
    fn drop(&mut self) {
        if !self.logged {
            let outcome = if std::thread::panicking() {
                "panicked"
            } else {
                "cancelled"
            };
            self.log(None, None, None, outcome, None);
        }
    }
}

/// A request that no method of the service answered, without its query, and cut, for anybody may send anything.
struct Unknown<'a>(&'a http::Method, &'a Uri);

impl fmt::Display for Unknown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(method, uri) = self;
        write!(f, "{:.20} {:.120}", method.as_str(), uri.path())
    }
}

#[cfg(test)]
mod tests {
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
        let call = || TraceLayer::outbound("users".parse().unwrap());
        let (headers, context) = behind(call(), request.clone()).await;
        assert_eq!(parse(&headers), context.trace.unwrap());
        let both = ServiceBuilder::new()
            .layer(call())
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

    #[test]
    fn what_somebody_sent_is_cut_in_the_log() {
        let uri: Uri = format!("/{}?secret", "x".repeat(500)).parse().unwrap();
        let text = Unknown(&http::Method::GET, &uri).to_string();
        assert_eq!(text.len(), "GET ".len() + 120);
    }
}
