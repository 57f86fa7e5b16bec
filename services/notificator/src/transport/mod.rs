//! The last stretch of a mail's way.

mod file;
mod smtp;

use kit::outbox::Undelivered;
use lettre::Message;

pub(crate) use file::Files;
pub(crate) use smtp::Smtp;
pub use smtp::{Secret, SmtpConfig, Tls};

use crate::api::MailId;

/// Where mails go.
#[derive(Debug)]
pub(crate) enum Transport {
    /// Into a folder.
    Files(Files),
    /// To a mail server.
    Smtp(Smtp),
}

impl Transport {
    /// Brings one mail to its goal. Doing so twice leaves one mail in a folder; a mail server gets it twice, with
    /// the same `Message-ID`.
    pub(crate) async fn deliver(&self, id: &MailId, message: Message) -> Result<(), Undelivered> {
        match self {
            Self::Files(files) => files.deliver(id, message).await,
            Self::Smtp(smtp) => smtp.deliver(message).await,
        }
    }
}
