//! The assembled client against real servers on the loopback interface: the outbound stack in its order.

mod attempts;
mod circuits;
mod connections;
mod health;

use std::{
    convert::Infallible,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Version, uri::Authority};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use kit::{
    Body, BoxError, Context, Rejection,
    balance::{Call, Candidates, Picker},
    circuit_breaker::CircuitBreakerConfig,
    classify::{Retry, classify_error},
    client::{Client, ClientConfig, Connector},
    context::Deadline,
    discovery::Fixed,
    endpoint::Endpoint,
    event,
    hedge::HedgeConfig,
    name::Method,
    policy::Ratio,
    rejection::{NotSent, find_cause},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tower::ServiceExt;

/// A server that ends with its handle.
struct Peer {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Peer {
    /// Does with each connection what `serve` does.
    async fn raw<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), serve)
    }

    fn on<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut served = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, SeqCst);
                served.spawn(serve(stream));
            }
        });
        Self {
            address,
            connections,
            _tasks: tasks,
        }
    }

    /// Takes connections, and says nothing on them.
    async fn silent() -> Self {
        Self::raw(|stream| async move {
            std::future::pending::<()>().await;
            drop(stream);
        })
        .await
    }

    /// How many connections were made to it.
    fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    /// Answers requests on both versions.
    async fn http(
        answer: impl Fn(Request<Incoming>) -> Response<Full<Bytes>> + Clone + Send + Sync + 'static,
    ) -> Self {
        Self::raw(move |stream| {
            let answer = answer.clone();
            let service = hyper::service::service_fn(move |request| {
                let response = answer(request);
                async move { Ok::<_, Infallible>(response) }
            });
            async move {
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            }
        })
        .await
    }

    fn authority(&self) -> Authority {
        self.address.to_string().parse().unwrap()
    }
}

/// An address where nobody listens.
async fn nobody() -> Authority {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string().parse().unwrap()
}

fn client(addresses: impl IntoIterator<Item = Authority>) -> Client {
    client_with(addresses, ClientConfig::default())
}

/// A client that makes one attempt only.
fn once(addresses: impl IntoIterator<Item = Authority>) -> Client {
    let mut config = ClientConfig::default();
    config.retry.attempts = NonZeroU32::MIN;
    client_with(addresses, config)
}

fn client_with(addresses: impl IntoIterator<Item = Authority>, config: ClientConfig) -> Client {
    let service: kit::name::ServiceName = "users".parse().unwrap();
    let discovery = Fixed::new([(service.clone(), addresses.into_iter().collect())]);
    Client::new(&discovery, service, config, event::nobody())
}

fn request(version: Version) -> Request<Body> {
    let mut request = Request::new(Body::full("ping"));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = "/echo?x=1".parse().unwrap();
    *request.version_mut() = version;
    request
}

async fn ask(client: &Client, version: Version) -> Result<Response<Body>, BoxError> {
    client.clone().oneshot(request(version)).await
}

#[tokio::test]
async fn a_service_that_is_nowhere_is_refused_by_the_client_itself() {
    let error = ask(&client([]), Version::HTTP_11).await.unwrap_err();
    assert!(matches!(
        Rejection::find(&*error),
        Some(Rejection::NoEndpoints { .. })
    ));
}

/// A request that may be made twice.
fn get() -> Request<Body> {
    let mut request = request(Version::HTTP_11);
    *request.method_mut() = http::Method::GET;
    *request.body_mut() = Body::empty();
    request
}

async fn echo() -> Peer {
    Peer::http(|_| Response::new("here".into())).await
}

#[tokio::test]
async fn the_policies_of_a_client_are_replaced_while_it_runs() {
    let silent = Peer::silent().await;
    let mut config = ClientConfig::default();
    config.retry.attempts = NonZeroU32::MIN;
    config.balance.panic_threshold = Ratio::ZERO;
    let client = client_with([silent.authority()], config.clone());
    client
        .outbound()
        .attempt_timeout
        .timeout()
        .set(Duration::from_millis(20));
    client.replace_circuit_breaker(CircuitBreakerConfig {
        consecutive_failures: NonZeroU32::MIN,
        ..config.circuit_breaker
    });
    let ask = async || client.clone().oneshot(get()).await.unwrap_err();
    let error = ask().await;
    assert!(matches!(
        Rejection::find(&*error),
        Some(Rejection::TimedOut { .. })
    ));
    let error = ask().await;
    assert!(matches!(
        Rejection::find(&*error),
        Some(Rejection::CircuitOpen { .. })
    ));
}
