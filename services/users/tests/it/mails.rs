//! The welcome mail, from the request that causes it to the notificator.

use kit::{Code, Context, Error, context::TraceContext};
use users::api::{Users, UsersClient};

use crate::support::{Notificator, folder, start};

#[tokio::test]
async fn the_mail_goes_on_in_the_trace_of_the_request() {
    let (notificator, mut mails) = Notificator::start();
    let folder = folder();
    let users = start(folder.path(), &[&notificator]);
    let trace: TraceContext = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        .parse()
        .unwrap();
    let ctx = Context {
        trace: Some(trace),
        ..Context::new()
    };
    let client = UsersClient::json(users.client());
    let user = client.create(ctx, "test".into()).await.unwrap();
    let mail = mails.recv().await.unwrap();
    assert!(mail.body.contains(&user.id.0));
    let sent = mail.ctx.trace.unwrap();
    assert_eq!(sent.trace_id().to_string(), trace.trace_id().to_string());
}

#[tokio::test]
async fn a_mail_that_the_notificator_cannot_take_now_is_sent_again_with_the_same_key() {
    let (notificator, mut mails) = Notificator::answering(|_| {
        static REFUSALS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        match REFUSALS.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0..3 => Err(Error::unavailable("not now")),
            _ => Ok(()),
        }
    });
    let folder = folder();
    let users = start(folder.path(), &[&notificator]);
    users.post("/create", r#"{"email": "test"}"#).await;
    let mut keys = Vec::new();
    for _ in 0..4 {
        keys.push(mails.recv().await.unwrap().ctx.idempotency_key.unwrap());
    }
    keys.dedup();
    assert_eq!(keys.len(), 1, "{keys:?}");
    users.stop().await.unwrap();
    assert!(
        mails.try_recv().is_err(),
        "it was sent once more after it was taken"
    );
}

#[tokio::test]
async fn a_mail_waits_for_a_notificator_over_a_restart() {
    let folder = folder();
    let users = start(folder.path(), &[]);
    users.post("/create", r#"{"email": "test"}"#).await;
    users.stop().await.unwrap();
    let (notificator, mut mails) = Notificator::start();
    let _users = start(folder.path(), &[&notificator]);
    assert_eq!(mails.recv().await.unwrap().to, "test");
}

#[tokio::test]
async fn a_mail_that_is_wrong_does_not_hold_up_the_next_one() {
    let (notificator, mut mails) = Notificator::answering(|to| match to {
        "nobody" => Err(Error::invalid("to", "must be a mailbox")),
        _ => Ok(()),
    });
    let folder = folder();
    let users = start(folder.path(), &[&notificator]);
    for email in ["nobody", "test"] {
        let client = UsersClient::grpc(users.client());
        client.create(Context::new(), email.into()).await.unwrap();
        assert_eq!(mails.recv().await.unwrap().to, email);
    }
    users.stop().await.unwrap();
    assert!(mails.try_recv().is_err());
}

#[tokio::test]
async fn replicas_share_the_mails_and_send_each_once() {
    let (notificator, mut mails) = Notificator::start();
    let folder = folder();
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(start(folder.path(), &[&notificator]));
    }
    let mut expected = Vec::new();
    for number in 0..30 {
        let client = UsersClient::json(replicas[number % 3].client());
        let email = format!("user-{number:02}");
        client.create(Context::new(), email.clone()).await.unwrap();
        expected.push(email);
    }
    let mut sent = Vec::new();
    for _ in 0..30 {
        sent.push(mails.recv().await.unwrap().to);
    }
    sent.sort();
    assert_eq!(sent, expected);
    for replica in replicas {
        replica.stop().await.unwrap();
    }
    assert!(mails.try_recv().is_err());
}

#[tokio::test]
async fn what_is_refused_sends_no_mail() {
    let (notificator, mut mails) = Notificator::start();
    let folder = folder();
    let users = start(folder.path(), &[&notificator]);
    let client = UsersClient::grpc(users.client());
    for email in ["a b", "", "a\r\nBcc: b"] {
        let error = client
            .create(Context::new(), email.into())
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
    }
    client.create(Context::new(), "test".into()).await.unwrap();
    client
        .create(Context::new(), "test".into())
        .await
        .unwrap_err();
    assert_eq!(mails.recv().await.unwrap().to, "test");
    users.stop().await.unwrap();
    assert!(mails.try_recv().is_err());
}
