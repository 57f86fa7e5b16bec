//! What a peer may do, and how long.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use http::{Request, StatusCode, Version, header};
use tokio::io::AsyncWriteExt;

use super::*;

const SHORT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_head_that_does_not_come_to_an_end_ends_the_connection() {
    let mut config = config();
    config.header_read_timeout = SHORT;
    let server = Running::start(config, "slow", app());
    for start in ["", "P", "POST /echo HTTP/1.1\r\nhost: ", "PRI * HT"] {
        let mut stream = connect(server.address, start).await;
        assert_eq!(read_to_end(&mut stream).await, "", "{start:?}");
    }
    // Nor does it help to say a little again and again.
    let mut stream = connect(server.address, "POST /echo HTTP/1.1\r\n").await;
    let drip = async {
        while stream.write_all(b"x: y\r\n").await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    tokio::time::timeout(SOON, drip).await.unwrap();
    server.ended().await;
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed() {
    let mut config = config();
    config.idle = SHORT;
    let server = Running::start(config, "idle", app());
    let request = "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi";
    let mut stream = connect(server.address, request).await;
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    server.ended().await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let server = Running::start(config(), "large-head", app());
    let long = "x".repeat(20 * 1024);
    let request = Request::post(format!("http://{}/echo", server.address)).header("x-long", &long);
    let (parts, _) = ask(Version::HTTP_11, request, "").await;
    assert_eq!(parts.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    server.ended().await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_announced_or_not() {
    let mut config = config();
    config.body_limit = 4;
    let server = Running::start(config.clone(), "large", assembled(&config, "large"));
    let head = "POST /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\n";
    for (rest, status) in [
        ("content-length: 4\r\n\r\n1234", "200"),
        ("content-length: 5\r\n\r\n12345", "413"),
        (
            "transfer-encoding: chunked\r\n\r\n4\r\n1234\r\n0\r\n\r\n",
            "200",
        ),
    ] {
        let mut stream = connect(server.address, &format!("{head}{rest}")).await;
        let answer = read_to_end(&mut stream).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
    let url = format!("http://{}/echo", server.address);
    let grpc = Request::post(url).header(header::CONTENT_TYPE, "application/grpc");
    let (parts, _) = ask(Version::HTTP_2, grpc, "12345").await;
    assert_eq!(parts.headers["grpc-status"], "11");
    server.ended().await;
}

#[tokio::test]
async fn connections_above_the_limit_wait() {
    let mut config = config();
    config.max_connections = NonZeroUsize::new(1).unwrap();
    let server = Running::start(config, "crowded", app());
    let request = "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi";
    let mut first = connect(server.address, request).await;
    let mut byte = [0];
    first.read_exact(&mut byte).await.unwrap();
    let mut second = connect(server.address, request).await;
    let early = tokio::time::timeout(SHORT, second.read_exact(&mut byte)).await;
    assert!(early.is_err(), "it is not served while the first is open");
    drop(first);
    let late = tokio::time::timeout(SOON, second.read_exact(&mut byte)).await;
    late.unwrap().unwrap();
    drop(second);
    server.ended().await;
}

#[tokio::test]
async fn one_http2_connection_has_no_more_streams_than_allowed() {
    let mut config = config();
    config.max_streams = NonZeroU32::new(2).unwrap();
    let (app, mut requests) = held();
    let server = Running::start(config, "streams", app);
    let client: Client<HttpConnector, Body> = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    // One request first, so that the client has read what the server allows.
    let ask = || {
        let request = Request::post(format!("http://{}/", server.address)).version(Version::HTTP_2);
        tokio::spawn(client.request(request.body(Body::empty()).unwrap()))
    };
    let first = ask();
    requests.recv().await.unwrap().send(()).unwrap();
    first.await.unwrap().unwrap();
    let asked = [ask(), ask(), ask()];
    let begun = [
        requests.recv().await.unwrap(),
        requests.recv().await.unwrap(),
    ];
    let third = tokio::time::timeout(SHORT, requests.recv()).await;
    assert!(third.is_err(), "a third stream waits for the client's turn");
    for answer in begun {
        answer.send(()).unwrap();
    }
    requests.recv().await.unwrap().send(()).unwrap();
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
    drop(client);
    server.ended().await;
}
