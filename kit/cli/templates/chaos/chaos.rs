//! __name__ under chaos: one of three instances is killed, then one stands still, while calls go on. Who calls does
//! not notice.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Result, ensure};
use kit::{
    Code, Context, Error,
    client::{Client, ClientConfig},
    discovery::Fixed,
    metrics,
    testing::Process,
};
use tokio::{task::JoinSet, time::sleep};
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

#[tokio::test(flavor = "multi_thread")]
async fn callers_do_not_notice_that_an_instance_is_killed() -> Result<()> {
    under_load("killed", Process::kill, Process::start_again).await
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_do_not_notice_that_an_instance_stands_still() -> Result<()> {
    under_load("stopped", |one| one.signal("STOP"), |one| one.signal("CONT")).await
}

/// Calls three instances, does `harm` to one of them, undoes it, and counts what became of the calls.
async fn under_load(
    name: &str,
    harm: fn(&mut Process),
    undo: fn(&mut Process),
) -> Result<()> {
    let mut instances = [1, 2, 3].map(|number| {
        let data = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{number}"));
        let mut command = Command::new(env!("CARGO_BIN_EXE___name__"));
        command.env("KIT_DATA", data);
        Process::start(command)
    });
    let addresses: Result<_, _> =
        instances.iter().map(|one| one.address().to_string().parse()).collect();
    let fixed = Fixed::new([("__name__".parse()?, addresses?)]);
    let client = Client::new(&fixed, "__name__".parse()?, ClientConfig::default(), metrics::observer());
    let client = __Trait__Client::__fast__(client);

    let mut calls = JoinSet::new();
    for number in 0..CALLS {
        if number == CALLS / 3 {
            harm(&mut instances[0]);
        }
        if number == CALLS * 2 / 3 {
            undo(&mut instances[0]);
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
