mod following;
mod given_up;
mod locality;
mod pickers;
mod waiting;

use std::{
    collections::HashMap,
    future::{pending, ready},
    sync::{
        OnceLock, Weak,
        atomic::{AtomicBool, AtomicI32, Ordering::SeqCst},
    },
};

use http::{Request, Response, uri::Authority};
use tokio::{sync::watch, time::advance};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::{service_fn, util::BoxCloneSyncService};

use super::*;
use crate::{
    classify::Outcome,
    context::{self, Deadline},
    endpoint::Snapshot,
    policy::Permit,
    rejection::NotSent,
};

const PICKS: [Pick; 5] = [
    Pick::PeakEwma,
    Pick::RoundRobin,
    Pick::Random,
    Pick::Weighted,
    Pick::ConsistentHash,
];

/// A gate that a test opens and closes, and that remembers what it was told.
#[derive(Clone, Default)]
struct Gate(Arc<GateState>);

#[derive(Default)]
struct GateState {
    closed: AtomicBool,
    permits: AtomicI32,
    outcomes: Mutex<Vec<Outcome>>,
}

struct Pass(Gate);

impl Admit for Gate {
    type Permit = Pass;

    fn is_available(&self, _: Instant) -> bool {
        !self.0.closed.load(SeqCst)
    }

    fn admit(&self, now: Instant) -> Result<Pass, Rejection> {
        if !self.is_available(now) {
            return Err(Rejection::CircuitOpen {
                retry_after: Duration::from_secs(1),
            });
        }
        self.0.permits.fetch_add(1, SeqCst);
        Ok(Pass(self.clone()))
    }
}

impl Permit for Pass {
    fn finish(self, _: Instant, outcome: Outcome) {
        self.0.0.outcomes.lock().unwrap().push(outcome);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.0.permits.fetch_sub(1, SeqCst);
    }
}

type Peer = BoxCloneSyncService<Request<()>, Response<Authority>, BoxError>;

/// What the peers do: answer with their own address.
fn answer(endpoint: &Endpoint) -> Peer {
    let address = endpoint.address.clone();
    BoxCloneSyncService::new(service_fn(move |_| {
        ready(Ok(Response::new(address.clone())))
    }))
}

fn silence(_: &Endpoint) -> Peer {
    BoxCloneSyncService::new(service_fn(|_| pending()))
}

/// A balancer with what a test wants to look at from outside.
struct World {
    balance: Balance<Peer, Gate>,
    set: watch::Sender<Option<Snapshot>>,
    gates: Arc<Mutex<HashMap<String, Gate>>>,
}

