//! How long a caller still picks an instance that was killed, and how long it takes until it calls one that was started.

use std::{env, fmt, future::Future, time::Duration};

use anyhow::{Result, ensure};
use chaos::{
    Addresses, Agent, Instance, Load, Outcome, Pace, Relay, RelayClient, Trap, eventually,
};
use clap::Args;
use kit::{
    client::{Client, ClientConfig},
    endpoint::{Discovery, Watch},
    error::Chain,
    name::ServiceName,
};
use tokio::time::{Instant, sleep};

/// What may take long on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it is still listened for callers after the instance has left the set.
const AFTERWARDS: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Calls a second
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// How often an instance is killed, and one is started
    #[arg(long, default_value_t = 20)]
    rounds: u32,
}

/// Measures, and prints what `docs/discovery.md` shows.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let world = World::start().await?;
    let mut instances = Vec::new();
    for _ in 0..3 {
        instances.push(world.instance().await?);
    }
    world.knows(&instances).await?;
    let relay = RelayClient::json(world.client.clone());
    let load = Load::start(Pace::per_second(options.rate), move |_| {
        let relay = relay.clone();
        async move {
            let answer = relay.ask(kit::Context::new()).await;
            Outcome::from(answer.map(drop).map_err(|error| Chain(&error).to_string()))
        }
    });
    sleep(AFTERWARDS).await;

    let (mut killed, mut back, mut new) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=options.rounds {
        let mut victim = instances.remove(0);
        killed.push(world.kill(&mut victim, &instances).await?);
        let begin = Instant::now();
        let started = async {
            victim.restart().await?;
            Ok(victim)
        };
        back.push(world.start_one(begin, started, &mut instances).await?);
        let begin = Instant::now();
        new.push(
            world
                .start_one(begin, world.instance(), &mut instances)
                .await?,
        );
        // Back to three, politely.
        instances.remove(0).terminate().await?;
        world.knows(&instances).await?;
        eprintln!("round {round} of {}", options.rounds);
    }
    let report = load.finish().await;
    println!("| from | to | median | 9 of 10 | longest |\n|---|---|---|---|---|");
    row("SIGKILL", "its last pick", &killed, |k| k.picked);
    row("SIGKILL", "Consul says so", &killed, |k| k.consul);
    row("SIGKILL", "gone from the set", &killed, |k| k.set);
    for (what, all) in [("start", &new), ("start at the old address", &back)] {
        row(what, "it is ready", all, |s| s.ready);
        row(what, "Consul says so", all, |s| s.consul);
        row(what, "in the set", all, |s| s.set);
        row(what, "its first request", all, |s| s.called);
    }
    let picks: u64 = killed.iter().map(|killed| killed.picks).sum();
    println!(
        "\n{} rounds, {} calls a second: {report}\npicks of an instance after its death: {:.1} a round on average",
        options.rounds,
        options.rate,
        picks as f64 / f64::from(options.rounds)
    );
    Ok(())
}

/// What became of an instance that was killed, from then on.
struct Killed {
    /// When it was picked for the last time.
    picked: Duration,
    /// How often that was.
    picks: u64,
    /// When Consul knew, which asks once a second.
    consul: Duration,
    /// When it was no longer in the caller's set.
    set: Duration,
}

/// What became of an instance that was started, from then on.
struct Started {
    ready: Duration,
    consul: Duration,
    set: Duration,
    called: Duration,
}

/// One agent, and a caller as it comes.
struct World {
    agent: Agent,
    watch: Watch,
    client: Client,
}

impl World {
    async fn start() -> Result<Self> {
        let agent = Agent::start().await?;
        let service: ServiceName = "relay".parse()?;
        let discovery = agent.discovery()?;
        let watch = discovery.watch(&service);
        let config = ClientConfig::default();
        let client = Client::new(&discovery, service, config, kit::event::nobody());
        Ok(Self {
            agent,
            watch,
            client,
        })
    }

    async fn instance(&self) -> Result<Instance> {
        Instance::found(&env::current_exe()?, self.agent.address(), &[]).await
    }

    fn set(&self) -> Addresses {
        let set = self.watch.current().unwrap_or_default();
        let addresses = set.iter().map(|endpoint| endpoint.address.to_string());
        addresses.collect()
    }

    async fn knows(&self, instances: &[Instance]) -> Result<()> {
        let all = instances.iter().map(|instance| instance.address());
        let all: Addresses = all.map(ToString::to_string).collect();
        let knows = async || (self.set() == all).then_some(());
        eventually("the set is as it should be", PATIENCE, knows).await
    }

    /// Since when Consul, and the caller's set, have an instance or not.
    async fn noticed(
        &self,
        begin: Instant,
        address: &str,
        there: bool,
    ) -> Result<(Duration, Duration)> {
        let consul = soon(begin, async || {
            let passing = self.agent.passing("relay").await.ok()?;
            (passing.contains(address) == there).then_some(())
        });
        let set = soon(begin, async || {
            (self.set().contains(address) == there).then_some(())
        });
        tokio::try_join!(consul, set)
    }

    async fn kill(&self, victim: &mut Instance, others: &[Instance]) -> Result<Killed> {
        let begin = Instant::now();
        victim.kill().await?;
        // Who listens there from now on accepts and closes, which is no better than nobody.
        let trap = Trap::at(victim.address()).await?;
        let bound = begin.elapsed();
        let address = victim.address().to_string();
        let (consul, set) = self.noticed(begin, &address, false).await?;
        sleep(AFTERWARDS).await;
        let last = trap.last();
        let picks = trap.close().await;
        self.knows(others).await?;
        Ok(Killed {
            picked: last.map_or(bound, |last| last - begin),
            picks,
            consul,
            set,
        })
    }

    async fn start_one(
        &self,
        begin: Instant,
        starting: impl Future<Output = Result<Instance>>,
        instances: &mut Vec<Instance>,
    ) -> Result<Started> {
        let instance = starting.await?;
        let ready = begin.elapsed();
        let address = instance.address().to_string();
        let called = soon(begin, async || {
            let requests = instance.requests().await.ok()?;
            (requests > 0).then_some(())
        });
        let noticed = self.noticed(begin, &address, true);
        let (called, (consul, set)) = tokio::try_join!(called, noticed)?;
        instances.push(instance);
        Ok(Started {
            ready,
            consul,
            set,
            called,
        })
    }
}

/// Since when `check` gives something, looked at often.
async fn soon<F>(begin: Instant, mut check: impl FnMut() -> F) -> Result<Duration>
where
    F: Future<Output = Option<()>>,
{
    while check().await.is_none() {
        ensure!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}");
        sleep(Duration::from_millis(5)).await;
    }
    Ok(begin.elapsed())
}

fn row<T>(from: impl fmt::Display, to: &str, all: &[T], took: impl Fn(&T) -> Duration) {
    let mut all: Vec<_> = all.iter().map(took).collect();
    all.sort_unstable();
    let at = |share: f64| {
        let rank = (share * all.len() as f64).ceil() as usize;
        let took = all.get(rank.saturating_sub(1)).copied();
        took.unwrap_or_default().as_millis()
    };
    println!(
        "| {from} | {to} | {} ms | {} ms | {} ms |",
        at(0.5),
        at(0.9),
        at(1.0)
    );
}
