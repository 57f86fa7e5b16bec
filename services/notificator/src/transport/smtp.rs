//! Mails to a mail server (RFC 5321).
//!
//! At least once: SMTP has no way to ask whether a mail has arrived. A replica that is killed, or loses its
//! connection, between the server's last word and the commit that marks the mail as sent leaves a mail that is sent
//! again. It then has the same `Message-ID`, by which mail servers and readers may know it again.

use std::{fmt, time::Duration};

use kit::{Error, outbox::Undelivered};
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    transport::smtp::{
        authentication::Credentials,
        client::{Tls as LettreTls, TlsParameters},
        extension::ClientId,
        response::Category,
    },
};
use serde::{Deserialize, Serialize};

/// Which mail server, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmtpConfig {
    /// Its name or address.
    pub host: String,
    /// Its port. Default: 25 without TLS, 587 with STARTTLS, 465 with TLS from the start.
    pub port: Option<u16>,
    /// Whether the connection is encrypted. Default `starttls`.
    #[serde(default)]
    pub tls: Tls,
    /// Who we are to it. Without a user nobody logs in.
    pub user: Option<String>,
    /// The password of `user`. Never printed.
    #[serde(default, skip_serializing)]
    pub password: Secret,
    /// How long each step may take. Default 10 s.
    #[serde(default = "default_timeout", with = "humantime_serde")]
    pub timeout: Duration,
}

fn default_timeout() -> Duration {
    Duration::from_secs(10)
}

/// Encryption on the way to the mail server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// None; for a server on this machine.
    None,
    /// Begun by `STARTTLS` (RFC 3207); a server that does not know it gets no mail.
    #[default]
    StartTls,
    /// From the first byte (RFC 8314).
    Implicit,
}

/// A text that is never printed.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A way to one mail server.
pub(crate) struct Smtp(AsyncSmtpTransport<Tokio1Executor>);

impl Smtp {
    /// Connects at the first mail, as `local_domain`.
    pub(crate) fn new(config: &SmtpConfig, local_domain: &str) -> Result<Self, Error> {
        let parameters = || TlsParameters::new(config.host.clone()).map_err(Error::internal);
        let (tls, port) = match config.tls {
            Tls::None => (LettreTls::None, 25),
            Tls::StartTls => (LettreTls::Required(parameters()?), 587),
            Tls::Implicit => (LettreTls::Wrapper(parameters()?), 465),
        };
        let builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&config.host)
            .tls(tls)
            .port(config.port.unwrap_or(port))
            .timeout(Some(config.timeout))
            .hello_name(ClientId::Domain(local_domain.to_owned()));
        Ok(Self(match &config.user {
            None => builder.build(),
            Some(user) => builder
                .credentials(Credentials::new(user.clone(), config.password.0.clone()))
                .build(),
        }))
    }

    /// Hands `message` over to the mail server.
    pub(crate) async fn deliver(&self, message: Message) -> Result<(), Undelivered> {
        let Err(error) = self.0.send(message).await else {
            return Ok(());
        };
        // "No" to this mail stays "no". "No" to us (x3z: authentication) is for the operator to mend.
        let about_us = |code: lettre::transport::smtp::response::Code| {
            matches!(code.category, Category::Unspecified3)
        };
        let never = error.is_permanent() && !error.status().is_some_and(about_us);
        let told = if error.status().is_some() {
            format!("the mail server said: {error}")
        } else if error.is_client() {
            // It has no STARTTLS, or no SMTPUTF8 for an address that needs it; it may learn.
            format!("the mail server does not know enough: {error}")
        } else {
            "the mail server could not be reached".to_owned()
        };
        let error = Error::unavailable(told).with_source(error);
        Err(match never {
            true => Undelivered::Never(error),
            false => Undelivered::Again(error),
        })
    }
}

impl fmt::Debug for Smtp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Smtp")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_a_mail_server_can_be_made() {
        for tls in [Tls::None, Tls::StartTls, Tls::Implicit] {
            let config = SmtpConfig {
                host: "mail.example.com".to_owned(),
                port: None,
                tls,
                user: Some("kit".to_owned()),
                password: Secret("hunter2".to_owned()),
                timeout: default_timeout(),
            };
            let smtp = Smtp::new(&config, "localhost").unwrap();
            assert!(!format!("{smtp:?} {config:?}").contains("hunter2"));
        }
    }
}
