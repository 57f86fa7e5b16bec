//! What the notificator offers.

use kit::{Context, Error, Message};
use serde::{Deserialize, Serialize};

/// Tells people what happened.
#[kit::service]
pub trait Notificator {
    /// Sends a mail. When this returns, the mail is stored and will be sent, whatever is killed; `status` tells
    /// whether it was. All calls with the same idempotency key send one mail.
    ///
    /// A recipient is what a form in HTML takes as an e-mail address, or a mailbox on this machine, such as `test`; so it
    /// has no letters that not every mail server takes. The body fits into a request however JSON spells it.
    async fn send_email(
        &self,
        ctx: Context,
        #[kit(
            max_length = 254,
            pattern = r"^[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]{1,62}(@[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*)?$"
        )]
        to: String,
        #[kit(max_length = 255, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")] subject: String,
        #[kit(max_length = 80000)] body: String,
    ) -> Result<Accepted, Error>;

    /// What became of a mail.
    #[kit(idempotent)]
    async fn status(&self, ctx: Context, id: MailId) -> Result<MailStatus, Error>;
}

/// Names a mail: a UUID, version 7.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Message)]
pub struct MailId(pub String);

/// The mail is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Message)]
pub struct Accepted {
    /// Names the mail.
    pub id: MailId,
}

/// How far a mail got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Message)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It waits for its turn or for another try.
    Queued,
    /// It is where it should be: handed to the mail server, or written as a file.
    Sent,
    /// It is not tried again.
    Failed,
}

/// What became of a mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Message)]
pub struct MailStatus {
    /// Names the mail.
    pub id: MailId,
    /// How far it got.
    pub status: State,
    /// Why it is not sent, where a try failed.
    pub reason: Option<String>,
}
