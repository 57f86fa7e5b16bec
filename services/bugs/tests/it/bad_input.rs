//! What a caller may get wrong is told to the caller, and is nobody else's fault.

use bugs::api::{Bugs, BugsClient, Status};
use kit::{Code, Context};

use crate::support::Tracker;

#[tokio::test]
async fn a_bug_that_is_wrong_is_told_by_field_and_rule() {
    let tracker = Tracker::start();
    let ada = tracker.user("ada").await.0;
    let report = |title: &str, reporter: &str, rest: &str| {
        format!(r#"{{"title": "{title}", "description": "", "reporter": "{reporter}"{rest}}}"#)
    };
    for (body, field) in [
        ("[".to_owned(), ""),
        ("{}".to_owned(), "title"),
        (report("", &ada, ""), "title"),
        (report("  ", &ada, ""), "title"),
        (report("a\\nb", &ada, ""), "title"),
        (report(&"a".repeat(201), &ada, ""), "title"),
        (report("Crash", &ada, r#", "assignee": 7"#), "assignee"),
        (report("Crash", &ada, r#", "severity": "high""#), "severity"),
    ] {
        let answer = tracker.bugs.post("/create", &body).await;
        assert_eq!(answer.status, 400, "{body} {answer:?}");
        let (named, rule) = answer.violation();
        assert_eq!(named, field, "{body} {answer:?}");
        assert!(!rule.is_empty(), "{body} {answer:?}");
    }
    for (path, body, field) in [
        ("/list", r#"{"status": "lost"}"#, "status"),
        ("/list", r#"{"page_token": "x"}"#, "page_token"),
        ("/set_status", r#"{"id": "x", "status": "lost"}"#, "status"),
        (
            "/comment",
            r#"{"bug": "x", "author": "y", "text": ""}"#,
            "text",
        ),
        (
            "/comment",
            r#"{"bug": "x", "author": "y", "text": " \n"}"#,
            "text",
        ),
    ] {
        let answer = tracker.bugs.post(path, body).await;
        assert_eq!(answer.status, 400, "{body} {answer:?}");
        assert_eq!(answer.violation().0, field, "{body} {answer:?}");
    }
    for (body, field) in [
        (report("Crash", "nobody", ""), "reporter"),
        (
            report("Crash", &ada, r#", "assignee": "nobody""#),
            "assignee",
        ),
    ] {
        let answer = tracker.bugs.post("/create", &body).await;
        assert_eq!(answer.status, 404, "{body} {answer:?}");
        let expected = (field.to_owned(), "must be a known user".to_owned());
        assert_eq!(answer.violation(), expected);
    }
    let large = report(&"a".repeat(2 << 20), &ada, "");
    for (path, body, status) in [
        ("/create", large.as_str(), 413),
        ("/get", r#"{"id": "x"}"#, 404),
        ("/forget", "{}", 404),
    ] {
        let answer = tracker.bugs.post(path, body).await;
        assert_eq!(answer.status, status, "{answer:?}");
        answer.violation();
    }
}

#[tokio::test]
async fn grpc_gets_its_codes() {
    let tracker = Tracker::start();
    let gzip: &[_] = &[("grpc-encoding", "gzip")];
    for (path, headers, message, code) in [
        ("/bugs.Bugs/List", &[][..], &[][..], "0"),
        // The field 1 of `ListRequest`, a status that nobody knows.
        ("/bugs.Bugs/List", &[], &[0x08, 99], "3"),
        ("/bugs.Bugs/List", gzip, &[], "12"),
        ("/bugs.Bugs/Create", &[], &[], "3"),
        ("/bugs.Bugs/Get", &[], &[0x0a, 1, b'x'], "5"),
        ("/bugs.Bugs/Forget", &[], &[], "12"),
    ] {
        let answer = tracker.bugs.grpc(path, headers, message).await;
        assert_eq!(
            answer.headers["grpc-status"], code,
            "{path} {message:?} {answer:?}"
        );
    }
}

#[tokio::test]
async fn a_change_of_status_that_is_not_allowed_says_which_are() {
    let tracker = Tracker::start();
    let ada = tracker.user("ada").await;
    for client in [
        BugsClient::json(tracker.bugs.client()),
        BugsClient::grpc(tracker.bugs.client()),
    ] {
        let bug = client.create(Context::new(), "Crash".into(), "".into(), ada.clone(), None);
        let id = bug.await.unwrap().id;
        let closed = client.set_status(Context::new(), id.clone(), Status::Closed);
        let error = closed.await.unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition);
        assert!(error.message().ends_with("allowed: in_progress"), "{error}");
        let moved = client
            .set_status(Context::new(), id, Status::InProgress)
            .await;
        assert_eq!(moved.unwrap().status, Status::InProgress);
    }
}
