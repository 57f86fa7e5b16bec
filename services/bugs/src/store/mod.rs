//! Bugs in the database.

mod comments;
mod requests;

use kit::{
    Context, Error,
    sqlite::{self, Database, Queued},
};
use serde::Serialize;
use sqlx::SqliteConnection;
use uuid::Uuid;

use crate::{
    api::{Bug, BugId, BugPage, Status, UserId},
    outbox::Mail,
};
pub(crate) use comments::{NewComment, add_comment, comments};
use requests::{made_before, remember};

/// The tables of this service.
pub(crate) const SCHEMA: &str = include_str!("bugs.sql");

/// The place in the list first.
type BugRow = (
    i64,
    String,
    String,
    String,
    String,
    Option<String>,
    String,
    i64,
    i64,
);

fn bug(row: BugRow) -> Result<Bug, Error> {
    let (_, id, title, description, reporter, assignee, status, created_at, updated_at) = row;
    Ok(Bug {
        id: BugId(id),
        title,
        description,
        reporter: UserId(reporter),
        assignee: assignee.map(UserId),
        // A later version of this service may know more.
        status: Status::named(&status)
            .ok_or_else(|| Error::internal(format!("unknown status {status}")))?,
        created_at: sqlite::rfc3339(created_at),
        updated_at: sqlite::rfc3339(updated_at),
    })
}

/// What somebody wants to report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NewBug {
    pub(crate) title: String,
    pub(crate) description: String,
    pub(crate) reporter: UserId,
    pub(crate) assignee: Option<UserId>,
}

/// Which bugs are asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) status: Option<Status>,
    pub(crate) reporter: Option<UserId>,
    pub(crate) assignee: Option<UserId>,
}

/// One page of a list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    /// How many there are on it at most.
    pub(crate) size: u32,
    /// The place behind which it begins.
    pub(crate) after: i64,
}

/// Reports a bug and queues the mails that `notify` writes: all or nothing. Says whether it is new, or was made by
/// the same request before.
///
/// # Errors
/// The idempotency key of `ctx` was used with another request.
pub(crate) async fn create(
    database: &Database,
    ctx: &Context,
    new: NewBug,
    notify: impl FnOnce(&Bug) -> Vec<Mail>,
) -> Result<(Bug, bool), Error> {
    let mut transaction = database.write().await?;
    if let Some(id) = made_before(&mut transaction, ctx, "create", &new).await? {
        let made = find(&mut transaction, &BugId(id)).await?;
        return Ok((made.ok_or_else(no_bug)?, false));
    }
    let id = Uuid::now_v7().to_string();
    remember(&mut transaction, ctx, "create", &new, &id).await?;
    let row: BugRow = sqlx::query_as(
        "INSERT INTO bugs (id, title, description, reporter, assignee, status, created_at, updated_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, 'open', ?6, ?6) \
         RETURNING seq, id, title, description, reporter, assignee, status, created_at, updated_at",
    )
    .bind(id)
    .bind(new.title)
    .bind(new.description)
    .bind(new.reporter.0)
    .bind(new.assignee.map(|user| user.0))
    .bind(sqlite::now())
    .fetch_one(&mut *transaction)
    .await?;
    let bug = bug(row)?;
    for mail in notify(&bug) {
        Queued::put(&mut transaction, ctx, &mail).await?;
    }
    transaction.commit().await?;
    Ok((bug, true))
}

/// The bug with this id.
pub(crate) async fn get(database: &Database, id: &BugId) -> Result<Bug, Error> {
    let mut connection = database.read().acquire().await?;
    find(&mut connection, id).await?.ok_or_else(no_bug)
}

async fn find(connection: &mut SqliteConnection, id: &BugId) -> Result<Option<Bug>, Error> {
    let row: Option<BugRow> = sqlx::query_as(
        "SELECT seq, id, title, description, reporter, assignee, status, created_at, updated_at \
         FROM bugs WHERE id = ?",
    )
    .bind(&id.0)
    .fetch_optional(connection)
    .await?;
    row.map(bug).transpose()
}

fn no_bug() -> Error {
    Error::not_found("there is no bug with this id")
}

/// The bugs of one page.
pub(crate) async fn list(
    database: &Database,
    filter: Filter,
    page: Page,
) -> Result<BugPage, Error> {
    let rows: Vec<BugRow> = sqlx::query_as(
        "SELECT seq, id, title, description, reporter, assignee, status, created_at, updated_at \
         FROM bugs WHERE seq > ?1 AND (?2 IS NULL OR status = ?2) \
         AND (?3 IS NULL OR reporter = ?3) AND (?4 IS NULL OR assignee = ?4) \
         ORDER BY seq LIMIT ?5",
    )
    .bind(page.after)
    .bind(filter.status.map(Status::as_str))
    .bind(filter.reporter.map(|user| user.0))
    .bind(filter.assignee.map(|user| user.0))
    .bind(i64::from(page.size) + 1)
    .fetch_all(database.read())
    .await?;
    let (rows, next_page_token) = cut(rows, page.size, |row| row.0);
    Ok(BugPage {
        bugs: rows.into_iter().map(bug).collect::<Result<_, _>>()?,
        next_page_token,
    })
}

/// Gives a bug to `assignee` and queues the mails that `notify` writes, all or nothing. Says whether anything
/// changed.
pub(crate) async fn assign(
    database: &Database,
    ctx: &Context,
    id: &BugId,
    assignee: &UserId,
    notify: impl FnOnce(&Bug) -> Vec<Mail>,
) -> Result<(Bug, bool), Error> {
    let mut transaction = database.write().await?;
    let bug = find(&mut transaction, id).await?.ok_or_else(no_bug)?;
    if bug.assignee.as_ref() == Some(assignee) {
        return Ok((bug, false));
    }
    sqlx::query("UPDATE bugs SET assignee = ?, updated_at = ? WHERE id = ?")
        .bind(&assignee.0)
        .bind(sqlite::now())
        .bind(&id.0)
        .execute(&mut *transaction)
        .await?;
    let bug = find(&mut transaction, id).await?.ok_or_else(no_bug)?;
    for mail in notify(&bug) {
        Queued::put(&mut transaction, ctx, &mail).await?;
    }
    transaction.commit().await?;
    Ok((bug, true))
}

/// Changes a bug's status, if that is allowed. Says whether anything changed.
pub(crate) async fn set_status(
    database: &Database,
    id: &BugId,
    status: Status,
) -> Result<(Bug, bool), Error> {
    let mut transaction = database.write().await?;
    let bug = find(&mut transaction, id).await?.ok_or_else(no_bug)?;
    if bug.status == status {
        return Ok((bug, false));
    }
    bug.status.check_change(status)?;
    sqlx::query("UPDATE bugs SET status = ?, updated_at = ? WHERE id = ?")
        .bind(status.as_str())
        .bind(sqlite::now())
        .bind(&id.0)
        .execute(&mut *transaction)
        .await?;
    let bug = find(&mut transaction, id).await?.ok_or_else(no_bug)?;
    transaction.commit().await?;
    Ok((bug, true))
}

/// Takes away the one row more than asked for that tells whether there is a next page; then it begins behind the
/// `place` of the last one.
fn cut<R>(mut rows: Vec<R>, size: u32, place: impl Fn(&R) -> i64) -> (Vec<R>, Option<String>) {
    let more = rows.len() > size as usize;
    rows.truncate(size as usize);
    let last = rows.last().filter(|_| more);
    let next = last.map(|row| place(row).to_string());
    (rows, next)
}
