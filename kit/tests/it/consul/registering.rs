//! How an instance gets into the registry, stays there, and keeps others out.

use std::{convert::Infallible, net::Ipv4Addr};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kit::{
    balance::{BalanceConfig, Pick},
    discovery::{AddressTag, Registration, Source},
    server::{self, Listeners, ServerConfig},
};
use serde_json::{Value, json};

use super::*;
use crate::support::log::Kept;

impl World {
    /// What the agent answers to `GET path`.
    async fn json(&self, path: &str) -> Value {
        let text = self.agent.get(path).await.unwrap();
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    fn registration(&self, instance: Instance) -> Registration {
        self.consul.registration(instance)
    }
}

/// Waits until the only endpoint is one for which `is` is true.
async fn until_one(watch: &mut Watch, is: impl Fn(&kit::endpoint::Endpoint) -> bool) {
    timeout(PATIENCE, async {
        loop {
            match watch.see() {
                Some(set) if set.len() == 1 && is(&set[0]) => return,
                _ => watch.changed().await,
            }
        }
    })
    .await
    .unwrap_or_else(|_| panic!("another endpoint was expected: {watch:?}"));
}

#[tokio::test]
async fn what_is_told_of_an_instance_is_in_the_registry() {
    let world = World::new().await;
    let healthy = Healthy::listen().await;
    let instance = Instance {
        addresses: BTreeMap::from([
            (AddressTag::Wan, "203.0.113.7:80".parse().unwrap()),
            (AddressTag::LanIpv6, "[fd00::1]:8800".parse().unwrap()),
        ]),
        weights: Weights {
            passing: 7,
            warning: 2,
        },
        ..healthy.instance("users-1")
    };
    let mut watch = world.consul.watch(&users());
    let _registered = world.register(instance);
    let set = until(&mut watch, 1).await;
    assert_eq!(set[0].weight, 7);
    let told = world.json("/v1/agent/service/users-1").await;
    assert_eq!(told["Tags"], json!(["test"]));
    assert_eq!(told["Meta"]["zone"], "a");
    assert_eq!(told["Weights"], json!({"Passing": 7, "Warning": 2}));
    let addresses = &told["TaggedAddresses"];
    assert_eq!(
        addresses["wan"],
        json!({"Address": "203.0.113.7", "Port": 80})
    );
    assert_eq!(
        addresses["lan_ipv6"],
        json!({"Address": "fd00::1", "Port": 8800})
    );
}

#[tokio::test]
async fn an_instance_that_speaks_for_itself_is_found_while_it_says_that_it_is_ready() {
    let mut world = World::new().await;
    let mut watch = world.consul.watch(&users());
    let ready = Arc::new(AtomicBool::new(true));
    let says = Arc::clone(&ready);
    let instance = Instance {
        check: Check::Ttl {
            ttl: Duration::from_secs(2),
        },
        // Nobody asks there.
        ..Healthy::listen().await.instance("users-1")
    };
    let registered = world
        .registration(instance)
        .reporting(move || {
            let ready = says.load(SeqCst);
            async move {
                if ready {
                    Ok(())
                } else {
                    Err("out of disk".into())
                }
            }
        })
        .start();
    until(&mut watch, 1).await;
    ready.store(false, SeqCst);
    until(&mut watch, 0).await;
    let checks = world.json("/v1/health/checks/users").await;
    assert_eq!(checks[0]["Output"], "out of disk");
    ready.store(true, SeqCst);
    until(&mut watch, 1).await;

    // An agent that forgot it is told again, which resets the time too.
    world.event("Registered").await;
    world.agent.kill().await;
    world.agent.start_again().await;
    world.event("Registered").await;
    until(&mut watch, 1).await;
    // Its word does not come any more, as after a crash.
    drop(registered);
    until(&mut watch, 0).await;
}

/// Answers gRPC's health protocol over HTTP/2: that the service is serving, or not.
async fn grpc_health(serving: Arc<AtomicBool>) -> (SocketAddr, AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let serving = Arc::clone(&serving);
            let answer = hyper::service::service_fn(move |request: Request<_>| {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                // A message of two bytes: field 1, SERVING or NOT_SERVING.
                let status = if serving.load(SeqCst) { 1 } else { 2 };
                let body = Full::new(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]));
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                let body = body.with_trailers(async move { Some(Ok::<_, Infallible>(trailers)) });
                let response = Response::builder().header("content-type", "application/grpc");
                async move { response.body(body) }
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), answer),
            );
        }
    });
    (address, task.abort_handle())
}

