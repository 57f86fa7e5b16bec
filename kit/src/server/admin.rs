//! The admin port: whether the process lives, whether it wants requests, what it has counted, and what it offers.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{self, Poll},
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use metrics::gauge;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tower::ServiceExt;
use tower_service::Service;

use crate::{
    Body, BoxError,
    error::Chain,
    metrics::MetricsHandle,
    service::{
        grpc,
        server::{Described, Description},
    },
};

/// How long one check may take. Whoever asks does not wait for ever, and asks again.
const CHECK: Duration = Duration::from_secs(1);

type Probe = dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>> + Send + Sync;

/// Says whether something that the service needs is there, such as its database. Asked on every `/readyz`, so it
/// should be quick; what takes longer than a second has failed.
#[derive(Clone)]
pub struct Check {
    name: &'static str,
    probe: Arc<Probe>,
}

impl Check {
    /// A check called `name`, that is `probe`.
    pub fn new<F>(name: &'static str, probe: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        Self {
            name,
            probe: Arc::new(move || Box::pin(probe())),
        }
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Check").field(&self.name).finish()
    }
}

/// What the admin port answers. Clones answer the same.
#[derive(Clone)]
pub(super) struct Admin(Arc<State>);

struct State {
    metrics: MetricsHandle,
    checks: Vec<Check>,
    draining: watch::Sender<bool>,
    /// When the checks were asked last, and what came of it.
    last: Mutex<Option<(Instant, bool)>>,
    /// Asks the service what it is.
    ask: Box<Ask>,
    described: Described,
    /// Whether others may know.
    describes: bool,
}

type Ask = dyn Fn(Request<Body>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync;

impl Admin {
    /// Tells of `app`, and what it is made of only if it `describes` that.
    pub(super) fn new<S>(
        metrics: MetricsHandle,
        checks: Vec<Check>,
        app: S,
        describes: bool,
    ) -> Self
    where
        S: Service<Request<Body>, Future: Send> + Clone + Send + 'static,
    {
        let app = Mutex::new(app);
        let ask = move |request| -> Pin<Box<dyn Future<Output = ()> + Send>> {
            let app = app.lock().expect("no panic while locked").clone();
            // What it answers is of no use: a service leaves what it is in the request, and anything else nothing.
            Box::pin(async move { drop(app.oneshot(request).await) })
        };
        Self(Arc::new(State {
            metrics,
            checks,
            draining: watch::Sender::new(false),
            last: Mutex::new(None),
            ask: Box::new(ask),
            described: Described::default(),
            describes,
        }))
    }

    /// Whether others may know what the service is made of.
    pub(super) fn describes(&self) -> bool {
        self.0.describes
    }

    /// What the service says of itself. It is asked until it has said so once.
    pub(super) async fn description(&self) -> Option<&Description> {
        let Described(described) = &self.0.described;
        if described.get().is_none() {
            let mut request = Request::new(Body::empty());
            *request.method_mut() = Method::POST;
            // What no service has as a method.
            *request.uri_mut() = Uri::from_static("/grpc.health.v1.Health/Check");
            let grpc = HeaderValue::from_static(grpc::CONTENT_TYPE);
            request.headers_mut().insert(header::CONTENT_TYPE, grpc);
            request.extensions_mut().insert(self.0.described.clone());
            (self.0.ask)(request).await;
        }
        described.get()
    }

    /// From now on it is not ready.
    pub(super) fn drain(&self) {
        self.0.draining.send_replace(true);
        gauge!("kit_ready").set(0.0);
    }

    pub(super) fn is_draining(&self) -> bool {
        *self.0.draining.borrow()
    }

    /// Waits until it drains.
    pub(super) async fn drained(&self) {
        let mut draining = self.0.draining.subscribe();
        // The other end is here too.
        let _ = draining.wait_for(|draining| *draining).await;
    }

    /// Whether it wants requests, as of at most `age` ago: however many ask, the checks are asked that often.
    pub(super) async fn lately_ready(&self, age: Duration) -> bool {
        let last = *self.0.last.lock().expect("no panic while locked");
        match last {
            Some((at, was_ready)) if at.elapsed() < age => was_ready && !self.is_draining(),
            _ => self.readiness().await.is_ok(),
        }
    }

    async fn answer(self, request: Request<Body>) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            response
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "alive\n"),
            "/readyz" => match self.readiness().await {
                Ok(()) => text(StatusCode::OK, "ready\n"),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, why.to_string()),
            },
            "/metrics" => {
                let mut response = text(StatusCode::OK, self.0.metrics.render());
                response.headers_mut().insert(
                    header::CONTENT_TYPE,
                    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
                );
                response
            }
            "/openapi.json" if self.describes() => {
                let described = self.description().await;
                match described.and_then(|described| described.openapi.clone()) {
                    Some(openapi) => {
                        let mut response = Response::new(Body::full(openapi));
                        let json = HeaderValue::from_static("application/json");
                        response.headers_mut().insert(header::CONTENT_TYPE, json);
                        response
                    }
                    None => text(
                        StatusCode::NOT_FOUND,
                        "the service has no OpenAPI document\n",
                    ),
                }
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "/livez, /readyz, /metrics or /openapi.json\n",
            ),
        }
    }

    /// Whether it wants requests. Who asks is told which check failed; why, is in the log.
    pub(super) async fn readiness(&self) -> Result<(), NotReady> {
        if self.is_draining() {
            return Err(NotReady::Draining);
        }
        let mut failed = Vec::new();
        for Check { name, probe } in &self.0.checks {
            let result = timeout(CHECK, probe()).await;
            let result = result.unwrap_or_else(|_| Err(format!("no answer in {CHECK:?}").into()));
            if let Err(error) = result {
                tracing::warn!(check = name, error = %Chain(&*error), "not ready");
                failed.push(*name);
            }
        }
        gauge!("kit_ready").set(if failed.is_empty() { 1.0 } else { 0.0 });
        let last = Some((Instant::now(), failed.is_empty()));
        *self.0.last.lock().expect("no panic while locked") = last;
        if failed.is_empty() {
            Ok(())
        } else {
            Err(NotReady::Failed(failed))
        }
    }
}

/// Why a server wants no requests.
#[derive(Debug)]
pub(super) enum NotReady {
    /// It is about to end.
    Draining,
    /// These checks failed.
    Failed(Vec<&'static str>),
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Draining => f.write_str("draining\n"),
            Self::Failed(checks) => checks
                .iter()
                .try_for_each(|check| writeln!(f, "{check}: failed")),
        }
    }
}

impl std::error::Error for NotReady {}

fn text(status: StatusCode, text: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

impl Service<Request<Body>> for Admin {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let admin = self.clone();
        Box::pin(async move { Ok(admin.answer(request).await) })
    }
}
