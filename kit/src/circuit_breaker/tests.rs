use std::{
    num::{NonZeroU16, NonZeroU32},
    sync::{Arc, Mutex},
    time::Duration,
};

use proptest::prelude::*;
use tokio::time::Instant;
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower_test::{assert_request_eq, mock};

use super::*;
use crate::{
    classify::{AnySuccess, Outcome},
    event::{Event, Observer, nobody},
    policy::Ratio,
    rejection::Rejection,
};

const SECOND: Duration = Duration::from_secs(1);

fn config(failures: u32, probes: u16) -> CircuitBreakerConfig {
    CircuitBreakerConfig {
        consecutive_failures: NonZeroU32::new(failures).unwrap(),
        success_rate: None,
        probes: NonZeroU16::new(probes).unwrap(),
        ..CircuitBreakerConfig::default()
    }
}

fn circuit(config: CircuitBreakerConfig) -> Circuit {
    Circuit::new("users", config, nobody())
}

fn finish(circuit: &Circuit, now: Instant, outcome: Outcome) {
    circuit.admit(now).unwrap().finish(now, outcome);
}

/// A circuit that has just opened, and a moment at which it lets a probe through.
fn tripped(probes: u16) -> (Circuit, Instant) {
    let circuit = circuit(config(1, probes));
    let now = Instant::now();
    finish(&circuit, now, Outcome::Failure);
    assert_eq!(circuit.state(), CircuitState::Open);
    (circuit, now + SECOND)
}

#[test]
fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
    use Outcome::{CallerFault, Failure, Overload, Rejected, Success};
    let now = Instant::now();
    for (outcomes, state) in [
        ([Failure, Failure, Failure, Success], CircuitState::Open),
        ([Failure, Failure, Success, Failure], CircuitState::Closed),
        (
            [Failure, Failure, CallerFault, Failure],
            CircuitState::Closed,
        ),
        ([Failure, Failure, Rejected, Failure], CircuitState::Open),
        ([Failure, Failure, Overload, Failure], CircuitState::Open),
        ([Overload; 4], CircuitState::Closed),
        ([CallerFault; 4], CircuitState::Closed),
        ([Rejected; 4], CircuitState::Closed),
    ] {
        let circuit = circuit(config(3, 1));
        let permits: Vec<_> = outcomes.map(|_| circuit.admit(now).unwrap()).into();
        for (permit, outcome) in permits.into_iter().zip(outcomes) {
            permit.finish(now, outcome);
        }
        assert_eq!(circuit.state(), state, "{outcomes:?}");
    }
}

#[test]
fn an_open_circuit_says_when_to_come_back() {
    let (circuit, probing) = tripped(1);
    let now = probing - SECOND;
    let Err(Rejection::CircuitOpen { retry_after }) = circuit.admit(now) else {
        panic!("open");
    };
    assert!(SECOND / 2 <= retry_after && retry_after <= SECOND);
    assert!(!circuit.is_available(now));
    assert!(circuit.is_available(now + retry_after));
    assert!(circuit.admit(now + retry_after).is_ok());
}

