//! What a caller may get wrong is told to the caller, and is nobody else's fault.

use crate::support::{files, folder, start};

#[tokio::test]
async fn a_mail_that_is_wrong_is_told_by_field_and_rule() {
    let folder = folder();
    let notificator = start(folder.path());
    let subject = "a".repeat(256);
    let body = "a".repeat(256 * 1024 + 1);
    for (mail, field) in [
        ("{", ""),
        ("{}", "to"),
        (r#"{"to": "a", "subject": "b"}"#, "body"),
        (r#"{"to": 1, "subject": "b", "body": "c"}"#, "to"),
        (
            r#"{"to": "a", "subject": "b", "body": "c", "bcc": "d"}"#,
            "bcc",
        ),
        (r#"{"to": "", "subject": "b", "body": "c"}"#, "to"),
        (r#"{"to": "a b", "subject": "b", "body": "c"}"#, "to"),
        (
            r#"{"to": "a\r\nBcc: d", "subject": "b", "body": "c"}"#,
            "to",
        ),
        (r#"{"to": "a,d", "subject": "b", "body": "c"}"#, "to"),
        (
            r#"{"to": "a", "subject": "b\r\nBcc: d", "body": "c"}"#,
            "subject",
        ),
        (
            &format!(r#"{{"to": "a", "subject": "{subject}", "body": "c"}}"#),
            "subject",
        ),
        (
            &format!(r#"{{"to": "a", "subject": "b", "body": "{body}"}}"#),
            "body",
        ),
    ] {
        let answer = notificator.post("/send_email", mail).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        let (named, rule) = answer.violation();
        assert_eq!(named, field, "{answer:?}");
        assert!(!rule.is_empty(), "{answer:?}");
    }
    let answer = notificator.post("/status", r#"{"id": "x"}"#).await;
    assert_eq!(
        (answer.status.as_u16(), answer.violation().0.as_str()),
        (404, "")
    );
    assert!(files(folder.path()).is_empty());
}

#[tokio::test]
async fn a_request_that_is_none_gets_its_status_and_a_problem() {
    let folder = folder();
    let notificator = start(folder.path());
    let large = format!(
        r#"{{"to": "a", "subject": "b", "body": "{}"}}"#,
        "a".repeat(2 << 20)
    );
    for (path, body, status) in [("/send_email", large.as_str(), 413), ("/mails", "{}", 404)] {
        let answer = notificator.post(path, body).await;
        assert_eq!(answer.status, status, "{answer:?}");
        answer.violation();
    }
}

#[tokio::test]
async fn grpc_gets_its_codes() {
    let folder = folder();
    let notificator = start(folder.path());
    // The fields 1 to 3 of `SendEmailRequest`, each a text of one letter.
    let mail = |to: u8| [0x0a, 1, to, 0x12, 1, b's', 0x1a, 1, b'b'];
    let gzip: &[_] = &[("grpc-encoding", "gzip")];
    for (path, headers, message, code) in [
        (
            "/notificator.Notificator/SendEmail",
            &[][..],
            &mail(b'a')[..],
            "0",
        ),
        ("/notificator.Notificator/SendEmail", &[], &mail(b' '), "3"),
        (
            "/notificator.Notificator/SendEmail",
            &[],
            &[0x0a, 0x7f],
            "3",
        ),
        (
            "/notificator.Notificator/SendEmail",
            gzip,
            &mail(b'a'),
            "12",
        ),
        (
            "/notificator.Notificator/Status",
            &[],
            &[0x0a, 1, b'x'],
            "5",
        ),
        ("/notificator.Notificator/Forget", &[], &[], "12"),
    ] {
        let answer = notificator.grpc(path, headers, message).await;
        assert_eq!(
            answer.headers["grpc-status"], code,
            "{path} {message:?} {answer:?}"
        );
    }
}
