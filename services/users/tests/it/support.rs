//! Instances on ports that the system chooses.

use std::path::Path;

use kit::{Context, Error, testing::Instance};
use tempfile::TempDir;
use tokio::sync::mpsc;
use users::api::{Accepted, NotificatorServer};

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Starts users, whose data is in `folder`, and which knows these notificators.
pub(crate) fn start(folder: &Path, notificators: &[&Notificator]) -> Instance {
    let addresses = notificators.iter().map(|notificator| {
        let address = notificator.running.address();
        address.to_string().parse().unwrap()
    });
    let fixed = [("notificator".parse().unwrap(), addresses.collect())];
    Instance::start(|server, listeners, stop| {
        let mut config = users::Config {
            server,
            data: folder.to_owned(),
            ..users::Config::default()
        };
        config.discovery.fixed.extend(fixed);
        users::run(config, listeners, stop)
    })
}

/// A mail as it came to a notificator.
#[derive(Clone, Debug)]
pub(crate) struct Mail {
    pub(crate) ctx: Context,
    pub(crate) to: String,
    pub(crate) body: String,
}

/// A notificator that hands mails to the test. It answers for real, over gRPC, and refuses as many mails as it is told.
pub(crate) struct Notificator {
    running: Instance,
}

#[derive(Clone)]
struct Handler {
    mails: mpsc::UnboundedSender<Mail>,
    answer: fn(&str) -> Result<(), Error>,
}

impl users::api::Notificator for Handler {
    async fn send_email(
        &self,
        ctx: Context,
        to: String,
        _: String,
        body: String,
    ) -> Result<Accepted, Error> {
        let answer = (self.answer)(&to);
        self.mails.send(Mail { ctx, to, body }).unwrap();
        answer.map(|()| Accepted { id: "1".to_owned() })
    }
}

impl Notificator {
    pub(crate) fn start() -> (Self, mpsc::UnboundedReceiver<Mail>) {
        Self::answering(|_| Ok(()))
    }

    /// One that answers as `answer` says, given the recipient.
    pub(crate) fn answering(
        answer: fn(&str) -> Result<(), Error>,
    ) -> (Self, mpsc::UnboundedReceiver<Mail>) {
        let (mails, receiver) = mpsc::unbounded_channel();
        let server = NotificatorServer::new(Handler { mails, answer });
        let running = Instance::serve("notificator", server);
        (Self { running }, receiver)
    }
}
