use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    num::{NonZeroU32, NonZeroUsize},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use proptest::prelude::*;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use tokio::time::Instant;
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower_test::{assert_request_eq, mock};

use super::{
    gradient::{Gradient, Measured},
    *,
};
use crate::{
    classify::{AnySuccess, Outcome},
    event::{Event, Observer, nobody},
    name::Priority,
    policy::Admit,
    rejection::Rejection,
};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn size(limit: usize) -> NonZeroUsize {
    NonZeroUsize::new(limit).unwrap()
}

fn fixed(limit: usize) -> ConcurrencyConfig {
    ConcurrencyConfig {
        limit: size(limit),
        adaptive: None,
    }
}

fn adaptive() -> ConcurrencyConfig {
    ConcurrencyConfig {
        adaptive: Some(Adaptive::default()),
        ..ConcurrencyConfig::default()
    }
}

fn limiter(config: ConcurrencyConfig) -> ConcurrencyLimiter {
    ConcurrencyLimiter::with_rng("users", Some(config), nobody(), StdRng::seed_from_u64(7))
}

fn layer(limit: usize) -> ConcurrencyLimitLayer<AnySuccess> {
    ConcurrencyLimitLayer::new("users", fixed(limit), nobody()).with_classify(AnySuccess)
}

#[tokio::test]
async fn a_request_above_the_limit_is_refused_at_once() {
    let layer = layer(1);
    let (mut limited, mut peer) = mock::spawn_layer::<&str, &str, _>(layer.clone());
    assert_ready_ok!(limited.poll_ready());
    let mut first = task::spawn(limited.call("a"));
    assert_pending!(first.poll());
    assert_eq!(layer.limiter().in_flight(), 1);

    assert_ready_ok!(limited.poll_ready());
    let error = assert_ready_err!(task::spawn(limited.call("b")).poll());
    let overloaded = Rejection::Overloaded { limit: 1 };
    assert_eq!(Rejection::find(&*error), Some(&overloaded));

    assert_request_eq!(peer, "a").send_response("ok");
    assert_ready_ok!(first.poll());
    assert_eq!(layer.limiter().in_flight(), 0);
}

#[tokio::test]
async fn a_dropped_future_gives_its_place_back() {
    let layer = layer(1);
    let (mut limited, _peer) = mock::spawn_layer::<&str, &str, _>(layer.clone());
    assert_ready_ok!(limited.poll_ready());
    drop(limited.call("a"));
    assert_eq!(layer.limiter().in_flight(), 0);
}

#[test]
fn a_lower_limit_holds_for_those_who_come_later() {
    let now = Instant::now();
    let limiter = limiter(ConcurrencyConfig::default());
    let held: Vec<_> = (0..3).map(|_| limiter.admit(now).unwrap()).collect();
    limiter.config().set(Some(fixed(2)));
    assert_eq!(
        limiter.admit(now).unwrap_err(),
        Rejection::Overloaded { limit: 2 }
    );
    drop(held);
    assert!(limiter.admit(now).is_ok());
}

#[tokio::test]
async fn a_limit_that_is_taken_away_and_comes_back_finds_those_that_are_still_in_flight() {
    let layer = layer(1);
    let config = layer.limiter().config();
    let (mut limited, mut peer) = mock::spawn_layer::<&str, &str, _>(layer.clone());
    let mut call = |request| {
        assert_ready_ok!(limited.poll_ready());
        let mut call = task::spawn(limited.call(request));
        let refused = matches!(call.poll(), Poll::Ready(Err(_)));
        (call, refused)
    };
    let (mut first, _) = call("a");
    config.set(None);
    let (_second, refused) = call("b");
    assert!(!refused && layer.limiter().in_flight() == 1);
    config.set(Some(fixed(1)));
    assert!(call("c").1, "the first one has its place");
    assert_request_eq!(peer, "a").send_response("ok");
    assert_ready_ok!(first.poll());
    assert!(!call("d").1, "the second one never had any");
}

