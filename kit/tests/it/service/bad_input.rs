//! Whatever a caller sends, it gets the right status, the field and the rule; and nobody else is blamed.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use kit::{
    Body, Code, Error,
    body::BodyLimit,
    classify::{Classify, HttpClassify, Outcome},
    error::{Problem, Violation},
};
use proptest::prelude::*;
use tower::ServiceExt;

use super::{LibraryServer, Shelf, State, book};

const GRPC: &[(&str, &str)] = &[("content-type", "application/grpc")];

async fn send(
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Response<Body> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(Body::full(body)).unwrap();
    request.extensions_mut().insert(BodyLimit(1000));
    let server = LibraryServer::new(Shelf::default());
    let response = server.oneshot(request).await.unwrap();
    // Neither a breaker nor a log takes it for the server's failure.
    let error = response.extensions().get::<Error>();
    if let Some(error) = error {
        assert_eq!(
            HttpClassify.classify(&response).outcome,
            Outcome::CallerFault,
            "{error}"
        );
        assert_ne!(error.code(), Code::Internal);
    }
    response
}

async fn post(path: &str, body: impl Into<Bytes>) -> Response<Body> {
    send(Method::POST, path, &[], body).await
}

async fn problem(response: Response<Body>) -> Problem {
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let problem: Problem = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem.status, status);
    problem
}

fn violation(field: &str, rule: &str) -> Vec<Violation> {
    vec![Violation {
        field: field.to_owned(),
        rule: rule.to_owned(),
    }]
}

/// The status of a response that has an error in its headers, and the first field that broke a rule.
fn grpc_error(response: &Response<Body>) -> (tonic::Code, String, String) {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    let status = tonic::Status::from_header_map(response.headers()).unwrap();
    let error = kit::wire::from_status(&status);
    let violation = error.violations().first();
    let (field, rule) = violation
        .map(|v| (v.field.clone(), v.rule.clone()))
        .unwrap_or_default();
    (status.code(), field, rule)
}

fn frame(message: &[u8]) -> Vec<u8> {
    let len = u32::try_from(message.len()).unwrap();
    [&[0], &len.to_be_bytes()[..], message].concat()
}

