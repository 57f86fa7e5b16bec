//! What bugs offers, and what it needs from others.

use kit::{Context, Error, Message};
use serde::{Deserialize, Serialize};

/// What is wrong, and who mends it.
#[kit::service]
pub trait Bugs {
    /// Reports a bug, and writes a mail to the reporter and the assignee. With an idempotency key, the same request
    /// made again gives the bug that it made the first time. The title is a line, and short enough for the subject of a
    /// mail.
    async fn create(
        &self,
        ctx: Context,
        #[kit(
            max_length = 200,
            pattern = r"^[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
        )]
        title: String,
        #[kit(max_length = 65536)] description: String,
        reporter: UserId,
        assignee: Option<UserId>,
    ) -> Result<Bug, Error>;

    /// The bug with this id.
    #[kit(idempotent)]
    async fn get(&self, ctx: Context, id: BugId) -> Result<Bug, Error>;

    /// Bugs in the order in which they were reported; of those only such as have the given status, reporter and
    /// assignee. `page_size` is at most 1000 (what is above counts as that) and 50 if absent; `page_token` is the
    /// `next_page_token` of the page before.
    #[kit(idempotent)]
    async fn list(
        &self,
        ctx: Context,
        status: Option<Status>,
        reporter: Option<UserId>,
        assignee: Option<UserId>,
        page_size: Option<u32>,
        #[kit(pattern = "^[0-9]{0,18}$")] page_token: Option<String>,
    ) -> Result<BugPage, Error>;

    /// Gives a bug to somebody, and writes a mail to that one and to the reporter. Giving it to whom it belongs
    /// changes nothing.
    #[kit(idempotent)]
    async fn assign(&self, ctx: Context, id: BugId, assignee: UserId) -> Result<Bug, Error>;

    /// Moves a bug along: open, in progress, resolved, closed; and back to open from each of them. Setting the
    /// status that it has changes nothing.
    #[kit(idempotent)]
    async fn set_status(&self, ctx: Context, id: BugId, status: Status) -> Result<Bug, Error>;

    /// Says something about a bug. With an idempotency key, the same request made again gives the comment that it
    /// made the first time.
    async fn comment(
        &self,
        ctx: Context,
        bug: BugId,
        author: UserId,
        #[kit(max_length = 65536, pattern = r"\S")] text: String,
    ) -> Result<Comment, Error>;

    /// What was said about a bug, the oldest first; pages as in `list`.
    #[kit(idempotent)]
    async fn comments(
        &self,
        ctx: Context,
        bug: BugId,
        page_size: Option<u32>,
        #[kit(pattern = "^[0-9]{0,18}$")] page_token: Option<String>,
    ) -> Result<CommentPage, Error>;
}

/// Names a bug: a UUID, version 7.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Message)]
pub struct BugId(pub String);

/// Names a user, as users says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Message)]
pub struct UserId(pub String);

/// How far a bug is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Message)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Nobody works on it.
    Open,
    /// Somebody works on it.
    InProgress,
    /// It is said to be mended.
    Resolved,
    /// It is known to be mended, or will not be.
    Closed,
}

/// A bug.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Message)]
pub struct Bug {
    /// Names the bug for ever.
    pub id: BugId,
    /// What it is, in a line.
    pub title: String,
    /// What happens, and how to make it happen.
    pub description: String,
    /// Who found it.
    pub reporter: UserId,
    /// Who is to mend it.
    pub assignee: Option<UserId>,
    /// How far it is.
    pub status: Status,
    /// When it was reported: RFC 3339, in UTC.
    pub created_at: String,
    /// When it last got another status or assignee.
    pub updated_at: String,
}

/// Some bugs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Message)]
pub struct BugPage {
    /// In the order in which they were reported.
    pub bugs: Vec<Bug>,
    /// Asks for the next page; absent on the last one.
    pub next_page_token: Option<String>,
}

/// Something that somebody said about a bug.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Message)]
pub struct Comment {
    /// Names the comment: a UUID, version 7.
    pub id: String,
    /// About which bug.
    pub bug: BugId,
    /// Who said it.
    pub author: UserId,
    /// What was said.
    pub text: String,
    /// When: RFC 3339, in UTC.
    pub created_at: String,
}

/// Some comments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Message)]
pub struct CommentPage {
    /// The oldest first.
    pub comments: Vec<Comment>,
    /// Asks for the next page; absent on the last one.
    pub next_page_token: Option<String>,
}

/// What bugs needs from users.
#[kit::service]
pub trait Users {
    /// The user with this id.
    #[kit(idempotent)]
    async fn get(&self, ctx: Context, id: UserId) -> Result<User, Error>;
}

/// A user, as far as bugs is concerned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Message)]
pub struct User {
    /// Names the user.
    pub id: UserId,
    /// Where mails reach the user.
    pub email: String,
}

/// What bugs needs from the notificator.
#[kit::service]
pub trait Notificator {
    /// Sends a mail, once for all calls with the same idempotency key.
    async fn send_email(
        &self,
        ctx: Context,
        to: String,
        subject: String,
        body: String,
    ) -> Result<Accepted, Error>;
}

/// The notificator took the mail, and will send it.
#[derive(Clone, Debug, Serialize, Deserialize, Message)]
pub struct Accepted {
    /// Names the mail.
    pub id: String,
}
