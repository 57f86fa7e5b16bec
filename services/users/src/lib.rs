//! Who uses the bug tracker. Creating a user sends a welcome mail through the notificator.
//!
//! [`run`] is one instance: its database, its handlers inside of the kit's layers (`app`), its way to the notificator
//! (a [`Client`]), and the worker that hands over mails (`outbox`).

pub mod api;
mod app;
mod outbox;
mod store;
mod users;

use std::{path::PathBuf, sync::Arc};

use kit::{
    BoxError,
    client::{Client, ClientConfig},
    discovery::{DiscoveryConfig, Policies, Source},
    log::LogConfig,
    metrics::observer,
    name::ServiceName,
    outbox::{OutboxConfig, Wake, Worker},
    server::{Listeners, RunOptions, ServerConfig, registration},
    sqlite::{Database, StoredOutbox},
};
use serde::Deserialize;
use tower::Layer;

use crate::{
    api::{NotificatorClient, UsersServer},
    outbox::Mails,
    users::Registry,
};

/// What is configured when nobody says anything: everything on this machine.
pub const DEFAULTS: &[(&str, &str)] = &[
    ("server.listen", "127.0.0.1:8800"),
    ("discovery.fixed.notificator", "127.0.0.1:8801"),
    ("data", "./data"),
];

/// What an instance has to be told. `KIT_SERVER__LISTEN` sets `server.listen`, and so on: see [`kit::config`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where it listens, what a peer may do, how it ends.
    pub server: ServerConfig,
    /// Where other services are.
    pub discovery: DiscoveryConfig,
    /// How other services are called.
    pub client: ClientConfig,
    /// How logs are written.
    pub log: LogConfig,
    /// The folder with the database, `users.db`. Replicas on one machine share it. Default: the one in which the
    /// program was started.
    pub data: PathBuf,
    /// How mails are handed over to the notificator.
    pub outbox: OutboxConfig,
}

/// Runs an instance until `shutdown`, and drains it.
///
/// # Errors
/// The database cannot be opened; the configuration of discovery is wrong; a second signal stopped it at once.
pub async fn run(
    config: Config,
    listeners: Listeners,
    shutdown: impl Future<Output = ()>,
) -> Result<(), BoxError> {
    let service: ServiceName = "users".parse()?;
    let source = Source::from_config(&config.discovery, observer())?;
    let schema = [store::SCHEMA, kit::sqlite::OUTBOX];
    let database = Database::open(&config.data.join("users.db"), &schema).await?;

    let wake = Wake::new();
    let handler = Registry {
        database: database.clone(),
        wake: wake.clone(),
    };
    let server = UsersServer::new(handler);
    let inbound = app::inbound(&config.server, &service);
    let notificator = Client::new(&source, "notificator".parse()?, config.client, observer());
    // For as long as it runs, where that is configured.
    let policies = Policies::from_config(&config.discovery, &source, &service, observer());
    let _followed = (inbound.follow(&policies), notificator.follow(&policies));
    let app = inbound.layer(server);

    let mails = StoredOutbox {
        database: database.clone(),
        deliver: Mails {
            notificator: NotificatorClient::grpc(notificator),
        },
    };
    let worker = Worker::start(Arc::new(mails), config.outbox, wake);
    let _worker_followed = policies.follow_live("outbox", worker.config());

    let registration = registration(&service, &listeners, &config.server, &source).await?;
    let options = RunOptions {
        service,
        version: env!("CARGO_PKG_VERSION"),
        config: config.server,
        registration,
        readiness: vec![app::database(database)],
    };
    let served = kit::server::run(listeners, app, options, shutdown).await;
    // After the last request, which may have queued a mail. What is not handed over now waits in the database.
    worker.stop().await;
    Ok(served?)
}
