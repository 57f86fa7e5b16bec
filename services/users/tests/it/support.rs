//! Instances on ports that the system chooses, and ways to call them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use http::{Request, StatusCode, Version};
use http_body_util::BodyExt;
use kit::{
    Body, BoxError, Context, Error,
    client::{Client, ClientConfig},
    discovery::Fixed,
    event::nobody,
    name::ServiceName,
    server::{DrainConfig, Listeners, RunOptions, ServerConfig},
};
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tower::{Layer, ServiceExt};
use users::api::{Accepted, NotificatorServer};

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn server_config() -> ServerConfig {
    ServerConfig {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        drain: DrainConfig {
            watchers: Duration::ZERO,
            ..DrainConfig::default()
        },
        ..ServerConfig::default()
    }
}

/// A client of whatever listens there.
pub(crate) fn client(address: SocketAddr) -> Client {
    let service: ServiceName = "tested".parse().unwrap();
    let fixed = Fixed::new([(service.clone(), vec![address.to_string().parse().unwrap()])]);
    Client::new(&fixed, service, ClientConfig::default(), nobody())
}

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: String,
}

pub(crate) async fn send(address: SocketAddr, request: Request<Body>) -> Answer {
    let response = client(address).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let mut headers = parts.headers;
    headers.extend(body.trailers().cloned().unwrap_or_default());
    Answer {
        status: parts.status,
        headers,
        body: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
    }
}

/// A running instance of users. Dropping it kills it.
pub(crate) struct Instance {
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), BoxError>>,
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Instance {
    /// Starts one whose data is in `folder`, and which knows these notificators.
    pub(crate) async fn start(folder: &Path, notificators: &[&Notificator]) -> Self {
        let mut config = users::Config {
            server: server_config(),
            data: folder.to_owned(),
            ..users::Config::default()
        };
        let addresses = notificators
            .iter()
            .map(|n| n.address.to_string().parse().unwrap());
        let notificator = "notificator".parse().unwrap();
        config
            .discovery
            .fixed
            .insert(notificator, addresses.collect());
        let listeners = Listeners::bind(&config.server).unwrap();
        let (address, admin) = (listeners.address(), listeners.admin_address());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(users::run(config, listeners, async {
            let _ = stopped.await;
        }));
        let instance = Self {
            address,
            admin,
            stop: Some(stop),
            task,
        };
        // The socket queues what comes before the instance is up.
        instance.admin("/livez").await;
        instance
    }

    pub(crate) fn client(&self) -> Client {
        client(self.address)
    }

    pub(crate) async fn post(&self, path: &str, content_type: &str, body: &str) -> Answer {
        let request = Request::post(path).header("content-type", content_type);
        send(
            self.address,
            request.body(Body::full(body.to_owned())).unwrap(),
        )
        .await
    }

    /// Sends one gRPC message as it is.
    pub(crate) async fn grpc(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        message: &[u8],
    ) -> Answer {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let frame = [&[0], &length[..], message].concat();
        let mut request = Request::post(path)
            .version(Version::HTTP_2)
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        send(self.address, request.body(Body::full(frame)).unwrap()).await
    }

    pub(crate) async fn admin(&self, path: &str) -> Answer {
        send(self.admin, Request::get(path).body(Body::empty()).unwrap()).await
    }

    /// Drains it.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        (&mut self.task).await.unwrap().unwrap();
    }
}

/// A mail as it came to a notificator.
#[derive(Clone, Debug)]
pub(crate) struct Mail {
    pub(crate) ctx: Context,
    pub(crate) to: String,
    pub(crate) body: String,
}

/// A notificator that hands mails to the test. It answers for real, over gRPC, and refuses as many mails as it is told.
pub(crate) struct Notificator {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Notificator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Handler {
    mails: mpsc::UnboundedSender<Mail>,
    answer: fn(&str) -> Result<(), Error>,
}

impl users::api::Notificator for Handler {
    async fn send_email(
        &self,
        ctx: Context,
        to: String,
        _: String,
        body: String,
    ) -> Result<Accepted, Error> {
        let answer = (self.answer)(&to);
        self.mails.send(Mail { ctx, to, body }).unwrap();
        answer.map(|()| Accepted { id: "1".to_owned() })
    }
}

impl Notificator {
    pub(crate) async fn start() -> (Self, mpsc::UnboundedReceiver<Mail>) {
        Self::answering(|_| Ok(())).await
    }

    /// One that answers as `answer` says, given the recipient.
    pub(crate) async fn answering(
        answer: fn(&str) -> Result<(), Error>,
    ) -> (Self, mpsc::UnboundedReceiver<Mail>) {
        let (mails, receiver) = mpsc::unbounded_channel();
        let config = server_config();
        let service: ServiceName = "notificator".parse().unwrap();
        let listeners = Listeners::bind(&config).unwrap();
        let address = listeners.address();
        let inbound = kit::server::Inbound::from_config(&config, &service);
        let app = inbound.layer(NotificatorServer::new(Handler { mails, answer }));
        let options = RunOptions {
            service,
            version: "test",
            config,
            registration: None,
            readiness: Vec::new(),
        };
        let task = tokio::spawn(async move {
            kit::server::run(listeners, app, options, std::future::pending())
                .await
                .unwrap();
        });
        (Self { address, task }, receiver)
    }
}
