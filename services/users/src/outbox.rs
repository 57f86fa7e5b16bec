//! Mails that wait in the database until the notificator has taken them.

use kit::{
    Code,
    outbox::Undelivered,
    sqlite::{Deliver, Queued},
};
use serde::{Deserialize, Serialize};

use crate::api::Notificator;

/// A mail to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mail {
    /// The mailbox.
    pub(crate) to: String,
    /// What it is about.
    pub(crate) subject: String,
    /// The text.
    pub(crate) body: String,
}

/// Hands mails over to the notificator.
#[derive(Debug)]
pub(crate) struct Mails<N> {
    /// Who takes them.
    pub(crate) notificator: N,
}

impl<N: Notificator> Deliver for Mails<N> {
    type Payload = Mail;

    async fn deliver(&self, queued: &Queued<Mail>) -> Result<(), Undelivered> {
        let key = format!("users/{}", queued.id);
        let key = key.parse().expect("visible ASCII");
        let ctx = queued.context().with_idempotency_key(key);
        let Mail { to, subject, body } = queued.payload.clone();
        match self.notificator.send_email(ctx, to, subject, body).await {
            Ok(_) => Ok(()),
            // The mail itself is wrong, and will be so tomorrow.
            Err(error) if matches!(error.code(), Code::InvalidArgument | Code::AlreadyExists) => {
                Err(Undelivered::Never(error))
            }
            Err(error) => Err(Undelivered::Again(error)),
        }
    }
}
