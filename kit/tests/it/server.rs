//! A server over real sockets: its bounds, its answers, and its end.

mod bounds;
mod drain;
mod rolling;
mod telemetry;

use std::{convert::Infallible, net::SocketAddr, num::NonZeroUsize, time::Duration};

use http::{Request, Response, StatusCode, Version, header};
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use kit::{
    Body, BoxError, Error,
    server::{Inbound, InboundService, Listeners, RunOptions, ServeError, ServerConfig, run},
    testing::server_config as config,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tower::{Layer, Service, service_fn, util::BoxCloneService};

/// Long enough for whatever should happen at once, on a machine that has other things to do.
const SOON: Duration = Duration::from_secs(20);

/// A server that runs, and the means to stop it.
pub(crate) struct Running {
    address: SocketAddr,
    admin: SocketAddr,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), ServeError>>,
}

impl Running {
    /// Serves `app` on ports that the system chooses.
    fn start<S>(config: ServerConfig, service: &str, app: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
    {
        let listeners = Listeners::bind(&config).unwrap();
        let (address, admin) = (listeners.address(), listeners.admin_address());
        let (stop, stopped) = oneshot::channel();
        let options = RunOptions {
            service: service.parse().unwrap(),
            version: "1.2.3",
            config,
            registration: None,
            readiness: Vec::new(),
        };
        let server = tokio::spawn(run(listeners, app, options, async {
            let _ = stopped.await;
        }));
        Self {
            address,
            admin,
            stop,
            server,
        }
    }

    /// Waits until it has ended by itself.
    async fn ended(self) {
        self.stop.send(()).unwrap();
        let ended = tokio::time::timeout(SOON, self.server).await;
        ended.expect("it ends in time").unwrap().unwrap();
    }
}

type App = BoxCloneService<Request<Body>, Response<Body>, Infallible>;

/// Answers by path: `/echo`, `/wait` (for ever), `/panic`, `/fail`.
fn app() -> App {
    BoxCloneService::new(service_fn(|request: Request<Body>| async move {
        let wire = kit::wire::Wire::of(request.headers());
        let path = request.uri().path().to_owned();
        Ok(match path.rsplit('/').next() {
            Some("echo") => match request.into_body().collect().await {
                Ok(body) => Response::new(Body::full(body.to_bytes())),
                Err(error) => return Ok(wire.error(Error::from(error))),
            },
            Some("wait") => std::future::pending().await,
            Some("panic") => panic!("at the disco"),
            Some("fail") => wire.error(Error::internal(std::io::Error::other("disk on fire"))),
            _ => wire.error(Error::not_found("nothing here")),
        })
    }))
}

/// The app with everything around it.
fn assembled(config: &ServerConfig, service: &str) -> InboundService<App> {
    Inbound::from_config(config, &service.parse().unwrap()).layer(app())
}

/// Asks over HTTP/1 or HTTP/2 by a client of its own.
async fn ask(
    version: Version,
    request: http::request::Builder,
    body: &'static str,
) -> (http::response::Parts, String) {
    let client: Client<HttpConnector, Body> = Client::builder(TokioExecutor::new())
        .http2_only(version == Version::HTTP_2)
        .build_http();
    let request = request.version(version).body(Body::full(body)).unwrap();
    let response = tokio::time::timeout(SOON, client.request(request))
        .await
        .unwrap()
        .unwrap();
    let (mut parts, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    if let Some(trailers) = body.trailers() {
        parts.headers.extend(trailers.clone());
    }
    let body = String::from_utf8(body.to_bytes().to_vec()).unwrap();
    (parts, body)
}

async fn get(address: SocketAddr, path: &str) -> (StatusCode, String) {
    let request = Request::get(format!("http://{address}{path}"));
    let (parts, body) = ask(Version::HTTP_11, request, "").await;
    (parts.status, body)
}

/// Sends bytes over a connection of its own.
async fn connect(address: SocketAddr, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    stream
}

/// Reads until the peer closes the connection, however it does that.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = async {
        let mut chunk = [0; 1024];
        while let Ok(1..) = stream
            .read(&mut chunk)
            .await
            .inspect(|n| bytes.extend(&chunk[..*n]))
        {}
    };
    tokio::time::timeout(SOON, read)
        .await
        .expect("the peer closes the connection");
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn both_versions_of_http_are_served_on_one_port() {
    let config = config();
    let server = Running::start(config.clone(), "both", assembled(&config, "both"));
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let request = Request::post(format!("http://{}/echo", server.address));
        let (parts, body) = ask(version, request, "hello").await;
        assert_eq!((parts.status, parts.version), (StatusCode::OK, version));
        assert_eq!(body, "hello");
    }
    server.ended().await;
}

