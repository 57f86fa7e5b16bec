//! The program itself, killed as no destructor expects it.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use kit::Context;
use notificator::api::{Notificator, NotificatorClient, State};
use serde_json::Value;

use crate::support::{client, files, folder};

/// The running program and its log.
struct Program {
    child: Child,
    log: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Drop for Program {
    fn drop(&mut self) {
        // SIGKILL.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_notificator"))
            .env_clear()
            .env("KIT_SERVER__LISTEN", "127.0.0.1:0")
            .env("KIT_LOG__FORMAT", "json")
            .env("KIT_DATA", folder)
            // A mail that a dead instance had leased is not waited for that long.
            .env("KIT_DELIVERY__LEASE", "1s")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stdout.take().unwrap());
        let mut program = Self {
            child,
            log,
            address: ([127, 0, 0, 1], 0).into(),
        };
        let listening = program.line("listening");
        program.address = listening["address"].as_str().unwrap().parse().unwrap();
        program
    }

    /// The next line of the log with this message.
    fn line(&mut self, message: &str) -> Value {
        loop {
            let mut line = String::new();
            assert_ne!(self.log.read_line(&mut line).unwrap(), 0, "the log ended");
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["message"] == message {
                return line;
            }
        }
    }
}

#[tokio::test]
async fn a_mail_that_was_accepted_survives_sigkill_and_is_sent_once() {
    let folder = folder();
    let mut accepted = Vec::new();
    for round in 0..3 {
        let program = Program::start(folder.path());
        let notificator = NotificatorClient::grpc(client(program.address));
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
    let program = Program::start(folder.path());
    let notificator = NotificatorClient::json(client(program.address));
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
