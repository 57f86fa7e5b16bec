//! The span of a request that arrives, and the access log: one line per request.

use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    pin::Pin,
    task::{self, Poll, ready},
};

use http::{HeaderValue, Request, Response, Uri};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;
use tracing::Span;

use super::{TRACERESPONSE, traceparent};
use crate::{
    BoxError, Code, Context, Error,
    classify::{Classify, HttpClassify, Outcome, grpc_code},
    context::TraceContext,
    error::Chain,
    name::Method,
    rejection::Rejection,
    wire::{IDEMPOTENCY_KEY, PREVIOUS_ATTEMPTS, TRACEPARENT, Wire, common, rare},
};

/// What [`TraceLayer::inbound`](super::TraceLayer::inbound) makes.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct InboundTraceLayer;

impl<S> Layer<S> for InboundTraceLayer {
    type Service = InboundTrace<S>;

    fn layer(&self, inner: S) -> InboundTrace<S> {
        InboundTrace { inner }
    }
}

/// Makes a span per request and a line in the access log. Fails only as the inner service fails.
#[derive(Clone, Debug)]
pub struct InboundTrace<S> {
    inner: S,
}

impl<S, B, R> Service<Request<B>> for InboundTrace<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = InboundFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let access = Access::begin(&mut request);
        let span = access.span.clone();
        // Not `in_scope`, whose closure the request would be moved into.
        let entered = span.enter();
        let inner = self.inner.call(request);
        drop(entered);
        InboundFuture {
            inner,
            span,
            access: Some(access),
        }
    }
}

pin_project! {
    /// The future of [`InboundTrace`].
    #[derive(Debug)]
    pub struct InboundFuture<F> {
        #[pin]
        inner: F,
        span: Span,
        access: Option<Access>,
    }
}

impl<F, R, E> Future for InboundFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let entered = this.span.enter();
        let mut result = ready!(this.inner.poll(cx)).map_err(Into::into);
        if let Some(access) = this.access.take() {
            access.end(&mut result);
        }
        drop(entered);
        Poll::Ready(result)
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
        fn read<T: std::str::FromStr>(value: Option<&HeaderValue>) -> Option<T> {
            value?.to_str().ok()?.parse().ok()
        }
        let headers = request.headers();
        let wire = Wire::of(headers);
        let parent = common(headers, &TRACEPARENT);
        let parent = parent.and_then(|value| TraceContext::parse(value.as_bytes()).ok());
        let trace = parent.map_or_else(TraceContext::root, TraceContext::child);
        let previous_attempts = read(rare(headers, &PREVIOUS_ATTEMPTS)).unwrap_or(0);
        let idempotency_key = read(rare(headers, &IDEMPOTENCY_KEY));
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
    use super::*;

    #[test]
    fn what_somebody_sent_is_cut_in_the_log() {
        let uri: Uri = format!("/{}?secret", "x".repeat(500)).parse().unwrap();
        let text = Unknown(&http::Method::GET, &uri).to_string();
        assert_eq!(text.len(), "GET ".len() + 120);
    }
}