#[test]
fn only_as_many_probes_pass_as_configured_and_all_must_succeed() {
    let (circuit, now) = tripped(2);
    let first = circuit.admit(now).unwrap();
    assert!(circuit.is_available(now));
    let second = circuit.admit(now).unwrap();
    assert!(!circuit.is_available(now));
    assert_eq!(
        circuit.admit(now).unwrap_err(),
        Rejection::CircuitOpen {
            retry_after: SECOND
        }
    );
    first.finish(now, Outcome::Success);
    assert!(circuit.admit(now).is_err());
    second.finish(now, Outcome::Success);
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[test]
fn a_cancelled_probe_gives_its_place_back() {
    let (circuit, now) = tripped(1);
    drop(circuit.admit(now).unwrap());
    assert!(circuit.is_available(now));
    circuit.admit(now).unwrap().finish(now, Outcome::Rejected);
    finish(&circuit, now, Outcome::Success);
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[test]
fn a_result_from_an_earlier_state_is_ignored() {
    let now = Instant::now();
    let circuit = circuit(config(1, 1));
    let slow: Vec<_> = (0..4).map(|_| circuit.admit(now).unwrap()).collect();
    finish(&circuit, now, Outcome::Failure);
    let mut slow = slow.into_iter();
    // While it is open, while it probes, and when it is closed again.
    slow.next().unwrap().finish(now, Outcome::Success);
    assert_eq!(circuit.state(), CircuitState::Open);
    let probe = circuit.admit(now + SECOND).unwrap();
    slow.next().unwrap().finish(now, Outcome::Success);
    slow.next().unwrap().finish(now, Outcome::Failure);
    assert_eq!(circuit.state(), CircuitState::HalfOpen);
    assert!(!circuit.is_available(now + SECOND));
    probe.finish(now, Outcome::Success);
    slow.next().unwrap().finish(now, Outcome::Failure);
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[test]
fn it_stays_open_twice_as_long_after_each_probe_that_failed() {
    let (circuit, mut now) = tripped(1);
    for bound in [2, 4, 8, 16, 32, 60, 60].map(Duration::from_secs) {
        finish(&circuit, now, Outcome::Overload);
        let Err(Rejection::CircuitOpen { retry_after }) = circuit.admit(now) else {
            panic!("open");
        };
        assert!(bound / 2 <= retry_after && retry_after <= bound);
        now += bound;
    }
    // Closed once, it begins anew.
    finish(&circuit, now, Outcome::Success);
    finish(&circuit, now, Outcome::Failure);
    assert!(circuit.is_available(now + SECOND));
}

#[test]
fn probes_that_hang_do_not_keep_it_half_open_for_ever() {
    let (circuit, now) = tripped(1);
    let hanging = circuit.admit(now).unwrap();
    let later = now + Duration::from_secs(60);
    assert!(!circuit.is_available(later - Duration::from_nanos(1)));
    assert!(circuit.is_available(later));
    let probe = circuit.admit(later).unwrap();
    hanging.finish(later, Outcome::Failure);
    assert_eq!(circuit.state(), CircuitState::HalfOpen);
    probe.finish(later, Outcome::Success);
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[test]
fn a_success_rate_that_is_too_low_opens_it() {
    let config = CircuitBreakerConfig {
        success_rate: Some(SuccessRate::default()),
        ..config(u32::MAX, 1)
    };
    let now = Instant::now();
    // 20 results, of which half are failures; one more is too many.
    for failure in [Outcome::Failure, Outcome::Overload] {
        let circuit = circuit(config);
        for _ in 0..10 {
            finish(&circuit, now, failure);
            finish(&circuit, now, Outcome::Success);
        }
        assert_eq!(circuit.state(), CircuitState::Closed);
        finish(&circuit, now, failure);
        assert_eq!(circuit.state(), CircuitState::Open);
        // Closed again, it does not remember.
        finish(&circuit, now + SECOND, Outcome::Success);
        finish(&circuit, now + SECOND, failure);
        assert_eq!(circuit.state(), CircuitState::Closed);
    }
    // What is too long ago does not count, and too few say nothing.
    let circuit = circuit(config);
    for second in 0..100 {
        finish(&circuit, now + SECOND * second, Outcome::Failure);
    }
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[test]
fn a_replaced_configuration_keeps_what_was_counted() {
    let now = Instant::now();
    let circuit = circuit(config(9, 1));
    for _ in 0..4 {
        finish(&circuit, now, Outcome::Failure);
    }
    circuit.replace(config(5, 1));
    assert_eq!(circuit.state(), CircuitState::Closed);
    finish(&circuit, now, Outcome::Failure);
    assert_eq!(circuit.state(), CircuitState::Open);
    circuit.replace(config(5, 2));
    let now = now + SECOND;
    let _probes = [circuit.admit(now).unwrap(), circuit.admit(now).unwrap()];
    assert_eq!(circuit.config(), config(5, 2));
}

#[test]
fn transitions_are_told_in_their_order() {
    struct Log(Mutex<Vec<&'static str>>);
    impl Observer for Arc<Log> {
        fn observe(&self, event: Event<'_>) {
            self.0.lock().unwrap().push(match event {
                Event::CircuitOpened {
                    circuit: "users", ..
                } => "opened",
                Event::CircuitHalfOpened { circuit: "users" } => "half opened",
                Event::CircuitClosed { circuit: "users" } => "closed",
                _ => "another",
            });
        }
    }
    let log = Arc::new(Log(Mutex::default()));
    let circuit = Circuit::new("users", config(1, 1), Arc::new(Arc::clone(&log)));
    let now = Instant::now();
    finish(&circuit, now, Outcome::Failure);
    finish(&circuit, now + SECOND, Outcome::Failure);
    finish(&circuit, now + SECOND * 3, Outcome::Success);
    let told = log.0.lock().unwrap().clone();
    assert_eq!(
        told,
        ["opened", "half opened", "opened", "half opened", "closed"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_fails_is_asked_again_after_a_while() {
    let layer = CircuitBreakerLayer::new(circuit(config(1, 1))).with_classify(AnySuccess);
    let (mut service, mut peer) = mock::spawn_layer::<&str, &str, _>(layer);
    assert_ready_ok!(service.poll_ready());
    let mut call = task::spawn(service.call("a"));
    assert_request_eq!(peer, "a").send_error("reset");
    assert_ready_err!(call.poll());

    assert_ready_ok!(service.poll_ready());
    let error = assert_ready_err!(task::spawn(service.call("b")).poll());
    assert!(matches!(
        Rejection::find(&*error),
        Some(Rejection::CircuitOpen { .. })
    ));
    assert_pending!(peer.poll_request());

    tokio::time::advance(SECOND).await;
    // A probe that nobody waits for decides nothing.
    assert_ready_ok!(service.poll_ready());
    let mut cancelled = task::spawn(service.call("c"));
    assert_pending!(cancelled.poll());
    assert_request_eq!(peer, "c");
    drop(cancelled);
    assert_ready_ok!(service.poll_ready());
    let mut call = task::spawn(service.call("d"));
    assert_pending!(call.poll());
    assert_request_eq!(peer, "d").send_response("ok");
    assert_ready_ok!(call.poll());
}

/// A circuit breaker as one would write it down: a list of calls, and a state that is worked out in the open.
struct Model {
    config: CircuitBreakerConfig,
    state: ModelState,
    failures: u32,
    results: Vec<(u64, bool)>,
}

enum ModelState {
    Closed,
    Open,
    HalfOpen {
        places: u16,
        missing: u16,
        since: u64,
    },
}

#[derive(Clone, Debug)]
enum Step {
    /// Time passes, in milliseconds.
    Wait(u64),
    Call,
    /// The n-th call that is under way ends.
    End(prop::sample::Index, Option<Outcome>),
}

fn step() -> impl Strategy<Value = Step> {
    use Outcome::{CallerFault, Failure, Overload, Rejected, Success};
    let outcome = prop::option::weighted(
        0.9,
        prop_oneof![
            4 => Just(Failure), 3 => Just(Success), 1 => Just(Overload), 1 => Just(CallerFault), 1 => Just(Rejected)
        ],
    );
    prop_oneof![
        2 => (0_u64..1_500).prop_map(Step::Wait),
        5 => Just(Step::Call),
        5 => (any::<prop::sample::Index>(), outcome).prop_map(|(n, outcome)| Step::End(n, outcome)),
    ]
}

impl Model {
    /// Whether a call passes; the wait of an open circuit is drawn by chance, so the circuit itself is asked.
    fn admits(&mut self, millis: u64, wait_is_over: bool) -> bool {
        let probes = self.config.probes.get();
        match &mut self.state {
            ModelState::Closed => true,
            ModelState::Open if !wait_is_over => false,
            ModelState::HalfOpen { places, .. } if *places > 0 => {
                *places -= 1;
                true
            }
            ModelState::HalfOpen { since, .. }
                if millis < *since + self.config.max_open_for.as_millis() as u64 =>
            {
                false
            }
            ModelState::Open | ModelState::HalfOpen { .. } => {
                self.state = ModelState::HalfOpen {
                    places: probes - 1,
                    missing: probes,
                    since: millis,
                };
                true
            }
        }
    }

    /// A call that was admitted in the present state ended.
    fn end(&mut self, millis: u64, outcome: Option<Outcome>) {
        let good = match outcome {
            None | Some(Outcome::Rejected) => {
                if let ModelState::HalfOpen { places, .. } = &mut self.state {
                    *places += 1;
                }
                return;
            }
            Some(Outcome::Success | Outcome::CallerFault) => true,
            Some(Outcome::Failure | Outcome::Overload) => false,
        };
        match &mut self.state {
            ModelState::Closed => {
                self.results.push((millis, good));
                if good {
                    self.failures = 0;
                    return;
                }
                self.failures += u32::from(outcome == Some(Outcome::Failure));
                let rate = self.config.success_rate.unwrap();
                let bucket = rate.window.as_millis() as u64 / 10;
                let counted = self
                    .results
                    .iter()
                    .filter(|(at, _)| at / bucket + 10 > millis / bucket);
                let (goods, all) = counted.fold((0, 0), |(goods, all), (_, good)| {
                    (goods + u32::from(*good), all + 1)
                });
                let in_a_row = outcome == Some(Outcome::Failure)
                    && self.failures >= self.config.consecutive_failures.get();
                let too_low = all >= rate.min_requests.get() && goods * 2 < all;
                if in_a_row || too_low {
                    self.state = ModelState::Open;
                }
            }
            ModelState::HalfOpen { missing, .. } if good => {
                *missing -= 1;
                if *missing == 0 {
                    self.state = ModelState::Closed;
                    self.failures = 0;
                    self.results.clear();
                }
            }
            ModelState::HalfOpen { .. } => self.state = ModelState::Open,
            ModelState::Open => {}
        }
    }
}

proptest! {
    #[test]
    fn it_does_what_the_model_does(
        failures in 1_u32..5,
        probes in 1_u16..4,
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let config = CircuitBreakerConfig {
            success_rate: Some(SuccessRate {
                threshold: Ratio::new(0.5).unwrap(),
                window: Duration::from_secs(4),
                min_requests: NonZeroU32::new(6).unwrap(),
            }),
            max_open_for: Duration::from_secs(4),
            ..config(failures, probes)
        };
        // The clock stands still, so that the circuit and the test begin at the same moment.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let _context = runtime.enter();
        let circuit = circuit(config);
        let mut model = Model { config, state: ModelState::Closed, failures: 0, results: Vec::new() };
        let epoch = Instant::now();
        let mut millis = 0;
        // With each call, in which of the model's states it was admitted.
        let mut calls = Vec::new();
        let mut state = 0;
        let mut open_until = epoch;
        for step in steps {
            let now = epoch + Duration::from_millis(millis);
            let before = std::mem::discriminant(&model.state);
            let mut renewed = false;
            match step {
                Step::Wait(time) => millis += time,
                Step::Call => {
                    let since = match model.state {
                        ModelState::HalfOpen { since, .. } => Some(since),
                        ModelState::Closed | ModelState::Open => None,
                    };
                    let admitted = circuit.admit(now);
                    prop_assert_eq!(admitted.is_ok(), model.admits(millis, now >= open_until));
                    renewed = matches!(model.state, ModelState::HalfOpen { since: s, .. } if Some(s) != since);
                    state += u32::from(renewed);
                    calls.extend(admitted.ok().map(|permit| (permit, state)));
                }
                Step::End(index, outcome) if !calls.is_empty() => {
                    let (permit, of) = calls.swap_remove(index.index(calls.len()));
                    if of == state {
                        model.end(millis, outcome);
                    }
                    match outcome {
                        Some(outcome) => permit.finish(now, outcome),
                        None => drop(permit),
                    }
                }
                Step::End(..) => {}
            }
            if std::mem::discriminant(&model.state) != before && !renewed {
                state += 1;
            }
            let expected = match model.state {
                ModelState::Closed => CircuitState::Closed,
                ModelState::HalfOpen { .. } => CircuitState::HalfOpen,
                ModelState::Open => {
                    // Learn how long it stays open, without touching it.
                    if std::mem::discriminant(&model.state) != before {
                        let Err(Rejection::CircuitOpen { retry_after }) = circuit.admit(now) else {
                            panic!("just opened");
                        };
                        open_until = now + retry_after;
                    }
                    CircuitState::Open
                }
            };
            prop_assert_eq!(circuit.state(), expected);
        }
    }
}
