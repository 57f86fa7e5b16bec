//! Asking whether somebody answers, in as little HTTP as that takes.

use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::Empty;
use hyper::{Request, StatusCode, Uri, body::Bytes, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::plan::Instance;

/// How long one question may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait between two questions.
const PAUSE: Duration = Duration::from_millis(50);

/// What `http://...` answers to GET.
pub(crate) async fn get(url: &str) -> Result<StatusCode> {
    tokio::time::timeout(TIMEOUT, ask(url))
        .await
        .with_context(|| format!("no answer within {TIMEOUT:?}"))?
}

async fn ask(url: &str) -> Result<StatusCode> {
    let url: Uri = url.parse()?;
    let authority = url.authority().context("no host in it")?;
    let stream = TcpStream::connect((authority.host(), authority.port_u16().unwrap_or(80))).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(url.path())
        .header(HOST, authority.as_str())
        .body(Empty::<Bytes>::new())?;
    // The connection is driven here and goes with this call; nothing is left running. It may end, well or badly,
    // before the answer that it brought is looked at; the answer then says which.
    let driven = async {
        let _ = connection.await;
        std::future::pending::<StatusCode>().await
    };
    tokio::select! {
        answer = sender.send_request(request) => Ok(answer?.status()),
        status = driven => Ok(status),
    }
}

/// Returns when every instance has answered that it is ready.
pub(crate) async fn all_ready(instances: &[Instance]) {
    for instance in instances {
        let url = format!("http://{}/readyz", instance.admin);
        while !get(&url).await.is_ok_and(|status| status.is_success()) {
            tokio::time::sleep(PAUSE).await;
        }
    }
}
