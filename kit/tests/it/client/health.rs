//! Endpoints whose circuit breaker is open are asked for their health.

use std::{
    collections::BTreeMap,
    sync::{
        Weak,
        atomic::{AtomicBool, AtomicUsize},
    },
};

use http::StatusCode;
use kit::{
    circuit_breaker::SuccessRate,
    client::HealthCheckConfig,
    context::TraceContext,
    endpoint::{Discovery, Endpoint, Watch},
    event::{Event, Observer},
    name::ServiceName,
};
use tokio::time::{sleep, timeout};

use super::*;
use crate::support::log::Kept;

/// Answers calls, and questions for its health, as it is told; counts both.
#[derive(Default)]
struct Instance {
    calls_fail: AtomicBool,
    is_ill: AtomicBool,
    calls: AtomicUsize,
    questions: AtomicUsize,
}

impl Instance {
    async fn serve(self: &Arc<Self>) -> Peer {
        let instance = Arc::clone(self);
        Peer::http(move |request| {
            let (count, fails) = match request.uri().path() {
                "/readyz" => (&instance.questions, &instance.is_ill),
                _ => (&instance.calls, &instance.calls_fail),
            };
            count.fetch_add(1, SeqCst);
            let mut response = Response::new(Full::default());
            if fails.load(SeqCst) {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
            response
        })
        .await
    }
}

/// Finds these endpoints, whatever service is asked for.
struct These(Vec<Endpoint>);

impl Discovery for These {
    fn watch(&self, service: &ServiceName) -> Watch {
        Watch::fixed(service.clone(), self.0.iter().cloned().collect())
    }
}

/// Circuits that open with the first failure and do not probe by themselves.
fn config() -> ClientConfig {
    let mut config = ClientConfig {
        health_check: Some(HealthCheckConfig {
            interval: Duration::from_millis(100),
            ..HealthCheckConfig::default()
        }),
        ..ClientConfig::default()
    };
    config.circuit_breaker = CircuitBreakerConfig {
        consecutive_failures: NonZeroU32::MIN,
        success_rate: None::<SuccessRate>,
        open_for: Duration::from_secs(3600),
        max_open_for: Duration::from_secs(3600),
        ..config.circuit_breaker
    };
    // So that only its circuit breaker speaks against an endpoint.
    config.balance.penalty = Duration::ZERO;
    config
}

fn client(endpoints: impl Into<Vec<Endpoint>>, observer: event::SharedObserver) -> Client {
    let service = "users".parse().unwrap();
    Client::new(&These(endpoints.into()), service, config(), observer)
}

/// Calls until `done`.
async fn call_until(client: &Client, done: impl Fn() -> bool) {
    let calls = async {
        while !done() {
            let _ = ask(client, Version::HTTP_11).await.unwrap();
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(30), calls).await.unwrap();
}

#[tokio::test]
async fn an_endpoint_that_says_it_is_well_again_is_back_in_service() {
    let [ill, well] = [(); 2].map(|()| Arc::new(Instance::default()));
    ill.calls_fail.store(true, SeqCst);
    ill.is_ill.store(true, SeqCst);
    let peers = [ill.serve().await, well.serve().await];
    let endpoints = peers.each_ref().map(|peer| Endpoint::at(peer.authority()));
    let client = client(endpoints, event::nobody());
    call_until(&client, || ill.calls.load(SeqCst) == 1).await;
    // It is asked again and again, and what it says keeps it out.
    call_until(&client, || ill.questions.load(SeqCst) >= 3).await;
    assert_eq!(ill.calls.load(SeqCst), 1);
    ill.calls_fail.store(false, SeqCst);
    ill.is_ill.store(false, SeqCst);
    call_until(&client, || ill.calls.load(SeqCst) >= 5).await;
    assert_eq!(
        well.questions.load(SeqCst),
        0,
        "nobody asks who is in service"
    );
}

#[tokio::test]
async fn an_endpoint_with_an_admin_port_is_asked_there() {
    let [calls, admin] = [(); 2].map(|()| Arc::new(Instance::default()));
    calls.calls_fail.store(true, SeqCst);
    let [calls_at, admin_at] = [calls.serve().await, admin.serve().await];
    let endpoint = Endpoint {
        metadata: BTreeMap::from([("admin".to_owned(), admin_at.address.to_string())]),
        ..Endpoint::at(calls_at.authority())
    };
    let client = client([endpoint], event::nobody());
    call_until(&client, || admin.questions.load(SeqCst) > 0).await;
    assert_eq!(calls.questions.load(SeqCst), 0);
}

#[tokio::test]
async fn the_last_clone_of_a_client_stops_its_health_checks() {
    struct Deaf;
    impl Observer for Deaf {
        fn observe(&self, _: Event<'_>) {}
    }
    let ill = Arc::new(Instance::default());
    ill.calls_fail.store(true, SeqCst);
    ill.is_ill.store(true, SeqCst);
    let peer = ill.serve().await;
    // As long as somebody holds the endpoints, their circuits hold this.
    let observer: event::SharedObserver = Arc::new(Deaf);
    let held: Weak<dyn Observer> = Arc::downgrade(&observer);
    let client = client([Endpoint::at(peer.authority())], observer);
    let clone = client.clone();
    drop(client);
    call_until(&clone, || ill.questions.load(SeqCst) > 0).await;
    drop(clone);
    let gone = async {
        while held.upgrade().is_some() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(30), gone).await.unwrap();
}

#[test]
fn a_path_that_is_none_is_named() {
    let config = |json: &str| serde_json::from_str::<HealthCheckConfig>(json);
    assert_eq!(config("{}").unwrap(), HealthCheckConfig::default());
    assert_eq!(config(r#"{"path": "/up?x=1"}"#).unwrap().path, "/up?x=1");
    for bad in ["up", "", "http://elsewhere/", "/a b"] {
        let error = config(&format!(r#"{{"path": "{bad}"}}"#)).unwrap_err();
        assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
    }
}

#[tokio::test]
async fn a_transition_is_logged_in_the_trace_of_the_call_that_caused_it() {
    let (kept, _guard) = Kept::begin("info");
    let ill = Arc::new(Instance::default());
    ill.calls_fail.store(true, SeqCst);
    let peer = ill.serve().await;
    let client = client([Endpoint::at(peer.authority())], kit::metrics::observer());
    let trace = TraceContext::root();
    let mut request = get();
    Context::of_mut(request.extensions_mut()).trace = Some(trace);
    client.clone().oneshot(request).await.unwrap();
    let lines = kept.lines();
    let told: Vec<_> = lines
        .iter()
        .filter(|line| line["trace_id"] == trace.trace_id().to_string())
        .filter(|line| line["level"] == "WARN")
        .map(|line| line["message"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(told, ["circuit opened", "endpoint ejected"], "{lines:#?}");
}
