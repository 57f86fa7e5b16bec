//! The program itself: its log, its end, and being killed as no destructor expects it.

use std::{path::Path, process::Command};

use kit::{Context, context::TraceContext, testing::Process};
use users::api::{Users, UsersClient};

use crate::support::folder;

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_users"));
    command
        .env_clear()
        .env("KIT_DATA", folder)
        // The port of the discard protocol, where nobody listens.
        .env("KIT_DISCOVERY__FIXED__NOTIFICATOR", "127.0.0.1:9");
    command
}

#[tokio::test]
async fn the_create_is_a_line_in_the_log_with_the_trace_of_the_request() {
    let folder = folder();
    let mut users = Process::start(command(folder.path()));
    let trace: TraceContext = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        .parse()
        .unwrap();
    let ctx = Context {
        trace: Some(trace),
        ..Context::new()
    };
    let client = UsersClient::json(users.client());
    let user = client.create(ctx, "test".into()).await.unwrap();
    let line = users.logged("user created");
    assert_eq!(line["trace_id"], trace.trace_id().to_string(), "{line}");
    assert_eq!(line["user_id"], user.id.0, "{line}");
    assert_eq!(line["email"], "test", "{line}");
}

#[tokio::test]
async fn what_was_acknowledged_survives_sigkill_and_is_done_once() {
    let folder = folder();
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let program = Process::start(command(folder.path()));
        let users = UsersClient::grpc(program.client());
        for number in 0..10 {
            let email = format!("user-{round}-{number}");
            acknowledged.push(users.create(Context::new(), email).await.unwrap());
        }
        // While requests are in flight.
        let last = tokio::spawn(async move {
            let key = format!("last-{round}").parse().unwrap();
            let ctx = Context::new().with_idempotency_key(key);
            users.create(ctx, format!("last-{round}")).await
        });
        tokio::task::yield_now().await;
        drop(program);
        let answered = last.await.unwrap();
        // Nobody knows whether it was done; asked again with the same key, it is done once.
        let program = Process::start(command(folder.path()));
        let key = format!("last-{round}").parse().unwrap();
        let ctx = Context::new().with_idempotency_key(key);
        let users = UsersClient::json(program.client());
        let again = users.create(ctx, format!("last-{round}")).await.unwrap();
        if let Ok(answered) = answered {
            assert_eq!(answered, again);
        }
        acknowledged.push(again);
    }
    let program = Process::start(command(folder.path()));
    let users = UsersClient::json(program.client());
    let page = users.list(Context::new(), Some(1000), None).await.unwrap();
    assert_eq!(page.users, acknowledged);
}

#[tokio::test]
async fn sigterm_ends_it_with_success() {
    let folder = folder();
    let mut program = Process::start(command(folder.path()));
    let users = UsersClient::json(program.client());
    users.create(Context::new(), "test".into()).await.unwrap();
    program.signal("TERM");
    program.logged("stopped");
    assert!(program.wait().success());
}

#[test]
fn what_keeps_it_from_starting_is_told_and_is_no_success() {
    let folder = folder();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let output = command(folder.path())
        .env("KIT_SERVER__LISTEN", &taken)
        .env("KIT_SERVER__ADMIN", "127.0.0.1:0")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains(&taken), "{error}");

    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let output = command(&file)
        .env("KIT_SERVER__LISTEN", "127.0.0.1:0")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("the folder of the database"), "{error}");
}
