//! Discovery and registration against a real Consul agent.

mod access;
mod answers;
#[cfg(feature = "dns")]
mod dns;
mod election;
#[cfg(feature = "tls")]
mod https;
mod kv;
mod policies;
mod query;
mod registering;
mod thousand;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::Request;
use kit::{
    Body,
    client::{Client, ClientConfig},
    discovery::{Check, Consul, ConsulConfig, Instance, Registered, Weights},
    endpoint::{Discovery, Snapshot, Watch},
    event::{Event, Observer, nobody},
    name::ServiceName,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
    task::AbortHandle,
    time::timeout,
};
use tower::ServiceExt;

use crate::support::consul::Agent;

/// What is waited for comes within a second or three; a busy machine is given more.
const PATIENCE: Duration = Duration::from_secs(30);

/// An instance whose check says what a test wants.
struct Healthy {
    address: SocketAddr,
    well: Arc<AtomicBool>,
    /// Requests that were no checks.
    calls: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Healthy {
    async fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let well = Arc::new(AtomicBool::new(true));
        let says = Arc::clone(&well);
        let calls = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&calls);
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                count.fetch_add(usize::from(request.starts_with(b"POST")), SeqCst);
                let status = if says.load(SeqCst) { 200 } else { 503 };
                let answer =
                    format!("HTTP/1.1 {status} \r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self {
            address,
            well,
            calls,
            task: task.abort_handle(),
        }
    }

    fn instance(&self, id: &str) -> Instance {
        Instance {
            service: users(),
            id: id.parse().unwrap(),
            address: self.address.to_string().parse().unwrap(),
            addresses: BTreeMap::new(),
            tags: vec!["test".into()],
            metadata: BTreeMap::from([("zone".into(), "a".into())]),
            weights: Weights::default(),
            check: Check::Http {
                uri: format!("http://{}/readyz", self.address).parse().unwrap(),
                interval: Duration::from_millis(500),
                timeout: Duration::from_secs(5),
            },
            deregister_after: Duration::from_secs(60),
        }
    }
}

impl Drop for Healthy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Sends the name of each event, without its fields.
struct Names(mpsc::UnboundedSender<String>);

impl Observer for Names {
    fn observe(&self, event: Event<'_>) {
        let name = format!("{event:?}");
        let name = name.split_once(' ').map_or(&*name, |(name, _)| name);
        let _ = self.0.send(name.to_owned());
    }
}

struct World {
    agent: Agent,
    consul: Consul,
    sender: mpsc::UnboundedSender<String>,
    events: mpsc::UnboundedReceiver<String>,
}

impl World {
    async fn new() -> Self {
        // Longer than anybody's patience: nothing here is found merely because a question ran out.
        let wait = Duration::from_secs(300);
        Self::of(
            Agent::start().await,
            ConsulConfig {
                wait,
                ..ConsulConfig::default()
            },
        )
    }

    fn of(agent: Agent, config: ConsulConfig) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let config = ConsulConfig {
            address: agent.address().parse().unwrap(),
            ..config
        };
        let consul = Consul::new(config, Arc::new(Names(sender.clone()))).unwrap();
        Self {
            agent,
            consul,
            sender,
            events,
        }
    }

    fn register(&self, instance: Instance) -> Registered {
        self.consul.registration(instance).start()
    }

    /// Waits for the next event of this name.
    async fn event(&mut self, name: &str) {
        timeout(PATIENCE, async {
            while self.events.recv().await.unwrap() != name {}
        })
        .await
        .unwrap_or_else(|_| panic!("no {name}"));
    }
}

fn users() -> ServiceName {
    "users".parse().unwrap()
}

