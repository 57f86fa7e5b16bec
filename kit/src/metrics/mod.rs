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
mod recorder;
mod series;
mod striped;

pub use observer::observer;
pub use prometheus::{MetricsHandle, install};

use series::{Answer, Key, Known, Table, Tables, Verb, known};
use striped::Lines;

/// Counts and times requests. Clones, and what they build, share their handles on the metrics; and so, through
/// the process-wide recorder, do layers for the same service.
///
/// Handles are made when they are first used, so a layer may be made before [`install`] is called; nothing may
/// pass it before that, for the handle of a metric without a recorder never counts.
#[derive(Clone, Debug)]
pub struct MetricsLayer {
    tables: Arc<Tables>,
}

impl MetricsLayer {
    /// On a server, for requests that `service` answers.
    pub fn inbound(service: &ServiceName) -> Self {
        Self {
            tables: Arc::new(Tables::server(service)),
        }
    }

    /// On a client, for calls to `upstream`: around the retries, so that a call is counted once.
    pub fn outbound(upstream: &ServiceName) -> Self {
        Self {
            tables: Arc::new(Tables::client(upstream)),
        }
    }
}

impl<S> Layer<S> for MetricsLayer {
    type Service = Metrics<S>;

    fn layer(&self, inner: S) -> Metrics<S> {
        Metrics {
            inner,
            tables: Arc::clone(&self.tables),
        }
    }
}

/// Counts and times requests, see [`MetricsLayer`]. Fails only as the inner service fails.
#[derive(Clone, Debug)]
pub struct Metrics<S> {
    inner: S,
    tables: Arc<Tables>,
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
        let entered = Entered::new(self.tables.mine(), &request);
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
    table: Arc<Lines<Table>>,
    /// In nanoseconds of [`clock::nanos`].
    began: u64,
    key: Key,
}

impl Entered {
    fn new<B>(table: Arc<Lines<Table>>, request: &Request<B>) -> Self {
        table.0.enter();
        let context = request.extensions().get::<Context>();
        Self {
            table,
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
                    status: known(response.status()),
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
        let took = clock::nanos(clock::now()).saturating_sub(self.began);
        self.table.0.leave(&self.key, took);
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready_ok, task};
    use tower_test::mock;

    use super::*;
    use crate::error::Code;

    /// What is counted when `f` has run, and what it gives back is still there.
    fn counted<T>(f: impl FnOnce() -> T) -> String {
        let recorder = recorder::Recorder::new();
        let _kept = metrics::with_local_recorder(&recorder, f);
        recorder.reader().render()
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

    #[test]
    fn requests_in_progress_of_all_layers_for_a_service_are_added_up() {
        let text = counted(|| {
            let request = Request::new(());
            let enter = |layer: MetricsLayer| Entered::new(layer.tables.mine(), &request);
            let (one, other) = (enter(inbound()), enter(inbound()));
            let clone = enter(inbound().clone());
            drop(other);
            (one, clone)
        });
        let gauge = "http_server_active_requests{service_name=\"users\"} 2";
        assert!(text.contains(gauge), "{text}");
    }

    #[test]
    fn each_way_to_end_is_counted_apart_from_all_others() {
        let statuses = (100..600).filter(|n| {
            let status = http::StatusCode::from_u16(*n);
            status.is_ok_and(|status| status.canonical_reason().is_some())
        });
        let statuses: Vec<u16> = statuses.collect();
        let text = counted(|| {
            let tables = inbound().tables;
            for times in 1..=2 {
                for status in statuses.iter().step_by(times) {
                    let key = Key {
                        wire: Wire::Json,
                        verb: Verb::of(&http::Method::GET),
                        method: None,
                        answer: Answer::Response {
                            status: *status,
                            code: None,
                            outcome: Outcome::Success,
                            rejection: None,
                        },
                    };
                    tables.mine().0.leave(&key, 1);
                }
            }
        });
        for (n, status) in statuses.iter().enumerate() {
            let label = format!("status_code=\"{status}\"}}");
            let mut counts = text
                .lines()
                .filter(|line| line.contains("_count{") && line.contains(&label));
            let count = if n % 2 == 0 { " 2" } else { " 1" };
            assert!(counts.next().unwrap().ends_with(count), "{status}: {text}");
            assert_eq!(counts.next(), None);
        }
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
            Entered::new(inbound().tables.mine(), &request).judge(&result);
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
            Entered::new(inbound().tables.mine(), &request.body(()).unwrap()).judge(&result);
        });
        assert!(
            text.contains("rpc_response_status_code=\"NOT_FOUND\""),
            "{text}"
        );
    }
}
