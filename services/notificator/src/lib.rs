//! Sends the mails of the bug tracker, each once.
//!
//! [`run`] is one instance: its database, its handlers inside of the kit's layers (`app`), and the worker that brings
//! mails to their goal (`post_office`, `transport`): into a folder, or to a mail server (`KIT_SMTP__HOST`).

pub mod api;
mod app;
mod mail;
mod post_office;
mod store;
mod transport;

pub use mail::Letterhead;
pub use transport::{Secret, SmtpConfig, Tls};

use std::{path::PathBuf, sync::Arc};

use kit::{
    BoxError,
    discovery::{ConsulConfig, DiscoveryConfig, Source},
    log::LogConfig,
    metrics::observer,
    name::ServiceName,
    outbox::{OutboxConfig, Wake, Worker},
    server::{Listeners, RunOptions, ServerConfig, instance},
    sqlite::Database,
};
use serde::Deserialize;
use tower::Layer;

use crate::{
    api::NotificatorServer,
    post_office::{Counter, Round},
    transport::{Files, Smtp, Transport},
};

/// What is configured when nobody says anything: everything on this machine.
pub const DEFAULTS: &[(&str, &str)] = &[("server.listen", "127.0.0.1:8801"), ("data", "./data")];

/// What an instance has to be told. `KIT_SERVER__LISTEN` sets `server.listen`, and so on: see [`kit::config`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where it listens, what a peer may do, how it ends.
    pub server: ServerConfig,
    /// Where other services are.
    pub discovery: DiscoveryConfig,
    /// How logs are written.
    pub log: LogConfig,
    /// The folder of the database, `notificator.db` and of the mails, `mails`. Replicas on one machine share it. Default: the present one.
    pub data: PathBuf,
    /// What mails have in common.
    pub letterhead: Letterhead,
    /// The mail server. Default: none, and mails become files in the folder `mails` beside the database.
    pub smtp: Option<SmtpConfig>,
    /// How mails are brought to their goal.
    pub delivery: OutboxConfig,
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
    let service: ServiceName = "notificator".parse()?;
    let source = Source::from_config(&config.discovery, observer())?;
    let schema = [store::SCHEMA, kit::sqlite::OUTBOX];
    let database = Database::open(&config.data.join("notificator.db"), &schema).await?;

    let letterhead = Arc::new(config.letterhead);
    let transport = match &config.smtp {
        Some(smtp) => Transport::Smtp(Smtp::new(smtp, &letterhead.local_domain)?),
        None => Transport::Files(Files::new(config.data.join("mails"))?),
    };

    let wake = Wake::new();
    let counter = Counter {
        database: database.clone(),
        letterhead: Arc::clone(&letterhead),
        wake: wake.clone(),
    };
    let app = app::inbound(&config.server, &service).layer(NotificatorServer::new(counter));

    let round = Round {
        database: database.clone(),
        letterhead,
        transport,
    };
    let worker = Worker::start(Arc::new(round), config.delivery, wake);

    let registration = match (&config.discovery.consul, source.consul()) {
        (Some(ConsulConfig { address, .. }), Some(consul)) => {
            let instance = instance(&service, &listeners, &config.server, address).await?;
            Some(consul.registration(instance))
        }
        _ => None,
    };
    let options = RunOptions {
        service,
        version: env!("CARGO_PKG_VERSION"),
        config: config.server,
        registration,
        readiness: vec![app::database(database)],
    };
    let served = kit::server::run(listeners, app, options, shutdown).await;
    // After the last request, which may have brought a mail. What is not sent now waits in the database.
    worker.stop().await;
    Ok(served?)
}
