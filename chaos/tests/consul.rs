//! Consul is hurt, in each way in which it was ever seen to be, while a client calls the instances that it found
//! there: what the client knows afterwards, what its calls have noticed, and what it costs. See `docs/discovery.md`.
//!
//! Each scenario has agents, instances and a client of its own, and all run at the same time. `cargo test -p chaos
//! --test consul WORD` does those with the word in their name.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    env,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use chaos::{Addresses, Agent, Caller, Instance, Proof, Proxy, Spoil, eventually};
use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{Request, Response, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use kit::discovery::ConsulConfig;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    net::TcpListener,
    task::JoinHandle,
    time::{Instant, sleep},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_chaos");
/// How long a fault lasts where nothing else is said: long enough for a client to back off for many seconds.
const FAULT: Duration = Duration::from_secs(20);

type Run = Pin<Box<dyn Future<Output = Result<Proof>> + Send>>;

/// Each with its name, not begun.
fn scenarios() -> Vec<(&'static str, Run)> {
    vec![
        (
            "an_agent_is_killed_and_comes_back_with_its_data",
            Box::pin(killed(true)),
        ),
        (
            "an_agent_is_killed_and_comes_back_without_its_data",
            Box::pin(killed(false)),
        ),
        (
            "the_leader_of_three_servers_is_killed",
            Box::pin(leader_killed()),
        ),
        ("all_servers_are_down_for_a_minute", Box::pin(all_down())),
        ("the_index_goes_back", Box::pin(index_reset())),
        ("the_token_may_see_nothing_for_a_while", Box::pin(denied())),
        ("the_agent_answers_late", Box::pin(slow())),
        ("a_proxy_answers_with_garbage", Box::pin(garbage())),
        (
            "five_hundred_instances_come_and_go_for_a_minute",
            Box::pin(churn()),
        ),
    ]
}

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<_> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let all = scenarios();
    let count = all.len();
    let wanted: Vec<_> = all
        .into_iter()
        .filter(|(name, _)| words.is_empty() || words.iter().any(|word| name.contains(*word)))
        .collect();
    if env::args().any(|argument| argument == "--list") {
        for (name, _) in &wanted {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", wanted.len());
    let (begin, left_out) = (Instant::now(), count - wanted.len());
    let mut running: FuturesUnordered<_> = wanted
        .into_iter()
        .map(|(name, run)| async move {
            // A task of its own, so that a panic is the end of this one only.
            let ended = tokio::spawn(run).await;
            (name, ended.map_err(Into::into).and_then(|ended| ended))
        })
        .collect();
    let (mut passed, mut failed) = (0, 0);
    while let Some((name, ended)) = running.next().await {
        match ended {
            Ok(proof) => {
                println!("test {name} ... ok\n    {proof}");
                passed += 1;
            }
            Err(error) => {
                println!("test {name} ... FAILED\n    {error:#}");
                failed += 1;
            }
        }
    }
    // As the runner of all other tests ends.
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {left_out} filtered out; \
         finished in {:.2}s\n",
        begin.elapsed().as_secs_f64()
    );
    ExitCode::from(u8::from(failed > 0))
}

/// Processes of a service, of which some die and others come.
struct Instances {
    agent: String,
    environment: Vec<(&'static str, &'static str)>,
    running: Vec<Instance>,
}

impl Instances {
    /// Starts three that are found through `agent`.
    async fn three(agent: &Agent, environment: &[(&'static str, &'static str)]) -> Result<Self> {
        let mut instances = Self {
            agent: agent.address().to_owned(),
            environment: environment.to_vec(),
            running: Vec::new(),
        };
        for _ in 0..3 {
            instances.start().await?;
        }
        Ok(instances)
    }

    async fn start(&mut self) -> Result<()> {
        let started = Instance::found(Path::new(PROGRAM), &self.agent, &self.environment).await?;
        self.running.push(started);
        Ok(())
    }

    /// One is killed, and another one started somewhere else, so that whoever still knows what there was is wrong.
    async fn change(&mut self) -> Result<()> {
        self.running.remove(0).kill().await?;
        self.start().await
    }

    fn addresses(&self) -> Addresses {
        let addresses = self.running.iter().map(Instance::address);
        addresses.map(ToString::to_string).collect()
    }
}

/// A caller that asks the agent, or what stands before it, at `address`.
async fn caller(address: &str, instances: &Instances) -> Result<Caller> {
    let config = ConsulConfig {
        address: address.parse()?,
        ..ConsulConfig::default()
    };
    Caller::start(config, &instances.addresses()).await
}

async fn killed(keeping: bool) -> Result<Proof> {
    let mut agent = if keeping {
        Agent::start_keeping().await?
    } else {
        Agent::start().await?
    };
    let mut instances = Instances::three(&agent, &[]).await?;
    let caller = caller(agent.address(), &instances).await?;
    // Every write raises the index, so that the old one is far beyond that of an agent that begins anew.
    for number in 0..100 {
        agent.put(&format!("/v1/kv/{number}"), "x").await?;
    }
    agent.kill().await?;
    instances.change().await?;
    sleep(FAULT).await;
    agent.restart().await?;
    caller.proves(&agent, &instances.addresses()).await
}

async fn leader_killed() -> Result<Proof> {
    let mut servers = Agent::start_three().await?;
    let mut leader = 0;
    while !servers[leader].leads().await? {
        leader = (leader + 1) % servers.len();
    }
    let near = (leader + 1) % servers.len();
    let mut instances = Instances::three(&servers[near], &[]).await?;
    let caller = caller(servers[near].address(), &instances).await?;
    servers[leader].kill().await?;
    instances.change().await?;
    // While one of three is missing.
    let expected = instances.addresses();
    caller.converges(&servers[near], &expected).await?;
    servers[leader].restart().await?;
    instances.change().await?;
    caller.proves(&servers[near], &instances.addresses()).await
}

async fn all_down() -> Result<Proof> {
    let mut servers = Agent::start_three().await?;
    let mut instances = Instances::three(&servers[0], &[]).await?;
    let caller = caller(servers[0].address(), &instances).await?;
    let [near, others @ ..] = &mut servers;
    for other in others.iter_mut() {
        other.kill().await?;
    }
    // The one that is left answers, that it has no leader.
    sleep(FAULT).await;
    near.kill().await?;
    instances.change().await?;
    sleep(Duration::from_secs(60) - FAULT).await;
    for server in &mut servers {
        server.launch()?;
    }
    servers[0].has_leader().await?;
    caller.proves(&servers[0], &instances.addresses()).await
}

/// A snapshot of Consul that was taken before many writes is restored: the very same server, which was not away, counts
/// from there again, and knows of an instance that has left, and not of the one that has come.
async fn index_reset() -> Result<Proof> {
    let agent = Agent::start_keeping().await?;
    let mut instances = Instances::three(&agent, &[]).await?;
    let caller = caller(agent.address(), &instances).await?;
    let crowd = Crowd::listen(2).await?;
    crowd.register(&agent, 0).await?;
    let mut old = instances.addresses();
    old.extend(crowd.addresses(&[true, false]));
    let snapshot = agent.get("/v1/snapshot").await?;
    let before = agent.index("relay").await?;
    let other = r#"{"Name": "relay", "ID": "other", "Address": "127.0.0.1", "Port": 1,
        "Check": {"TTL": "1h", "Status": "critical"}}"#;
    for _ in 0..50 {
        agent.put("/v1/agent/service/register", other).await?;
        agent.put("/v1/agent/service/deregister/other", "").await?;
    }
    crowd.deregister(&agent, 0).await?;
    crowd.register(&agent, 1).await?;
    let mut new = instances.addresses();
    new.extend(crowd.addresses(&[false, true]));
    caller.converges(&agent, &new).await?;
    let after = agent.index("relay").await?;
    ensure!(after >= before + 50, "from {before} to {after}");
    agent.put("/v1/snapshot", snapshot).await?;
    let reset = agent.index("relay").await?;
    ensure!(reset < after, "from {after} to {reset}");
    caller.converges(&agent, &old).await?;
    // Before the agent, which knows better, tells the restored catalog.
    crowd.register(&agent, 0).await?;
    crowd.deregister(&agent, 1).await?;
    instances.change().await?;
    let mut expected = instances.addresses();
    expected.extend(crowd.addresses(&[true, false]));
    caller.proves(&agent, &expected).await
}

