//! __name__ under chaos: one of three instances is killed, then one stands still, while calls go on. Who calls does
//! not notice.

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use kit::{
    Code, Context, Error,
    client::{Client, ClientConfig},
    discovery::Fixed,
    metrics,
};
use tokio::{net::TcpStream, task::JoinSet, time::sleep};
use __module__::api::{__Trait__, __Trait__Client};

/// One call each, all in all for three seconds; the harm is done after the first third, and undone after the second.
const CALLS: u32 = 300;
const EVERY: Duration = Duration::from_millis(10);

/// Makes one call. Each has a key of its own, by which the service knows it again when it is made twice.
async fn call(client: &__Trait__Client<Client>, number: u32) -> Result<(), Error> {
    let key = format!("chaos-{number}").parse().expect("it is visible ASCII");
    let ctx = Context::new().with_idempotency_key(key);
    // Here go the arguments of a call that matters.
    client.__method__(__arguments__).await.map(drop)
}

/// Whether the service itself answered, be it with an error: that is what chaos must not change.
fn is_answered(result: &Result<(), Error>) -> bool {
    let by_the_service = |error: &Error| {
        error.rejection().is_none()
            && !matches!(error.code(), Code::Unavailable | Code::DeadlineExceeded)
    };
    result.as_ref().err().is_none_or(by_the_service)
}

#[tokio::test]
async fn callers_do_not_notice_that_an_instance_is_killed() -> Result<()> {
    under_load(Instance::kill, Instance::start).await
}

#[tokio::test]
async fn callers_do_not_notice_that_an_instance_stands_still() -> Result<()> {
    under_load(|one| one.signal("STOP"), |one| one.signal("CONT")).await
}

/// Calls three instances, does `harm` to one of them, undoes it, and counts what became of the calls.
async fn under_load(
    harm: fn(&mut Instance) -> Result<()>,
    undo: fn(&mut Instance) -> Result<()>,
) -> Result<()> {
    let mut instances = Vec::new();
    for _ in 0..3 {
        let mut instance = Instance::new()?;
        instance.start()?;
        instance.listens().await?;
        instances.push(instance);
    }
    let addresses: Result<_, _> = instances.iter().map(|one| one.address.parse()).collect();
    let fixed = Fixed::new([("__name__".parse()?, addresses?)]);
    let client = Client::new(&fixed, "__name__".parse()?, ClientConfig::default(), metrics::observer());
    let client = __Trait__Client::__fast__(client);

    let mut calls = JoinSet::new();
    for number in 0..CALLS {
        if number == CALLS / 3 {
            harm(&mut instances[0])?;
        }
        if number == CALLS * 2 / 3 {
            undo(&mut instances[0])?;
        }
        let client = client.clone();
        calls.spawn(async move { call(&client, number).await });
        sleep(EVERY).await;
    }
    let results = calls.join_all().await;
    let failed: Vec<_> = results.iter().filter(|result| !is_answered(result)).collect();
    ensure!(failed.is_empty(), "{} of {CALLS} calls failed: {:?}", failed.len(), failed[0]);
    Ok(())
}

/// A process of the service, which ends with the test.
struct Instance {
    address: String,
    admin: String,
    process: Option<Child>,
}

impl Instance {
    fn new() -> Result<Self> {
        // Both held at once, so that they differ.
        let ports = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
        Ok(Self {
            address: ports[0].local_addr()?.to_string(),
            admin: ports[1].local_addr()?.to_string(),
            process: None,
        })
    }

    fn start(&mut self) -> Result<()> {
        let data = Path::new(env!("CARGO_TARGET_TMPDIR")).join(self.address.replace(':', "-"));
        let process = Command::new(env!("CARGO_BIN_EXE___name__"))
            .env("KIT_SERVER__LISTEN", &self.address)
            .env("KIT_SERVER__ADMIN", &self.admin)
            .env("KIT_DATA", data)
            .env("KIT_LOG__FILTER", "error")
            .stdin(Stdio::null())
            .spawn()?;
        self.process = Some(process);
        Ok(())
    }

    async fn listens(&self) -> Result<()> {
        let begun = std::time::Instant::now();
        while TcpStream::connect(&self.address).await.is_err() {
            ensure!(begun.elapsed() < Duration::from_secs(30), "{} does not come up", self.address);
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Ends it at once: it can finish nothing and tell nobody.
    fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    fn signal(&mut self, name: &str) -> Result<()> {
        let process = self.process.as_ref().context("it does not run")?;
        let kill = format!("kill -{name} {}", process.id());
        ensure!(Command::new("sh").args(["-c", &kill]).status()?.success(), "{kill} failed");
        Ok(())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
