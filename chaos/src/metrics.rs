//! Reading what a process says of itself over HTTP.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Uri, body::Bytes, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// What `http://host:port/path` answers with success, on a connection of its own: what the harness wants to know must
/// not depend on the client that it tests.
pub(crate) async fn get(url: &str) -> Result<String> {
    timeout(Duration::from_secs(5), ask(url)).await?
}

async fn ask(url: &str) -> Result<String> {
    let url: Uri = url.parse()?;
    let authority = url.authority().context("no host in it")?;
    let stream = TcpStream::connect(authority.as_str()).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(url.path())
        .header(HOST, authority.as_str())
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{url} answers {status}");
        Ok(String::from_utf8_lossy(&body).into_owned())
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

/// The sum of a metric over all its labels, in Prometheus's text format. 0 if there is none.
pub(crate) fn sum(text: &str, metric: &str) -> u64 {
    text.lines()
        .filter_map(|line| {
            let rest = line.strip_prefix(metric)?;
            rest.starts_with(['{', ' ']).then_some(rest)
        })
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_not_confused_with_others() {
        let text = "# TYPE calls summary\ncalls{a=\"x y\"} 3\ncalls{a=\"b\"} 4\ncalls_total 100\n";
        assert_eq!(sum(text, "calls"), 7);
        assert_eq!(sum(text, "nothing"), 0);
    }
}
