//! Policies that live in the registry.

use std::{
    any::type_name,
    fmt,
    num::{NonZeroU32, NonZeroUsize},
    sync::Mutex,
};

use kit::{
    Rejection,
    balance::BalanceConfig,
    circuit_breaker::CircuitBreakerConfig,
    coalesce::{CoalesceConfig, CoalesceLayer},
    concurrency::{ConcurrencyConfig, ConcurrencyLimiter},
    deadline::{DeadlineConfig, DeadlineLayer},
    discovery::{DiscoveryConfig, Fixed, Following, Policies, Source, follow},
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
    world.say(key, "listen = '127.0.0.1:1'").await;
    assert_eq!(next().await.0, "rejected", "a client has no such policy");
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
    let mut say = async |key: &str, value: &str, event_name: &str| {
        world.say(key, value).await;
        assert_eq!(event().await, event_name, "{key}: {value}");
    };
    // Three of it are used up.
    let key = "kit/users/server";
    let burst = format!("{key}/rate_limit/burst");
    say(&burst, "4", "ConfigRead").await;
    assert_eq!([call().await, call().await], [200, 429]);
    // A part at a key of its own goes before, and lacks the rest now.
    say(key, r#"{"rate_limit": null}"#, "ConfigRejected").await;
    assert_eq!(call().await, 429);
    say(&burst, "", "ConfigRead").await;
    assert_eq!([call().await, call().await], [200, 200]);
    let policy = r#"{"rate_limit": {"burst": 4, "interval": "1h"}}"#;
    say(key, policy, "ConfigRead").await;
    assert_eq!(call().await, 429, "what was taken before is taken still");
    say(
        key,
        r#"{"rate_limit": null, "concurrency": null}"#,
        "ConfigRead",
    )
    .await;
    assert_eq!(call().await, 200);
    // Where it listens cannot be changed while it does.
    say(key, "listen = '127.0.0.1:1'", "ConfigRejected").await;
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
    let expected = Some(Rate { interval, ..rate });
    arrives(&world, limiter.rate(), policy, expected).await;
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
    arrives(&world, places.config(), "limit = 1", Some(expected)).await;
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
    let policy = r#"min_delay = "1h""#;
    arrives(&world, layer.config(), policy, Some(expected)).await;
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
    // A circuit's failures, by the test above; what a client has besides, by those below.
}

/// Answers 200, but 500 at `/fail` and never at `/hang`, and counts what it is asked for.
async fn moody() -> (SocketAddr, Asked, AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Asked::default();
    let count = asked.clone();
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let count = count.clone();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let read = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..read]);
                let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
                count.0.lock().unwrap().push(path.clone());
                let status = match &*path {
                    "/hang" => return std::future::pending().await,
                    "/fail" => 500,
                    _ => 200,
                };
                let answer =
                    format!("HTTP/1.1 {status} \r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    (address, asked, task.abort_handle())
}

