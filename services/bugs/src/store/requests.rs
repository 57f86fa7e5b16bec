//! Requests that came with an idempotency key, so that they are done once.

use kit::{Context, Error};
use serde::Serialize;
use sqlx::SqliteConnection;

/// What the same request made before, if it did.
pub(super) async fn made_before(
    connection: &mut SqliteConnection,
    ctx: &Context,
    method: &str,
    request: &impl Serialize,
) -> Result<Option<String>, Error> {
    let Some(key) = &ctx.idempotency_key else {
        return Ok(None);
    };
    let row: Option<(String, String)> =
        sqlx::query_as("SELECT request, made FROM requests WHERE idempotency_key = ?")
            .bind(key.as_str())
            .fetch_optional(connection)
            .await?;
    match row {
        None => Ok(None),
        Some((before, made)) if before == text(method, request)? => Ok(Some(made)),
        Some(_) => {
            let rule = "was used for another request before";
            let error = Error::already_exists(format!("idempotency-key {rule}"));
            Err(error.with_violation("idempotency-key", rule))
        }
    }
}

/// Keeps what a request makes, for when it comes again.
pub(super) async fn remember(
    connection: &mut SqliteConnection,
    ctx: &Context,
    method: &str,
    request: &impl Serialize,
    made: &str,
) -> Result<(), Error> {
    if let Some(key) = &ctx.idempotency_key {
        sqlx::query("INSERT INTO requests (idempotency_key, request, made) VALUES (?, ?, ?)")
            .bind(key.as_str())
            .bind(text(method, request)?)
            .bind(made)
            .execute(connection)
            .await?;
    }
    Ok(())
}

fn text(method: &str, request: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(&(method, request)).map_err(Error::internal)
}
