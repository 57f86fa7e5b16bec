//! Policies that live in the registry, and locks.

use std::{
    any::type_name,
    fmt,
    num::{NonZeroU32, NonZeroUsize},
    sync::Mutex,
};

use kit::{
    balance::BalanceConfig,
    circuit_breaker::CircuitBreakerConfig,
    coalesce::{CoalesceConfig, CoalesceLayer},
    concurrency::{ConcurrencyConfig, ConcurrencyLimiter},
    deadline::{DeadlineConfig, DeadlineLayer},
    discovery::{
        Candidate, DiscoveryConfig, Election, ElectionConfig, Fixed, Policies, Source, View, follow,
    },
    error::Code,
    fault::{Fail, FaultConfig, FaultLayer},
    hedge::{HedgeConfig, HedgeLayer},
    outbox::OutboxConfig,
    policy::{Admit, Live, Ratio},
    rate_limit::{KeyedRate, KeyedRateLimiter, Rate, RateLimiter},
    retry::{Budget, RetryConfig, RetryLayer},
    server::{Inbound, ServerConfig},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep};
use tower::{Layer, service_fn};

use super::*;

impl World {
    /// Writes a value.
    async fn say(&self, key: &str, value: &str) {
        let path = format!("/v1/kv/{key}");
        assert_eq!(self.agent.put_with(&path, value).await.unwrap(), "true");
    }

    fn view(&self, key: &str) -> View<ClientConfig> {
        let (kv, observer) = (self.consul.key_value(), self.observer());
        View::new(kv, key, ClientConfig::default(), observer)
    }

    /// An observer whose events come out of [`World::event`].
    fn observer(&self) -> kit::event::SharedObserver {
        Arc::new(Names(self.sender.clone()))
    }
}

async fn until_attempts(view: &mut View<ClientConfig>, attempts: u32) {
    let reached = async {
        while view.get().retry.attempts.get() != attempts {
            view.changed().await;
        }
    };
    timeout(PATIENCE, reached).await.unwrap();
}

