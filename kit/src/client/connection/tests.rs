//! Real servers on the loopback interface, for the tests of both versions.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

use super::*;

/// Does with each connection what it was told to, and counts.
pub(super) struct Peer {
    pub(super) endpoint: Endpoint,
    accepted: Arc<AtomicUsize>,
    /// Of those, how many are over.
    ended: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Peer {
    pub(super) async fn new<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let [accepted, ended] = [Arc::default(), Arc::<AtomicUsize>::default()];
        let (count, over) = (Arc::clone(&accepted), Arc::clone(&ended));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut served = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, SeqCst);
                let (serve, over) = (serve(stream), Arc::clone(&over));
                served.spawn(async move {
                    serve.await;
                    over.fetch_add(1, SeqCst);
                });
                while served.try_join_next().is_some() {}
            }
        });
        Self {
            endpoint: Endpoint::at(address.parse().unwrap()),
            accepted,
            ended,
            _tasks: tasks,
        }
    }

    /// Answers with `body`.
    pub(super) async fn http(body: &'static str) -> Self {
        Self::new(move |stream| async move {
            let service =
                service_fn(move |_| async move { Ok::<_, Infallible>(Response::new(full(body))) });
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        })
        .await
    }

    /// Says `answer` to each request, which has no body, and after that what `more` says: to go on, or to close.
    pub(super) async fn raw(answer: &'static str, more: bool) -> Self {
        Self::new(move |mut stream| async move {
            let mut request = [0; 1024];
            while stream.read(&mut request).await.is_ok_and(|n| n > 0) {
                let said = stream.write_all(answer.as_bytes()).await;
                if said.is_err() || !more {
                    return;
                }
            }
        })
        .await
    }

    pub(super) fn accepted(&self) -> usize {
        self.accepted.load(SeqCst)
    }

    pub(super) fn ended(&self) -> usize {
        self.ended.load(SeqCst)
    }

    pub(super) fn connection(&self) -> Connection<Body> {
        Connector::default().to(&self.endpoint)
    }
}

pub(super) fn full(body: &'static str) -> Full<Bytes> {
    Full::new(body.into())
}

pub(super) fn get() -> Request<Body> {
    Request::new(Body::empty())
}

pub(super) async fn read(response: Response<Body>) -> Result<Bytes, BoxError> {
    Ok(response.into_body().collect().await?.to_bytes())
}

impl Connection<Body> {
    pub(super) async fn ask(&self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        self.clone().call(request).await
    }
}

/// Waits until it is so.
pub(super) async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        sleep(Duration::from_millis(1)).await;
    }
}
