//! Python's grpcio against users, bugs and notificator.

use std::{collections::BTreeMap, path::Path, time::Duration};

use kit::{discovery::DiscoveryConfig, testing::Instance};

use super::{python, run, write};

/// The three services, which know each other.
pub(crate) struct Services {
    pub(crate) users: Instance,
    pub(crate) bugs: Instance,
    pub(crate) notificator: Instance,
}

/// Where these are.
fn discovery<const N: usize>(services: [(&str, &Instance); N]) -> DiscoveryConfig {
    let fixed = services.map(|(name, instance)| {
        let address = instance.address().to_string().parse().unwrap();
        (name.parse().unwrap(), vec![address])
    });
    DiscoveryConfig {
        fixed: BTreeMap::from(fixed),
        ..DiscoveryConfig::default()
    }
}

/// Runs them, with their data in `folder`.
pub(crate) fn start(folder: &Path) -> Services {
    let own = |name: &str| {
        let data = folder.join(name);
        std::fs::create_dir(&data).unwrap();
        data
    };
    let notificator = Instance::start(|server, listeners, stop| {
        let config = notificator::Config {
            server,
            data: own("notificator"),
            ..notificator::Config::default()
        };
        notificator::run(config, listeners, stop)
    });
    let users = Instance::start(|server, listeners, stop| {
        let config = users::Config {
            server,
            data: own("users"),
            discovery: discovery([("notificator", &notificator)]),
            ..users::Config::default()
        };
        users::run(config, listeners, stop)
    });
    let bugs = Instance::start(|server, listeners, stop| {
        let config = bugs::Config {
            server,
            data: own("bugs"),
            discovery: discovery([("users", &users), ("notificator", &notificator)]),
            ..bugs::Config::default()
        };
        bugs::run(config, listeners, stop)
    });
    Services {
        users,
        bugs,
        notificator,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcio_speaks_to_each_service_by_what_protoc_makes_of_its_text() {
    let data = tempfile::tempdir().unwrap();
    let services = start(data.path());
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "users.proto", users::api::users::proto());
    write(folder.path(), "bugs.proto", bugs::api::bugs::proto());
    let notificator = notificator::api::notificator::proto();
    write(folder.path(), "notificator.proto", notificator);
    let addresses = [&services.users, &services.bugs, &services.notificator];
    let addresses = addresses.map(|running| running.address().to_string());
    let mut python = python("services.py");
    python.arg(folder.path()).args(addresses);
    run(&mut python, Duration::from_secs(60)).await;
}