#[tokio::test]
async fn an_instance_is_asked_by_the_health_protocol_of_grpc() {
    let world = World::new().await;
    let mut watch = world.consul.watch(&users());
    let serving = Arc::new(AtomicBool::new(true));
    let (address, task) = grpc_health(Arc::clone(&serving)).await;
    let instance = Instance {
        check: Check::Grpc {
            address: address.to_string().parse().unwrap(),
            service: Some("users.Users".into()),
            tls: false,
            interval: Duration::from_millis(500),
            timeout: Duration::from_secs(5),
        },
        ..Healthy::listen().await.instance("users-1")
    };
    let _registered = world.register(instance);
    until(&mut watch, 1).await;
    serving.store(false, SeqCst);
    until(&mut watch, 0).await;
    serving.store(true, SeqCst);
    until(&mut watch, 1).await;
    task.abort();
}

#[tokio::test]
async fn a_process_that_starts_again_takes_the_place_of_the_one_that_was_killed() {
    let world = World::new().await;
    let mut watch = world.consul.watch(&users());
    let healthy = Healthy::listen().await;
    // Dropped without a word, as by a crash. Its check passes on: whoever starts again answers it.
    drop({
        let mut crashed = world.register(healthy.instance("users-1"));
        crashed.registered().await;
        crashed
    });
    until(&mut watch, 1).await;
    let process = watch.current().unwrap()[0].metadata["process"].clone();
    let again = world.register(healthy.instance("users-1"));
    until_one(&mut watch, |one| one.metadata["process"] != process).await;
    drop(again);

    // At another address it has to wait until the check has found out that nobody is at the old one.
    let elsewhere = Healthy::listen().await;
    drop(healthy);
    let _registered = world.register(elsewhere.instance("users-1"));
    until_one(&mut watch, |one| {
        one.address == elsewhere.address.to_string()
    })
    .await;
}

/// Waits for a failure and gives its text.
async fn refusal(errors: &mut mpsc::UnboundedReceiver<String>) -> String {
    timeout(PATIENCE, errors.recv()).await.unwrap().unwrap()
}

/// Sends the errors of registrations.
struct Errors(mpsc::UnboundedSender<String>);

impl Observer for Errors {
    fn observe(&self, event: Event<'_>) {
        if let Event::RegistrationFailed { error, .. } = event {
            let _ = self.0.send(error.to_string());
        }
    }
}

#[tokio::test]
async fn a_second_process_with_the_same_id_is_told_so_until_the_first_one_is_gone() {
    let world = World::new().await;
    let mut watch = world.consul.watch(&users());
    let [first, second] = [Healthy::listen().await, Healthy::listen().await];
    let registered = world.register(first.instance("users-1"));
    until(&mut watch, 1).await;

    let (sender, mut errors) = mpsc::unbounded_channel();
    let config = ConsulConfig {
        address: world.agent.address().parse().unwrap(),
        ..ConsulConfig::default()
    };
    let other = Consul::new(config, Arc::new(Errors(sender))).unwrap();
    let intruder = other.registration(second.instance("users-1")).start();
    let error = refusal(&mut errors).await;
    let named = format!(
        "another process at {} is registered as users-1",
        first.address
    );
    assert!(error.starts_with(&named), "{error}");
    // Whoever is under maintenance is alive too.
    let maintenance = "/v1/agent/service/maintenance/users-1?enable=";
    let put = async |path: &str| world.agent.put(path).await.unwrap();
    put(&format!("{maintenance}true")).await;
    until(&mut watch, 0).await;
    while errors.try_recv().is_ok() {}
    assert_eq!(refusal(&mut errors).await, error);
    // Refused, it has nothing to take out.
    intruder.deregister().await.unwrap();
    put(&format!("{maintenance}false")).await;
    let set = until(&mut watch, 1).await;
    assert_eq!(set[0].address, first.address.to_string());

    let intruder = other.registration(second.instance("users-1")).start();
    assert_eq!(refusal(&mut errors).await, error);
    registered.deregister().await.unwrap();
    until_one(&mut watch, |one| one.address == second.address.to_string()).await;
    intruder.deregister().await.unwrap();
    until(&mut watch, 0).await;
}

#[tokio::test]
async fn a_process_that_is_not_ready_keeps_its_id() {
    let world = World::new().await;
    let [first, second] = [Healthy::listen().await, Healthy::listen().await];
    // From before its first check on.
    first.well.store(false, SeqCst);
    let mut registered = world.register(first.instance("users-1"));
    registered.registered().await;
    let intruder = world.register(second.instance("users-1"));
    // Longer than a dead one would be waited for.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let checks = world.json("/v1/health/checks/users").await;
    assert_eq!(checks[0]["Status"], "critical");
    let told = world.json("/v1/agent/service/users-1").await;
    assert_eq!(told["Port"], first.address.port());
    intruder.deregister().await.unwrap();
    registered.deregister().await.unwrap();
}

