//! What the notificator does: takes mails in, and brings them to their goal.

use std::sync::Arc;

use kit::{
    Context, Error,
    outbox::{Settlement, Undelivered, Wake},
    sqlite::{self, Database, Deliver, Queued},
};
use sqlx::SqliteConnection;
use uuid::Uuid;

use crate::{
    api::{Accepted, MailId, MailStatus, Notificator},
    mail::{Letterhead, Mail},
    store,
    transport::Transport,
};

/// Takes mails in. Clones are the same post office.
#[derive(Clone, Debug)]
pub(crate) struct Counter {
    /// Where mails wait.
    pub(crate) database: Database,
    /// What they look like.
    pub(crate) letterhead: Arc<Letterhead>,
    /// Tells that one waits.
    pub(crate) wake: Wake,
}

impl Notificator for Counter {
    async fn send_email(
        &self,
        ctx: Context,
        to: String,
        subject: String,
        body: String,
    ) -> Result<Accepted, Error> {
        let mail = Mail {
            id: MailId(Uuid::now_v7().to_string()),
            to,
            subject,
            body,
            created_at: sqlite::now(),
        };
        // Refused now or sent later: what cannot be written as a mail is not accepted.
        self.letterhead.compose(&mail)?;
        let id = store::put(&self.database, &ctx, &mail).await?;
        if id == mail.id {
            self.wake.wake();
            tracing::info!(mail_id = id.0, "mail accepted");
        }
        Ok(Accepted { id })
    }

    async fn status(&self, _: Context, id: MailId) -> Result<MailStatus, Error> {
        let status = store::status(&self.database, &id).await?;
        status.ok_or_else(|| Error::not_found("there is no mail with this id"))
    }
}

/// Brings mails to their goal.
#[derive(Debug)]
pub(crate) struct Round {
    /// Where mails wait.
    pub(crate) database: Database,
    /// What they look like.
    pub(crate) letterhead: Arc<Letterhead>,
    /// The way.
    pub(crate) transport: Transport,
}

impl Deliver for Round {
    type Payload = MailId;

    async fn deliver(&self, queued: &Queued<MailId>) -> Result<(), Undelivered> {
        let id = &queued.payload;
        let mail = store::get(&self.database, id)
            .await
            .map_err(Undelivered::Again)?
            .ok_or_else(|| Undelivered::Never(Error::internal("a queued mail is not stored")))?;
        let message = self.letterhead.compose(&mail).map_err(Undelivered::Never)?;
        self.transport.deliver(id, message).await
    }

    async fn settled(
        &self,
        connection: &mut SqliteConnection,
        queued: &Queued<MailId>,
        settlement: &Settlement,
    ) -> Result<(), Error> {
        store::settled(connection, &queued.payload, settlement).await
    }
}