async fn denied() -> Result<Proof> {
    const MASTER: &str = "5ebd4a32-0c00-4f3a-8f3c-0d4f0d7b7e11";
    let acl = format!(
        r#"acl {{ enabled = true default_policy = "deny" tokens {{ master = "{MASTER}" agent = "{MASTER}" }} }}"#
    );
    let rules = |access: &str| {
        let rules = format!(
            r#"service_prefix "" {{ policy = "{access}" }} node_prefix "" {{ policy = "{access}" }}"#
        );
        serde_json::json!({"Name": "reader", "Rules": rules}).to_string()
    };
    let agent = Agent::start_with(&acl).await?.with_token(MASTER);
    let begin = "the access lists are there";
    let policy = eventually(begin, FAULT, async || {
        agent.put("/v1/acl/policy", rules("read")).await.ok()
    });
    let policy: serde_json::Value = serde_json::from_slice(&policy.await?)?;
    let policy = policy["ID"].as_str().context("a policy has an id")?;
    let token = serde_json::json!({"Policies": [{"ID": policy}]}).to_string();
    let token: serde_json::Value =
        serde_json::from_slice(&agent.put("/v1/acl/token", token).await?)?;
    let token = token["SecretID"].as_str().context("a token has a secret")?;

    let mut instances =
        Instances::three(&agent, &[("KIT_DISCOVERY__CONSUL__TOKEN", MASTER)]).await?;
    let config = ConsulConfig {
        address: agent.address().parse()?,
        token: Some(token.parse()?),
        ..ConsulConfig::default()
    };
    let caller = Caller::start(config, &instances.addresses()).await?;
    let before = caller.known();
    let path = format!("/v1/acl/policy/{policy}");
    agent.put(&path, rules("deny")).await?;
    instances.change().await?;
    sleep(FAULT).await;
    ensure!(caller.known() == before, "it knows {:?}", caller.known());
    agent.put(&path, rules("read")).await?;
    caller.proves(&agent, &instances.addresses()).await
}

