//! Mails in the database.

use kit::{
    Context, Error,
    context::IdempotencyKey,
    outbox::Settlement,
    sqlite::{Database, Queued},
};
use sqlx::SqliteConnection;

use crate::{
    api::{MailId, MailStatus, State},
    mail::Mail,
};

/// The tables of this service.
pub(crate) const SCHEMA: &str = include_str!("notificator.sql");

/// Stores a mail and queues its delivery: both or neither. Says which mail it is: the one of the first call with
/// the idempotency key of `ctx`, or this one.
///
/// # Errors
/// The key was used with another mail.
pub(crate) async fn put(database: &Database, ctx: &Context, mail: &Mail) -> Result<MailId, Error> {
    let mut transaction = database.write().await?;
    let key = ctx.idempotency_key.as_ref().map(IdempotencyKey::as_str);
    if let Some(key) = key {
        let before: Option<(String, bool)> = sqlx::query_as(
            "SELECT id, recipient = ? AND subject = ? AND body = ? FROM mails \
             WHERE idempotency_key = ?",
        )
        .bind(&mail.to)
        .bind(&mail.subject)
        .bind(&mail.body)
        .bind(key)
        .fetch_optional(&mut *transaction)
        .await?;
        match before {
            Some((id, true)) => return Ok(MailId(id)),
            Some((_, false)) => {
                let rule = "was used for another request before";
                let error = Error::already_exists(format!("idempotency-key {rule}"));
                return Err(error.with_violation("idempotency-key", rule));
            }
            None => {}
        }
    }
    sqlx::query(
        "INSERT INTO mails (id, recipient, subject, body, created_at, idempotency_key) \
         VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(&mail.id.0)
    .bind(&mail.to)
    .bind(&mail.subject)
    .bind(&mail.body)
    .bind(mail.created_at)
    .bind(key)
    .execute(&mut *transaction)
    .await?;
    Queued::put(&mut transaction, ctx, &mail.id).await?;
    transaction.commit().await?;
    Ok(mail.id.clone())
}

/// The mail with this id.
pub(crate) async fn get(database: &Database, id: &MailId) -> Result<Option<Mail>, Error> {
    let row: Option<(String, String, String, i64)> =
        sqlx::query_as("SELECT recipient, subject, body, created_at FROM mails WHERE id = ?")
            .bind(&id.0)
            .fetch_optional(database.read())
            .await?;
    Ok(row.map(|(to, subject, body, created_at)| Mail {
        id: id.clone(),
        to,
        subject,
        body,
        created_at,
    }))
}

/// What became of the mail with this id.
pub(crate) async fn status(database: &Database, id: &MailId) -> Result<Option<MailStatus>, Error> {
    let row: Option<(String, Option<String>)> =
        sqlx::query_as("SELECT status, reason FROM mails WHERE id = ?")
            .bind(&id.0)
            .fetch_optional(database.read())
            .await?;
    Ok(row.map(|(status, reason)| MailStatus {
        id: id.clone(),
        status: match status.as_str() {
            "sent" => State::Sent,
            "failed" => State::Failed,
            _ => State::Queued,
        },
        reason,
    }))
}

/// Writes down what became of a delivery, in the transaction that `connection` is in.
pub(crate) async fn settled(
    connection: &mut SqliteConnection,
    id: &MailId,
    settlement: &Settlement,
) -> Result<(), Error> {
    let (status, reason) = match settlement {
        Settlement::Delivered => ("sent", None),
        Settlement::Postponed { reason, .. } => ("queued", Some(reason.message())),
        Settlement::Failed { reason } => ("failed", Some(reason.message())),
    };
    sqlx::query("UPDATE mails SET status = ?, reason = ? WHERE id = ?")
        .bind(status)
        .bind(reason)
        .bind(&id.0)
        .execute(connection)
        .await?;
    Ok(())
}
