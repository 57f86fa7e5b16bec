//! Rate, errors and duration of requests, and what else happened, for Prometheus.
//!
//! The names are [OpenTelemetry's](https://opentelemetry.io/docs/specs/semconv/http/http-metrics/), as Prometheus
//! writes them:
//!
//! | metric | what | labels |
//! |---|---|---|
//! | `http_server_request_duration_seconds` | requests answered as JSON over HTTP | `service_name`, `http_request_method`, `http_route`, `http_response_status_code` |
//! | `rpc_server_call_duration_seconds` | requests answered over gRPC | `service_name`, `rpc_method`, `rpc_response_status_code` |
//! | `http_server_active_requests` | requests in progress, over either | `service_name` |
//! | `http_client_request_duration_seconds`, `rpc_client_call_duration_seconds`, `http_client_active_requests` | the same for calls, all attempts together | `peer_service` in place of `service_name` |
//!
//! The durations have two labels more: `outcome`, the word of [`crate::classify`] that breakers and balancers use
//! too (or `cancelled`, where the caller went away), and `error_type`, which is absent from a success. Every label
//! has few values by construction: a path that somebody sent, or a status that does not exist, never becomes one.
//! What begins with `kit_` is counted by the [`observer`] and is listed where it is described, in
//! [`install`].
//!
//! A result is judged by the head of the response, as in [`crate::trace`].

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{self, Poll, ready},
    time::Duration,
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    BoxError, Context, Error,
    classify::{Classify, HttpClassify, Outcome, grpc_code},
    clock,
    name::{Method, ServiceName},
    rejection::Rejection,
    wire::Wire,
};

mod observer;
mod prometheus;
mod series;

pub use observer::observer;
pub use prometheus::{MetricsHandle, install};

use series::{Answer, Key, Known, Recorder, Verb};

/// Counts and times requests. Clones, and what they build, share their handles on the metrics; and so, through
/// the process-wide recorder, do layers for the same service.
///
/// Handles are made when they are first used, so a layer may be made before [`install`] is called; nothing may
/// pass it before that, for the handle of a metric without a recorder never counts.
#[derive(Clone, Debug)]
pub struct MetricsLayer {
    recorder: Arc<Recorder>,
}

impl MetricsLayer {
    /// On a server, for requests that `service` answers.
    pub fn inbound(service: &ServiceName) -> Self {
        Self {
            recorder: Arc::new(Recorder::server(service)),
        }
    }

    /// On a client, for calls to `upstream`: around the retries, so that a call is counted once.
    pub fn outbound(upstream: &ServiceName) -> Self {
        Self {
            recorder: Arc::new(Recorder::client(upstream)),
        }
    }
}

impl<S> Layer<S> for MetricsLayer {
    type Service = Metrics<S>;

    fn layer(&self, inner: S) -> Metrics<S> {
        Metrics {
            inner,
            recorder: Arc::clone(&self.recorder),
        }
    }
}

/// Counts and times requests, see [`MetricsLayer`]. Fails only as the inner service fails.
#[derive(Clone, Debug)]
pub struct Metrics<S> {
    inner: S,
    recorder: Arc<Recorder>,
}

impl<S, B, R> Service<Request<B>> for Metrics<S>
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

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let entered = Entered::new(Arc::clone(&self.recorder), &request);
        ResponseFuture {
            inner: self.inner.call(request),
            entered: Some(entered),
        }
    }
}

pin_project! {
    /// The future of [`Metrics`].
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        entered: Option<Entered>,
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
        let result = ready!(this.inner.poll(cx)).map_err(Into::into);
        if let Some(mut entered) = this.entered.take() {
            entered.judge(&result);
        }
        Poll::Ready(result)
    }
}

/// A request in progress. Whenever it is dropped it is counted: as what it was judged to be, or as cancelled.
#[derive(Debug)]
struct Entered {
    recorder: Arc<Recorder>,
    /// In nanoseconds of [`clock::nanos`].
    began: u64,
    key: Key,
}

impl Entered {
    fn new<B>(recorder: Arc<Recorder>, request: &Request<B>) -> Self {
        recorder.active().increment(1.0);
        let context = request.extensions().get::<Context>();
        Self {
            recorder,
            began: clock::nanos(clock::now()),
            key: Key {
                wire: Wire::of(request.headers()),
                verb: Verb::of(request.method()),
                method: context.and_then(|context| context.method).map(Known),
                answer: Answer::Cancelled,
            },
        }
    }

