//! Real instances of users on loopback, with databases in files.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, and says where"
)]

mod bad_input;
mod mails;
mod program;
mod support;

use std::collections::BTreeMap;

use http::Request;
use kit::{Body, Code, Context};
use support::{Notificator, folder, start};
use users::api::{Users, UsersClient};

#[tokio::test]
async fn the_request_of_the_seed_creates_a_user_and_sends_a_welcome_mail() {
    let (notificator, mut mails) = Notificator::start();
    let folder = folder();
    let users = start(folder.path(), &[&notificator]);
    // What `curl -XPOST http://localhost:8800/create -d '{"email": "test"}'` sends.
    let request = Request::post("/create")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::full(r#"{"email": "test"}"#))
        .unwrap();
    let answer = users.send(request).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let user: BTreeMap<String, String> = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(user["email"], "test");
    assert_eq!(user.len(), 3);

    let mail = mails.recv().await.unwrap();
    assert_eq!(mail.to, "test");
    assert!(mail.body.contains(&user["id"]), "{}", mail.body);
}

#[tokio::test]
async fn users_are_created_found_and_listed_on_both_wires() {
    let folder = folder();
    let users = start(folder.path(), &[]);
    let (json, grpc) = (
        UsersClient::json(users.client()),
        UsersClient::grpc(users.client()),
    );
    let ctx = Context::new;

    let ada = json.create(ctx(), "ada@example.com".into()).await.unwrap();
    let bob = grpc.create(ctx(), "bob@example.com".into()).await.unwrap();
    assert_eq!(grpc.get(ctx(), ada.id.clone()).await.unwrap(), ada);
    assert_eq!(json.get(ctx(), bob.id.clone()).await.unwrap(), bob);
    let first = grpc.list(ctx(), Some(1), None).await.unwrap();
    assert_eq!(first.users, [ada]);
    let second = json
        .list(ctx(), Some(1), first.next_page_token)
        .await
        .unwrap();
    assert_eq!((second.users, second.next_page_token), (vec![bob], None));

    for client in [&json, &grpc] {
        let error = client
            .create(ctx(), "bob@example.com".into())
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::AlreadyExists);
        assert_eq!(error.violations()[0].field, "email");
        let error = client
            .get(ctx(), users::api::UserId("x".into()))
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
    }
}

#[tokio::test]
async fn the_same_key_creates_one_user_whichever_replica_is_asked_on_whichever_wire() {
    let folder = folder();
    let (one, other) = (start(folder.path(), &[]), start(folder.path(), &[]));
    let (one, other) = (
        UsersClient::json(one.client()),
        UsersClient::grpc(other.client()),
    );
    let ctx = || Context::new().with_idempotency_key("once".parse().unwrap());
    let (first, second) = tokio::join!(
        one.create(ctx(), "ada".into()),
        other.create(ctx(), "ada".into())
    );
    assert_eq!(first.unwrap(), second.unwrap());
    let page = one.list(Context::new(), None, None).await.unwrap();
    assert_eq!(page.users.len(), 1);
}

#[tokio::test]
async fn an_instance_is_ready_when_its_database_is_open() {
    let folder = folder();
    let users = start(folder.path(), &[]);
    assert_eq!(users.admin("/readyz").await.status, 200);
    assert_eq!(users.admin("/livez").await.status, 200);
    users.post("/create", r#"{"email": "test"}"#).await;
    let metrics = users.admin("/metrics").await.body;
    assert!(
        metrics.contains("http_server_request_duration_seconds"),
        "{metrics}"
    );
}