/// Waits until so many endpoints are found.
async fn until(watch: &mut Watch, count: usize) -> Snapshot {
    timeout(PATIENCE, async {
        loop {
            match watch.see() {
                Some(set) if set.len() == count => return set,
                _ => watch.changed().await,
            }
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{count} endpoints were expected: {watch:?}"))
}

#[tokio::test]
async fn an_instance_is_found_from_its_registration_to_its_deregistration() {
    let mut world = World::new().await;
    let mut watch = world.consul.watch(&users());
    until(&mut watch, 0).await;
    let [first, second] = [Healthy::listen().await, Healthy::listen().await];
    let registered = world.register(first.instance("users-1"));
    let set = until(&mut watch, 1).await;
    assert_eq!(set[0].address, first.address.to_string());
    assert_eq!(set[0].metadata["zone"], "a");
    let other = world.register(second.instance("users-2"));
    until(&mut watch, 2).await;
    registered.deregister().await.unwrap();
    let set = until(&mut watch, 1).await;
    assert_eq!(set[0].address, second.address.to_string());
    other.deregister().await.unwrap();
    until(&mut watch, 0).await;
    world.event("Deregistered").await;
}

#[tokio::test]
async fn an_instance_may_have_any_id() {
    let world = World::new().await;
    let mut watch = world.consul.watch(&users());
    let instance = Healthy::listen().await;
    for id in ["users/1?a=b#c%2f", "127.0.0.1:8800", "\"'\\<>&"] {
        let registered = world.register(instance.instance(id));
        let set = until(&mut watch, 1).await;
        assert_eq!(set[0].id.as_str(), format!("{id}@n1"));
        registered.deregister().await.unwrap();
        until(&mut watch, 0).await;
    }
}

#[tokio::test]
async fn an_instance_whose_check_fails_is_not_found_until_it_is_well_again() {
    let world = World::new().await;
    let mut watch = world.consul.watch(&users());
    let instance = Healthy::listen().await;
    let _registered = world.register(instance.instance("users-1"));
    until(&mut watch, 1).await;
    instance.well.store(false, SeqCst);
    until(&mut watch, 0).await;
    instance.well.store(true, SeqCst);
    until(&mut watch, 1).await;
}

#[tokio::test]
async fn an_agent_that_forgot_everything_is_told_again_and_followed_again() {
    let mut world = World::new().await;
    let mut watch = world.consul.watch(&users());
    let [first, second] = [Healthy::listen().await, Healthy::listen().await];
    // Every write raises the agent's index, so that of the old agent is far beyond that of the new one.
    for _ in 0..100 {
        world.agent.put("/v1/kv/x").await.unwrap();
    }
    let registered = world.register(first.instance("users-1"));
    until(&mut watch, 1).await;
    world.event("Registered").await;
    let mut other = watch.clone();
    let emptied = tokio::spawn(async move {
        while !other.see().unwrap().is_empty() {
            other.changed().await;
        }
    });
    world.agent.kill().await;
    world.agent.start_again().await;
    world.event("Registered").await;
    let _second = world.register(second.instance("users-2"));
    until(&mut watch, 2).await;
    // Meanwhile the agent said that nobody is there.
    assert!(!emptied.is_finished());
    emptied.abort();
    drop(registered);
}

#[tokio::test]
async fn an_agent_that_came_back_is_believed_in_the_end_that_nobody_is_there() {
    let mut world = World::new().await;
    let mut watch = world.consul.watch(&users());
    let instance = Healthy::listen().await;
    let registered = world.register(instance.instance("users-1"));
    until(&mut watch, 1).await;
    world.agent.kill().await;
    world.event("DiscoveryFailed").await;
    drop(registered);
    world.agent.start_again().await;
    until(&mut watch, 0).await;
}

#[tokio::test]
async fn an_agent_that_kept_its_data_is_followed_again_without_a_gap() {
    let data = tempfile::tempdir().unwrap();
    let agent = Agent::start_in(data.path()).await;
    let mut world = World::of(agent, ConsulConfig::default());
    let mut watch = world.consul.watch(&users());
    let [first, second] = [Healthy::listen().await, Healthy::listen().await];
    let _first = world.register(first.instance("users-1"));
    until(&mut watch, 1).await;
    let mut other = watch.clone();
    let emptied = tokio::spawn(async move {
        while !other.see().unwrap().is_empty() {
            other.changed().await;
        }
    });
    for _ in 0..2 {
        world.agent.kill().await;
        world.event("DiscoveryFailed").await;
        world.agent.start_again().await;
        world.event("EndpointsConfirmed").await;
    }
    let _second = world.register(second.instance("users-2"));
    until(&mut watch, 2).await;
    assert!(!emptied.is_finished());
    emptied.abort();
}

/// The fewest endpoints that were seen from now on, until it is asked for.
fn fewest(watch: &Watch) -> impl FnOnce() -> usize + use<> {
    let mut watch = watch.clone();
    let least = Arc::new(AtomicUsize::new(usize::MAX));
    let seen = Arc::clone(&least);
    let task = tokio::spawn(async move {
        loop {
            seen.fetch_min(watch.see().unwrap().len(), SeqCst);
            watch.changed().await;
        }
    });
    move || {
        task.abort();
        least.load(SeqCst)
    }
}

#[tokio::test]
async fn instances_that_come_back_one_by_one_to_an_agent_that_forgot_them_are_used_all_the_while() {
    let mut world = World::new().await;
    let mut watch = world.consul.watch(&users());
    let healthy = [(); 4].map(|()| Healthy::listen());
    let mut registered = Vec::new();
    let mut instances = Vec::new();
    for (number, healthy) in healthy.into_iter().enumerate() {
        let healthy = healthy.await;
        registered.push(world.register(healthy.instance(&format!("users-{number}"))));
        instances.push(healthy);
    }
    until(&mut watch, 4).await;
    for _ in 0..100 {
        world.agent.put("/v1/kv/x").await.unwrap();
    }
    // Every question that has its answer has begun to wait.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let fewest = fewest(&watch);
    // One of them does not come back.
    drop(registered.pop());
    drop(instances.pop());
    world.agent.kill().await;
    world.agent.start_again().await;
    until(&mut watch, 3).await;
    assert_eq!(fewest(), 3, "the set shrank further than it should");
    let names: Vec<_> = watch
        .current()
        .unwrap()
        .iter()
        .map(|endpoint| endpoint.id.to_string())
        .collect();
    assert_eq!(names, ["users-0@n1", "users-1@n1", "users-2@n1"]);
    for registered in registered {
        registered.deregister().await.unwrap();
    }
    // It is well again by now, and believed at once.
    until(&mut watch, 0).await;
}

#[tokio::test]
async fn of_an_agent_that_kept_its_data_only_who_is_not_well_is_not_used_any_more() {
    let data = tempfile::tempdir().unwrap();
    let agent = Agent::start_in(data.path()).await;
    let mut world = World::of(agent, ConsulConfig::default());
    let mut watch = world.consul.watch(&users());
    let instances = [
        Healthy::listen().await,
        Healthy::listen().await,
        Healthy::listen().await,
    ];
    let registered: Vec<_> = instances
        .iter()
        .enumerate()
        .map(|(number, healthy)| world.register(healthy.instance(&format!("users-{number}"))))
        .collect();
    until(&mut watch, 3).await;
    let fewest = fewest(&watch);
    world.agent.kill().await;
    world.event("DiscoveryFailed").await;
    instances[1].well.store(false, SeqCst);
    world.agent.start_again().await;
    let back = tokio::time::Instant::now();
    until(&mut watch, 2).await;
    // Not only after the time of doubt.
    assert!(
        back.elapsed() < Duration::from_secs(8),
        "{:?}",
        back.elapsed()
    );
    assert_eq!(fewest(), 2);
    instances[1].well.store(true, SeqCst);
    until(&mut watch, 3).await;
    drop(registered);
}

#[tokio::test]
async fn while_the_agent_is_down_the_last_good_set_stays() {
    for politely in [false, true] {
        let mut world = World::new().await;
        let mut watch = world.consul.watch(&users());
        let instance = Healthy::listen().await;
        let registered = world.register(instance.instance("users-1"));
        let before = until(&mut watch, 1).await;
        if politely {
            world.agent.terminate().await;
        } else {
            world.agent.kill().await;
        }
        for _ in 0..3 {
            world.event("DiscoveryFailed").await;
        }
        assert_eq!(watch.current().as_ref(), Some(&before), "{politely}");
        assert!(!watch.has_changed(), "{politely}");
        assert!(registered.deregister().await.is_err());
    }
}

#[tokio::test]
async fn a_client_that_starts_before_its_agent_finds_it_when_it_comes() {
    let mut world = World::new().await;
    world.agent.kill().await;
    let mut watch = world.consul.watch(&users());
    let instance = Healthy::listen().await;
    let mut registered = world.register(instance.instance("users-1"));
    world.event("RegistrationFailed").await;
    assert_eq!(watch.current(), None);
    world.agent.start_again().await;
    timeout(PATIENCE, registered.registered()).await.unwrap();
    until(&mut watch, 1).await;
}

#[tokio::test]
async fn a_token_that_is_refused_leaves_the_set_unknown_and_the_right_one_finds_all() {
    const ACL: &str = r#"
        acl { enabled = true default_policy = "deny"
              tokens { master = "5ebd4a32-0c00-4f3a-8f3c-0d4f0d7b7e11" } }"#;
    let agent = Agent::start_with(ACL).await;
    let with = |token: &str| ConsulConfig {
        address: agent.address().parse().unwrap(),
        token: Some(token.parse().unwrap()),
        ..ConsulConfig::default()
    };
    let (sender, mut events) = mpsc::unbounded_channel();
    let wrong = Consul::new(with("wrong"), Arc::new(Names(sender))).unwrap();
    let watch = wrong.watch(&users());
    let event = timeout(PATIENCE, events.recv()).await.unwrap();
    assert_eq!(event.as_deref(), Some("DiscoveryFailed"));
    assert_eq!(watch.current(), None);

    let token = with("5ebd4a32-0c00-4f3a-8f3c-0d4f0d7b7e11");
    let world = World::of(agent, token);
    let mut watch = world.consul.watch(&users());
    let instance = Healthy::listen().await;
    let registered = world.register(instance.instance("users-1"));
    until(&mut watch, 1).await;
    registered.deregister().await.unwrap();
}

#[tokio::test]
async fn calls_go_on_when_an_instance_dies_and_reach_the_one_that_comes() {
    let world = World::new().await;
    let mut watch = world.consul.watch(&users());
    let [first, second] = [Healthy::listen().await, Healthy::listen().await];
    let _registered = [(&first, "users-1"), (&second, "users-2")]
        .map(|(healthy, id)| world.register(healthy.instance(id)));
    until(&mut watch, 2).await;

    let client = Client::new(&world.consul, users(), ClientConfig::default(), nobody());
    let call = async || {
        let request = Request::post("/create").body(Body::full("{}")).unwrap();
        let response = client.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
    };
    for _ in 0..50 {
        call().await;
    }
    // Nobody listens there any more, and the registry does not know yet.
    drop(first);
    tokio::task::yield_now().await;
    for _ in 0..50 {
        call().await;
    }
    until(&mut watch, 1).await;
    let third = Healthy::listen().await;
    let _third = world.register(third.instance("users-3"));
    until(&mut watch, 2).await;
    let reached = timeout(PATIENCE, async {
        while third.calls.load(SeqCst) == 0 {
            call().await;
        }
    });
    reached.await.unwrap();
}

#[tokio::test]
async fn a_set_that_is_too_old_fails_calls_until_the_agent_is_back_and_its_age_can_be_seen() {
    let config = ConsulConfig {
        wait: Duration::from_secs(1),
        max_age: Some(Duration::from_secs(12)),
        ..ConsulConfig::default()
    };
    let mut agent = Agent::start().await;
    let config = ConsulConfig {
        address: agent.address().parse().unwrap(),
        ..config
    };
    // A name of its own, for all tests of this process count in one place.
    let aged: ServiceName = "aged".parse().unwrap();
    let metrics = kit::metrics::install();
    let consul = Consul::new(config, kit::metrics::observer()).unwrap();
    let healthy = Healthy::listen().await;
    let instance = Instance {
        service: aged.clone(),
        ..healthy.instance("aged-1")
    };
    let _registered = consul.registration(instance).start();
    let mut watch = consul.watch(&aged);
    until(&mut watch, 1).await;
    let client = Client::new(&consul, aged, ClientConfig::default(), nobody());
    let call = async || {
        let request = Request::post("/create").body(Body::full("{}")).unwrap();
        client.clone().oneshot(request).await
    };
    let confirmed = || {
        let text = metrics.render();
        let name = r#"kit_endpoints_confirmed_timestamp_seconds{peer_service="aged"} "#;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().parse::<f64>().unwrap()
    };
    assert_eq!(call().await.unwrap().status(), 200);
    agent.kill().await;
    let before = confirmed();
    tokio::time::sleep(Duration::from_secs(5)).await;
    // Not too old yet, and used.
    assert_eq!(call().await.unwrap().status(), 200);
    until(&mut watch, 0).await;
    let error = call().await.unwrap_err();
    let rejection = kit::Rejection::find(&*error);
    assert!(
        matches!(rejection, Some(kit::Rejection::NoEndpoints { .. })),
        "{error}"
    );
    // Nobody has said anything meanwhile.
    assert!(confirmed() - before < 5.0);
    agent.start_again().await;
    until(&mut watch, 1).await;
    assert_eq!(call().await.unwrap().status(), 200);
    assert!(confirmed() - before > 10.0);
}
