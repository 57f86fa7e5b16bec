//! The program itself, killed as no destructor expects it.

use std::{path::Path, process::Command};

use kit::{Context, testing::Process};
use notificator::api::{Notificator, NotificatorClient, State};

use crate::support::{files, folder};

fn start(folder: &Path) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_notificator"));
    command
        .env_clear()
        .env("KIT_DATA", folder)
        // A mail that a dead instance had leased is not waited for that long.
        .env("KIT_DELIVERY__LEASE", "1s");
    Process::start(command)
}

#[tokio::test]
async fn a_mail_that_was_accepted_survives_sigkill_and_is_sent_once() {
    let folder = folder();
    let mut accepted = Vec::new();
    for round in 0..3 {
        let program = start(folder.path());
        let notificator = NotificatorClient::grpc(program.client());
        for number in 0..10 {
            let to = format!("user-{round}-{number}");
            let key = to.parse().unwrap();
            let ctx = Context::new().with_idempotency_key(key);
            let mail = notificator.send_email(ctx, to.clone(), "Hello".into(), "".into());
            accepted.push((to, mail.await.unwrap().id));
        }
        // At once, while some are not written yet.
        drop(program);
    }
    let program = start(folder.path());
    let notificator = NotificatorClient::json(program.client());
    for (to, id) in &accepted {
        // Nobody sends it again by asking again.
        let ctx = Context::new().with_idempotency_key(to.parse().unwrap());
        let again = notificator.send_email(ctx, to.clone(), "Hello".into(), "".into());
        assert_eq!(again.await.unwrap().id, *id);
        while notificator
            .status(Context::new(), id.clone())
            .await
            .unwrap()
            .status
            != State::Sent
        {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
    let mut files = files(folder.path());
    // What a killed instance was writing is left behind, hidden; it is no mail.
    files.retain(|name, _| !name.starts_with('.'));
    assert_eq!(files.len(), accepted.len());
    for (to, id) in &accepted {
        assert!(files[&id.0].contains(&format!("To: {to}@localhost\r\n")));
    }
}
