//! Comments in the database.

use kit::{
    Context, Error,
    sqlite::{self, Database},
};
use serde::Serialize;
use uuid::Uuid;

use super::{Page, cut, find, get, made_before, no_bug, remember};
use crate::api::{BugId, Comment, CommentPage, UserId};

/// What somebody wants to say.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NewComment {
    pub(crate) bug: BugId,
    pub(crate) author: UserId,
    pub(crate) text: String,
}

/// The place in the list first.
type CommentRow = (i64, String, String, String, String, i64);

fn comment((_, id, bug, author, text, created_at): CommentRow) -> Comment {
    Comment {
        id,
        bug: BugId(bug),
        author: UserId(author),
        text,
        created_at: sqlite::rfc3339(created_at),
    }
}

/// Adds a comment. Says whether it is new, or was made by the same request before.
///
/// # Errors
/// There is no such bug; the idempotency key of `ctx` was used with another request.
pub(crate) async fn add_comment(
    database: &Database,
    ctx: &Context,
    new: NewComment,
) -> Result<(Comment, bool), Error> {
    let mut transaction = database.write().await?;
    if let Some(id) = made_before(&mut transaction, ctx, "comment", &new).await? {
        let row: CommentRow = sqlx::query_as(
            "SELECT seq, id, bug, author, text, created_at FROM comments WHERE id = ?",
        )
        .bind(id)
        .fetch_one(&mut *transaction)
        .await?;
        return Ok((comment(row), false));
    }
    find(&mut transaction, &new.bug).await?.ok_or_else(no_bug)?;
    let id = Uuid::now_v7().to_string();
    remember(&mut transaction, ctx, "comment", &new, &id).await?;
    let row: CommentRow = sqlx::query_as(
        "INSERT INTO comments (id, bug, author, text, created_at) VALUES (?, ?, ?, ?, ?) \
         RETURNING seq, id, bug, author, text, created_at",
    )
    .bind(id)
    .bind(new.bug.0)
    .bind(new.author.0)
    .bind(new.text)
    .bind(sqlite::now())
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok((comment(row), true))
}

/// The comments of one page.
pub(crate) async fn comments(
    database: &Database,
    bug: &BugId,
    page: Page,
) -> Result<CommentPage, Error> {
    get(database, bug).await?;
    let rows: Vec<CommentRow> = sqlx::query_as(
        "SELECT seq, id, bug, author, text, created_at FROM comments \
         WHERE bug = ? AND seq > ? ORDER BY seq LIMIT ?",
    )
    .bind(&bug.0)
    .bind(page.after)
    .bind(i64::from(page.size) + 1)
    .fetch_all(database.read())
    .await?;
    let (rows, next_page_token) = cut(rows, page.size, |row| row.0);
    Ok(CommentPage {
        comments: rows.into_iter().map(comment).collect(),
        next_page_token,
    })
}
