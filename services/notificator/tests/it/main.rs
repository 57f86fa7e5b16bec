//! Real instances of the notificator on loopback, with databases and mails in files, and a real exchange of SMTP.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, and says where"
)]

mod bad_input;
mod kill;
mod smtp;
mod support;

use kit::{Code, Context};
use notificator::api::{MailId, Notificator, NotificatorClient, State};
use support::{files, folder, settled, start};

#[tokio::test]
async fn a_mail_becomes_a_file_and_its_status_tells_on_both_wires() {
    let folder = folder();
    let instance = start(folder.path());
    let clients = [
        NotificatorClient::json(instance.client()),
        NotificatorClient::grpc(instance.client()),
    ];
    for client in clients {
        let mail = client.send_email(
            Context::new(),
            "test".into(),
            "Hello".into(),
            "How are you?".into(),
        );
        let id = mail.await.unwrap().id;
        let status = settled(&instance, &id).await;
        assert_eq!((status.status, status.reason), (State::Sent, None));
        let file = &files(folder.path())[&id.0];
        assert!(
            file.contains("To: test@localhost\r\nSubject: Hello\r\n"),
            "{file}"
        );
        assert!(file.ends_with("\r\n\r\nHow are you?"), "{file}");
        let error = client
            .status(Context::new(), MailId("x".into()))
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
    }
}

#[tokio::test]
async fn the_same_key_sends_one_mail_whichever_replica_is_asked_on_whichever_wire() {
    let folder = folder();
    let (one, other) = (start(folder.path()), start(folder.path()));
    let to_one = NotificatorClient::json(one.client());
    let to_other = NotificatorClient::grpc(other.client());
    let ctx = || Context::new().with_idempotency_key("users/1".parse().unwrap());
    let (first, second) = tokio::join!(
        to_one.send_email(ctx(), "test".into(), "Hello".into(), "".into()),
        to_other.send_email(ctx(), "test".into(), "Hello".into(), "".into())
    );
    let id = first.unwrap().id;
    assert_eq!(second.unwrap().id, id);
    let other_mail = to_one.send_email(ctx(), "test".into(), "Hello again".into(), "".into());
    let error = other_mail.await.unwrap_err();
    assert_eq!(error.code(), Code::AlreadyExists);
    assert_eq!(error.violations()[0].field, "idempotency-key");
    settled(&other, &id).await;
    assert_eq!(files(folder.path()).len(), 1);
}

#[tokio::test]
async fn without_a_key_each_call_is_a_mail() {
    let folder = folder();
    let instance = start(folder.path());
    let client = NotificatorClient::grpc(instance.client());
    for _ in 0..2 {
        let mail = client.send_email(Context::new(), "test".into(), "Hello".into(), "".into());
        settled(&instance, &mail.await.unwrap().id).await;
    }
    assert_eq!(files(folder.path()).len(), 2);
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_delays_a_mail_and_the_status_says_why() {
    let folder = folder();
    let instance = start(folder.path());
    // It answers once it has made the folder.
    instance.admin("/readyz").await;
    let mails = folder.path().join("mails");
    std::fs::remove_dir(&mails).unwrap();
    let client = NotificatorClient::grpc(instance.client());
    let mail = client.send_email(Context::new(), "test".into(), "Hello".into(), "".into());
    let id = mail.await.unwrap().id;
    let delayed = support::status_with(&instance, &id, |status| status.reason.is_some()).await;
    assert_eq!(delayed.status, State::Queued);
    std::fs::create_dir(&mails).unwrap();
    let status = settled(&instance, &id).await;
    assert_eq!((status.status, status.reason), (State::Sent, None));
    assert_eq!(files(folder.path()).len(), 1);
}
