//! Instances on ports that the system chooses, and ways to call them.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use http::{Request, StatusCode, Version};
use http_body_util::BodyExt;
use kit::{
    Body, BoxError, Context,
    client::{Client, ClientConfig},
    discovery::Fixed,
    event::nobody,
    name::ServiceName,
    server::{DrainConfig, Listeners, ServerConfig},
};
use notificator::{
    Config,
    api::{MailId, MailStatus, Notificator, NotificatorClient, State},
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tower::ServiceExt;

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
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

/// A running instance of the notificator. Dropping it kills it.
pub(crate) struct Instance {
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
    task: JoinHandle<Result<(), BoxError>>,
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Instance {
    /// Starts one whose data is in `folder` and which writes mails there.
    pub(crate) async fn start(folder: &Path) -> Self {
        Self::start_with(folder, |_| ()).await
    }

    /// The same with a configuration that `change` has changed.
    pub(crate) async fn start_with(folder: &Path, change: impl FnOnce(&mut Config)) -> Self {
        let server = ServerConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            drain: DrainConfig {
                watchers: Duration::ZERO,
                ..DrainConfig::default()
            },
            ..ServerConfig::default()
        };
        let mut config = Config {
            server,
            data: folder.to_owned(),
            ..Config::default()
        };
        change(&mut config);
        let listeners = Listeners::bind(&config.server).unwrap();
        let (address, admin) = (listeners.address(), listeners.admin_address());
        let task = tokio::spawn(notificator::run(config, listeners, std::future::pending()));
        let instance = Self {
            address,
            admin,
            task,
        };
        // The socket queues what comes before the instance is up.
        instance.admin("/livez").await;
        instance
    }

    pub(crate) fn client(&self) -> Client {
        client(self.address)
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        let request = Request::post(path).header("content-type", "application/json");
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
}

/// What became of the mail, once it is no longer queued.
pub(crate) async fn settled(instance: &Instance, id: &MailId) -> MailStatus {
    status_with(instance, id, |status| status.status != State::Queued).await
}

/// The status of the mail, once it `is` as it should be.
pub(crate) async fn status_with(
    instance: &Instance,
    id: &MailId,
    is: impl Fn(&MailStatus) -> bool,
) -> MailStatus {
    let client = NotificatorClient::grpc(instance.client());
    loop {
        let status = client.status(Context::new(), id.clone()).await.unwrap();
        if is(&status) {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The mails in the folder, by id.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, String> {
    fs::read_dir(folder.join("mails"))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect()
}
