//! What a caller may get wrong is told to the caller, and is nobody else's fault.

use kit::Body;

use crate::support::{folder, start};

#[tokio::test]
async fn a_body_that_is_wrong_is_told_by_field_and_rule() {
    let folder = folder();
    let users = start(folder.path(), &[]);
    let long = format!("a@{}example", "b.".repeat(130));
    for (body, field) in [
        ("", "email"),
        ("{}", "email"),
        ("{", ""),
        (r#"{"email": 7}"#, "email"),
        (r#"{"email": null}"#, "email"),
        (r#"{"email": "test", "name": "Ada"}"#, "name"),
        (r#"{"email": ""}"#, "email"),
        (r#"{"email": "a b"}"#, "email"),
        (r#"{"email": " a"}"#, "email"),
        (r#"{"email": "a\u00a0b"}"#, "email"),
        (r#"{"email": "\u007f"}"#, "email"),
        (r#"{"email": "a\u0085"}"#, "email"),
        (r#"{"email": "a\u0000b"}"#, "email"),
        (r#"{"email": "a\r\nBcc: b"}"#, "email"),
        (r#"{"email": "@"}"#, "email"),
        // The notificator could send it no mail.
        (r#"{"email": "jürgen@bücher.example"}"#, "email"),
        (&format!(r#"{{"email": "{long}"}}"#), "email"),
    ] {
        let answer = users.post("/create", body).await;
        assert_eq!(answer.status, 400, "{body} {answer:?}");
        let (named, rule) = answer.violation();
        assert_eq!(named, field, "{body} {answer:?}");
        assert!(!rule.is_empty(), "{body} {answer:?}");
    }
    for body in [
        r#"{"page_size": -1}"#,
        r#"{"page_size": 1.5}"#,
        r#"{"page_size": 4294967296}"#,
    ] {
        let answer = users.post("/list", body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.violation().0.as_str()),
            (400, "page_size")
        );
    }
    let answer = users.post("/list", r#"{"page_token": "x"}"#).await;
    assert_eq!(answer.violation().0, "page_token");
    let listed = users.post("/list", "{}").await;
    assert_eq!(listed.body, r#"{"users":[],"next_page_token":null}"#);
    for email in ["test", "ada@example.com", "ada.lovelace+bugs@example.com"] {
        let body = format!(r#"{{"email": "{email}"}}"#);
        let answer = users.post("/create", &body).await;
        assert_eq!(answer.status, 200, "{email} {answer:?}");
    }
}

#[tokio::test]
async fn a_request_that_is_none_gets_its_status_and_a_problem() {
    let folder = folder();
    let users = start(folder.path(), &[]);
    let large = format!(r#"{{"email": "{}"}}"#, "a".repeat(2 << 20));
    let answer = users.post("/create", &large).await;
    assert_eq!(answer.status, 413, "{answer:?}");
    answer.violation();
    let answer = users.post("/delete", "{}").await;
    assert_eq!(answer.status, 404, "{answer:?}");
    answer.violation();
    let get = http::Request::get("/create").body(Body::empty()).unwrap();
    let answer = users.send(get).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.headers["allow"]),
        (405, &"POST".parse().unwrap())
    );
    answer.violation();
    let keyed = http::Request::post("/create")
        .header("idempotency-key", "a b")
        .body(Body::full(r#"{"email": "test"}"#))
        .unwrap();
    let answer = users.send(keyed).await;
    assert_eq!(
        (answer.status.as_u16(), answer.violation().0.as_str()),
        (400, "idempotency-key")
    );
}

#[tokio::test]
async fn grpc_gets_its_codes() {
    let folder = folder();
    let users = start(folder.path(), &[]);
    // The field 1 of `CreateRequest`, a text.
    let create = |email: &str| {
        [
            &[0x0a, u8::try_from(email.len()).unwrap()],
            email.as_bytes(),
        ]
        .concat()
    };
    let gzip: &[_] = &[("grpc-encoding", "gzip")];
    for (path, headers, message, code) in [
        ("/users.Users/Create", &[][..], create("test"), "0"),
        ("/users.Users/Create", &[], create("test"), "6"),
        ("/users.Users/Create", &[], create("a b"), "3"),
        // A field that claims to be longer than the message.
        ("/users.Users/Create", &[], vec![0x0a, 0x7f], "3"),
        // A number where a text belongs.
        ("/users.Users/Create", &[], vec![0x08, 0x01], "3"),
        // Over the limit of a body.
        ("/users.Users/Create", &[], vec![0; 2 << 20], "11"),
        ("/users.Users/Create", gzip, create("other"), "12"),
        ("/users.Users/Delete", &[], Vec::new(), "12"),
        ("/users.Nobody/Create", &[], Vec::new(), "12"),
    ] {
        let answer = users.grpc(path, headers, &message).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["grpc-status"], code, "{path} {answer:?}");
    }
}

#[tokio::test]
async fn nothing_of_it_counts_as_a_failure_of_the_server() {
    let folder = folder();
    let users = start(folder.path(), &[]);
    for body in ["{", r#"{"email": ""}"#] {
        users.post("/create", body).await;
    }
    users.post("/nothing", "{}").await;
    // The recorder is one for all tests of this process, and no test makes users fail.
    let metrics = users.admin("/metrics").await.body;
    let failures: Vec<_> = metrics
        .lines()
        .filter(|line| line.contains("_server_") && line.contains(r#"outcome="failure""#))
        .collect();
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(metrics.contains(r#"outcome="caller_fault""#), "{metrics}");
}