#[tokio::test]
async fn arguments_that_are_wrong_are_400_and_name_the_field_and_the_rule() {
    for (path, body, field, rule) in [
        ("/find_books", "{}", "text", "is required"),
        ("/find_books", "", "text", "is required"),
        (
            "/find_books",
            r#"{"text": 3}"#,
            "text",
            "must be a string, not integer `3`",
        ),
        (
            "/find_books",
            r#"{"text": "a", "limit": -1}"#,
            "limit",
            "must be an integer from 0 to 4294967295, not integer `-1`",
        ),
        (
            "/find_books",
            r#"{"text": "a", "offset": 1}"#,
            "offset",
            "is not a known field (expected `text` or `limit`)",
        ),
        (
            "/add",
            r#"{"book": {"title": "a", "state": "lost"}}"#,
            "book.state",
            "must be `on_shelf` or `lent_out`, not `lost`",
        ),
        (
            "/add",
            r#"{"book": {"title": ""}}"#,
            "book.state",
            "is required",
        ),
        (
            "/add",
            r#"{"book": {"title": "a", "state": "on_shelf", "notes": {"x": {"text": 1}}}}"#,
            "book.notes.x.text",
            "must be a string, not integer `1`",
        ),
        ("/add", r#"["a"]"#, "", "the body must be a JSON object"),
        (
            "/clear",
            r#"{"force": true}"#,
            "force",
            "is not a known field (there are no fields)",
        ),
    ] {
        let response = post(path, body).await;
        assert_eq!(response.status(), 400, "{path} {body}");
        let problem = problem(response).await;
        assert_eq!(problem.code, Some(Code::InvalidArgument));
        assert_eq!(problem.errors, violation(field, rule), "{path} {body}");
    }
}

#[tokio::test]
async fn a_body_that_is_no_json_is_400_and_says_so() {
    for body in [
        &b"{"[..],
        b"email=a",
        b"{\"text\": \"\xff\"}",
        b"\0",
        b"{} {}",
    ] {
        let response = post("/find_books", Bytes::copy_from_slice(body)).await;
        assert_eq!(response.status(), 400);
        let problem = problem(response).await;
        assert_eq!(problem.errors.len(), 1, "{problem:?}");
    }
}

#[tokio::test]
async fn the_content_type_of_json_does_not_matter() {
    for kind in [
        "application/x-www-form-urlencoded",
        "text/plain",
        "application/json; charset=utf-8",
    ] {
        let response = send(
            Method::POST,
            "/find_books",
            &[("content-type", kind)],
            r#" {"text": "a"} "#,
        )
        .await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/json");
    }
}

#[tokio::test]
async fn a_method_without_arguments_may_be_called_with_an_empty_body() {
    // Which fails, but not for its body.
    let server = LibraryServer::new(Shelf::default());
    let request = Request::post("/clear").body(Body::empty()).unwrap();
    let response = server.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 500);
    let error = response.extensions().get::<Error>().unwrap();
    let source = std::error::Error::source(error).unwrap();
    assert_eq!(source.to_string(), "the shelf is bolted to the wall");
    assert!(
        response
            .extensions()
            .get::<&'static kit::name::Method>()
            .is_some()
    );
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_and_out_of_range() {
    let long = format!(r#"{{"text": "{}"}}"#, "a".repeat(1000));
    let response = post("/find_books", long.clone()).await;
    assert_eq!(response.status(), 413);
    let problem = problem(response).await;
    assert_eq!(
        problem.errors,
        violation("", "must not be longer than 1000 bytes")
    );
    assert_eq!(Error::from(problem).code(), Code::OutOfRange);

    let grpc = frame(&[&[10, 0xe8, 7][..], &[b'a'; 1000]].concat());
    let response = send(Method::POST, "/acme.library.Library/FindBooks", GRPC, grpc).await;
    let (code, _, rule) = grpc_error(&response);
    assert_eq!(
        (code, &*rule),
        (
            tonic::Code::OutOfRange,
            "must not be longer than 1000 bytes"
        )
    );

    // And one that does not say how long it is.
    let endless = futures_util::stream::repeat_with(|| {
        Ok::<_, kit::BoxError>(http_body::Frame::data(Bytes::from_static(b"          ")))
    });
    let request = Request::post("/clear")
        .body(StreamBody::new(endless))
        .unwrap();
    let response = LibraryServer::new(Shelf::default())
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(response.status(), 413);
}

#[tokio::test]
async fn an_unknown_path_is_not_found_in_http_and_unimplemented_in_grpc() {
    for path in [
        "/",
        "/nothing",
        "/add/",
        "/ADD",
        "/acme.library.Library/Add",
        "/..",
        "/%61dd",
    ] {
        let response = post(path, "{}").await;
        assert_eq!(response.status(), 404, "{path}");
        assert_eq!(problem(response).await.code, Some(Code::NotFound));
    }
    for path in [
        "/add",
        "/acme.library.Library/Nothing",
        "/library.Library/Add",
        "/",
    ] {
        let response = send(Method::POST, path, GRPC, frame(b"")).await;
        assert_eq!(
            grpc_error(&response).0,
            tonic::Code::Unimplemented,
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_wrong_method_is_405_and_names_the_right_one() {
    for method in [
        Method::GET,
        Method::PUT,
        Method::HEAD,
        Method::OPTIONS,
        Method::DELETE,
    ] {
        let response = send(method, "/add", &[], "{}").await;
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()["allow"], "POST");
        problem(response).await;
    }
    let response = send(Method::PUT, "/acme.library.Library/Add", GRPC, frame(b"")).await;
    assert_eq!(grpc_error(&response).0, tonic::Code::Unimplemented);
}

#[tokio::test]
async fn a_bad_idempotency_key_is_400_and_names_the_header() {
    let long = "k".repeat(256);
    for key in ["", "two words", &long] {
        let response = send(Method::POST, "/clear", &[("idempotency-key", key)], "").await;
        assert_eq!(response.status(), 400);
        let rule = "must have 1 to 255 visible ASCII characters";
        assert_eq!(
            problem(response).await.errors,
            violation("idempotency-key", rule)
        );
        let headers = [GRPC, &[("idempotency-key", key)]].concat();
        let response = send(
            Method::POST,
            "/acme.library.Library/Clear",
            &headers,
            frame(b""),
        )
        .await;
        assert_eq!(
            grpc_error(&response),
            (
                tonic::Code::InvalidArgument,
                "idempotency-key".to_owned(),
                rule.to_owned()
            )
        );
    }
}

#[tokio::test]
async fn an_encoding_that_is_not_offered_is_unimplemented_and_says_which_is() {
    let headers = [GRPC, &[("grpc-encoding", "gzip")]].concat();
    let response = send(
        Method::POST,
        "/acme.library.Library/Clear",
        &headers,
        frame(b""),
    )
    .await;
    assert_eq!(grpc_error(&response).0, tonic::Code::Unimplemented);
    assert_eq!(response.headers()["grpc-accept-encoding"], "identity");

    let response = send(
        Method::POST,
        "/acme.library.Library/Clear",
        GRPC,
        vec![1, 0, 0, 0, 0],
    )
    .await;
    assert_eq!(grpc_error(&response).0, tonic::Code::Unimplemented);
    // Saying that there is none is fine.
    let headers = [GRPC, &[("grpc-encoding", "identity")]].concat();
    let response = send(
        Method::POST,
        "/acme.library.Library/FindBooks",
        &headers,
        frame(b""),
    )
    .await;
    assert!(response.headers().get("grpc-status").is_none());
}

#[tokio::test]
async fn a_message_that_is_none_is_an_invalid_argument_and_names_the_field() {
    let mut without_state = book("a");
    without_state.state = State::OnShelf;
    for (path, body, field, rule) in [
        ("Add", b"".to_vec(), "", "the body must have one message"),
        ("Add", vec![0, 0, 0], "", "the body must have one message"),
        (
            "Add",
            vec![0, 0, 0, 0, 9, 1],
            "",
            "the body must have one message",
        ),
        (
            "Add",
            vec![7, 0, 0, 0, 0],
            "",
            "the body must have one message",
        ),
        (
            "Add",
            [frame(b""), frame(b"")].concat(),
            "",
            "the body must have one message",
        ),
        ("Add", frame(&[0xff; 20]), "", "must be valid protobuf"),
        ("Add", frame(&[4]), "", "must be valid protobuf"),
        ("Add", frame(b""), "book", "is required"),
        ("Add", frame(&[10, 0]), "book.state", "is required"),
        (
            "Add",
            frame(&[10, 2, 24, 9]),
            "book.state",
            "must be a known value",
        ),
        ("Add", frame(&[10, 2, 24, 0]), "book.state", "is required"),
        (
            "Add",
            frame(&[10, 3, 10, 1, 0xff]),
            "book.title",
            "must be UTF-8",
        ),
        ("Add", frame(&[8, 1]), "book", "is of another type"),
        (
            "FindBooks",
            frame(&[10, 5, b'a']),
            "text",
            "must be valid protobuf",
        ),
    ] {
        let path = format!("/acme.library.Library/{path}");
        let response = send(Method::POST, &path, GRPC, body.clone()).await;
        let expected = (
            tonic::Code::InvalidArgument,
            field.to_owned(),
            rule.to_owned(),
        );
        assert_eq!(grpc_error(&response), expected, "{body:?}");
    }
}

#[tokio::test]
async fn a_caller_that_hangs_up_is_not_a_failure_of_the_server() {
    let broken = futures_util::stream::iter([
        Ok(http_body::Frame::data(Bytes::from_static(b"{"))),
        Err("connection reset"),
    ]);
    let request = Request::post("/clear")
        .body(StreamBody::new(broken))
        .unwrap();
    let response = LibraryServer::new(Shelf::default())
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(response.status(), 499);
    assert_eq!(
        HttpClassify.classify(&response).outcome,
        Outcome::CallerFault
    );
}

proptest! {
    #[test]
    fn no_bytes_make_the_server_panic_or_blame_itself(
        body in proptest::collection::vec(any::<u8>(), 0..200),
        framed in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            for path in ["/add", "/find_books"] {
                let response = post(path, body.clone()).await;
                assert!(response.status().as_u16() < 500);
            }
            for path in ["Add", "FindBooks"] {
                let body = if framed { frame(&body) } else { body.clone() };
                // Which asserts that the error, if there is one, is the caller's.
                send(Method::POST, &format!("/acme.library.Library/{path}"), GRPC, body).await;
            }
        });
    }

    #[test]
    fn no_json_makes_the_server_panic_or_blame_itself(json in r#"[{}\[\]",:a-z0-9 ]{0,60}"#) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            for path in ["/add", "/find_books"] {
                assert!(post(path, json.clone()).await.status().as_u16() < 500);
            }
        });
    }
}
