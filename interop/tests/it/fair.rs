//! Python's grpcio against a service that has one of each.

use std::{process::Stdio, time::Duration};

use futures_util::stream;
use interop::{Everything, Fair, FairServer, fair};
use kit::{
    Code, Context, Error, Stream,
    authenticate::StaticTokens,
    server::{self, Inbound, RunOptions},
    testing::Instance,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    time::{Instant, sleep, timeout},
};
use tower::Layer;

use super::{python, write};

pub(crate) const TOKEN: &str = "let-me-in-to-the-fair-please";

#[derive(Debug)]
struct Ground;

impl Fair for Ground {
    async fn echo(&self, _: Context, everything: Everything) -> Result<Everything, Error> {
        Ok(everything)
    }

    async fn count(
        &self,
        _: Context,
        to: u32,
    ) -> Result<impl Stream<Item = Result<u32, Error>>, Error> {
        let item = |number| match number {
            10.. => Err(Error::new(Code::Aborted, "that is too far")),
            number => Ok(number),
        };
        Ok(stream::iter((1..=to.min(20)).map(item)))
    }

    async fn refuse(&self, _: Context) -> Result<(), Error> {
        // Whatever is asked for is right, and is refused nevertheless.
        Err(Error::already_exists("amount must be even")
            .with_violation("amount", "must be even")
            .with_violation("list[1].name", "must not be empty"))
    }

    async fn wait(&self, ctx: Context, millis: u32) -> Result<Option<u64>, Error> {
        sleep(Duration::from_millis(millis.into())).await;
        let left = ctx
            .deadline
            .map(|deadline| deadline.remaining(Instant::now()));
        Ok(left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)))
    }

    async fn visitor(
        &self,
        ctx: Context,
        number: u32,
        title: Option<String>,
    ) -> Result<String, Error> {
        let name = ctx
            .identity()
            .map(|identity| identity.name.to_string())
            .unwrap_or_default();
        let title = title.map(|title| title + " ").unwrap_or_default();
        Ok(format!("{title}{name} {number}"))
    }
}

/// Runs the service.
pub(crate) fn start() -> Instance {
    let tokens = format!(
        "tokens = [{{ name = \"visitor\", token = \"{TOKEN}\", scopes = [\"fair:visit\"] }}]"
    );
    kit::metrics::install();
    Instance::start(|mut config, listeners, stop| {
        config.tokens = Some(StaticTokens::parse(&tokens).unwrap());
        let service = "fair".parse().unwrap();
        let app = Inbound::from_config(&config, &service).layer(FairServer::new(Ground));
        let options = RunOptions {
            service,
            version: env!("CARGO_PKG_VERSION"),
            config,
            registration: None,
            readiness: Vec::new(),
        };
        server::run(listeners, app, options, stop)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcio_calls_streams_waits_and_reads_what_a_server_tells_of_itself() {
    let running = start();
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "acme_fair.proto", fair::proto());
    let mut python = python("fair.py")
        .arg(folder.path())
        .arg(running.address().to_string())
        .arg(TOKEN)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut printed = BufReader::new(python.stdout.take().unwrap());
    let mut line = String::new();
    let read = timeout(Duration::from_secs(60), printed.read_line(&mut line));
    let is_watching = matches!(read.await, Ok(Ok(_))) && line.trim() == "watching";
    if is_watching {
        running.stop().await.unwrap();
    }
    let mut complained = String::new();
    let mut errors = python.stderr.take().unwrap();
    let read = timeout(
        Duration::from_secs(60),
        errors.read_to_string(&mut complained),
    );
    read.await.expect("it ends").unwrap();
    let status = python.wait().await.unwrap();
    assert!(is_watching && status.success(), "{status}: {complained}");
}
