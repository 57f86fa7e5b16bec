//! The storage of an [`Outbox`]: one table beside those of the service.

use std::{future::Future, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use sqlx::SqliteConnection;
use uuid::Uuid;

use super::{Database, millis, now};
use crate::{
    Context, Error,
    context::TraceContext,
    error::Chain,
    outbox::{Leased, Outbox, Settlement, Undelivered},
};

/// The migration that makes the table.
pub const OUTBOX: &str = include_str!("outbox.sql");

/// Who delivers the messages of a [`StoredOutbox`].
pub trait Deliver: Send + Sync + 'static {
    /// What a message says; stored as JSON.
    type Payload: DeserializeOwned + Send + Sync + 'static;

    /// Delivers one message, under [its id](Queued::id) as the idempotency key. Cancelled after half of the lease.
    fn deliver(
        &self,
        message: &Queued<Self::Payload>,
    ) -> impl Future<Output = Result<(), Undelivered>> + Send;

    /// Writes down elsewhere what became of a message, in the transaction in which the table learns it. Does nothing
    /// where nobody needs it.
    fn settled(
        &self,
        _connection: &mut SqliteConnection,
        _message: &Queued<Self::Payload>,
        _settlement: &Settlement,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        async { Ok(()) }
    }
}

/// The table of a database as an [`Outbox`], for the worker.
#[derive(Clone, Debug)]
pub struct StoredOutbox<D> {
    /// Where messages wait, in the table of [`OUTBOX`].
    pub database: Database,
    /// Who delivers them.
    pub deliver: D,
}

impl<D: Deliver> Outbox for StoredOutbox<D> {
    type Message = Queued<D::Payload>;

