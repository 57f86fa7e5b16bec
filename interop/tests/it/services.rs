//! Python's grpcio against users, bugs and notificator.

use std::{path::Path, time::Duration};

use super::{Running, python, run, server_config, write};

/// The three services, which know each other.
pub(crate) struct Services {
    pub(crate) users: Running,
    pub(crate) bugs: Running,
    pub(crate) notificator: Running,
}

/// Runs them, with their data in `folder`.
pub(crate) fn start(folder: &Path) -> Services {
    let own = |name: &str| {
        let data = folder.join(name);
        std::fs::create_dir(&data).unwrap();
        data
    };
    let fixed = |running: &Running| vec![running.address.to_string().parse().unwrap()];
    let config = notificator::Config {
        server: server_config(),
        data: own("notificator"),
        ..notificator::Config::default()
    };
    let notificator = Running::start(&config.server.clone(), |listeners, stopped| {
        notificator::run(config, listeners, async {
            let _ = stopped.await;
        })
    });
    let mut config = users::Config {
        server: server_config(),
        data: own("users"),
        ..users::Config::default()
    };
    let name = "notificator".parse().unwrap();
    config.discovery.fixed.insert(name, fixed(&notificator));
    let users = Running::start(&config.server.clone(), |listeners, stopped| {
        users::run(config, listeners, async {
            let _ = stopped.await;
        })
    });
    let mut config = bugs::Config {
        server: server_config(),
        data: own("bugs"),
        ..bugs::Config::default()
    };
    for (name, running) in [("users", &users), ("notificator", &notificator)] {
        let addresses = fixed(running);
        config
            .discovery
            .fixed
            .insert(name.parse().unwrap(), addresses);
    }
    let bugs = Running::start(&config.server.clone(), |listeners, stopped| {
        bugs::run(config, listeners, async {
            let _ = stopped.await;
        })
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
    let addresses = addresses.map(|running| running.address.to_string());
    let mut python = python("services.py");
    python.arg(folder.path()).args(addresses);
    run(&mut python, Duration::from_secs(60)).await;
}