#[tokio::test]
async fn an_instance_under_maintenance_is_not_found_also_when_it_starts_again() {
    let world = World::new().await;
    let mut watch = world.consul.watch(&users());
    let healthy = Healthy::listen().await;
    let registered = world.register(healthy.instance("users-1"));
    until(&mut watch, 1).await;
    let put = async |path: &str| world.agent.put(path).await.unwrap();
    put("/v1/agent/service/maintenance/users-1?enable=true&reason=disk").await;
    until(&mut watch, 0).await;
    drop(registered);
    let mut again = world.register(healthy.instance("users-1"));
    again.registered().await;
    let checks = world.json("/v1/health/checks/users").await;
    let maintained = checks.as_array().unwrap().iter();
    assert_eq!(
        maintained.filter(|check| check["Notes"] == "disk").count(),
        1
    );
    put("/v1/agent/service/maintenance/users-1?enable=false").await;
    until(&mut watch, 1).await;
    // The machine as a whole.
    put("/v1/agent/maintenance?enable=true").await;
    until(&mut watch, 0).await;
    put("/v1/agent/maintenance?enable=false").await;
    until(&mut watch, 1).await;
}

#[tokio::test]
async fn a_weight_that_an_operator_changes_is_obeyed_and_stays() {
    let world = World::new().await;
    let mut watch = world.consul.watch(&users());
    let [first, second] = [Healthy::listen().await, Healthy::listen().await];
    let _registered = [(&first, "users-1"), (&second, "users-2")]
        .map(|(healthy, id)| world.register(healthy.instance(id)));
    until(&mut watch, 2).await;
    let config = ClientConfig {
        balance: BalanceConfig {
            pick: Pick::Weighted,
            slow_start: Duration::ZERO,
            ..BalanceConfig::default()
        },
        ..ClientConfig::default()
    };
    let client = Client::new(&world.consul, users(), config, nobody());
    let shares = async || {
        let before = [&first, &second].map(|healthy| healthy.calls.load(SeqCst));
        for _ in 0..400 {
            let request = Request::post("/create").body(Body::full("{}")).unwrap();
            assert_eq!(client.clone().oneshot(request).await.unwrap().status(), 200);
        }
        let after = [&first, &second].map(|healthy| healthy.calls.load(SeqCst));
        [after[0] - before[0], after[1] - before[1]]
    };
    let even = shares().await;
    assert!(
        even.iter().all(|share| (120..280).contains(share)),
        "{even:?}"
    );

    // As `consul services register` does it: what stands there, with another weight.
    let path = "/v1/agent/service/register";
    let definition = json!({
        "ID": "users-1", "Name": "users", "Address": "127.0.0.1", "Port": first.address.port(),
        "Weights": {"Passing": 19, "Warning": 1},
    });
    world
        .agent
        .put_with(path, &definition.to_string())
        .await
        .unwrap();
    let changed = async |watch: &mut Watch| loop {
        let set = watch.see().unwrap();
        if set.iter().any(|endpoint| endpoint.weight == 19) {
            break;
        }
        watch.changed().await;
    };
    timeout(PATIENCE, changed(&mut watch)).await.unwrap();
    let uneven = shares().await;
    assert!(uneven[0] > 340 && uneven[1] > 0, "{uneven:?}");
    // The instance looks after itself, and leaves alone what the operator said.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(
        world.json("/v1/agent/service/users-1").await["Weights"]["Passing"],
        19
    );
}

/// The registration of a server that listens at every address, as it stands with the agent in the end.
async fn of_a_server_at_every_address(consul: &Consul) -> Registration {
    let config = ServerConfig {
        listen: (Ipv4Addr::UNSPECIFIED, 0).into(),
        admin: Some((Ipv4Addr::UNSPECIFIED, 0).into()),
        ..ServerConfig::default()
    };
    let listeners = Listeners::bind(&config).unwrap();
    let source = Source::Consul(consul.clone());
    let registration = server::registration(&users(), &listeners, &config, &source).await;
    registration.unwrap().unwrap()
}

#[tokio::test]
async fn a_server_at_every_address_is_told_at_that_of_its_agent_and_not_at_the_loopback_interfaces()
{
    let agent = Agent::start_with(r#"bind_addr = "127.0.0.5""#).await;
    let world = World::of(agent, ConsulConfig::default());
    let (kept, _guard) = Kept::begin("warn");
    let registration = of_a_server_at_every_address(&world.consul).await;
    assert_eq!(kept.text(), "");
    let mut registered = registration.start();
    registered.registered().await;
    let services = world.json("/v1/agent/services").await;
    let told = services.as_object().unwrap().values().next().unwrap();
    assert_eq!(told["Address"], "127.0.0.5");
    let admin = told["Meta"]["admin"].as_str().unwrap();
    assert!(admin.starts_with("127.0.0.5:"), "{told}");
}

#[tokio::test]
async fn a_server_whose_agent_does_not_say_its_address_says_what_to_set() {
    let config = ConsulConfig {
        address: "http://127.0.0.1:1".parse().unwrap(),
        ..ConsulConfig::default()
    };
    let consul = Consul::new(config, nobody()).unwrap();
    let (kept, _guard) = Kept::begin("warn");
    of_a_server_at_every_address(&consul).await;
    assert!(
        kept.text().contains("KIT_SERVER__ADVERTISE"),
        "{}",
        kept.text()
    );
}
