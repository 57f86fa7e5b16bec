//! A client that follows Consul while Consul is hurt, and what is to be held of it afterwards.

use std::{
    collections::BTreeSet,
    fmt, fs,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kit::{
    client::{Client, ClientConfig},
    discovery::{Consul, ConsulConfig},
    endpoint::{Discovery, Watch},
    error::Chain,
    name::ServiceName,
};
use nix::unistd::{Pid, gettid};
use tokio::{
    runtime::{Builder, Runtime},
    time::{Instant, sleep},
};

use crate::{Agent, Load, Outcome, Pace, Relay, RelayClient, Report, eventually};

/// Where instances are, as `host:port`.
pub type Addresses = BTreeSet<String>;

/// How long a caller may take to know what Consul knows,
const CONVERGES: Duration = Duration::from_secs(2);
/// and how often it is looked at. A machine that stands still for longer takes that from the caller and from whoever
/// looks alike, so no step counts for more than this.
const STEP: Duration = Duration::from_millis(20);
const LONGEST_STEP: Duration = Duration::from_millis(100);
/// How long it may take until Consul itself knows: how fast its checks are is not the caller's.
const PATIENCE: Duration = Duration::from_secs(120);
/// What a caller without calls may use of one core,
const IDLE_CPU: f64 = 0.005;
/// over this time.
const IDLE: Duration = Duration::from_secs(5);

/// A process's worth of kit's client that calls instances of [`Relay`], 25 times a second, whatever happens. It has a
/// runtime of its own, with one thread, so that what it uses of the processor is known.
#[derive(Debug)]
pub struct Caller {
    runtime: Option<Runtime>,
    threads: Arc<Mutex<Vec<Pid>>>,
    watch: Watch,
    load: Option<Load>,
}

/// What was held of a caller.
#[derive(Debug)]
pub struct Proof {
    /// How much later than Consul it knew.
    pub converged: Duration,
    /// How its calls went, from the first to the last.
    pub report: Report,
    /// What it used of one core when it made no calls any more, from 0 to 1.
    pub idle_cpu: f64,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "right {:.2} s after Consul; {} calls, {} failed; {:.3} % of a core while idle",
            self.converged.as_secs_f64(),
            self.report.total(),
            self.report.failures(),
            self.idle_cpu * 100.0
        )
    }
}

impl Caller {
    /// Starts one that finds `expected` as `config` says, waits until it has, and begins to call.
    ///
    /// # Errors
    /// If it does not find them.
    pub async fn start(config: ConsulConfig, expected: &Addresses) -> Result<Self> {
        let threads = Arc::<Mutex<Vec<Pid>>>::default();
        let started = Arc::clone(&threads);
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .on_thread_start(move || lock(&started).push(gettid()))
            .build()?;
        let service: ServiceName = "relay".parse()?;
        // Whatever it spawns, it spawns there.
        let inside = runtime.enter();
        let consul = Consul::new(config, kit::event::nobody())?;
        let watch = consul.watch(&service);
        let client = Client::new(&consul, service, patient(), kit::event::nobody());
        drop(inside);
        let mut caller = Self {
            runtime: Some(runtime),
            threads,
            watch,
            load: None,
        };
        eventually("the caller knows them", PATIENCE, async || {
            (caller.known() == *expected).then_some(())
        })
        .await?;
        let relay = RelayClient::json(client);
        let inside = caller.runtime.as_ref().context("it runs")?.enter();
        caller.load = Some(Load::start(Pace::per_second(25), move |_| {
            let relay = relay.clone();
            async move {
                let answer = relay.ask(kit::Context::new()).await;
                Outcome::from(answer.map(drop).map_err(|error| Chain(&error).to_string()))
            }
        }));
        drop(inside);
        Ok(caller)
    }

    /// What it takes to be there.
    pub fn known(&self) -> Addresses {
        let set = self.watch.current().unwrap_or_default();
        set.iter()
            .map(|endpoint| endpoint.address.to_string())
            .collect()
    }

    /// How many calls have ended.
    pub fn calls(&self) -> u64 {
        self.load.as_ref().map_or(0, Load::ended)
    }

    /// Waits until Consul, which is asked directly, knows of `expected` and nothing else; then holds that the caller
    /// knows the same within 2 s. How much later it did.
    ///
    /// # Errors
    /// If it does not, saying what it knows instead.
    pub async fn converges(&self, truth: &Agent, expected: &Addresses) -> Result<Duration> {
        let begin = Instant::now();
        loop {
            let passing = truth.passing("relay").await;
            if passing.as_ref().is_ok_and(|passing| passing == expected) {
                break;
            }
            ensure!(
                begin.elapsed() < PATIENCE,
                "{expected:?} are there, Consul knows of {passing:?}"
            );
            sleep(STEP).await;
        }
        let mut counted = Duration::ZERO;
        while self.known() != *expected {
            ensure!(
                counted <= CONVERGES,
                "Consul knows for {CONVERGES:?} of {expected:?}, the caller of {:?}",
                self.known()
            );
            let begin = Instant::now();
            sleep(STEP).await;
            counted += begin.elapsed().min(LONGEST_STEP);
        }
        Ok(counted)
    }

    /// What is to be held after anything that is done to Consul: the set [converges](Self::converges) to `expected`; no
    /// call has failed since the beginning, though some instance was always alive; and the caller is then idle.
    ///
    /// # Errors
    /// If one of these does not hold.
    pub async fn proves(mut self, truth: &Agent, expected: &Addresses) -> Result<Proof> {
        let converged = self.converges(truth, expected).await?;
        // Calls to what it knows now, too.
        sleep(Duration::from_secs(1)).await;
        let report = self.load.take().context("it calls")?.finish().await;
        ensure!(report.failures() == 0, "calls failed: {report}");
        ensure!(
            report.total() > 0 && self.cpu()? > Duration::ZERO,
            "no call was made, or nothing was measured"
        );
        let mut idle_cpu = f64::INFINITY;
        // The first may have something to tidy up.
        for _ in 0..3 {
            let (before, begin) = (self.cpu()?, Instant::now());
            sleep(IDLE).await;
            idle_cpu = (self.cpu()? - before).as_secs_f64() / begin.elapsed().as_secs_f64();
            if idle_cpu < IDLE_CPU {
                break;
            }
        }
        ensure!(
            idle_cpu < IDLE_CPU,
            "{:.2} % of a core while idle",
            idle_cpu * 100.0
        );
        let known = self.known();
        ensure!(
            known == *expected,
            "{expected:?} was known, and then {known:?}"
        );
        Ok(Proof {
            converged,
            report,
            idle_cpu,
        })
    }

    /// What its threads have used of the processor; of those that have ended it does not matter any more.
    fn cpu(&self) -> Result<Duration> {
        let mut used = Duration::ZERO;
        for thread in lock(&self.threads).iter() {
            let Ok(text) = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")) else {
                continue;
            };
            let nanos = text.split_whitespace().next().context("it is empty")?;
            used += Duration::from_nanos(nanos.parse()?);
        }
        Ok(used)
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        // The load first, and without waiting: this is dropped inside of another runtime.
        self.load = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A client as it comes, but for more patience: a machine on which others build stands still for seconds. Who is dead
/// says so at once.
fn patient() -> ClientConfig {
    ClientConfig {
        timeout: Duration::from_secs(60),
        attempt_timeout: Duration::from_secs(20),
        ..ClientConfig::default()
    }
}

fn lock(threads: &Mutex<Vec<Pid>>) -> std::sync::MutexGuard<'_, Vec<Pid>> {
    threads.lock().unwrap_or_else(PoisonError::into_inner)
}