    fn judge<R>(&mut self, result: &Result<Response<R>, BoxError>) {
        let outcome = HttpClassify.classify_result(result).outcome;
        self.key.answer = match result {
            Ok(response) => {
                let extensions = response.extensions();
                if let Some(method) = extensions.get::<&'static Method>() {
                    self.key.method = Some(Known(method));
                }
                let error = extensions.get::<Error>();
                let rejection = error.and_then(Error::rejection);
                Answer::Response {
                    status: response.status().as_u16(),
                    code: grpc_code(response.headers()).unwrap_or_else(|| error.map(Error::code)),
                    outcome: match rejection {
                        Some(_) if outcome != Outcome::Success => Outcome::Rejected,
                        _ => outcome,
                    },
                    rejection: rejection.map(Rejection::as_str),
                }
            }
            Err(error) => Answer::Error {
                outcome,
                rejection: Rejection::find(&**error).map(Rejection::as_str),
            },
        };
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.recorder.active().decrement(1.0);
        let took = clock::nanos(clock::now()).saturating_sub(self.began);
        let took = Duration::from_nanos(took);
        self.recorder.record(self.key, took);
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio_test::{assert_pending, assert_ready_ok, task};
    use tower_test::mock;

    use super::*;
    use crate::error::Code;

    /// What is counted while `f` runs.
    fn counted(f: impl FnOnce()) -> String {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, f);
        recorder.handle().render()
    }

    type Mock = (
        mock::Spawn<Metrics<mock::Mock<Request<()>, Response<()>>>>,
        mock::Handle<Request<()>, Response<()>>,
    );

    fn users(layer: MetricsLayer) -> Mock {
        mock::spawn_layer(layer)
    }

    fn inbound() -> MetricsLayer {
        MetricsLayer::inbound(&"users".parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_request_is_counted_as_cancelled_and_is_no_longer_in_flight() {
        let text = counted(|| {
            let (mut service, mut peer) = users(inbound());
            peer.allow(1);
            assert_ready_ok!(service.poll_ready());
            let mut call = task::spawn(service.call(Request::new(())));
            assert_pending!(call.poll());
            drop(call);
        });
        assert!(
            text.contains("http_server_active_requests{service_name=\"users\"} 0"),
            "{text}"
        );
        assert!(text.contains("outcome=\"cancelled\""), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_cannot_make_up_series() {
        let text = counted(|| {
            let (mut service, mut peer) = users(MetricsLayer::outbound(&"users".parse().unwrap()));
            for status in 560..=599 {
                peer.allow(1);
                assert_ready_ok!(service.poll_ready());
                let mut request = Request::new(());
                *request.method_mut() = format!("METHOD-{status}").parse().unwrap();
                let mut call = task::spawn(service.call(request));
                let (_, answer) = match tokio_test::task::spawn(peer.next_request()).poll() {
                    Poll::Ready(Some(request)) => request,
                    Poll::Ready(None) | Poll::Pending => unreachable!("it was sent"),
                };
                answer.send_response(Response::builder().status(status).body(()).unwrap());
                assert_ready_ok!(call.poll());
            }
        });
        let series = text.lines().filter(|line| line.contains("_count{")).count();
        assert_eq!(series, 1, "{text}");
        assert!(text.contains("http_request_method=\"_OTHER\""), "{text}");
        assert!(text.contains("http_response_status_code=\"500\""), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_route_is_the_methods_and_what_the_kit_refused_is_counted_by_reason() {
        static CREATE: Method = Method {
            service: "users.Users",
            name: "Create",
            grpc_path: "/users.Users/Create",
            http_method: http::Method::POST,
            http_path: "/create",
            idempotent: false,
            streaming: false,
            transport: crate::name::Transport::Both,
            access: crate::name::Access::Anyone,
            priority: crate::name::Priority::Normal,
            timeout: None,
        };
        let mut response = Wire::Json.error(Rejection::Overloaded { limit: 1 }.into());
        response.extensions_mut().insert(&CREATE);
        let result = Ok::<_, BoxError>(response);
        let text = counted(|| {
            let request = Request::post("/create?x=1").body(()).unwrap();
            let recorder = Arc::clone(&inbound().recorder);
            Entered::new(recorder, &request).judge(&result);
        });
        for part in [
            "http_route=\"/create\"",
            "outcome=\"rejected\"",
            "error_type=\"overloaded\"",
            "kit_rejections_total{service_name=\"users\",reason=\"overloaded\"} 1",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_grpc_status_is_the_label_whatever_http_says() {
        let response = Wire::Grpc.error(Error::new(Code::NotFound, "no"));
        let result = Ok::<_, BoxError>(response);
        let text = counted(|| {
            let request = Request::post("/x").header("content-type", "application/grpc");
            let recorder = Arc::clone(&inbound().recorder);
            Entered::new(recorder, &request.body(()).unwrap()).judge(&result);
        });
        assert!(
            text.contains("rpc_response_status_code=\"NOT_FOUND\""),
            "{text}"
        );
    }
}
