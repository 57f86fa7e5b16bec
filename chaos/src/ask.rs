//! Asking a process over HTTP, on a connection of its own each time: what the harness wants to know must not depend on
//! the client that it tests.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, Uri, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// How long an answer may take. A watcher of a set wants to know soon that it asks nobody.
const PATIENCE: Duration = Duration::from_secs(5);

/// What `http://host:port/path` answers with success.
pub(crate) async fn get(url: &str) -> Result<String> {
    let answer = send(Method::GET, url, None, Bytes::new()).await?;
    Ok(String::from_utf8_lossy(answer.body()).into_owned())
}

/// What it answers with success to a request with a body, and with a token of Consul's where one is given.
pub(crate) async fn send(
    method: Method,
    url: &str,
    token: Option<&str>,
    body: Bytes,
) -> Result<Response<Bytes>> {
    let answer = timeout(PATIENCE, exchange(method, url, token, body)).await??;
    let (status, body) = (answer.status(), answer.body());
    let said = String::from_utf8_lossy(&body[..body.len().min(200)]);
    ensure!(status.is_success(), "{url} answers {status}: {said}");
    Ok(answer)
}

async fn exchange(
    method: Method,
    url: &str,
    token: Option<&str>,
    body: Bytes,
) -> Result<Response<Bytes>> {
    let url: Uri = url.parse()?;
    let authority = url.authority().context("no host in it")?;
    let path = url.path_and_query().context("no path in it")?;
    let stream = TcpStream::connect(authority.as_str()).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::builder()
        .method(method)
        .uri(path.as_str())
        .header(HOST, authority.as_str());
    if let Some(token) = token {
        request = request.header("x-consul-token", token);
    }
    let request = request.body(Full::new(body))?;
    let answer = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    };
    // It may end before the answer that it brought is looked at.
    let driven = async {
        let _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        answer = answer => answer,
        never = driven => never,
    }
}
