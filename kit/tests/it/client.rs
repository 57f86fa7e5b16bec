//! The assembled client against real servers on the loopback interface.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
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
    Body, BoxError, Rejection,
    classify::{Retry, classify_error},
    client::{Client, ClientConfig},
    discovery::Fixed,
    event,
    rejection::{NotSent, find_cause},
};
use tokio::{
    io::AsyncReadExt,
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
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
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
async fn the_version_of_a_request_says_how_it_travels() {
    let peer = Peer::http(|request| {
        let host = request
            .uri()
            .authority()
            .map(ToString::to_string)
            .or_else(|| Some(request.headers().get("host")?.to_str().unwrap().to_owned()));
        let seen = format!(
            "{:?} {} {}",
            request.version(),
            host.unwrap(),
            request.uri().path()
        );
        Response::new(seen.into())
    })
    .await;
    let client = client([peer.authority()]);
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let response = ask(&client, version).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, format!("{version:?} {} /echo", peer.address));
    }
}

#[tokio::test]
async fn connections_are_used_again_by_all_clones() {
    let peer = Peer::http(|_| Response::new(Full::default())).await;
    let client = client([peer.authority()]);
    for version in [Version::HTTP_11, Version::HTTP_2] {
        for _ in 0..5 {
            let response = ask(&client, version).await.unwrap();
            response.into_body().collect().await.unwrap();
        }
    }
    assert_eq!(peer.connections.load(SeqCst), 2);
}

#[tokio::test]
async fn a_refused_connection_says_that_the_request_never_arrived() {
    let client = client([nobody().await]);
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let error = ask(&client, version).await.unwrap_err();
        assert!(find_cause::<NotSent>(&*error).is_some(), "{error:?}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_request_says_that_the_peer_may_have_acted() {
    let peer = Peer::raw(|mut stream| async move {
        // Takes something of the request and hangs up.
        let _ = stream.read(&mut [0; 64]).await;
    })
    .await;
    let client = client([peer.authority()]);
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let error = ask(&client, version).await.unwrap_err();
        assert_eq!(
            classify_error(&error).retry,
            Retry::IfIdempotent,
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_stream_that_the_peer_refused_never_arrived() {
    let peer = Peer::raw(|stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
        }
    })
    .await;
    let error = ask(&client([peer.authority()]), Version::HTTP_2)
        .await
        .unwrap_err();
    assert_eq!(classify_error(&error).retry, Retry::Always, "{error:?}");
}

#[tokio::test]
async fn a_service_that_is_nowhere_is_refused_by_the_client_itself() {
    let error = ask(&client([]), Version::HTTP_11).await.unwrap_err();
    assert!(matches!(
        Rejection::find(&*error),
        Some(Rejection::NoEndpoints { .. })
    ));
}
