//! The three services on ports that the system chooses, in one process, and ways to call them.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use bugs::api::UserId;
use http::{Request, StatusCode, Version};
use http_body_util::BodyExt;
use kit::{
    Body, BoxError, Context,
    client::{Client, ClientConfig},
    discovery::{DiscoveryConfig, Fixed},
    event::nobody,
    name::ServiceName,
    server::{DrainConfig, Listeners, ServerConfig},
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tower::ServiceExt;
use users::api::{Users, UsersClient};

/// A running instance of a service. Dropping it kills it.
pub(crate) struct Instance {
    pub(crate) address: SocketAddr,
    task: JoinHandle<Result<(), BoxError>>,
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn listen() -> (ServerConfig, Listeners) {
    let config = ServerConfig {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        drain: DrainConfig {
            watchers: Duration::ZERO,
            ..DrainConfig::default()
        },
        ..ServerConfig::default()
    };
    let listeners = Listeners::bind(&config).unwrap();
    (config, listeners)
}

/// Where services are.
fn discovery<const N: usize>(services: [(&str, SocketAddr); N]) -> DiscoveryConfig {
    let fixed = services.map(|(service, address)| {
        let address = address.to_string().parse().unwrap();
        (service.parse().unwrap(), vec![address])
    });
    DiscoveryConfig {
        fixed: BTreeMap::from(fixed),
        ..DiscoveryConfig::default()
    }
}

pub(crate) fn start_notificator(folder: &Path) -> Instance {
    let (server, listeners) = listen();
    let config = notificator::Config {
        server,
        data: folder.to_owned(),
        ..notificator::Config::default()
    };
    Instance {
        address: listeners.address(),
        task: tokio::spawn(notificator::run(config, listeners, std::future::pending())),
    }
}

pub(crate) fn start_users(folder: &Path, notificator: SocketAddr) -> Instance {
    let (server, listeners) = listen();
    let config = users::Config {
        server,
        data: folder.to_owned(),
        discovery: discovery([("notificator", notificator)]),
        ..users::Config::default()
    };
    Instance {
        address: listeners.address(),
        task: tokio::spawn(users::run(config, listeners, std::future::pending())),
    }
}

pub(crate) fn start_bugs(folder: &Path, users: SocketAddr, notificator: SocketAddr) -> Instance {
    let (server, listeners) = listen();
    let config = bugs::Config {
        server,
        data: folder.to_owned(),
        discovery: discovery([("users", users), ("notificator", notificator)]),
        ..bugs::Config::default()
    };
    Instance {
        address: listeners.address(),
        task: tokio::spawn(bugs::run(config, listeners, std::future::pending())),
    }
}

/// The whole bug tracker.
pub(crate) struct Tracker {
    pub(crate) folder: TempDir,
    pub(crate) notificator: Instance,
    pub(crate) users: Instance,
    pub(crate) bugs: Instance,
}

impl Tracker {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let notificator = start_notificator(folder.path());
        let users = start_users(folder.path(), notificator.address);
        let bugs = start_bugs(folder.path(), users.address, notificator.address);
        Self {
            folder,
            notificator,
            users,
            bugs,
        }
    }

    /// Makes a user with this address.
    pub(crate) async fn user(&self, email: &str) -> UserId {
        let users = UsersClient::json(client(self.users.address));
        let user = users
            .create(Context::new(), email.to_owned())
            .await
            .unwrap();
        UserId(user.id.0)
    }

    /// Waits until there are `count` mails, and says to whom they went and about what.
    pub(crate) async fn mails(&self, count: usize) -> Vec<(String, String)> {
        loop {
            let mut mails = mails(&self.folder.path().join("mails"));
            if mails.len() >= count {
                mails.sort();
                return mails;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn mails(folder: &Path) -> Vec<(String, String)> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let header = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().to_owned()
    };
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "eml"))
        .map(|path| {
            let text = fs::read_to_string(path).unwrap();
            (header(&text, "To:"), header(&text, "Subject:"))
        })
        .collect()
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

pub(crate) async fn post(address: SocketAddr, path: &str, body: &str) -> Answer {
    let request = Request::post(path).header("content-type", "application/json");
    send(address, request.body(Body::full(body.to_owned())).unwrap()).await
}

/// Sends one gRPC message as it is.
pub(crate) async fn grpc(
    address: SocketAddr,
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
    send(address, request.body(Body::full(frame)).unwrap()).await
}