    async fn lease(
        &self,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<Leased<Self::Message>>, Error> {
        Queued::lease(&self.database, limit, lease).await
    }

    async fn deliver(&self, message: &Self::Message) -> Result<(), Undelivered> {
        self.deliver.deliver(message).await
    }

    async fn settle(
        &self,
        leased: &Leased<Self::Message>,
        settlement: Settlement,
    ) -> Result<(), Error> {
        let mut transaction = self.database.write().await?;
        if Queued::settle(&mut transaction, leased, &settlement).await? {
            let message = &leased.message;
            self.deliver
                .settled(&mut transaction, message, &settlement)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}

/// A message in the table.
#[derive(Clone, Debug)]
pub struct Queued<M> {
    /// Names the message for ever: the key by which its receiver knows it again.
    pub id: String,
    /// What is to be delivered.
    pub payload: M,
    /// The trace of the call that caused it.
    pub trace: Option<TraceContext>,
}

impl<M> Queued<M> {
    /// The context in which it is delivered: the trace goes on, and the deadline of the call that caused it does
    /// not hold.
    pub fn context(&self) -> Context {
        Context {
            trace: self.trace,
            ..Context::new()
        }
    }
}

impl<M: Serialize> Queued<M> {
    /// Queues a message that the call of `context` causes, in the transaction that `connection` is in. After the
    /// commit, [wake](crate::outbox::Wake::wake) the worker.
    pub async fn put(
        connection: &mut SqliteConnection,
        context: &Context,
        payload: &M,
    ) -> Result<(), Error> {
        sqlx::query("INSERT INTO outbox (id, payload, traceparent, due_at) VALUES (?, ?, ?, ?)")
            .bind(Uuid::now_v7().to_string())
            .bind(serde_json::to_string(payload).map_err(Error::internal)?)
            .bind(context.trace.map(|trace| trace.to_string()))
            .bind(now())
            .execute(connection)
            .await?;
        Ok(())
    }
}

impl<M: DeserializeOwned> Queued<M> {
    /// [`Outbox::lease`] for messages of this type.
    async fn lease(
        database: &Database,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<Leased<Self>>, Error> {
        let now = now();
        // Reading first leaves the one writer alone while there is nothing to do.
        let due: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM outbox WHERE due_at <= ?)")
                .bind(now)
                .fetch_one(database.read())
                .await?;
        if !due {
            return Ok(Vec::new());
        }
        let mut transaction = database.write().await?;
        let rows: Vec<(String, String, Option<String>, u32)> = sqlx::query_as(
            "UPDATE outbox SET attempt = attempt + 1, due_at = ? WHERE id IN \
             (SELECT id FROM outbox WHERE due_at <= ? ORDER BY due_at LIMIT ?) \
             RETURNING id, payload, traceparent, attempt",
        )
        .bind(now.saturating_add(millis(lease)))
        .bind(now)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut *transaction)
        .await?;
        transaction.commit().await?;

        let mut batch = Vec::with_capacity(rows.len());
        for (id, payload, traceparent, attempt) in rows {
            match serde_json::from_str(&payload) {
                Ok(payload) => batch.push(Leased {
                    message: Self {
                        id,
                        payload,
                        trace: traceparent.and_then(|text| text.parse().ok()),
                    },
                    attempt,
                }),
                // Another version of the service wrote it, and may take it when the lease is over.
                Err(error) => tracing::error!(id, %error, "a queued message cannot be read"),
            }
        }
        Ok(batch)
    }
}

impl<M> Queued<M> {
    /// [`Outbox::settle`], in the transaction that `connection` is in: forgets what was delivered, and keeps what
    /// failed with the reason. Says whether the lease was still valid; if not, nothing was changed.
    async fn settle(
        connection: &mut SqliteConnection,
        leased: &Leased<Self>,
        settlement: &Settlement,
    ) -> Result<bool, Error> {
        let Leased {
            message: Self { id, trace, .. },
            attempt,
        } = leased;
        let trace_id = trace.map(|trace| tracing::field::display(trace.trace_id()));
        let postpone = |due_at: Option<i64>, reason: &Error| {
            sqlx::query("UPDATE outbox SET due_at = ?, reason = ? WHERE id = ? AND attempt = ?")
                .bind(due_at)
                .bind(reason.to_string())
        };
        let query = match settlement {
            Settlement::Delivered => {
                tracing::info!(trace_id, id, attempt, "queued message delivered");
                sqlx::query("DELETE FROM outbox WHERE id = ? AND attempt = ?")
            }
            Settlement::Postponed { delay, reason } => {
                tracing::warn!(
                    trace_id,
                    id,
                    attempt,
                    ?delay,
                    error = %Chain(reason),
                    "queued message not delivered; it is tried again"
                );
                postpone(Some(now().saturating_add(millis(*delay))), reason)
            }
            Settlement::Failed { reason } => {
                tracing::error!(trace_id, id, attempt, error = %Chain(reason), "queued message given up");
                postpone(None, reason)
            }
        };
        // Whoever leased it anew has counted one attempt more.
        let settled = query.bind(id).bind(attempt).execute(connection).await?;
        Ok(settled.rows_affected() == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(60);

    async fn two_replicas() -> (tempfile::TempDir, Database, Database) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let one = Database::open(&path, &[OUTBOX]).await.unwrap();
        let other = Database::open(&path, &[OUTBOX]).await.unwrap();
        (folder, one, other)
    }

    async fn put(database: &Database, payload: &str) {
        let mut transaction = database.write().await.unwrap();
        let context = Context {
            trace: Some(TraceContext::root()),
            ..Context::new()
        };
        Queued::put(&mut transaction, &context, &payload.to_owned())
            .await
            .unwrap();
        transaction.commit().await.unwrap();
    }

    async fn lease(database: &Database, lease: Duration) -> Vec<Leased<Queued<String>>> {
        Queued::lease(database, 10, lease).await.unwrap()
    }

    async fn settle(
        database: &Database,
        leased: &Leased<Queued<String>>,
        settlement: Settlement,
    ) -> bool {
        let mut transaction = database.write().await.unwrap();
        let settled = Queued::settle(&mut transaction, leased, &settlement).await;
        transaction.commit().await.unwrap();
        settled.unwrap()
    }

    #[tokio::test]
    async fn a_message_is_leased_to_one_replica_at_a_time_with_its_trace() {
        let (_folder, one, other) = two_replicas().await;
        put(&one, "a").await;
        let (of_one, of_other) = tokio::join!(lease(&one, LEASE), lease(&other, LEASE));
        let leased: Vec<_> = of_one.into_iter().chain(of_other).collect();
        assert_eq!(leased.len(), 1);
        assert_eq!(leased[0].message.payload, "a");
        assert!(leased[0].message.context().trace.is_some());
        assert!(settle(&other, &leased[0], Settlement::Delivered).await);
        assert!(lease(&one, LEASE).await.is_empty());
    }

    #[tokio::test]
    async fn what_a_dead_replica_had_leased_is_delivered_by_another_and_only_that_one_settles_it() {
        let (_folder, dead, other) = two_replicas().await;
        put(&dead, "a").await;
        let late = lease(&dead, Duration::ZERO).await.remove(0);
        let again = lease(&other, LEASE).await.remove(0);
        assert_eq!((late.attempt, again.attempt), (1, 2));
        assert_eq!(late.message.id, again.message.id);
        assert!(!settle(&dead, &late, Settlement::Delivered).await);
        assert!(settle(&other, &again, Settlement::Delivered).await);
    }

    #[tokio::test]
    async fn a_postponed_message_waits_and_a_failed_one_is_kept_for_a_person() {
        let (_folder, one, _other) = two_replicas().await;
        put(&one, "a").await;
        let leased = lease(&one, LEASE).await.remove(0);
        let postponed = |delay| Settlement::Postponed {
            delay,
            reason: Error::unavailable("not now"),
        };
        settle(&one, &leased, postponed(LEASE)).await;
        assert!(lease(&one, LEASE).await.is_empty());
        settle(&one, &leased, postponed(Duration::ZERO)).await;
        let leased = lease(&one, LEASE).await.remove(0);
        let reason = Error::invalid("to", "is wrong");
        settle(&one, &leased, Settlement::Failed { reason }).await;
        assert!(lease(&one, LEASE).await.is_empty());
        let kept: Vec<String> = sqlx::query_scalar("SELECT reason FROM outbox")
            .fetch_all(one.read())
            .await
            .unwrap();
        assert_eq!(kept, ["invalid_argument: to is wrong"]);
    }

    #[tokio::test]
    async fn a_message_that_cannot_be_read_does_not_hold_up_the_others() {
        let (_folder, one, _other) = two_replicas().await;
        put(&one, "a").await;
        sqlx::query("UPDATE outbox SET payload = '{'")
            .execute(one.read())
            .await
            .unwrap();
        put(&one, "b").await;
        let batch = lease(&one, LEASE).await;
        assert_eq!(batch.len(), 1);
        assert_eq!(batch[0].message.payload, "b");
    }
}
