//! Mails that wait in the database until the notificator has taken them.

use std::time::Duration;

use kit::{
    Code, Error,
    outbox::{Leased, Outbox, Settlement, Undelivered},
    sqlite::{Database, Queued},
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

/// Hands the mails in `database` over to `notificator`.
#[derive(Debug)]
pub(crate) struct Mails<N> {
    /// Where they wait.
    pub(crate) database: Database,
    /// Who takes them.
    pub(crate) notificator: N,
}

impl<N: Notificator> Outbox for Mails<N> {
    type Message = Queued<Mail>;

    async fn lease(
        &self,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<Leased<Queued<Mail>>>, Error> {
        Queued::lease(&self.database, limit, lease).await
    }

    async fn deliver(&self, queued: &Queued<Mail>) -> Result<(), Undelivered> {
        let key = format!("users/{}", queued.id);
        let key = key.parse().expect("visible ASCII");
        let ctx = queued.context().with_idempotency_key(key);
        let Mail { to, subject, body } = queued.payload.clone();
        match self.notificator.send_email(ctx, to, subject, body).await {
            Ok(_) => Ok(()),
            // The mail itself is wrong, and will be so tomorrow.
            Err(error) if error.code() == Code::InvalidArgument => Err(Undelivered::Never(error)),
            Err(error) => Err(Undelivered::Again(error)),
        }
    }

    async fn settle(
        &self,
        leased: &Leased<Queued<Mail>>,
        settlement: Settlement,
    ) -> Result<(), Error> {
        let mut transaction = self.database.write().await?;
        Queued::settle(&mut transaction, leased, &settlement).await?;
        transaction.commit().await?;
        Ok(())
    }
}
