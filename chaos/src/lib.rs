//! A harness that hurts real processes while a steady load runs; and then asks what was lost.
//!
//! A scenario is a test: it starts an [`Agent`] and some [`Instance`]s of real services, or some [`Peer`]s, which can
//! be as sick as they are told to be; lets a [`Load`] run against them, kills and restarts; and judges the [`Report`]
//! and the [`Ledger`]. Where discovery is hurt, a [`Caller`] makes the load, and says what its set was worth. Nothing here is simulated and nothing is mocked. What a scenario starts ends with it, also when
//! it panics.

mod agent;
mod ask;
mod caller;
mod instance;
mod ledger;
mod load;
mod metrics;
mod peer;
mod ports;
mod programs;
mod proxy;
mod relay;
mod trap;

pub use self::{
    agent::Agent,
    caller::{Addresses, Caller, Proof},
    instance::Instance,
    ledger::Ledger,
    load::{Load, Outcome, Pace, Report},
    peer::{CALL, Fault, Order, Peer, Served},
    programs::program,
    proxy::{Proxy, Spoil},
    relay::{Hops, Relay, RelayClient, RelayServer},
    trap::Trap,
};

use std::{future::Future, time::Duration};

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// Waits until `check` gives something. For what another process does in its own time.
///
/// # Errors
/// If that takes longer than `patience`, naming `what` was awaited.
pub async fn eventually<T, F>(
    what: &str,
    patience: Duration,
    mut check: impl FnMut() -> F,
) -> Result<T>
where
    F: Future<Output = Option<T>>,
{
    let begin = Instant::now();
    loop {
        if let Some(found) = check().await {
            return Ok(found);
        }
        if begin.elapsed() > patience {
            bail!("{what}: not within {patience:?}");
        }
        sleep(Duration::from_millis(20)).await;
    }
}