#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    fn times(&self, path: &str) -> usize {
        let asked = self.0.lock().unwrap();
        asked.iter().filter(|asked| *asked == path).count()
    }

    async fn until(&self, path: &str, times: usize) {
        let reached = async {
            while self.times(path) < times {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let reached = timeout(PATIENCE, reached).await;
        reached.unwrap_or_else(|_| panic!("{path}: {} of {times}", self.times(path)));
    }
}

/// A client whose policies stand in the store, and its peer.
struct Followed {
    world: World,
    client: Client,
    asked: Asked,
    peer: AbortHandle,
    _following: Following,
}

impl Followed {
    async fn start(config: ClientConfig) -> Self {
        let world = World::new().await;
        let (address, asked, peer) = moody().await;
        let fixed = Fixed::new([(users(), vec![address.to_string().parse().unwrap()])]);
        let client = Client::new(&fixed, users(), config, nobody());
        let policies = policies(&world, "bugs", world.observer());
        Self {
            _following: client.follow(&policies).unwrap(),
            world,
            client,
            asked,
            peer,
        }
    }

    async fn say(&mut self, policy: &str) {
        self.world.say("kit/bugs/client/users", policy).await;
        self.world.event("ConfigRead").await;
    }

    /// The status of the answer, or what the kit said.
    async fn call(&self, path: &str) -> Result<u16, Option<Rejection>> {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = self.client.clone().oneshot(request).await;
        let answer = answer.map(|answer| answer.status().as_u16());
        answer.map_err(|error| Rejection::find(&*error).cloned())
    }

    async fn until(&self, path: &str, is: impl Fn(Result<u16, Option<Rejection>>) -> bool) {
        let reached = async {
            while !is(self.call(path).await) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, reached).await.unwrap();
    }

    /// A call that gets no answer, once the peer was asked.
    async fn hang(&self) -> AbortHandle {
        let times = self.asked.times("/hang");
        let request = Request::get("/hang").body(Body::empty()).unwrap();
        let call = tokio::spawn(self.client.clone().oneshot(request));
        self.asked.until("/hang", times + 1).await;
        call.abort_handle()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.peer.abort();
    }
}

/// Nothing of this test waits for a call that hangs.
fn patient() -> ClientConfig {
    ClientConfig {
        timeout: 100 * PATIENCE,
        attempt_timeout: 100 * PATIENCE,
        ..ClientConfig::default()
    }
}

#[tokio::test]
async fn limits_of_a_client_come_and_go_and_what_they_counted_stays() {
    let mut followed = Followed::start(patient()).await;
    let overloaded = |limit| Err(Some(Rejection::Overloaded { limit }));

    let one = r#"{"concurrency": {"limit": 1}}"#;
    followed.say(one).await;
    let first = followed.hang().await;
    assert_eq!(followed.call("/").await, overloaded(1));
    followed.say("{}").await;
    let second = followed.hang().await;
    followed.say(one).await;
    assert_eq!(
        followed.call("/").await,
        overloaded(1),
        "the first one is in flight"
    );
    first.abort();
    followed.until("/", |answer| answer == Ok(200)).await;

    let rate = r#"{"rate_limit": {"burst": 1, "interval": "1h"}}"#;
    followed.say(rate).await;
    let limited = |answer| matches!(answer, Err(Some(Rejection::RateLimited { .. })));
    assert_eq!(followed.call("/").await, Ok(200));
    assert!(limited(followed.call("/").await));
    followed.say("{}").await;
    assert_eq!(followed.call("/").await, Ok(200));
    followed.say(rate).await;
    assert!(limited(followed.call("/").await), "its token was taken");

    // Of the connections one is still in use, and one more may be made.
    followed.say("max_connections = 1").await;
    assert_eq!(followed.call("/").await, overloaded(1));
    followed.say("max_connections = 2").await;
    assert_eq!(followed.call("/").await, Ok(200));
    second.abort();
}

#[tokio::test]
async fn hedges_and_budgets_of_a_client_come_and_go_and_what_they_counted_stays() {
    let mut followed = Followed::start(patient()).await;
    let alone = followed.hang().await;
    followed.say(r#"hedge.delay = "1ms""#).await;
    let hedged = followed.hang().await;
    followed.asked.until("/hang", 3).await;
    followed.say("{}").await;
    let last = followed.hang().await;
    assert_eq!(followed.asked.times("/hang"), 4);
    for call in [alone, hedged, last] {
        call.abort();
    }

    // Another window, in which what was spent is spent. By default as much as three in each second was there.
    let budget = followed.client.outbound().retry.budget().clone();
    let withdrawn = || {
        let withdrawals = std::iter::from_fn(|| budget.withdraw(Instant::now()));
        withdrawals.map(|withdrawal| withdrawal.spend()).count()
    };
    assert_eq!(withdrawn(), 29, "one was a hedge");
    followed
        .say(r#"retry = { budget = { window = "20s" } }"#)
        .await;
    assert_eq!(withdrawn(), 30, "of sixty");
}

#[tokio::test]
async fn health_checks_of_a_client_come_and_go_while_its_circuits_stay_open() {
    let mut config = patient();
    config.retry.attempts = NonZeroU32::MIN;
    config.circuit_breaker = CircuitBreakerConfig {
        consecutive_failures: NonZeroU32::MIN,
        open_for: 100 * PATIENCE,
        max_open_for: 100 * PATIENCE,
        ..config.circuit_breaker
    };
    config.balance.panic_threshold = Ratio::ZERO;
    let mut followed = Followed::start(config).await;
    assert_eq!(followed.call("/fail").await, Ok(500));
    let is_open = |answer| matches!(answer, Err(Some(Rejection::CircuitOpen { .. })));
    assert!(is_open(followed.call("/").await));

    let check = |path: &str| format!(r#"health_check = {{ path = "{path}", interval = "100ms" }}"#);
    followed.say(&check("/fail")).await;
    followed.asked.until("/fail", 3).await;
    assert!(is_open(followed.call("/").await));
    followed.say("{}").await;
    assert!(is_open(followed.call("/").await));
    followed.say(&check("/well")).await;
    followed.asked.until("/well", 1).await;
    followed.until("/", |answer| answer == Ok(200)).await;
}
