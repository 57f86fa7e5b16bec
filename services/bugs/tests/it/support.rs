//! The three services on ports that the system chooses, in one process.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path, time::Duration};

use bugs::api::UserId;
use kit::{Context, discovery::DiscoveryConfig, testing::Instance};
use tempfile::TempDir;
use users::api::{Users, UsersClient};

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
    Instance::start(|server, listeners, stop| {
        let config = notificator::Config {
            server,
            data: folder.to_owned(),
            ..notificator::Config::default()
        };
        notificator::run(config, listeners, stop)
    })
}

pub(crate) fn start_users(folder: &Path, notificator: SocketAddr) -> Instance {
    Instance::start(|server, listeners, stop| {
        let config = users::Config {
            server,
            data: folder.to_owned(),
            discovery: discovery([("notificator", notificator)]),
            ..users::Config::default()
        };
        users::run(config, listeners, stop)
    })
}

pub(crate) fn start_bugs(folder: &Path, users: SocketAddr, notificator: SocketAddr) -> Instance {
    Instance::start(|server, listeners, stop| {
        let config = bugs::Config {
            server,
            data: folder.to_owned(),
            discovery: discovery([("users", users), ("notificator", notificator)]),
            ..bugs::Config::default()
        };
        bugs::run(config, listeners, stop)
    })
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
        let users = start_users(folder.path(), notificator.address());
        let bugs = start_bugs(folder.path(), users.address(), notificator.address());
        Self {
            folder,
            notificator,
            users,
            bugs,
        }
    }

    /// Makes a user with this address.
    pub(crate) async fn user(&self, email: &str) -> UserId {
        let users = UsersClient::json(self.users.client());
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