async fn slow() -> Result<Proof> {
    let agent = Agent::start().await?;
    let proxy = Proxy::start(agent.address(), 1).await?;
    let mut instances = Instances::three(&agent, &[]).await?;
    let caller = caller(&proxy.address(), &instances).await?;
    proxy.spoil(Spoil::Late(Duration::from_millis(500)));
    instances.change().await?;
    caller.converges(&agent, &instances.addresses()).await?;
    // Longer than any answer is waited for.
    proxy.spoil(Spoil::Late(Duration::from_secs(600)));
    instances.change().await?;
    sleep(FAULT).await;
    proxy.spoil(Spoil::Nothing);
    caller.proves(&agent, &instances.addresses()).await
}

async fn garbage() -> Result<Proof> {
    let agent = Agent::start().await?;
    let proxy = Proxy::start(agent.address(), 2).await?;
    let mut instances = Instances::three(&agent, &[]).await?;
    let caller = caller(&proxy.address(), &instances).await?;
    let before = caller.known();
    proxy.spoil(Spoil::Garbage);
    instances.change().await?;
    sleep(FAULT).await;
    ensure!(caller.known() == before, "it knows {:?}", caller.known());
    proxy.spoil(Spoil::Nothing);
    caller.proves(&agent, &instances.addresses()).await
}