#[tokio::test]
async fn the_last_good_value_stays_until_there_is_a_better_one_or_none() {
    let mut world = World::new().await;
    let mut view = world.view("kit/users");
    assert_eq!(*view.get(), ClientConfig::default());
    world
        .say("kit/users", r#"{"retry": {"attempts": 7}}"#)
        .await;
    until_attempts(&mut view, 7).await;
    // What begins alike is another one's.
    world.say("kit/users2", "retry.attempts = 1").await;
    for bad in ["retry.attempts = 0", "retries = 1", "{", "nonsense"] {
        world.say("kit/users", bad).await;
        world.event("ConfigRejected").await;
        assert_eq!(view.get().retry.attempts.get(), 7, "{bad}");
    }
    world.say("kit/users", "retry.attempts = 5").await;
    until_attempts(&mut view, 5).await;
    world.say("kit/users/retry/attempts", "4").await;
    until_attempts(&mut view, 4).await;

    // An agent that lost all of it is not believed at once.
    world.agent.kill().await;
    world.event("ConfigFailed").await;
    world.agent.start_again().await;
    assert_eq!(view.get().retry.attempts.get(), 4);
    world.say("kit/users", "retry.attempts = 6").await;
    until_attempts(&mut view, 6).await;
    world
        .agent
        .send("DELETE", "/v1/kv/kit/users", "", "")
        .await
        .unwrap();
    until_attempts(&mut view, ClientConfig::default().retry.attempts.get()).await;
}

/// Answers every request with 500, and counts them.
async fn failing() -> (SocketAddr, Arc<AtomicUsize>, AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                count.fetch_add(1, SeqCst);
                let answer = "HTTP/1.1 500 \r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    (address, calls, task.abort_handle())
}

/// Notes how many calls the peer has seen when something happens, and counts it as a service does.
struct Noted {
    calls: Arc<AtomicUsize>,
    notes: mpsc::UnboundedSender<(&'static str, usize)>,
    telemetry: kit::event::SharedObserver,
}

impl Observer for Noted {
    fn observe(&self, event: Event<'_>) {
        let what = match event {
            Event::ConfigRead { .. } => Some("read"),
            Event::ConfigRejected { .. } => Some("rejected"),
            Event::CircuitOpened { .. } => Some("opened"),
            _ => None,
        };
        if let Some(what) = what {
            let _ = self.notes.send((what, self.calls.load(SeqCst)));
        }
        self.telemetry.observe(event);
    }
}

/// Where a service with this name looks for its policies: below `kit` in the agent's store.
fn policies(world: &World, service: &str, observer: kit::event::SharedObserver) -> Policies {
    let config = DiscoveryConfig {
        consul: Some(ConsulConfig {
            address: world.agent.address().parse().unwrap(),
            ..ConsulConfig::default()
        }),
        policies: Some("kit".into()),
        ..DiscoveryConfig::default()
    };
    let source = Source::from_config(&config, Arc::clone(&observer)).unwrap();
    Policies::from_config(&config, &source, &service.parse().unwrap(), observer)
}

#[tokio::test]
async fn a_threshold_that_is_lowered_under_load_meets_what_was_counted_before() {
    let world = World::new().await;
    let (address, calls, peer) = failing().await;
    let metrics = kit::metrics::install();
    let (notes, mut noted) = mpsc::unbounded_channel();
    let observer: kit::event::SharedObserver = Arc::new(Noted {
        calls: Arc::clone(&calls),
        notes,
        telemetry: kit::metrics::observer(),
    });
    let config = ClientConfig {
        retry: RetryConfig {
            attempts: std::num::NonZeroU32::MIN,
            ..RetryConfig::default()
        },
        circuit_breaker: CircuitBreakerConfig {
            consecutive_failures: 1_000_000.try_into().unwrap(),
            success_rate: None,
            ..CircuitBreakerConfig::default()
        },
        balance: BalanceConfig {
            panic_threshold: Ratio::ZERO,
            ..BalanceConfig::default()
        },
        ..ClientConfig::default()
    };
    let fixed = Fixed::new([(users(), vec![address.to_string().parse().unwrap()])]);
    let client = Client::new(&fixed, users(), config, Arc::clone(&observer));
    let _following = client.follow(&policies(&world, "bugs", observer)).unwrap();
    let load = tokio::spawn(async move {
        loop {
            let request = Request::post("/create").body(Body::full("{}")).unwrap();
            let _ = client.clone().oneshot(request).await;
            tokio::task::yield_now().await;
        }
    });
    let counted = async |count: usize| {
        while calls.load(SeqCst) < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let mut next = async || timeout(PATIENCE, noted.recv()).await.unwrap().unwrap();
    timeout(PATIENCE, counted(200)).await.unwrap();
    let key = "kit/bugs/client/users";
    world
        .say(key, "circuit_breaker.consecutive_failures = 0")
        .await;
    assert_eq!(next().await.0, "rejected");
    world.say(key, "connect_timeout = '7s'").await;
    assert_eq!(next().await.0, "rejected", "that one is fixed");
    let text = metrics.render();
    let line = format!("kit_config_rejected_total{{key=\"{key}\"}} 2");
    assert!(text.contains(&line), "{text}");
    assert!(text.contains(&format!("kit_config_valid{{key=\"{key}\"}} 0")));

    world
        .say(key, "circuit_breaker.consecutive_failures = 150")
        .await;
    let (what, when_read) = next().await;
    assert_eq!(what, "read");
    let (what, when_opened) = next().await;
    assert_eq!(what, "opened");
    // More than 150 had failed already; had they been forgotten, it would have taken as many more.
    assert!(when_opened - when_read < 100, "{when_read} {when_opened}");
    assert!(
        metrics
            .render()
            .contains(&format!("kit_config_valid{{key=\"{key}\"}} 1"))
    );
    load.abort();
    peer.abort();
}

#[tokio::test]
async fn the_policies_of_a_server_are_followed_too() {
    let world = World::new().await;
    let config: ServerConfig =
        serde_json::from_str(r#"{"rate_limit": {"burst": 1000, "interval": "1h"}}"#).unwrap();
    let inbound = Inbound::from_config(&config, &users());
    let (sender, mut events) = mpsc::unbounded_channel();
    let observer = Arc::new(Names(sender));
    let _following = inbound
        .follow(&policies(&world, "users", observer))
        .unwrap();
    let server = inbound.layer(service_fn(async |_: Request<Body>| {
        Ok::<_, std::convert::Infallible>(http::Response::new(Body::empty()))
    }));
    let call = async || {
        let request = Request::get("/").body(Body::empty()).unwrap();
        server
            .clone()
            .oneshot(request)
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    for _ in 0..3 {
        assert_eq!(call().await, 200);
    }
    let mut event = async || timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
    // Three of it are used up.
    world.say("kit/users/server/rate_limit/burst", "4").await;
    assert_eq!(event().await, "ConfigRead");
    assert_eq!([call().await, call().await], [200, 429]);
    world
        .say("kit/users/server", r#"{"rate_limit": null}"#)
        .await;
    // A part at a key of its own goes before, and lacks the rest now.
    assert_eq!(event().await, "ConfigRejected");
    assert_eq!(call().await, 429);
}

/// How many lead at this moment, the most that ever did, and the numbers of their leaderships.
#[derive(Clone, Default)]
struct Leaders(Arc<Mutex<(usize, usize, Vec<u64>)>>);

impl Leaders {
    /// A job that never ends by itself.
    async fn lead(self, fencing: u64) {
        struct Leads(Leaders);
        impl Drop for Leads {
            fn drop(&mut self) {
                self.0.0.lock().unwrap().0 -= 1;
            }
        }
        let _leads = {
            let mut leaders = self.0.lock().unwrap();
            leaders.0 += 1;
            leaders.1 = leaders.1.max(leaders.0);
            leaders.2.push(fencing);
            drop(leaders);
            Leads(self.clone())
        };
        std::future::pending().await
    }

    fn now(&self) -> usize {
        self.0.lock().unwrap().0
    }

    fn terms(&self) -> Vec<u64> {
        self.0.lock().unwrap().2.clone()
    }

    async fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let reached = async {
            while !is(self) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let reached = timeout(2 * PATIENCE, reached).await;
        reached.unwrap_or_else(|_| panic!("{what}: {:?}", self.0));
    }

    /// Never two at once, and each with a greater number than the one before.
    fn were_in_order(&self) {
        let (_, most, terms) = &*self.0.lock().unwrap();
        assert_eq!(*most, 1);
        assert!(terms.is_sorted_by(|a, b| a < b), "{terms:?}");
    }
}

const LOCK: &str = "kit/users/clean-up";

impl World {
    fn stand(&self, name: &str, leaders: &Leaders) -> Candidate {
        self.stand_with(ElectionConfig::new(LOCK, name), leaders)
    }

    fn stand_with(&self, config: ElectionConfig, leaders: &Leaders) -> Candidate {
        let config = ElectionConfig {
            ttl: Duration::from_secs(10),
            lock_delay: Duration::from_secs(3),
            ..config
        };
        let leaders = leaders.clone();
        Election::new(self.consul.locks(), config, self.observer())
            .stand(move |leadership| leaders.clone().lead(leadership.fencing))
    }

    /// Who has the lock: the session and the value.
    async fn holder(&self) -> (String, String) {
        let entry = self.agent.get(&format!("/v1/kv/{LOCK}")).await.unwrap();
        let entry: serde_json::Value = serde_json::from_str(&entry).unwrap();
        let session = entry[0]["Session"].as_str().unwrap_or_default();
        let name = self.agent.get(&format!("/v1/kv/{LOCK}?raw")).await.unwrap();
        (session.to_owned(), name)
    }
}

#[tokio::test]
async fn one_of_two_leads_and_the_other_one_when_its_session_is_lost_or_given_back() {
    let world = World::new().await;
    let leaders = Leaders::default();
    let mut candidates = BTreeMap::from(["a", "b"].map(|name| (name, world.stand(name, &leaders))));
    leaders
        .until("one leads", |leaders| leaders.now() == 1)
        .await;
    for round in 2..4 {
        let (session, _) = world.holder().await;
        world
            .agent
            .put(&format!("/v1/session/destroy/{session}"))
            .await
            .unwrap();
        leaders
            .until("one leads again", |leaders| leaders.terms().len() == round)
            .await;
        leaders.were_in_order();
    }
    let (_, name) = world.holder().await;
    let leader = candidates.remove(&*name).unwrap();
    leader.stop().await;
    leaders
        .until("the other one leads", |leaders| leaders.terms().len() == 4)
        .await;
    let (_, other) = world.holder().await;
    assert_ne!(other, name);
    // Dropped, it gives the lock back too.
    candidates.clear();
    leaders
        .until("nobody leads", |leaders| leaders.now() == 0)
        .await;
    let free = async { while !world.holder().await.0.is_empty() {} };
    timeout(PATIENCE, free).await.unwrap();
    leaders.were_in_order();
}

#[tokio::test]
async fn a_leader_that_cannot_renew_stops_by_itself_and_leads_again_later() {
    let mut world = World::new().await;
    let leaders = Leaders::default();
    let candidate = world.stand("a", &leaders);
    leaders
        .until("it leads", |leaders| leaders.now() == 1)
        .await;
    world.agent.kill().await;
    leaders
        .until("it stops", |leaders| leaders.now() == 0)
        .await;
    world.event("Deposed").await;
    world.agent.start_again().await;
    leaders
        .until("it leads again", |leaders| leaders.now() == 1)
        .await;
    candidate.stop().await;
    assert_eq!(leaders.now(), 0);
}

#[tokio::test]
async fn a_leader_whose_instance_fails_its_check_does_not_lead() {
    let world = World::new().await;
    let leaders = Leaders::default();
    let healthy = Healthy::listen().await;
    let mut registered = world.register(healthy.instance("users-1"));
    registered.registered().await;
    let config = ElectionConfig {
        instance: Some("users-1".parse().unwrap()),
        ..ElectionConfig::new(LOCK, "a")
    };
    let candidate = world.stand_with(config, &leaders);
    leaders
        .until("it leads", |leaders| leaders.now() == 1)
        .await;
    healthy.well.store(false, SeqCst);
    leaders
        .until("it stops", |leaders| leaders.now() == 0)
        .await;
    healthy.well.store(true, SeqCst);
    leaders
        .until("it leads again", |leaders| leaders.now() == 1)
        .await;
    leaders.were_in_order();
    candidate.stop().await;
}

#[tokio::test]
async fn a_job_that_ends_gives_the_leadership_back() {
    let world = World::new().await;
    let config = ElectionConfig::new(LOCK, "a");
    let done = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&done);
    let mut candidate = Election::new(world.consul.locks(), config, nobody()).stand(move |_| {
        count.fetch_add(1, SeqCst);
        std::future::ready(())
    });
    timeout(PATIENCE, candidate.ended()).await.unwrap();
    assert_eq!(done.load(SeqCst), 1);
    assert_eq!(world.holder().await.0, "");
}

#[tokio::test]
async fn a_job_that_panics_gives_the_leadership_back_too() {
    let world = World::new().await;
    let config = ElectionConfig::new(LOCK, "a");
    let mut candidate = Election::new(world.consul.locks(), config, nobody())
        .stand(async |_| panic!("as a job does that has a bug"));
    timeout(PATIENCE, candidate.ended()).await.unwrap();
    assert_eq!(world.holder().await.0, "");
}

#[tokio::test]
async fn slashes_around_a_key_do_not_count() {
    let world = World::new().await;
    world.say("kit/users/retry/attempts", "4").await;
    for key in ["/kit/users", "kit/users/", "//kit/users//"] {
        until_attempts(&mut world.view(key), 4).await;
    }
}

/// Whether a policy that is written into the store gets through the handle of what it is about.
async fn arrives<T>(world: &World, live: &Live<T>, policy: &str, expected: T)
where
    T: Serialize + DeserializeOwned + Clone + PartialEq + fmt::Debug + Send + Sync + 'static,
{
    let key = format!("kit/{}", type_name::<T>());
    let handle = live.clone();
    let apply = move |policy| {
        handle.set(policy);
        Ok(())
    };
    let kv = world.consul.key_value();
    let _following = follow(kv, &*key, &**live.get(), apply, world.observer());
    assert_ne!(**live.get(), expected);
    world.say(&key, policy).await;
    let arrived = async {
        while **live.get() != expected {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let arrived = timeout(PATIENCE, arrived).await;
    arrived.unwrap_or_else(|_| panic!("{key}: {:?}", live.get()));
}

/// Each into the very layer, which has counted something that has to be there afterwards.
#[tokio::test]
async fn every_policy_comes_out_of_the_store_and_leaves_what_was_counted() {
    let world = World::new().await;
    let one = NonZeroU32::MIN;
    let hour = Duration::from_secs(3600);
    let now = Instant::now();

    let rate = Rate {
        burst: one,
        interval: hour,
    };
    let limiter = RateLimiter::new(rate, now);
    limiter.take(now).unwrap();
    let interval = hour / 2;
    let policy = r#"{"interval": "30m"}"#;
    arrives(&world, limiter.rate(), policy, Rate { interval, ..rate }).await;
    assert!(limiter.take(now).is_err(), "the token was taken before");

    let keyed = KeyedRateLimiter::new(KeyedRate::new(rate), now);
    keyed.take(&"ada", now).unwrap();
    let expected = KeyedRate {
        rate: Rate { interval, ..rate },
        ..KeyedRate::new(rate)
    };
    arrives(
        &world,
        keyed.config(),
        r#"{"rate": {"interval": "30m"}}"#,
        expected,
    )
    .await;
    assert!(keyed.take(&"ada", now).is_err());
    keyed.take(&"bob", now).unwrap();

    let limit = ConcurrencyConfig::default();
    let places = ConcurrencyLimiter::new("users", limit, kit::event::nobody());
    let _place = places.admit(now).unwrap();
    let expected = ConcurrencyConfig {
        limit: NonZeroUsize::MIN,
        ..limit
    };
    arrives(&world, places.config(), "limit = 1", expected).await;
    assert!(places.admit(now).is_err(), "there is one in flight");

    let budget = Budget::default();
    let retry = RetryLayer::new(RetryConfig::default(), budget, kit::event::nobody());
    let spent = std::iter::from_fn(|| retry.budget().withdraw(now));
    let spent = spent.map(|withdrawal| withdrawal.spend()).count();
    let expected = RetryConfig {
        attempts: one,
        ..RetryConfig::default()
    };
    arrives(&world, retry.config(), "attempts = 1", expected).await;
    assert!(spent > 0 && retry.budget().withdraw(now).is_none());

    let hedge = HedgeConfig::default();
    let layer = HedgeLayer::new(hedge, Budget::default(), kit::event::nobody());
    let expected = HedgeConfig {
        min_delay: hour,
        ..hedge
    };
    arrives(&world, layer.config(), r#"min_delay = "1h""#, expected).await;
    let deadline = DeadlineLayer::inbound(DeadlineConfig::default());
    let expected = DeadlineConfig { timeout: hour };
    arrives(&world, deadline.config(), r#"timeout = "1h""#, expected).await;
    let fault = FaultLayer::new(FaultConfig::default());
    let fail = Fail {
        ratio: Ratio::ONE,
        code: Code::Unavailable,
    };
    let expected = FaultConfig {
        error: Some(fail),
        ..FaultConfig::default()
    };
    let policy = r#"error = { ratio = 1.0, code = "unavailable" }"#;
    arrives(&world, fault.config(), policy, expected).await;
    let coalesce = CoalesceLayer::<_, (), _>::new(CoalesceConfig::default(), |(): &()| Some(()));
    let expected = CoalesceConfig {
        max_calls: NonZeroUsize::MIN,
    };
    arrives(&world, coalesce.config(), "max_calls = 1", expected).await;
    let balance = Live::new(BalanceConfig::default());
    let expected = BalanceConfig {
        penalty: hour,
        ..BalanceConfig::default()
    };
    arrives(&world, &balance, r#"penalty = "1h""#, expected).await;
    let outbox = Live::new(OutboxConfig::default());
    let expected = OutboxConfig {
        poll: hour,
        ..OutboxConfig::default()
    };
    arrives(&world, &outbox, r#"poll = "1h""#, expected).await;
    // A circuit's failures, by the test above.
}