#[test]
fn threads_never_exceed_the_limit() {
    let now = Instant::now();
    let limiter = limiter(fixed(3));
    let inside = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    if let Ok(_entered) = limiter.admit(now) {
                        assert!(inside.fetch_add(1, Relaxed) < 3);
                        inside.fetch_sub(1, Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(limiter.in_flight(), 0);
}

#[cfg(kit_loom)]
#[test]
fn in_every_order_a_place_is_one_callers_at_a_time() {
    loom::model(|| {
        let now = Instant::now();
        let limiter = limiter(fixed(1));
        // What is done in the place, which the next one there must see.
        let done = Arc::new(loom::sync::atomic::AtomicUsize::new(0));
        let call = move |limiter: ConcurrencyLimiter, done: &loom::sync::atomic::AtomicUsize| {
            let Ok(_entered) = limiter.admit(now) else {
                return 0;
            };
            done.store(done.load(Relaxed) + 1, Relaxed);
            1
        };
        let other = (limiter.clone(), Arc::clone(&done));
        let other = loom::thread::spawn(move || call(other.0, &other.1));
        let mine = call(limiter.clone(), &done);
        assert_eq!(other.join().unwrap() + mine, done.load(Relaxed));
        assert_eq!(limiter.in_flight(), 0);
    });
}

/// As many workers as `workers`, in front of which calls wait their turn, and what admits calls to them.
struct Simulation {
    limiter: ConcurrencyLimiter,
    rng: StdRng,
    now: Instant,
    /// When each worker is free.
    workers: BinaryHeap<Reverse<Instant>>,
    /// How long a worker takes for one call, in the mean.
    service_time: Duration,
    /// When calls that were admitted end, and when they began.
    calls: BinaryHeap<Reverse<(Instant, Instant, usize)>>,
    permits: Vec<Option<InFlight>>,
}

/// What became of the calls of a while.
#[derive(Debug, Default)]
struct Seen {
    refused: u32,
    latencies: Vec<Duration>,
    limits: Vec<usize>,
}

impl Seen {
    fn median(&mut self) -> Duration {
        self.latencies.sort_unstable();
        self.latencies[self.latencies.len() / 2]
    }

    fn limit(&self) -> usize {
        self.limits.iter().sum::<usize>() / self.limits.len()
    }
}

/// A time that is memoryless: the most random that arrivals and services are.
fn exponential(mean: Duration, rng: &mut impl Rng) -> Duration {
    mean.mul_f64(-(1.0 - rng.random::<f64>()).ln())
}

impl Simulation {
    fn new(workers: usize, service_time: Duration, seed: u64) -> Self {
        let now = Instant::now();
        Self {
            limiter: limiter(adaptive()),
            rng: StdRng::seed_from_u64(seed),
            now,
            workers: std::iter::repeat_n(Reverse(now), workers).collect(),
            service_time,
            calls: BinaryHeap::new(),
            permits: Vec::new(),
        }
    }

    /// What the workers can do in a second.
    fn capacity(&self) -> f64 {
        self.workers.len() as f64 / self.service_time.as_secs_f64()
    }

    /// Calls come at `rate` per second for `time`.
    fn run(&mut self, rate: f64, time: Duration) -> Seen {
        let mut seen = Seen::default();
        let end = self.now + time;
        while self.now < end {
            self.now += exponential(SECOND.div_f64(rate), &mut self.rng);
            while let Some(Reverse((ends, began, call))) = self.calls.peek().copied()
                && ends <= self.now
            {
                self.calls.pop();
                let permit = self.permits[call].take().unwrap();
                permit.finish(ends, Outcome::Success);
                seen.latencies.push(ends - began);
            }
            seen.limits.push(self.limiter.limit());
            let Ok(permit) = self.limiter.admit(self.now) else {
                seen.refused += 1;
                continue;
            };
            let Reverse(free) = self.workers.pop().unwrap();
            let ends = free.max(self.now) + exponential(self.service_time, &mut self.rng);
            self.workers.push(Reverse(ends));
            self.calls
                .push(Reverse((ends, self.now, self.permits.len())));
            self.permits.push(Some(permit));
        }
        seen
    }
}

/// A tenth of a second for each call.
fn server(workers: usize) -> Simulation {
    Simulation::new(workers, 100 * MILLI, 7)
}

#[test]
fn the_limit_finds_the_capacity_of_a_server_that_has_too_much_to_do() {
    for (workers, limits) in [(2, 4..=10), (10, 13..=22), (30, 30..=60)] {
        let mut server = server(workers);
        let rate = server.capacity() * 2.0;
        server.run(rate, 60 * SECOND);
        let mut seen = server.run(rate, 60 * SECOND);
        let done = seen.latencies.len() as f64 / 60.0 / server.capacity();
        assert!(
            limits.contains(&seen.limit()),
            "{workers}: {}",
            seen.limit()
        );
        assert!(done > 0.9, "{workers}: {done}");
        // A fixed limit of 1024 makes each call wait for all of them.
        assert!(
            seen.median() < 500 * MILLI,
            "{workers}: {:?}",
            seen.median()
        );
    }
}

#[test]
fn after_an_overload_hardly_anybody_is_refused() {
    let mut server = server(10);
    let seen = server.run(server.capacity() * 5.0, 60 * SECOND);
    assert!(seen.refused > 0);
    // The overload's calls end.
    server.run(server.capacity() / 2.0, SECOND);
    let seen = server.run(server.capacity() / 2.0, 120 * SECOND);
    // Those who come while the baseline is measured.
    assert!(seen.refused < 6_000 / 200, "{}", seen.refused);
}

#[test]
fn a_server_that_becomes_slow_and_well_again_is_kept_busy() {
    let mut server = server(10);
    let rate = server.capacity() * 1.5;
    for service_time in [100, 500, 100].map(|millis| millis * MILLI) {
        server.service_time = service_time;
        // The time in which the baseline is measured again.
        server.run(rate, 60 * SECOND);
        let seen = server.run(rate, 60 * SECOND);
        let done = seen.latencies.len() as f64 / 60.0 / server.capacity();
        assert!(done > 0.9, "{service_time:?}: {done}");
        assert!(seen.limit() <= 30, "{service_time:?}: {}", seen.limit());
    }
}

#[test]
fn where_little_is_asked_the_limit_stays_what_it_is() {
    let mut server = server(100);
    let seen = server.run(20.0, 600 * SECOND);
    assert_eq!(seen.refused, 0);
    assert_eq!(server.limiter.limit(), 20);
}

/// A limiter that knows that answers take ten milliseconds, and goes by that for a long time.
async fn measured() -> ConcurrencyLimiter {
    let limiter = limiter(ConcurrencyConfig {
        adaptive: Some(Adaptive {
            probe_every: SECOND * 3600,
            ..Adaptive::default()
        }),
        ..ConcurrencyConfig::default()
    });
    answered(&limiter, 10 * MILLI).await;
    limiter
}

/// Two seconds of answers that take this long, with as many in flight as may be.
async fn answered(limiter: &ConcurrencyLimiter, took: Duration) {
    ended(limiter, took, |permit| {
        permit.finish(Instant::now(), Outcome::Success)
    })
    .await;
}

async fn ended(limiter: &ConcurrencyLimiter, took: Duration, end: impl Fn(InFlight)) {
    let start = Instant::now();
    while start.elapsed() < 2 * SECOND {
        let permits: Vec<_> = std::iter::from_fn(|| limiter.admit(Instant::now()).ok()).collect();
        tokio::time::advance(took).await;
        permits.into_iter().for_each(&end);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_says_nothing_unless_it_took_too_long_already() {
    let limiter = measured().await;
    let before = limiter.limit();
    assert!(before > 20, "{before}");
    ended(&limiter, 2 * MILLI, drop).await;
    ended(&limiter, 15 * MILLI, drop).await;
    assert_eq!(limiter.limit(), before);
    // Every caller runs into its deadline.
    ended(&limiter, 50 * MILLI, drop).await;
    assert!(limiter.limit() < before / 2, "{}", limiter.limit());
}

#[tokio::test(start_paused = true)]
async fn a_fast_failure_is_no_fast_answer() {
    let limiter = measured().await;
    let before = limiter.limit();
    for outcome in [Outcome::Failure, Outcome::Rejected] {
        ended(&limiter, MILLI, |permit| {
            permit.finish(Instant::now(), outcome)
        })
        .await;
        assert_eq!(limiter.limit(), before);
    }
    // The peer says itself that it is too much.
    let overload = |permit: InFlight| permit.finish(Instant::now(), Outcome::Overload);
    ended(&limiter, 10 * MILLI, overload).await;
    assert!(limiter.limit() < before / 2, "{}", limiter.limit());
}

#[tokio::test(start_paused = true)]
async fn a_replaced_configuration_keeps_what_was_learnt() {
    let limiter = measured().await;
    let learnt = limiter.limit();
    let held = limiter.admit(Instant::now()).unwrap();
    limiter.config().set(Some(fixed(7)));
    assert_eq!(limiter.limit(), 7);
    assert_eq!(limiter.in_flight(), 1);
    limiter.config().set(Some(adaptive()));
    assert_eq!(limiter.limit(), learnt);
    limiter.config().set(Some(ConcurrencyConfig {
        limit: size(9),
        ..adaptive()
    }));
    assert_eq!(limiter.limit(), 9);
    drop(held);
}

#[derive(Default)]
struct Log(Mutex<Vec<usize>>);

impl Observer for Arc<Log> {
    fn observe(&self, event: Event<'_>) {
        let Event::ConcurrencyLimitChanged {
            limiter: "users",
            limit,
        } = event
        else {
            panic!("{event:?}");
        };
        self.0.lock().unwrap().push(limit);
    }
}

#[tokio::test(start_paused = true)]
async fn it_tells_how_the_limit_moves() {
    let log = Arc::new(Log::default());
    let observer = Arc::new(Arc::clone(&log));
    let limiter = ConcurrencyLimiter::new("users", adaptive(), observer);
    assert_eq!(limiter.limit(), 20);
    answered(&limiter, 10 * MILLI).await;
    let told = log.0.lock().unwrap().clone();
    // A third while the baseline is measured; then all of it, and more.
    assert_eq!(told[..2], [6, 20]);
    assert!(told[1..].is_sorted());
    assert_eq!(told.last(), Some(&limiter.limit()));
}

/// What is done with a limiter.
#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Enter,
    /// Ends the call that began so many ago.
    End(usize, Option<Outcome>),
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        6 => Just(Some(Outcome::Success)),
        1 => Just(Some(Outcome::CallerFault)),
        1 => Just(Some(Outcome::Overload)),
        1 => Just(Some(Outcome::Failure)),
        1 => Just(None),
    ];
    prop_oneof![
        2 => (0_u64..30).prop_map(Step::Wait),
        5 => Just(Step::Enter),
        5 => (any::<usize>(), outcome).prop_map(|(call, outcome)| Step::End(call, outcome)),
    ]
}

proptest! {
    /// Against lists of all that is in flight and of all that was seen in this window.
    #[test]
    fn it_learns_what_the_model_learns(steps in prop::collection::vec(step(), 1..400)) {
        let config = Adaptive {
            min_answers: NonZeroU32::new(5).unwrap(),
            // One window probes: when the others do is left to chance.
            probe_every: SECOND * 3600,
            ..Adaptive::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let limiter = limiter(ConcurrencyConfig {
                limit: size(30),
                adaptive: Some(config),
            });
            let mut model = Gradient::new(&config, StdRng::seed_from_u64(0));
            let (mut window, mut ends, mut measured) = (0, Instant::now(), Measured::default());
            let mut calls = Vec::new();
            for step in steps {
                let now = Instant::now();
                match step {
                    Step::Wait(millis) => tokio::time::advance(millis as u32 * MILLI).await,
                    Step::Enter => {
                        let entered = limiter.admit(now);
                        prop_assert_eq!(entered.is_ok(), calls.len() < model.limit());
                        if let Ok(permit) = entered {
                            calls.push((permit, now, window));
                            measured.peak = measured.peak.max(calls.len());
                        }
                    }
                    Step::End(_, _) if calls.is_empty() => {}
                    Step::End(call, outcome) => {
                        let (permit, since, began) = calls.remove(call % calls.len());
                        match outcome {
                            Some(outcome) => permit.finish(now, outcome),
                            None => drop(permit),
                        }
                        let took = now - since;
                        let slow = |baseline| took > config.tolerated(baseline);
                        let counts = match outcome {
                            Some(Outcome::Success | Outcome::CallerFault) => true,
                            Some(Outcome::Overload) => false,
                            _ => model.baseline().is_some_and(slow),
                        };
                        if began != window {
                            continue;
                        }
                        if counts {
                            measured.answers += 1;
                            measured.took += took;
                        } else if outcome == Some(Outcome::Overload) {
                            measured.overloads += 1;
                        } else {
                            continue;
                        }
                        let enough = measured.answers + measured.overloads >= 5;
                        if enough && now >= ends {
                            model.learn(measured, now, &config, size(30));
                            (window, ends) = (window + 1, now + config.window);
                            measured = Measured::default();
                        }
                    }
                }
                prop_assert_eq!(limiter.in_flight(), calls.len());
                prop_assert_eq!(limiter.limit(), model.limit());
            }
            Ok(())
        })?;
    }

    #[test]
    fn whatever_it_sees_the_limit_stays_in_its_bounds_and_grows_only_where_it_is_reached(
        windows in prop::collection::vec((0_u32..100, 0_u64..1_000, 0_u32..100, 0_usize..200), 1..100),
        (min, max) in (1_usize..50, 1_usize..150),
        seed: u64,
    ) {
        let config = Adaptive {
            min: size(min),
            ..Adaptive::default()
        };
        let mut gradient = Gradient::new(&config, StdRng::seed_from_u64(seed));
        let mut now = Instant::now();
        let mut before = 20.0_f64;
        for (answers, millis, overloads, peak) in windows {
            now += SECOND;
            let measured = Measured {
                answers,
                took: Duration::from_millis(millis) * answers,
                overloads,
                peak,
            };
            let probing = gradient.is_probing();
            gradient.learn(measured, now, &config, size(max));
            let limit = gradient.unprobed_limit();
            prop_assert!((min.min(max) as f64..=max as f64).contains(&limit));
            let reached = !probing && peak as f64 >= before / 2.0;
            prop_assert!(reached || limit <= before.max(min as f64));
            before = limit;
        }
    }
}

#[test]
fn what_is_sheddable_goes_first_and_what_is_critical_last() {
    let now = Instant::now();
    let fits = |limit: usize, priority| {
        let config = ConcurrencyConfig {
            limit: NonZeroUsize::new(limit).unwrap(),
            adaptive: None,
        };
        let limiter = ConcurrencyLimiter::new("test", config, nobody());
        let mut entered = Vec::new();
        while let Ok(permit) = limiter.admit_as(priority, now) {
            entered.push(permit);
        }
        assert_eq!(limiter.in_flight(), entered.len());
        entered.len()
    };
    for (limit, sheddable, critical) in [(1, 1, 2), (2, 2, 3), (4, 3, 5), (100, 75, 110)] {
        assert_eq!(fits(limit, Priority::Sheddable), sheddable, "{limit}");
        assert_eq!(fits(limit, Priority::Normal), limit);
        assert_eq!(fits(limit, Priority::Critical), critical, "{limit}");
    }
}

#[test]
fn what_is_not_to_be_limited_may_have_the_highest_limit() {
    let limiter = ConcurrencyLimiter::new("test", fixed(usize::MAX), nobody());
    for priority in [Priority::Sheddable, Priority::Normal, Priority::Critical] {
        let _permit = limiter.admit_as(priority, Instant::now()).unwrap();
    }
}

#[test]
fn a_baseline_may_be_measured_once_and_never_again() {
    let config = Adaptive {
        probe_every: Duration::MAX,
        ..Adaptive::default()
    };
    let (now, max) = (Instant::now(), size(1000));
    let mut gradient = Gradient::new(&config, StdRng::seed_from_u64(7));
    let measured = Measured {
        answers: 1,
        took: MILLI,
        overloads: 0,
        peak: 1000,
    };
    let windows = (0..100).map(|_| {
        gradient.learn(measured, now, &config, max);
        gradient.is_probing()
    });
    assert_eq!(windows.filter(|probing| *probing).count(), 1);
}

#[tokio::test]
async fn a_request_says_its_priority_in_a_header() {
    let config = ConcurrencyConfig {
        limit: NonZeroUsize::new(4).unwrap(),
        adaptive: None,
    };
    let layer = ConcurrencyLimitLayer::new("test", config, nobody());
    let mut limited = layer.layer(tower::service_fn(|_: http::Request<()>| {
        std::future::pending::<Result<http::Response<()>, BoxError>>()
    }));
    let mut held = Vec::new();
    let mut enters = |priority: &'static str| {
        let request = http::Request::builder().header("request-priority", priority);
        let mut call = task::spawn(limited.call(request.body(()).unwrap()));
        let enters = call.poll().is_pending();
        held.push(call);
        enters
    };
    for expected in [
        ("sheddable", true),
        ("normal", true),
        ("sheddable", true),
        ("sheddable", false),
        ("a word that nobody knows", true),
        ("normal", false),
        ("critical", true),
        ("critical", false),
    ] {
        assert_eq!((expected.0, enters(expected.0)), expected);
    }
}