/// Every instance is an address of one listener, so that there can be five hundred of them.
async fn churn() -> Result<Proof> {
    const INSTANCES: usize = 500;
    const CHANGES: u32 = 300;
    let agent = Agent::start().await?;
    let crowd = Crowd::listen(INSTANCES).await?;
    let mut there = vec![false; INSTANCES];
    for (number, there) in there.iter_mut().enumerate().step_by(2) {
        crowd.register(&agent, number).await?;
        *there = true;
    }
    let config = ConsulConfig {
        address: agent.address().parse()?,
        ..ConsulConfig::default()
    };
    let caller = Caller::start(config, &crowd.addresses(&there)).await?;
    let mut chance = StdRng::seed_from_u64(3);
    for _ in 0..4 {
        for _ in 0..CHANGES {
            let number = chance.random_range(0..INSTANCES);
            there[number] = !there[number];
            if there[number] {
                crowd.register(&agent, number).await?;
            } else {
                crowd.deregister(&agent, number).await?;
            }
            // On average a quarter of a minute in all.
            sleep(Duration::from_millis(chance.random_range(0..=100))).await;
        }
        caller.converges(&agent, &crowd.addresses(&there)).await?;
    }
    let proof = caller.proves(&agent, &crowd.addresses(&there)).await?;
    let late = crowd.state.late.load(Ordering::Relaxed);
    ensure!(late == 0, "{late} calls to instances that were long gone");
    Ok(proof)
}

/// One listener that is many instances.
struct Crowd {
    instances: Vec<SocketAddr>,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// Since when those are no longer registered that were.
    left: Mutex<BTreeMap<SocketAddr, Instant>>,
    /// Calls that came to one of them much later.
    late: AtomicU64,
}

impl Crowd {
    /// More than a client has to learn that an instance has left.
    const LATE: Duration = Duration::from_secs(5);

    async fn listen(count: usize) -> Result<Self> {
        let listener = TcpListener::bind("0.0.0.0:0").await?;
        let port = listener.local_addr()?.port();
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, address) = (Arc::clone(&shared), stream.local_addr());
                let answer = service_fn(move |_: Request<Incoming>| {
                    if let Ok(address) = address {
                        state.called(address);
                    }
                    async { Ok::<_, Infallible>(answer()) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
        let instances = (0..count).map(|number| {
            let [.., high, low] = (number + 1).to_be_bytes();
            SocketAddr::from(([127, 7, high, low], port))
        });
        Ok(Self {
            instances: instances.collect(),
            state,
            task,
        })
    }

    fn addresses(&self, there: &[bool]) -> Addresses {
        let pairs = self.instances.iter().zip(there);
        pairs
            .filter(|(_, there)| **there)
            .map(|(instance, _)| instance.to_string())
            .collect()
    }

    async fn register(&self, agent: &Agent, number: usize) -> Result<()> {
        let address = self.instances[number];
        self.state.left().remove(&address);
        let body = serde_json::json!({
            "Name": "relay",
            "ID": format!("relay-{number}"),
            "Address": address.ip().to_string(),
            "Port": address.port(),
        });
        agent
            .put("/v1/agent/service/register", body.to_string())
            .await?;
        Ok(())
    }

    async fn deregister(&self, agent: &Agent, number: usize) -> Result<()> {
        let path = format!("/v1/agent/service/deregister/relay-{number}");
        agent.put(&path, "").await?;
        let address = self.instances[number];
        self.state.left().insert(address, Instant::now());
        Ok(())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    fn left(&self) -> std::sync::MutexGuard<'_, BTreeMap<SocketAddr, Instant>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn called(&self, address: SocketAddr) {
        let left = self.left().get(&address).copied();
        if left.is_some_and(|left| left.elapsed() > Crowd::LATE) {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn answer() -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from_static(br#"{"hops": 1}"#)));
    let json = http::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, json);
    answer
}
