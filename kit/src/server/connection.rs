//! Connections: accepting them, serving HTTP/1 and HTTP/2 on each, and the bounds on what a peer may do with one.
//!
//! A peer that says little and slowly holds a connection and nothing else ("slowloris"), and it cannot hold it for
//! long: see [`Progress::due`] for what is waited for, and how long.

use std::{
    cell::RefCell,
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{self, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use metrics::Gauge;
use pin_project_lite::pin_project;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tower_service::Service;

use super::progress::{Begun, Progress, Watched};
use crate::{Body, BoxError, asked::Asked};

/// What a peer may do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) max_connections: usize,
    pub(super) header_read_timeout: Duration,
    pub(super) max_header_bytes: usize,
    pub(super) idle: Duration,
    pub(super) max_streams: u32,
}

/// All open connections of one listener, each a task that ends with this at the latest.
pub(super) struct Connections {
    bounds: Bounds,
    http: auto::Builder<TokioExecutor>,
    room: Arc<Semaphore>,
    tasks: JoinSet<()>,
    /// Shows how many there are.
    open: Gauge,
    /// Becomes true when no further requests are wanted.
    closing: watch::Sender<bool>,
}

impl Connections {
    pub(super) fn new(bounds: Bounds, open: Gauge) -> Self {
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1()
            .timer(TokioTimer::new())
            // Watched over in `Progress`: hyper's would also close connections that are idle between requests.
            .header_read_timeout(None)
            // hyper takes no less.
            .max_buf_size(bounds.max_header_bytes.max(8 * 1024));
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(bounds.max_streams)
            .max_header_list_size(u32::try_from(bounds.max_header_bytes).unwrap_or(u32::MAX))
            // A peer that is gone without a word is found out.
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10));
        Self {
            bounds,
            http,
            room: Arc::new(Semaphore::new(bounds.max_connections)),
            tasks: JoinSet::new(),
            open,
            closing: watch::Sender::new(false),
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Accepts connections and serves them, until it is dropped; they go on then. Above the largest number of
    /// them no more are accepted: the rest waits in the kernel's queue.
    pub(super) async fn accept<S, B>(&mut self, listener: &TcpListener, app: S) -> Infallible
    where
        S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        loop {
            self.open.set(self.tasks.len() as f64);
            let next = async {
                let room = Arc::clone(&self.room).acquire_owned().await;
                let room = room.expect("the semaphore is never closed");
                (listener.accept().await, room)
            };
            let (accepted, room) = tokio::select! {
                accepted = next => accepted,
                Some(_) = self.tasks.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) => self.spawn(stream, app.clone(), room),
                Err(error) => {
                    // The peer's fault, or no file descriptor is left: then trying at once would only burn.
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn spawn<S, B>(&mut self, stream: TcpStream, app: S, room: OwnedSemaphorePermit)
    where
        S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let progress = Arc::new(Progress::new(Instant::now()));
        let http = self.http.clone();
        let mut closing = self.closing.subscribe();
        let Bounds {
            header_read_timeout,
            idle,
            ..
        } = self.bounds;
        self.tasks.spawn(async move {
            let _room = room;
            // Answers are small and written at once; waiting for more to send would only delay them.
            let _ = stream.set_nodelay(true);
            let io = TokioIo::new(Watched::new(stream, Arc::clone(&progress)));
            let service = Handler {
                app: RefCell::new(app),
                progress: Arc::clone(&progress),
            };
            let mut connection = pin!(http.serve_connection(io, service));
            let due = |progress: &Progress| progress.due(header_read_timeout, idle);
            let mut armed = due(&progress);
            let mut timer = pin!(sleep_until(armed));
            let mut closed = pin!(closing.wait_for(|closing| *closing));
            let mut asked_to_close = false;
            let ended = poll_fn(|cx| {
                if !asked_to_close && closed.as_mut().poll(cx).is_ready() {
                    asked_to_close = true;
                    connection.as_mut().graceful_shutdown();
                }
                if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                    return Poll::Ready(Ok(result));
                }
                loop {
                    let due = due(&progress);
                    // Later than armed for is found out when the timer fires; only earlier has to be said at once.
                    if due < armed {
                        armed = due;
                        timer.as_mut().reset(armed);
                    }
                    if timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    if due <= armed {
                        return Poll::Ready(Err(()));
                    }
                    armed = due;
                    timer.as_mut().reset(armed);
                }
            });
            match ended.await {
                Ok(Ok(())) => {}
                // What a peer does to its connection is its own affair.
                Ok(Err(error)) => {
                    tracing::debug!(error = %crate::error::Chain(&*error), "connection broken");
                }
                Err(()) if progress.is_idle() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = timeout(header_read_timeout, connection).await;
                }
                Err(()) => tracing::debug!("connection closed: the peer is too slow"),
            }
        });
    }

    /// Lets connections end: those without a request at once, others with their last answer. After `bound` what is
    /// left is broken off; returns how many that were.
    pub(super) async fn finish(mut self, bound: Duration) -> usize {
        self.closing.send_replace(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _ = timeout(bound, all).await;
        let left = self.tasks.len();
        self.tasks.shutdown().await;
        left
    }
}

/// Hands requests from hyper to the app, which is a tower service. A connection has one of its own: to clone it for each
/// request would count a reference for each of its layers, which all connections would take from each other.
struct Handler<S> {
    app: RefCell<S>,
    progress: Arc<Progress>,
}

impl<S, B> hyper::service::Service<http::Request<Incoming>> for Handler<S>
where
    S: Service<http::Request<Body>, Response = http::Response<B>> + Clone,
    S::Error: Into<BoxError>,
{
    type Response = http::Response<Counted<B>>;
    type Error = BoxError;
    type Future = Handling<Asked<S, http::Request<Body>>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let begun = Progress::begin(&self.progress, request.version());
        Handling {
            // A connection hands over one request after the other, so nobody else has it.
            inner: Asked::of(&mut self.app.borrow_mut(), request.map(Body::from)),
            begun: Some(begun),
        }
    }
}

pin_project! {
    /// One request.
    struct Handling<F> {
        #[pin]
        inner: F,
        begun: Option<Begun>,
    }
}

impl<F, B, E> Future for Handling<F>
where
    F: Future<Output = Result<http::Response<B>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<http::Response<Counted<B>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        this.inner.poll(cx).map(|result| {
            let mut begun = this.begun.take().expect("not polled after it was ready");
            let response = result.map_err(Into::into)?;
            begun.answer();
            Ok(response.map(|inner| Counted { inner, begun }))
        })
    }
}

pin_project! {
    /// The body of an answer. Until it is dropped the request is not over.
    pub(super) struct Counted<B> {
        #[pin]
        inner: B,
        begun: Begun,
    }
}

impl<B: http_body::Body> http_body::Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<B::Data>, B::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}
