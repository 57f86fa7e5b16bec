//! What users offers, and what it needs from others.

use kit::{Context, Error, Message};
use serde::{Deserialize, Serialize};

/// Who uses the bug tracker.
#[kit::service]
pub trait Users {
    /// Creates a user and sends a welcome mail. With an idempotency key, the same request made again gives the
    /// user that it made the first time.
    ///
    /// The address is unique. It is what a form in HTML takes as one, or a mailbox on this machine, such as `test`: what
    /// the notificator can send a mail to; whether there is such a mailbox only a mail can tell. What is longer than 254
    /// does not fit into an SMTP path (RFC 5321, 4.5.3.1.3, as corrected by erratum 1690).
    async fn create(
        &self,
        ctx: Context,
        #[kit(
            max_length = 254,
            pattern = r"^[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]{1,62}(@[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*)?$"
        )]
        email: String,
    ) -> Result<User, Error>;

    /// The user with this id.
    #[kit(idempotent)]
    async fn get(&self, ctx: Context, id: UserId) -> Result<User, Error>;

    /// Users in the order in which they were created. `page_size` is at most 1000 (what is above counts as that)
    /// and 50 if absent; `page_token` is the `next_page_token` of the page before.
    #[kit(idempotent)]
    async fn list(
        &self,
        ctx: Context,
        page_size: Option<u32>,
        #[kit(pattern = "^[0-9]{0,18}$")] page_token: Option<String>,
    ) -> Result<UserPage, Error>;
}

/// Names a user: a UUID, version 7.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Message)]
pub struct UserId(pub String);

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Message)]
pub struct User {
    /// Names the user for ever.
    pub id: UserId,
    /// The address, as it was given.
    pub email: String,
    /// When the user was created: RFC 3339, in UTC.
    pub created_at: String,
}

/// Some users.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Message)]
pub struct UserPage {
    /// In the order in which they were created.
    pub users: Vec<User>,
    /// Asks for the next page; absent on the last one.
    pub next_page_token: Option<String>,
}

/// What users needs from the notificator.
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
