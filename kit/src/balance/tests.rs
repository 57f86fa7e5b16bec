mod locality;

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
        shared.refresh(&shared.config.get(), Instant::now());
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
async fn an_empty_set_is_refused_at_once() {
    let mut world = World::new(&[], answer);
    let mut call = task::spawn(world.call(Request::new(())));
    let error = assert_ready_err!(call.poll());
    let service = "users".parse().unwrap();
    assert_eq!(
        Rejection::find(&*error),
        Some(&Rejection::NoEndpoints { service })
    );
}

#[tokio::test(start_paused = true)]
async fn the_first_requests_wait_until_the_endpoints_are_known() {
    let mut world = World::unknown(answer);
    let mut call = task::spawn(world.call(Request::new(())));
    assert_pending!(call.poll());
    world.endpoints(&["a:1"]);
    assert!(call.is_woken());
    assert_eq!(assert_ready_ok!(call.poll()).into_body(), "a:1");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_ever_for_the_endpoints_to_be_known() {
    let mut world = World::unknown(answer);
    let start = Instant::now();
    let error = world.ask().await.unwrap_err();
    assert!(matches!(
        Rejection::find(&*error),
        Some(Rejection::NoEndpoints { .. })
    ));
    assert_eq!(start.elapsed().as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn where_it_is_wanted_a_request_waits_for_an_endpoint_and_not_for_ever() {
    let mut world = World::new(&[], answer);
    world.balance.shared.config.set(BalanceConfig {
        empty_wait: Duration::from_secs(3),
        ..BalanceConfig::default()
    });
    let mut call = task::spawn(world.call(Request::new(())));
    assert_pending!(call.poll());
    // Another answer that nobody is there does not end the wait, nor make it longer.
    advance(Duration::from_secs(2)).await;
    world.endpoints(&[]);
    assert_pending!(call.poll());
    world.endpoints(&["a:1"]);
    assert!(call.is_woken());
    assert_eq!(assert_ready_ok!(call.poll()).into_body(), "a:1");

    world.endpoints(&[]);
    let start = Instant::now();
    let call = world.call(Request::new(()));
    let mut request = Request::new(());
    *context::Context::of_mut(request.extensions_mut()) =
        context::Context::with_timeout(Duration::from_secs(1));
    let hurried = world.call(request);
    for (call, seconds) in [(hurried, 1), (call, 3)] {
        let error = call.await.unwrap_err();
        assert!(matches!(
            Rejection::find(&*error),
            Some(Rejection::NoEndpoints { .. })
        ));
        assert_eq!(start.elapsed().as_secs(), seconds);
    }
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
async fn dropping_a_future_at_any_point_gives_back_its_place_and_its_permit() {
    let mut world = World::new(&["a:1"], silence);
    for polls in 0..3 {
        let mut call = task::spawn(world.call(Request::new(())));
        for _ in 0..polls {
            assert_pending!(call.poll());
        }
        assert_eq!((world.in_flight(), world.permits()), (1, 1));
        drop(call);
        assert_eq!((world.in_flight(), world.permits()), (0, 0));
    }
    assert!(world.gate("a:1").0.outcomes.lock().unwrap().is_empty());

    let mut world = World::unknown(silence);
    let mut call = task::spawn(world.call(Request::new(())));
    assert_pending!(call.poll());
    drop(call);
    assert_eq!((world.in_flight(), world.permits()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_answer_gives_back_its_place_and_its_permit() {
    let mut world = World::new(&["a:1"], answer);
    let call = world.call(Request::new(()));
    assert_eq!((world.in_flight(), world.permits()), (1, 1));
    call.await.unwrap();
    assert_eq!((world.in_flight(), world.permits()), (0, 0));
    assert_eq!(
        *world.gate("a:1").0.outcomes.lock().unwrap(),
        [Outcome::Success]
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_given_up_after_its_deadline_is_a_failure_and_before_it_is_none() {
    let mut world = World::new(&["slow:1", "slow:2"], silence);
    let mut request = || {
        let mut request = Request::new(());
        *context::Context::of_mut(request.extensions_mut()) = context::Context {
            deadline: Some(Deadline::after(Duration::from_secs(2))),
            ..Default::default()
        };
        world.call(request)
    };
    let (early, late) = (request(), request());
    advance(Duration::from_secs(1)).await;
    drop(early);
    advance(Duration::from_secs(1)).await;
    drop(late);
    let outcomes: Vec<_> = ["slow:1", "slow:2"]
        .iter()
        .flat_map(|address| world.gate(address).0.outcomes.lock().unwrap().clone())
        .collect();
    assert_eq!(outcomes, [Outcome::Failure]);
    assert_eq!((world.in_flight(), world.permits()), (0, 0));
}

/// What an endpoint is told of, that has answered once after 100 ms and then hangs, when a call to it is given up after
/// `waited`, with so many milliseconds until its deadline and until its answer has to begin.
async fn told_of_a_call_given_up(
    waited: u64,
    deadline: Option<u64>,
    answer_by: Option<u64>,
) -> Vec<Outcome> {
    let asked = Arc::new(AtomicBool::new(false));
    let mut world = World::new(&["a:1"], move |_: &Endpoint| {
        let asked = Arc::clone(&asked);
        BoxCloneSyncService::new(service_fn(move |_| {
            let hangs = asked.swap(true, SeqCst);
            async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                match hangs {
                    true => pending().await,
                    false => Ok(Response::new(Authority::from_static("a:1"))),
                }
            }
        }))
    });
    world.ask().await.unwrap();
    let after = |millis| Deadline::after(Duration::from_millis(millis));
    let mut request = Request::new(());
    let context = context::Context::of_mut(request.extensions_mut());
    context.deadline = deadline.map(after);
    context.answer_by = answer_by.map(after);
    let call = world.call(request);
    let call = tokio::time::timeout(Duration::from_millis(waited), call).await;
    assert!(call.is_err());
    assert_eq!((world.in_flight(), world.permits()), (0, 0));
    world.gate("a:1").0.outcomes.lock().unwrap().split_off(1)
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_is_blamed_if_it_had_its_usual_time_or_all_that_anybody_gets() {
    let failed = [Outcome::Failure];
    for (waited, deadline, answer_by, told) in [
        // Its caller waited for less than an answer takes.
        (50, Some(50), None, &[][..]),
        (50, Some(50), Some(60), &[]),
        (100, Some(100), None, &failed),
        (300, Some(300), None, &failed),
        // No attempt gets more.
        (50, Some(60), Some(50), &failed),
        (50, None, Some(50), &failed),
        // Its caller went away.
        (300, Some(400), Some(400), &[]),
        (300, None, None, &[]),
    ] {
        let outcomes = told_of_a_call_given_up(waited, deadline, answer_by).await;
        assert_eq!(outcomes, told, "{waited} {deadline:?} {answer_by:?}");
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

#[tokio::test(start_paused = true)]
async fn all_clones_follow_the_endpoints() {
    let mut world = World::new(&["a:1"], answer);
    let mut clone = World {
        balance: world.balance.clone(),
        set: world.set.clone(),
        gates: Arc::clone(&world.gates),
    };
    let pending = world.call(Request::new(()));
    assert_eq!(clone.in_flight(), 1);
    world.endpoints(&["b:1"]);
    assert_eq!(clone.ask().await.unwrap(), "b:1");
    assert_eq!(world.ask().await.unwrap(), "b:1");
    // Whoever was on the way to an endpoint that is gone still arrives.
    assert_eq!(pending.await.unwrap().into_body(), "a:1");
}

#[tokio::test(start_paused = true)]
async fn the_last_endpoints_of_a_source_that_is_gone_are_used() {
    for known_before in [false, true] {
        let mut world = World::unknown(answer);
        if known_before {
            world.endpoints(&["a:1"]);
            world.refresh();
        }
        let mut call = (!known_before).then(|| task::spawn(world.call(Request::new(()))));
        if let Some(call) = &mut call {
            assert_pending!(call.poll());
        }
        world.endpoints(&["b:1"]);
        let (gone, _) = watch::channel(None);
        drop(std::mem::replace(&mut world.set, gone));
        if let Some(call) = &mut call {
            assert_eq!(assert_ready_ok!(call.poll()).into_body(), "b:1");
        }
        assert_eq!(world.ask().await.unwrap(), "b:1");
    }
}

/// Says when it is dropped whether a set is being made.
struct Witness {
    shared: Arc<OnceLock<Weak<Watched>>>,
    free: Arc<Mutex<Vec<bool>>>,
}

type Watched = Shared<Peer, Witness>;

impl Drop for Witness {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.get().and_then(Weak::upgrade) {
            let free = shared.replacing.try_lock().is_ok();
            self.free.lock().unwrap().push(free);
        }
    }
}

impl Admit for Witness {
    type Permit = ();

    fn is_available(&self, _: Instant) -> bool {
        true
    }

    fn admit(&self, _: Instant) -> Result<(), Rejection> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn what_goes_with_an_endpoint_may_look_at_the_others() {
    let (set, watch) = Watch::channel("users".parse().unwrap());
    let (shared, free) = <(Arc<OnceLock<_>>, Arc<Mutex<Vec<_>>>)>::default();
    let gate = {
        let (shared, free) = (Arc::clone(&shared), Arc::clone(&free));
        move |_: &Endpoint| Witness {
            shared: Arc::clone(&shared),
            free: Arc::clone(&free),
        }
    };
    let mut balance = Balance::new(watch, Live::new(BalanceConfig::default()), answer, gate);
    shared.set(Arc::downgrade(&balance.shared)).unwrap();
    for addresses in [["a:1"], ["b:1"]] {
        set.send_replace(Some(snapshot(&addresses)));
        balance.call(Request::new(())).await.unwrap();
    }
    assert_eq!(*free.lock().unwrap(), [true]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_who_connects_does_not_freeze_the_endpoints() {
    let fails = AtomicBool::new(true);
    let connect = move |endpoint: &Endpoint| {
        assert!(
            endpoint.address != "b:1" || !fails.swap(false, SeqCst),
            "on purpose"
        );
        answer(endpoint)
    };
    let mut world = World::new(&["a:1"], connect);
    world.endpoints(&["b:1"]);
    let refresh = std::panic::AssertUnwindSafe(|| world.refresh());
    assert!(std::panic::catch_unwind(refresh).is_err());
    assert_eq!(world.ask().await.unwrap(), "b:1");
    let mut seen = 0;
    world.balance.for_each_endpoint(|_, _| seen += 1);
    assert_eq!(seen, 1);
}

#[test]
fn who_looks_after_the_endpoints_sees_them_as_they_are_now() {
    let mut world = World::new(&["a:1"], answer);
    world.endpoints(&["b:1"]);
    let mut seen = Vec::new();
    let look = |endpoint: &Arc<Endpoint>, _: &Gate| seen.push(endpoint.address.clone());
    world.balance.for_each_endpoint(look);
    assert_eq!(seen, ["b:1"]);
}

#[test]
fn where_nobody_is_known_whoever_makes_the_first_set_is_waited_for() {
    let (begun, begins) = std::sync::mpsc::channel();
    let (go, goes) = std::sync::mpsc::channel();
    let goes = Mutex::new(goes);
    let mut world = World::unknown(move |endpoint: &Endpoint| {
        begun.send(()).unwrap();
        goes.lock().unwrap().recv().unwrap();
        answer(endpoint)
    });
    world.endpoints(&["a:1"]);
    let balance = world.balance.clone();
    let maker = std::thread::spawn(move || {
        let shared = &balance.shared;
        shared.refresh(&shared.config.get(), Instant::now());
    });
    begins.recv().unwrap();
    // It is let go by a third, since this thread waits.
    let third = std::thread::spawn(move || go.send(()).unwrap());
    let mut call = task::spawn(world.call(Request::new(())));
    assert_eq!(assert_ready_ok!(call.poll()).into_body(), "a:1");
    for thread in [maker, third] {
        thread.join().unwrap();
    }
}

const PICKS: [Pick; 5] = [
    Pick::PeakEwma,
    Pick::RoundRobin,
    Pick::Random,
    Pick::Weighted,
    Pick::ConsistentHash,
];

fn keyed(key: u8) -> Request<()> {
    let mut request = Request::new(());
    request.extensions_mut().insert(HashKey::of(&[key]));
    request
}

#[tokio::test(start_paused = true)]
async fn gates_the_panic_threshold_and_earlier_tries_hold_for_all_pickers() {
    for pick in PICKS {
        let mut world = World::new(&["a:1", "b:1", "c:1"], answer).pick(pick);
        world.gate("b:1").0.closed.store(true, SeqCst);
        for key in 0..100 {
            let tried = Tried::default();
            let mut asked = Vec::new();
            for _ in 0..2 {
                let mut request = keyed(key);
                context::Context::of_mut(request.extensions_mut()).tried = Some(tried.clone());
                asked.push(world.call(request).await.unwrap().into_body());
            }
            asked.sort_by_key(ToString::to_string);
            assert_eq!(asked, ["a:1", "c:1"], "{pick:?}");
        }
        world.gate("c:1").0.closed.store(true, SeqCst);
        let mut used = HashMap::new();
        for key in 0..100 {
            let answer = world.call(keyed(key)).await.unwrap();
            *used.entry(answer.into_body()).or_insert(0) += 1;
        }
        assert_eq!(used.len(), 3, "{pick:?}: {used:?}");
        assert_eq!((world.in_flight(), world.permits()), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_key_goes_to_the_same_endpoint_also_while_others_come_and_go() {
    let mut world = World::new(&["a:1", "b:1", "c:1"], answer).pick(Pick::ConsistentHash);
    let at = world.call(keyed(1)).await.unwrap().into_body();
    for _ in 0..50 {
        assert_eq!(world.call(keyed(1)).await.unwrap().into_body(), at);
    }
    let others: Vec<_> = ["a:1", "b:1", "c:1"]
        .into_iter()
        .filter(|other| at != *other)
        .collect();
    let only = ["a:1", "b:1", "c:1"]
        .into_iter()
        .find(|a| at == *a)
        .unwrap();
    for other in others {
        world.endpoints(&[only, other]);
        assert_eq!(world.call(keyed(1)).await.unwrap().into_body(), at);
    }
}

#[tokio::test(start_paused = true)]
async fn a_picker_of_ones_own_is_used() {
    struct Last;
    impl Picker for Last {
        fn pick(&self, candidates: &mut Candidates<'_>, call: &Call<'_>, turn: usize) -> usize {
            assert_eq!(call.uri.path(), "/");
            candidates.len() - 1 - turn
        }
    }
    let mut world = World::new(&["a:1", "b:1", "c:1"], answer);
    world.balance = world.balance.with_picker(Last);
    for _ in 0..10 {
        assert_eq!(world.ask().await.unwrap(), "c:1");
    }
    world.gate("c:1").0.closed.store(true, SeqCst);
    assert_eq!(world.ask().await.unwrap(), "b:1");
}

#[test]
fn a_picker_is_chosen_by_name() {
    let config = |json| serde_json::from_str::<BalanceConfig>(json);
    assert_eq!(config("{}").unwrap().pick, Pick::PeakEwma);
    assert_eq!(
        config(r#"{"pick": "round_robin"}"#).unwrap().pick,
        Pick::RoundRobin
    );
    let error = config(r#"{"pick": "best"}"#).unwrap_err().to_string();
    assert!(error.contains("consistent_hash"), "{error}");
}

/// How many of 2000 requests, one after the other and each answered in a millisecond, go to an endpoint that joined
/// two others `before` that.
async fn share_of_a_newcomer(pick: Pick, slow_start: Duration, before: Duration) -> usize {
    let mut world = World::new(&["a:1", "b:1"], |endpoint: &Endpoint| {
        let address = endpoint.address.clone();
        BoxCloneSyncService::new(service_fn(move |_| {
            let address = address.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Ok(Response::new(address))
            }
        }))
    });
    world.balance.shared.config.set(BalanceConfig {
        pick,
        slow_start,
        ..BalanceConfig::default()
    });
    for _ in 0..100 {
        world.ask().await.unwrap();
    }
    world.endpoints(&["a:1", "b:1", "c:1"]);
    world.refresh();
    advance(before).await;
    let mut count = 0;
    for n in 0..2000 {
        let answer = world.call(keyed((n % 256) as u8)).await.unwrap();
        count += usize::from(answer.into_body() == "c:1");
    }
    count
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_starts_slowly_and_is_not_starved() {
    for pick in PICKS {
        let [new, grown, at_once] = [(100, 0), (100, 100), (0, 0)].map(|(slow_start, before)| {
            share_of_a_newcomer(
                pick,
                Duration::from_secs(slow_start),
                Duration::from_secs(before),
            )
        });
        let (new, grown, at_once) = (new.await, grown.await, at_once.await);
        assert!((20..150).contains(&new), "{pick:?}: {new}");
        assert!(grown > 400, "{pick:?}: {grown}");
        assert!(at_once > 400, "{pick:?}: {at_once}");
    }
}
