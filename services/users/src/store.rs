//! Users in the database.

use kit::{
    Context, Error,
    context::IdempotencyKey,
    sqlite::{self, Database, Queued},
};
use uuid::Uuid;

use crate::{
    api::{User, UserId, UserPage},
    outbox::Mail,
};

/// The tables of this service.
pub(crate) const SCHEMA: &str = include_str!("users.sql");

/// The place, the id, the address and the time.
type Row = (i64, String, String, i64);

fn user((_, id, email, created_at): Row) -> User {
    User {
        id: UserId(id),
        email,
        created_at: sqlite::rfc3339(created_at),
    }
}

/// What came of creating a user.
#[derive(Debug)]
pub(crate) enum Created {
    /// There is a new user.
    New(User),
    /// The same request made this user before.
    Before(User),
}

/// Creates a user and queues the mail that `welcome` writes: both or neither.
///
/// # Errors
/// The address belongs to another user; the idempotency key of `ctx` was used with another address.
pub(crate) async fn create(
    database: &Database,
    ctx: &Context,
    email: String,
    welcome: impl FnOnce(&User) -> Mail,
) -> Result<Created, Error> {
    let mut transaction = database.write().await?;
    let key = ctx.idempotency_key.as_ref().map(IdempotencyKey::as_str);
    if let Some(key) = key {
        let before: Option<Row> = sqlx::query_as(
            "SELECT seq, id, email, created_at FROM users WHERE idempotency_key = ?",
        )
        .bind(key)
        .fetch_optional(&mut *transaction)
        .await?;
        match before.map(user) {
            Some(user) if user.email == email => return Ok(Created::Before(user)),
            Some(_) => {
                let rule = "was used for another request before";
                let error = Error::already_exists(format!("idempotency-key {rule}"));
                return Err(error.with_violation("idempotency-key", rule));
            }
            None => {}
        }
    }
    let row: Option<Row> = sqlx::query_as(
        "INSERT INTO users (id, email, created_at, idempotency_key) VALUES (?, ?, ?, ?) \
         ON CONFLICT (email) DO NOTHING RETURNING seq, id, email, created_at",
    )
    .bind(Uuid::now_v7().to_string())
    .bind(email)
    .bind(sqlite::now())
    .bind(key)
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(row) = row else {
        let rule = "belongs to another user";
        let error = Error::already_exists(format!("email {rule}"));
        return Err(error.with_violation("email", rule));
    };
    let user = user(row);
    Queued::put(&mut transaction, ctx, &welcome(&user)).await?;
    transaction.commit().await?;
    Ok(Created::New(user))
}

/// The user with this id.
pub(crate) async fn get(database: &Database, id: &UserId) -> Result<Option<User>, Error> {
    let row: Option<Row> =
        sqlx::query_as("SELECT seq, id, email, created_at FROM users WHERE id = ?")
            .bind(&id.0)
            .fetch_optional(database.read())
            .await?;
    Ok(row.map(user))
}

/// Up to `size` users in the order in which they were created, beginning behind the place `after`.
pub(crate) async fn list(database: &Database, size: u32, after: i64) -> Result<UserPage, Error> {
    // One more than asked for tells whether there is a next page.
    let mut rows: Vec<Row> = sqlx::query_as(
        "SELECT seq, id, email, created_at FROM users WHERE seq > ? ORDER BY seq LIMIT ?",
    )
    .bind(after)
    .bind(i64::from(size) + 1)
    .fetch_all(database.read())
    .await?;
    let more = rows.len() > size as usize;
    rows.truncate(size as usize);
    let last = rows.last().filter(|_| more);
    Ok(UserPage {
        next_page_token: last.map(|row| row.0.to_string()),
        users: rows.into_iter().map(user).collect(),
    })
}
