mod fleet;
mod model;

use std::{
    num::{NonZeroU16, NonZeroU32},
    sync::{Arc, Mutex},
    time::Duration,
};

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
fn it_may_stay_open_for_as_long_as_there_are_numbers() {
    let circuit = circuit(CircuitBreakerConfig {
        open_for: Duration::MAX,
        max_open_for: Duration::MAX,
        ..config(1, 1)
    });
    let now = Instant::now();
    finish(&circuit, now, Outcome::Failure);
    let years = SECOND * 365 * 24 * 60 * 60;
    assert!(circuit.admit(now + years * 49).is_err());
    let probe = circuit.admit(now + years * 101).unwrap();
    assert!(circuit.admit(now + years * 101).is_err());
    probe.finish(now + years * 101, Outcome::Success);
    assert_eq!(circuit.state(), CircuitState::Closed);
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

#[cfg(kit_loom)]
#[test]
fn in_every_order_one_probe_passes_and_a_late_result_changes_nothing() {
    loom::model(|| {
        let circuit = circuit(config(1, 1));
        let now = Instant::now();
        let late = circuit.admit(now).unwrap();
        finish(&circuit, now, Outcome::Failure);
        let later = now + SECOND * 3600;
        let other = circuit.clone();
        let other = loom::thread::spawn(move || {
            late.finish(later, Outcome::Failure);
            other.admit(later)
        });
        let mine = circuit.admit(later);
        let probes = [mine, other.join().unwrap()];
        assert_eq!(probes.iter().filter(|probe| probe.is_ok()).count(), 1);
        assert_eq!(circuit.state(), CircuitState::HalfOpen);
    });
}

#[cfg(kit_loom)]
#[test]
fn in_every_order_who_sees_that_it_is_open_sees_for_how_long() {
    loom::model(|| {
        let circuit = circuit(config(1, 1));
        let now = Instant::now();
        // Admitted before: loom remembers one access of a word, and must remember the one below.
        let call = circuit.admit(now).unwrap();
        let other = loom::thread::spawn(move || call.finish(now, Outcome::Failure));
        if circuit.state() == CircuitState::Open {
            assert!(!circuit.is_available(now));
        }
        other.join().unwrap();
    });
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
}

/// How long it stays open at the most, rounded to the bound that was halved by chance.
fn bound_of_open(circuit: &Circuit, now: Instant) -> Duration {
    let Err(Rejection::CircuitOpen { retry_after }) = circuit.admit(now) else {
        panic!("open");
    };
    let bounds = [1, 2, 4, 8, 16, 32, 60].map(Duration::from_secs);
    bounds
        .into_iter()
        .find(|bound| retry_after <= *bound)
        .unwrap()
}

#[test]
fn one_that_opens_again_and_again_stays_open_longer_and_is_forgiven_step_by_step() {
    // A bound of so many seconds is at least this after the jitter, and not the one before.
    let opens_for = |circuit: &Circuit, now: Instant, seconds: u64| {
        let (bound, most) = (bound_of_open(circuit, now), SECOND * seconds as u32);
        // Chance may have halved it to exactly the bound before.
        assert!(bound == most || bound * 2 == most, "{bound:?} of {most:?}");
        let least = circuit.admit(now).unwrap_err().retry_after().unwrap();
        assert!(least >= most / 2);
        now + most
    };
    let circuit = circuit(config(1, 1));
    let mut now = Instant::now();
    for seconds in [1, 2, 4, 8] {
        finish(&circuit, now, Outcome::Failure);
        now = opens_for(&circuit, now, seconds);
        finish(&circuit, now, Outcome::Success);
        assert_eq!(circuit.state(), CircuitState::Closed);
    }
    // It opened four times. Closed for 25 s, two of them are forgotten.
    now += SECOND * 25;
    finish(&circuit, now, Outcome::Failure);
    now = opens_for(&circuit, now, 4);
    finish(&circuit, now, Outcome::Success);
    // All of them.
    now += SECOND * 3600;
    finish(&circuit, now, Outcome::Failure);
    now = opens_for(&circuit, now, 1);
    finish(&circuit, now, Outcome::Success);
    // With 0 they are forgotten at once.
    circuit.replace(CircuitBreakerConfig {
        forget_after: Duration::ZERO,
        ..config(1, 1)
    });
    finish(&circuit, now, Outcome::Failure);
    opens_for(&circuit, now, 1);
}

#[test]
fn an_answer_that_takes_too_long_is_a_failure() {
    let config = CircuitBreakerConfig {
        slow_call: Some(SECOND),
        ..config(2, 1)
    };
    let start = Instant::now();
    let answer_after = |circuit: &Circuit, start: Instant, took: Duration, outcome| {
        circuit.admit(start).unwrap().finish(start + took, outcome);
    };
    for outcome in [Outcome::Success, Outcome::CallerFault] {
        let circuit = circuit(config);
        for _ in 0..10 {
            answer_after(&circuit, start, SECOND, outcome);
        }
        assert_eq!(circuit.state(), CircuitState::Closed);
        let slow = SECOND + Duration::from_nanos(1);
        answer_after(&circuit, start, slow, outcome);
        assert_eq!(circuit.state(), CircuitState::Closed);
        answer_after(&circuit, start, slow, outcome);
        assert_eq!(circuit.state(), CircuitState::Open);
        // A slow probe does not close it.
        let now = start + SECOND * 4;
        answer_after(&circuit, now, slow, outcome);
        assert_eq!(circuit.state(), CircuitState::Open);
        // One that took its time to be rejected or cancelled says nothing.
        let now = now + SECOND * 8;
        answer_after(&circuit, now, SECOND * 2, Outcome::Rejected);
        assert_eq!(circuit.state(), CircuitState::HalfOpen);
        // The settings of now count.
        circuit.replace(CircuitBreakerConfig {
            slow_call: None,
            ..config
        });
        answer_after(&circuit, now, SECOND * 2, outcome);
        assert_eq!(circuit.state(), CircuitState::Closed);
    }
    // The success rate counts them, too.
    let circuit = circuit(CircuitBreakerConfig {
        consecutive_failures: NonZeroU32::MAX,
        success_rate: Some(SuccessRate::default()),
        ..config
    });
    for _ in 0..20 {
        assert_eq!(circuit.state(), CircuitState::Closed);
        answer_after(&circuit, start, SECOND * 2, Outcome::Success);
    }
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[test]
fn a_peer_that_is_found_well_in_another_way_closes_the_circuit() {
    let (circuit, now) = tripped(1);
    drop(circuit.examine().unwrap());
    assert_eq!(circuit.state(), CircuitState::Open);
    circuit.examine().unwrap().passed(now);
    assert_eq!(circuit.state(), CircuitState::Closed);
    assert!(circuit.examine().is_none());
    // Half open, too; the probe that was under way decides nothing any more.
    finish(&circuit, now, Outcome::Failure);
    let now = now + SECOND * 2;
    let probe = circuit.admit(now).unwrap();
    circuit.examine().unwrap().passed(now);
    probe.finish(now, Outcome::Failure);
    assert_eq!(circuit.state(), CircuitState::Closed);
    // What was asked before the last transition is too old.
    finish(&circuit, now, Outcome::Failure);
    let old = circuit.examine().unwrap();
    finish(&circuit, now + SECOND * 4, Outcome::Failure);
    old.passed(now + SECOND * 4);
    assert_eq!(circuit.state(), CircuitState::Open);
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
fn fewer_probes_may_be_enough_already() {
    for in_flight in [0, 1] {
        let (circuit, now) = tripped(3);
        let going: Vec<_> = (0..in_flight)
            .map(|_| circuit.admit(now).unwrap())
            .collect();
        finish(&circuit, now, Outcome::Success);
        assert_eq!(circuit.state(), CircuitState::HalfOpen);
        circuit.replace(config(1, 1));
        assert_eq!(circuit.state(), CircuitState::Closed);
        // What was under way comes too late to say anything.
        for probe in going {
            probe.finish(now, Outcome::Failure);
        }
        assert!(circuit.admit(now).is_ok());
    }
    // One that has not succeeded yet goes on with the probes that it has.
    let (circuit, now) = tripped(3);
    let probes = [circuit.admit(now).unwrap(), circuit.admit(now).unwrap()];
    circuit.replace(config(1, 1));
    assert!(circuit.admit(now).is_err());
    drop(probes);
    finish(&circuit, now, Outcome::Success);
    assert_eq!(circuit.state(), CircuitState::Closed);
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
