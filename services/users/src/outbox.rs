//! Mails that wait in the database until notificator has taken them.

use std::time::Duration;

use kit::{
    Context, Error,
    context::TraceContext,
    error::Code,
    outbox::{Leased, Outbox, Settlement, Undelivered},
};
use sqlx::{Sqlite, Transaction};
use uuid::Uuid;

use crate::{
    api::Notificator,
    db::{self, Database},
    store::StoreError,
};

/// A mail to be sent.
#[derive(Clone, Debug)]
pub struct Mail {
    /// Names this mail for ever, in the outbox and to notificator, which sends it once.
    pub id: String,
    /// The mailbox.
    pub to: String,
    /// What it is about.
    pub subject: String,
    /// The text.
    pub body: String,
    /// The trace in which it was caused.
    pub trace: Option<TraceContext>,
}

impl Mail {
    /// A mail that is caused by the call of `context`.
    pub fn new(context: &Context, to: &str, subject: String, body: String) -> Self {
        Self {
            id: Uuid::now_v7().to_string(),
            to: to.to_owned(),
            subject,
            body,
            trace: context.trace,
        }
    }
}

/// Queues a mail as part of `transaction`.
pub async fn put(transaction: &mut Transaction<'static, Sqlite>, mail: &Mail) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO outbox (id, recipient, subject, body, traceparent, due_at) \
         VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(&mail.id)
    .bind(&mail.to)
    .bind(&mail.subject)
    .bind(&mail.body)
    .bind(mail.trace.map(|trace| trace.to_string()))
    .bind(db::now())
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// The mails in `database`, which `notificator` sends.
#[derive(Debug)]
pub struct Mails<N> {
    /// Where they wait.
    pub database: Database,
    /// Who takes them.
    pub notificator: N,
}

type Row = (String, String, String, String, Option<String>, u32);

impl<N: Notificator> Outbox for Mails<N> {
    type Message = Mail;

    async fn lease(&self, limit: usize, lease: Duration) -> Result<Vec<Leased<Mail>>, Error> {
        Ok(self.database.lease(limit, lease).await?)
    }

    async fn deliver(&self, mail: &Mail) -> Result<(), Undelivered> {
        let context = Context {
            trace: mail.trace,
            ..Context::new()
        };
        let key = format!("users/{}", mail.id);
        let key = key.parse().expect("letters, digits, a slash and dashes");
        let (to, subject, body) = (mail.to.clone(), mail.subject.clone(), mail.body.clone());
        self.notificator
            .send_email(context.with_idempotency_key(key), to, subject, body)
            .await
            .map_err(|error| match error.code() {
                // Notificator says that the mail is wrong, so it always will be.
                Code::InvalidArgument => Undelivered::Never(error),
                _ => Undelivered::Again(error),
            })?;
        Ok(())
    }

    async fn settle(&self, leased: &Leased<Mail>, settlement: Settlement) -> Result<(), Error> {
        let mail = &leased.message;
        let trace_id = mail.trace.map(|t| tracing::field::display(t.trace_id()));
        match &settlement {
            Settlement::Delivered => {
                tracing::info!(trace_id, mail_id = mail.id, "mail handed to notificator");
            }
            Settlement::Postponed { delay, reason } => tracing::warn!(
                trace_id, mail_id = mail.id, attempt = leased.attempt, ?delay, ?reason,
                "mail not handed to notificator; it is tried again"
            ),
            Settlement::Failed { reason } => {
                tracing::error!(trace_id, mail_id = mail.id, ?reason, "mail given up");
            }
        }
        Ok(self.database.settle(leased, &settlement).await?)
    }
}

impl Database {
    async fn lease(&self, limit: usize, lease: Duration) -> Result<Vec<Leased<Mail>>, StoreError> {
        let now = db::now();
        // Reading first leaves the only writer alone as long as there is nothing to do.
        let due: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM outbox WHERE due_at <= ?)")
            .bind(now)
            .fetch_one(self.read())
            .await?;
        if !due {
            return Ok(Vec::new());
        }
        let mut transaction = self.write().await?;
        let rows: Vec<Row> = sqlx::query_as(
            "UPDATE outbox SET attempt = attempt + 1, due_at = ? WHERE id IN \
             (SELECT id FROM outbox WHERE due_at <= ? ORDER BY due_at LIMIT ?) \
             RETURNING id, recipient, subject, body, traceparent, attempt",
        )
        .bind(now.saturating_add(db::millis(lease)))
        .bind(now)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut *transaction)
        .await?;
        transaction.commit().await?;
        let leased = |(id, to, subject, body, traceparent, attempt): Row| Leased {
            message: Mail {
                id,
                to,
                subject,
                body,
                trace: traceparent.and_then(|text| text.parse().ok()),
            },
            attempt,
        };
        Ok(rows.into_iter().map(leased).collect())
    }

    async fn settle(
        &self,
        leased: &Leased<Mail>,
        settlement: &Settlement,
    ) -> Result<(), StoreError> {
        let (due_at, reason) = match settlement {
            Settlement::Delivered => (None, None),
            Settlement::Postponed { delay, reason } => {
                (Some(db::now().saturating_add(db::millis(*delay))), Some(reason.to_string()))
            }
            Settlement::Failed { reason } => (None, Some(reason.to_string())),
        };
        let mut transaction = self.write().await?;
        // Whoever leased the mail anew has counted one attempt more.
        let query = match settlement {
            Settlement::Delivered => sqlx::query("DELETE FROM outbox WHERE id = ? AND attempt = ?"),
            Settlement::Postponed { .. } | Settlement::Failed { .. } => {
                sqlx::query("UPDATE outbox SET due_at = ?3, reason = ?4 WHERE id = ?1 AND attempt = ?2")
            }
        };
        query
            .bind(&leased.message.id)
            .bind(leased.attempt)
            .bind(due_at)
            .bind(reason)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }
}
