//! Users in the database.

use kit::{Error, context::IdempotencyKey};
use uuid::Uuid;

use crate::{
    api::{User, UserPage},
    db::{self, Database},
    outbox::{self, Mail},
};

/// Why a user was not created, or not read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another user has this address.
    #[error("the address is taken")]
    EmailTaken,
    /// The idempotency key came with another address before.
    #[error("the idempotency key belongs to another request")]
    KeyReused,
    /// No list of users gave this page token.
    #[error("not a page token")]
    NoSuchPage,
    /// SQLite said no.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::EmailTaken => {
                let rule = "belongs to another user";
                Self::already_exists(format!("email {rule}")).with_violation("email", rule)
            }
            StoreError::KeyReused => {
                Self::invalid("idempotency-key", "was used for another request before")
            }
            StoreError::NoSuchPage => {
                Self::invalid("page_token", "must be a next_page_token that list gave")
            }
            StoreError::Database(error)
                if db::is_busy(&error) || matches!(error, sqlx::Error::PoolTimedOut) =>
            {
                Self::unavailable("the database is busy").with_source(error)
            }
            StoreError::Database(error) => Self::internal(error),
        }
    }
}

type Row = (String, String, i64);

fn user((id, email, created_at): Row) -> User {
    User {
        id,
        email,
        created_at: db::rfc3339(created_at),
    }
}

/// What came of creating a user.
#[derive(Debug)]
pub enum Created {
    /// There is a new user.
    New(User),
    /// The same request was made before and made this user.
    Before(User),
}

impl Database {
    /// Creates a user and queues the mail that `welcome` writes, both or neither. A second call with the same
    /// key finds the user of the first.
    pub async fn create(
        &self,
        email: &str,
        key: Option<&IdempotencyKey>,
        welcome: impl FnOnce(&User) -> Mail,
    ) -> Result<Created, StoreError> {
        let mut transaction = self.write().await?;
        if let Some(key) = key {
            let before: Option<Row> =
                sqlx::query_as("SELECT id, email, created_at FROM users WHERE idempotency_key = ?")
                    .bind(key.as_str())
                    .fetch_optional(&mut *transaction)
                    .await?;
            match before.map(user) {
                Some(user) if user.email == email => return Ok(Created::Before(user)),
                Some(_) => return Err(StoreError::KeyReused),
                None => {}
            }
        }
        let row = (Uuid::now_v7().to_string(), email.to_owned(), db::now());
        sqlx::query("INSERT INTO users (id, email, created_at, idempotency_key) VALUES (?, ?, ?, ?)")
            .bind(&row.0)
            .bind(&row.1)
            .bind(row.2)
            .bind(key.map(IdempotencyKey::as_str))
            .execute(&mut *transaction)
            .await
            .map_err(|error| match error.as_database_error() {
                // Ids do not collide and the key was looked for, so it is the address.
                Some(violated) if violated.is_unique_violation() => StoreError::EmailTaken,
                _ => error.into(),
            })?;
        let user = user(row);
        outbox::put(&mut transaction, &welcome(&user)).await?;
        transaction.commit().await?;
        Ok(Created::New(user))
    }

    /// The user with this id.
    pub async fn get(&self, id: &str) -> Result<Option<User>, StoreError> {
        let row: Option<Row> =
            sqlx::query_as("SELECT id, email, created_at FROM users WHERE id = ?")
                .bind(id)
                .fetch_optional(self.read())
                .await?;
        Ok(row.map(user))
    }

    /// Up to `size` users in the order in which they were created, beginning after the one whose id is `after`.
    pub async fn list(&self, size: u32, after: Option<&str>) -> Result<UserPage, StoreError> {
        let after: i64 = match after {
            None => 0,
            Some(id) => sqlx::query_scalar("SELECT seq FROM users WHERE id = ?")
                .bind(id)
                .fetch_optional(self.read())
                .await?
                .ok_or(StoreError::NoSuchPage)?,
        };
        // One more than asked for tells whether there is a next page.
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT id, email, created_at FROM users WHERE seq > ? ORDER BY seq LIMIT ?",
        )
        .bind(after)
        .bind(i64::from(size) + 1)
        .fetch_all(self.read())
        .await?;
        let more = rows.len() > size as usize;
        let users: Vec<User> = rows.into_iter().map(user).take(size as usize).collect();
        let next_page_token = users.last().filter(|_| more).map(|user| user.id.clone());
        Ok(UserPage {
            users,
            next_page_token,
        })
    }
}