fn snapshot(addresses: &[&'static str]) -> Snapshot {
    let endpoint = |address: &&'static str| Endpoint::at(Authority::from_static(address));
    addresses.iter().map(endpoint).collect()
}

impl World {
    /// Nothing is known yet.
    fn unknown(peer: impl Connect<Service = Peer>) -> Self {
        let (set, watch) = Watch::channel("users".parse().unwrap());
        let gates = Arc::new(Mutex::new(HashMap::<String, Gate>::new()));
        let made = Arc::clone(&gates);
        let gate = move |endpoint: &Endpoint| {
            let gate = Gate::default();
            let mut made = made.lock().unwrap();
            made.insert(endpoint.address.to_string(), gate.clone());
            gate
        };
        Self {
            balance: Balance::new(watch, Live::new(BalanceConfig::default()), peer, gate),
            set,
            gates,
        }
    }

    fn new(addresses: &[&'static str], peer: impl Connect<Service = Peer>) -> Self {
        let mut world = Self::unknown(peer);
        world.endpoints(addresses);
        world.refresh();
        world
    }

    fn pick(self, pick: Pick) -> Self {
        self.balance.shared.config.set(BalanceConfig {
            pick,
            ..BalanceConfig::default()
        });
        self
    }

    fn refresh(&self) {
        let shared = &self.balance.shared;
        shared.latest(Instant::now());
    }

    fn endpoints(&mut self, addresses: &[&'static str]) {
        self.set.send_replace(Some(snapshot(addresses)));
    }

    fn call(&mut self, request: Request<()>) -> ResponseFuture<Peer, Gate, HttpClassify, ()> {
        assert_ready_ok!(task::spawn(()).enter(|cx, _| self.balance.poll_ready(cx)));
        self.balance.call(request)
    }

    async fn ask(&mut self) -> Result<Authority, BoxError> {
        self.call(Request::new(())).await.map(Response::into_body)
    }

    fn gate(&self, address: &str) -> Gate {
        self.gates.lock().unwrap()[address].clone()
    }

    fn in_flight(&self) -> u32 {
        let set = self.balance.shared.set.load();
        let loads = set.all.members.iter().map(|member| &member.node.load);
        loads.map(|load| load.in_flight()).sum()
    }

    fn permits(&self) -> i32 {
        let gates = self.gates.lock().unwrap();
        gates.values().map(|gate| gate.0.permits.load(SeqCst)).sum()
    }
}

#[tokio::test(start_paused = true)]
async fn a_fast_failure_attracts_no_traffic() {
    let mut world = World::new(&["bad:1", "good:1"], |endpoint: &Endpoint| {
        let refuses = endpoint.address.host() == "bad";
        let address = endpoint.address.clone();
        BoxCloneSyncService::new(service_fn(move |_: Request<()>| {
            let address = address.clone();
            async move {
                if refuses {
                    return Err(NotSent("refused".into()).into());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok(Response::new(address))
            }
        }))
    });
    let mut failures = 0;
    for _ in 0..200 {
        failures += u32::from(world.ask().await.is_err());
    }
    // Ten seconds of requests: one when nothing was known, and one more when that had been forgiven.
    assert!((1..=2).contains(&failures), "{failures}");
}

/// A call each five milliseconds that takes ten; and then many at once, as many as make the one that answers look as
/// loaded as the one that does not.
#[tokio::test(start_paused = true)]
async fn one_that_hangs_is_left_alone_before_anybody_has_given_up() {
    let hangs = Arc::new(AtomicBool::new(false));
    let mut world = World::new(&["a:1", "b:1"], {
        let hangs = Arc::clone(&hangs);
        move |endpoint: &Endpoint| {
            let (hangs, address) = (Arc::clone(&hangs), endpoint.address.clone());
            BoxCloneSyncService::new(service_fn(move |_: Request<()>| {
                let (hangs, address) = (Arc::clone(&hangs), address.clone());
                async move {
                    if hangs.load(SeqCst) && address == "a:1" {
                        pending().await
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    Ok(Response::new(address))
                }
            }))
        }
    });
    let mut calls = tokio::task::JoinSet::new();
    for at in 0..100 {
        hangs.store(at >= 20, SeqCst);
        calls.spawn(world.call(Request::new(())));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let stuck = world.in_flight();
    assert!((1..=3).contains(&stuck), "{stuck}");
    for _ in 0..20 {
        calls.spawn(world.call(Request::new(())));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(world.in_flight(), stuck);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_with_a_closed_gate_is_not_picked_while_another_is_available() {
    let mut world = World::new(&["a:1", "b:1", "c:1"], answer);
    world.gate("b:1").0.closed.store(true, SeqCst);
    for _ in 0..100 {
        assert_ne!(world.ask().await.unwrap(), "b:1");
    }
    world.gate("b:1").0.closed.store(false, SeqCst);
    let mut came_back = false;
    for _ in 0..100 {
        came_back |= world.ask().await.unwrap() == "b:1";
    }
    assert!(came_back);
}

#[tokio::test(start_paused = true)]
async fn when_too_few_gates_are_open_all_endpoints_are_used() {
    let mut world = World::new(&["a:1", "b:1", "c:1"], answer);
    for closed in ["a:1", "b:1"] {
        world.gate(closed).0.closed.store(true, SeqCst);
    }
    let mut used = HashMap::new();
    for _ in 0..100 {
        *used.entry(world.ask().await.unwrap()).or_insert(0) += 1;
    }
    assert_eq!(used.len(), 3, "{used:?}");
}

#[tokio::test(start_paused = true)]
async fn the_panic_threshold_is_replaced_while_it_runs() {
    let mut world = World::new(&["a:1"], answer);
    world.gate("a:1").0.closed.store(true, SeqCst);
    assert!(world.ask().await.is_ok());
    world.balance.shared.config.set(BalanceConfig {
        panic_threshold: Ratio::ZERO,
        ..BalanceConfig::default()
    });
    let error = world.ask().await.unwrap_err();
    assert!(matches!(
        Rejection::find(&*error),
        Some(Rejection::CircuitOpen { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_when_to_come_back_is_left_alone_until_then() {
    // By HTTP, and by gRPC in trailers without a message.
    for (status, headers) in [
        (503, vec![("retry-after", "60")]),
        (
            200,
            vec![("grpc-status", "14"), ("grpc-retry-pushback-ms", "60000")],
        ),
    ] {
        let mut world = World::new(&["busy:1", "well:1"], move |endpoint: &Endpoint| {
            let is_busy = endpoint.address.host() == "busy";
            let address = endpoint.address.clone();
            let headers = headers.clone();
            BoxCloneSyncService::new(service_fn(move |_: Request<()>| {
                let mut response = Response::new(address.clone());
                if is_busy {
                    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
                    for (name, value) in &headers {
                        response
                            .headers_mut()
                            .insert(*name, http::HeaderValue::from_static(value));
                    }
                }
                async move {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Ok(response)
                }
            }))
        });
        let mut asked = 0;
        for _ in 0..1100 {
            asked += u32::from(world.ask().await.unwrap() == "busy:1");
        }
        // In 55 seconds it was asked once, when nothing was known.
        assert_eq!(asked, 1, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_retried_request_goes_to_endpoints_that_it_was_not_tried_at() {
    let mut world = World::new(&["a:1", "b:1", "c:1"], answer);
    for _ in 0..50 {
        let tried = Tried::default();
        let mut asked = Vec::new();
        for _ in 0..3 {
            let mut request = Request::new(());
            context::Context::of_mut(request.extensions_mut()).tried = Some(tried.clone());
            asked.push(world.call(request).await.unwrap().into_body());
        }
        asked.sort_by_key(ToString::to_string);
        assert_eq!(asked, ["a:1", "b:1", "c:1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_retried_request_goes_to_the_same_endpoint_if_there_is_no_other() {
    let mut world = World::new(&["a:1"], answer);
    let tried = Tried::default();
    for _ in 0..3 {
        let mut request = Request::new(());
        context::Context::of_mut(request.extensions_mut()).tried = Some(tried.clone());
        assert_eq!(world.call(request).await.unwrap().into_body(), "a:1");
    }
}
