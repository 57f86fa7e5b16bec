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

use std::{path::PathBuf, sync::Arc};

use kit::{
    BoxError,
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
    api::NotificatorServer,
    post_office::{Counter, Round},
    transport::{Files, Smtp, Transport},
};
pub use crate::{
    mail::Letterhead,
    transport::{Secret, SmtpConfig, Tls},
};

/// What is configured when nobody says anything: everything on this machine.
pub const DEFAULTS: &[(&str, &str)] = &[
    ("server.listen", "127.0.0.1:8801"),
    ("data", "./data"),
    // A mail server may be down for an hour, and may take half a minute for one mail.
    ("delivery.attempts", "15"),
    ("delivery.backoff", "1s"),
    ("delivery.max_backoff", "10m"),
    ("delivery.lease", "1m"),
];

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
    /// The folder with the database, `notificator.db`, and the mails, `mails/`. Replicas on one machine share it.
    /// Default: the one in which the program was started.
    pub data: PathBuf,
    /// What mails have in common.
    pub letterhead: Letterhead,
    /// The mail server. Default: none, and mails become files.
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
    let handler = Counter {
        database: database.clone(),
        letterhead: Arc::clone(&letterhead),
        wake: wake.clone(),
    };
    let server = NotificatorServer::new(handler);
    let inbound = app::inbound(&config.server, &service);
    // For as long as it runs, where that is configured.
    let policies = Policies::from_config(&config.discovery, &source, &service, observer());
    let _followed = inbound.follow(&policies);
    let app = inbound.layer(server);

    let round = StoredOutbox {
        database: database.clone(),
        deliver: Round {
            database: database.clone(),
            letterhead,
            transport,
        },
    };
    let worker = Worker::start(Arc::new(round), config.delivery, wake);
    let _worker_followed = policies.follow_live("delivery", worker.config());

    let registration = registration(&service, &listeners, &config.server, &source).await?;
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

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, time::Duration};

    use kit::config::{ConfigError, from_environment};

    use super::*;

    fn config(environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let environment = environment.iter().map(|(k, v)| (k.into(), v.into()));
        from_environment(environment, DEFAULTS)
    }

    #[test]
    fn nothing_has_to_be_configured() {
        let config = config(&[]).unwrap();
        assert_eq!(config.server.listen.port(), 8801);
        assert!(config.smtp.is_none());
        assert_eq!(config.letterhead.local_domain, "localhost");
        assert_eq!(config.delivery.attempts, NonZeroU32::new(15));
        assert_eq!(config.delivery.lease, Duration::from_secs(60));
    }

    #[test]
    fn a_mail_server_is_configured_by_the_environment_and_its_password_is_not_printed() {
        let config = config(&[
            ("KIT_SMTP__HOST", "mail.example.com"),
            ("KIT_SMTP__PORT", "2525"),
            ("KIT_SMTP__TLS", "implicit"),
            ("KIT_SMTP__USER", "kit"),
            ("KIT_SMTP__PASSWORD", "hunter2"),
            ("KIT_SMTP__TIMEOUT", "3s"),
            ("KIT_LETTERHEAD__FROM", "Bugs <bugs@example.com>"),
            ("KIT_DELIVERY__ATTEMPTS", "3"),
        ])
        .unwrap();
        let printed = format!("{config:?}");
        assert!(!printed.contains("hunter2"), "{printed}");
        let smtp = config.smtp.unwrap();
        assert_eq!(
            (smtp.host.as_str(), smtp.port),
            ("mail.example.com", Some(2525))
        );
        assert_eq!(
            (smtp.tls, smtp.timeout),
            (Tls::Implicit, Duration::from_secs(3))
        );
        assert_eq!(config.letterhead.from.email.to_string(), "bugs@example.com");
        assert_eq!(config.delivery.attempts, NonZeroU32::new(3));
        // What is not said stays as it is.
        assert_eq!(config.delivery.backoff, Duration::from_secs(1));
    }

    #[test]
    fn what_is_wrong_is_told_by_its_key() {
        for (key, value) in [
            ("KIT_SMTP__PORT", "many"),
            ("KIT_SMTP__SECRET", "x"),
            ("KIT_LETTERHEAD__FROM", "nobody"),
            ("KIT_DELIVERY__ATTEMPTS", "0"),
            ("KIT_MAIL", "x"),
        ] {
            let error =
                config(&[("KIT_SMTP__HOST", "mail.example.com"), (key, value)]).unwrap_err();
            let name = key
                .trim_start_matches("KIT_")
                .to_lowercase()
                .replace("__", ".");
            assert!(error.to_string().contains(&name), "{error}");
        }
    }
}
