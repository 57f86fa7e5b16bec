//! The admin port: whether the process lives, whether it wants requests, and what it has counted.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{self, Poll},
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use metrics::gauge;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tower_service::Service;

use crate::{Body, BoxError, error::Chain, metrics::MetricsHandle};

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
}

impl Admin {
    pub(super) fn new(metrics: MetricsHandle, checks: Vec<Check>) -> Self {
        Self(Arc::new(State {
            metrics,
            checks,
            draining: watch::Sender::new(false),
            last: Mutex::new(None),
        }))
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
            _ => text(StatusCode::NOT_FOUND, "/livez, /readyz or /metrics\n"),
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
