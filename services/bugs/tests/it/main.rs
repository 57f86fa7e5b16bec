//! The three services together, on loopback, with databases and mails in files.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, and says where"
)]

mod bad_input;
mod support;

use bugs::api::{Bugs, BugsClient, Status, UserId};
use kit::{Code, Context, testing::Instance};
use support::{Tracker, start_bugs, start_notificator, start_users};

fn mail(to: &str, subject: &str) -> (String, String) {
    (to.to_owned(), subject.to_owned())
}

#[tokio::test]
async fn users_are_welcomed_and_hear_of_their_bugs() {
    let tracker = Tracker::start();
    let ada = tracker.user("ada@example.com").await;
    let bob = tracker.user("bob").await;
    let bugs = BugsClient::grpc(tracker.bugs.client());
    let ctx = Context::new;
    let bug = bugs
        .create(
            ctx(),
            "Crash".into(),
            "It crashes.".into(),
            ada.clone(),
            None,
        )
        .await
        .unwrap();
    assert_eq!((bug.status, &bug.assignee), (Status::Open, &None));
    let assigned = bugs
        .assign(ctx(), bug.id.clone(), bob.clone())
        .await
        .unwrap();
    assert_eq!(assigned.assignee, Some(bob.clone()));
    let welcome = "Welcome to the bug tracker";
    assert_eq!(
        tracker.mails(5).await,
        [
            mail("ada@example.com", "Assigned: Crash"),
            mail("ada@example.com", welcome),
            mail("ada@example.com", "You reported: Crash"),
            mail("bob@localhost", "Assigned to you: Crash"),
            mail("bob@localhost", welcome),
        ]
    );

    // The rest of a bug's life, over the other wire.
    let bugs = BugsClient::json(tracker.bugs.client());
    let said = bugs
        .comment(ctx(), bug.id.clone(), bob.clone(), "I see.".into())
        .await
        .unwrap();
    let page = bugs
        .comments(ctx(), bug.id.clone(), None, None)
        .await
        .unwrap();
    assert_eq!(page.comments, [said]);
    for status in [
        Status::InProgress,
        Status::Resolved,
        Status::Closed,
        Status::Open,
    ] {
        let moved = bugs
            .set_status(ctx(), bug.id.clone(), status)
            .await
            .unwrap();
        assert_eq!(moved.status, status);
    }
    let of_bob = bugs
        .list(ctx(), Some(Status::Open), None, Some(bob), None, None)
        .await
        .unwrap();
    assert_eq!(of_bob.bugs.len(), 1);
    assert_eq!(of_bob.bugs[0].id, bug.id);
    assert_eq!(tracker.mails(5).await.len(), 5);
}

#[tokio::test]
async fn without_users_a_bug_is_unavailable_and_comes_back_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let notificator = start_notificator(folder.path());
    let users = start_users(folder.path(), notificator.address());
    let nowhere = {
        let gone = start_users(folder.path(), notificator.address());
        gone.address()
    };
    let bugs = start_bugs(folder.path(), nowhere, notificator.address());
    let report = |bugs: &Instance, reporter: &str| {
        let bugs = BugsClient::json(bugs.client());
        let reporter = UserId(reporter.to_owned());
        async move {
            bugs.create(Context::new(), "Crash".into(), "".into(), reporter, None)
                .await
        }
    };
    let error = report(&bugs, "ada").await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(error.message(), "users could not be asked");

    let bugs = start_bugs(folder.path(), users.address(), notificator.address());
    let error = report(&bugs, "ada").await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert_eq!(error.violations()[0].field, "reporter");
}

#[tokio::test]
async fn the_same_key_makes_one_bug_whichever_replica_is_asked() {
    let tracker = Tracker::start();
    let ada = tracker.user("ada").await;
    let folder = tracker.folder.path();
    let other = start_bugs(
        folder,
        tracker.users.address(),
        tracker.notificator.address(),
    );
    let ctx = || Context::new().with_idempotency_key("once".parse().unwrap());
    let one = BugsClient::json(tracker.bugs.client());
    let other = BugsClient::grpc(other.client());
    let (first, second) = tokio::join!(
        one.create(
            ctx(),
            "Crash".into(),
            "".into(),
            ada.clone(),
            Some(ada.clone())
        ),
        other.create(
            ctx(),
            "Crash".into(),
            "".into(),
            ada.clone(),
            Some(ada.clone())
        )
    );
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(
        tracker.mails(2).await,
        [
            mail("ada@localhost", "Assigned to you: Crash"),
            mail("ada@localhost", "Welcome to the bug tracker"),
        ]
    );
}