#[tokio::test]
async fn a_panic_is_an_internal_error_and_the_server_goes_on() {
    let config = config();
    let server = Running::start(config.clone(), "panics", assembled(&config, "panics"));
    let url = format!("http://{}/panic", server.address);
    let (parts, body) = ask(Version::HTTP_11, Request::post(&url), "").await;
    assert_eq!(parts.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(
        parts.headers[header::CONTENT_TYPE],
        "application/problem+json"
    );
    assert!(!body.contains("disco"), "{body}");
    let grpc = Request::post(&url).header(header::CONTENT_TYPE, "application/grpc");
    let (parts, _) = ask(Version::HTTP_2, grpc, "").await;
    assert_eq!(parts.headers["grpc-status"], "13");
    server.ended().await;
}

#[tokio::test]
async fn what_the_kit_refuses_is_answered_on_the_wire_of_the_request() {
    let mut config = config();
    config.concurrency.limit = NonZeroUsize::new(1).unwrap();
    let server = Running::start(config.clone(), "refuses", assembled(&config, "refuses"));
    let waiting = connect(server.address, "POST /wait HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let url = format!("http://{}/echo", server.address);
    let refused = async {
        loop {
            let (parts, _) = ask(Version::HTTP_11, Request::post(&url), "").await;
            if parts.status != StatusCode::OK {
                break parts;
            }
        }
    };
    assert_eq!(refused.await.status, StatusCode::SERVICE_UNAVAILABLE);
    let grpc = Request::post(&url).header(header::CONTENT_TYPE, "application/grpc");
    let (parts, _) = ask(Version::HTTP_2, grpc, "").await;
    assert_eq!(parts.headers["grpc-status"], "14");
    // Whoever goes away makes room.
    drop(waiting);
    while ask(Version::HTTP_11, Request::post(&url), "")
        .await
        .0
        .status
        != StatusCode::OK
    {}
    server.ended().await;
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_address_and_key() {
    let mut config = config();
    let taken = Listeners::bind(&config).unwrap();
    config.listen = taken.address();
    config.admin = Some("127.0.0.1:0".parse().unwrap());
    let error = Listeners::bind(&config).unwrap_err();
    let expected = format!(
        "cannot listen on {} (server.listen, KIT_SERVER__LISTEN)",
        taken.address()
    );
    assert_eq!(error.to_string(), expected);
    assert!(std::error::Error::source(&error).is_some());
}

#[tokio::test]
async fn the_admin_port_tells_the_state() {
    let config = config();
    let server = Running::start(config.clone(), "admin", app());
    for (path, status) in [
        ("/livez", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/", 404),
    ] {
        assert_eq!(get(server.admin, path).await.0, status, "{path}");
    }
    let request = Request::post(format!("http://{}/readyz", server.admin));
    let (parts, _) = ask(Version::HTTP_11, request, "").await;
    assert_eq!(parts.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(parts.headers[header::ALLOW], "GET, HEAD");
    server.ended().await;
}

#[tokio::test]
async fn a_failed_check_makes_it_unready() {
    let config = config();
    let listeners = Listeners::bind(&config).unwrap();
    let admin = listeners.admin_address();
    let options = RunOptions {
        service: "checked".parse().unwrap(),
        version: "1.2.3",
        config,
        registration: None,
        readiness: vec![
            kit::server::Check::new("clock", || async { Ok(()) }),
            kit::server::Check::new("database", || async { Err("password is hunter2".into()) }),
        ],
    };
    let server = tokio::spawn(run(listeners, app(), options, std::future::pending()));
    let (status, body) = get(admin, "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body, "database: failed\n");
    server.abort();
}

/// Says when a request begins, and is told when to answer.
fn held() -> (App, mpsc::UnboundedReceiver<oneshot::Sender<()>>) {
    let (begun, requests) = mpsc::unbounded_channel();
    let app = service_fn(move |_: Request<Body>| {
        let begun = begun.clone();
        async move {
            let (answer, go) = oneshot::channel();
            begun.send(answer).unwrap();
            let _ = go.await;
            Ok(Response::new(Body::full("done")))
        }
    });
    (BoxCloneService::new(app), requests)
}
