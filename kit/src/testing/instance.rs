//! A service in the process of a test.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    task::{self, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    Request, Response, Version,
    header::{CONTENT_TYPE, TE},
};
use tokio::{sync::oneshot, task::JoinHandle};
use tower_layer::Layer;
use tower_service::Service;

use super::Answer;
use crate::{
    Body, BoxError,
    client::{Client, ClientConfig},
    discovery::Fixed,
    event::nobody,
    name::ServiceName,
    server::{DrainConfig, Inbound, InboundService, Listeners, RunOptions, ServerConfig, run},
};

/// A running instance. Dropping it kills it; [`stop`](Self::stop) drains it.
#[derive(Debug)]
pub struct Instance {
    address: SocketAddr,
    admin: SocketAddr,
    stop: oneshot::Sender<()>,
    task: Task,
}

/// Ready when an instance is told to stop: the `shutdown` of [`server::run`](run).
#[derive(Debug)]
pub struct Stop(oneshot::Receiver<()>);

impl Future for Stop {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(|_| ())
    }
}

/// Ends when it is dropped.
#[derive(Debug)]
struct Task(JoinHandle<Result<(), BoxError>>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Free ports of the loopback interface, and nobody who watches a registry to be waited for when draining.
pub fn server_config() -> ServerConfig {
    ServerConfig {
        drain: DrainConfig {
            watchers: Duration::ZERO,
            ..DrainConfig::default()
        },
        ..ServerConfig::on_port(0)
    }
}

impl Instance {
    /// Runs a service by its own `run`, which `run` calls with these listeners and signal to stop, and with this
    /// configuration of a server, [`server_config`], or what it has made of it.
    ///
    /// # Panics
    /// Outside a tokio runtime, and if there is no free port.
    pub fn start<F, E>(run: impl FnOnce(ServerConfig, Listeners, Stop) -> F) -> Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let config = server_config();
        let listeners = Listeners::bind(&config).expect("the system has a free port");
        let (address, admin) = (listeners.address(), listeners.admin_address());
        let (stop, stopped) = oneshot::channel();
        let running = run(config, listeners, Stop(stopped));
        let running = async { running.await.map_err(Into::into) };
        Self {
            address,
            admin,
            stop,
            task: Task(tokio::spawn(running)),
        }
    }

    /// Runs what `#[kit::service]` made of a trait, inside of all that stands around a service: [`Inbound`].
    ///
    /// # Panics
    /// Outside a tokio runtime, if there is no free port, and if this is no name.
    pub fn serve<S, B>(name: &str, service: S) -> Self
    where
        InboundService<S>: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        <InboundService<S> as Service<Request<Body>>>::Error: Into<BoxError>,
        <InboundService<S> as Service<Request<Body>>>::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let name: ServiceName = name.parse().expect("it is the name of a service");
        Self::start(|config, listeners, stop| {
            let app = Inbound::from_config(&config, &name).layer(service);
            let options = RunOptions {
                service: name,
                version: env!("CARGO_PKG_VERSION"),
                config,
                registration: None,
                readiness: Vec::new(),
            };
            run(listeners, app, options, stop)
        })
    }

    /// Where it listens. What connects before it is up waits.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where `/livez`, `/readyz` and `/metrics` are.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// The assembled client, as it comes, of this instance alone.
    pub fn client(&self) -> Client {
        client_of(self.address)
    }

    /// Its whole answer to a request for a path, such as `/users/1`.
    ///
    /// # Panics
    /// If no whole answer comes.
    pub async fn send(&self, request: Request<Body>) -> Answer {
        Answer::to(self.client(), request).await
    }

    /// Its whole answer to some JSON.
    ///
    /// # Panics
    /// If no whole answer comes.
    pub async fn post(&self, path: &str, json: impl Into<String>) -> Answer {
        let request = Request::post(path).header(CONTENT_TYPE, "application/json");
        let request = request.body(Body::full(json.into()));
        self.send(request.expect("it is a path")).await
    }

    /// Its whole answer to the bytes of one gRPC message, whatever they are.
    ///
    /// # Panics
    /// If no whole answer comes, and if a header is none.
    pub async fn grpc(&self, path: &str, headers: &[(&str, &str)], message: &[u8]) -> Answer {
        let length = u32::try_from(message.len()).expect("it fits into a frame");
        let frame = [&[0], &length.to_be_bytes()[..], message].concat();
        let mut request = Request::post(path)
            .version(Version::HTTP_2)
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::full(frame));
        self.send(request.expect("these are headers")).await
    }

    /// The whole answer of its admin port to a `GET`.
    ///
    /// # Panics
    /// If no whole answer comes.
    pub async fn admin(&self, path: &str) -> Answer {
        let request = Request::get(path).body(Body::empty());
        Answer::to(client_of(self.admin), request.expect("it is a path")).await
    }

    /// Drains it, and says how it ended.
    ///
    /// # Errors
    /// What its `run` returned.
    ///
    /// # Panics
    /// If it did.
    pub async fn stop(self) -> Result<(), BoxError> {
        let Self { stop, mut task, .. } = self;
        drop(stop);
        (&mut task.0).await.expect("it does not panic")
    }
}

/// The assembled client, as it comes, of what listens there alone.
pub(super) fn client_of(address: SocketAddr) -> Client {
    let name: ServiceName = "tested".parse().expect("it is a name");
    let address = address.to_string().parse().expect("it is an address");
    let fixed = Fixed::new([(name.clone(), vec![address])]);
    Client::new(&fixed, name, ClientConfig::default(), nobody())
}
