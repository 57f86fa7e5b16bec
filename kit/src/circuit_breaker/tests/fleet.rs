//! How many of a fleet may be open.

use super::*;

/// Hears which events there were.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Observer for Arc<Heard> {
    fn observe(&self, event: Event<'_>) {
        self.0.lock().unwrap().push(match event {
            Event::CircuitOpened { circuit, .. } => format!("{circuit} opened"),
            Event::CircuitHalfOpened { circuit } => format!("{circuit} half opened"),
            Event::CircuitClosed { circuit } => format!("{circuit} closed"),
            Event::CircuitSpared { circuit } => format!("{circuit} spared"),
            Event::EndpointEjected { ejected, total, .. } => format!("{ejected}/{total} ejected"),
            Event::EndpointRestored { ejected, total, .. } => format!("{ejected}/{total} restored"),
            _ => "another".to_owned(),
        });
    }
}

fn fleet(heard: &Arc<Heard>) -> Fleet {
    Fleet::new("users".parse().unwrap(), Arc::new(Arc::clone(heard)))
}

#[test]
fn at_most_half_of_a_fleet_is_ejected_and_each_step_is_told() {
    let heard = Arc::new(Heard::default());
    let fleet = fleet(&heard);
    let now = Instant::now();
    let mut circuits: Vec<_> = ["a", "b", "c", "d", "e"]
        .map(|name| Circuit::in_fleet(name, config(1, 1), &fleet))
        .into();
    for circuit in &circuits {
        finish(circuit, now, Outcome::Failure);
    }
    let states = |circuits: &[Circuit]| -> Vec<_> { circuits.iter().map(Circuit::state).collect() };
    use CircuitState::{Closed, Open};
    assert_eq!(states(&circuits), [Open, Open, Closed, Closed, Closed]);
    assert_eq!((fleet.ejected(), fleet.members()), (2, 5));
    let take = || std::mem::take(&mut *heard.0.lock().unwrap());
    assert_eq!(
        take(),
        [
            "a opened",
            "1/5 ejected",
            "b opened",
            "2/5 ejected",
            "c spared",
            "d spared",
            "e spared"
        ]
    );
    // A probe that fails is no second ejection. One that is back makes room for another.
    let now = now + SECOND;
    finish(&circuits[0], now, Outcome::Failure);
    finish(&circuits[1], now, Outcome::Success);
    finish(&circuits[2], now, Outcome::Failure);
    assert_eq!(states(&circuits), [Open, Closed, Open, Closed, Closed]);
    assert_eq!(
        take(),
        [
            "a half opened",
            "a opened",
            "b half opened",
            "b closed",
            "1/5 restored",
            "c opened",
            "2/5 ejected"
        ]
    );
    // So does one that is gone, and a larger share.
    drop(circuits.remove(0));
    assert_eq!(take(), ["1/4 restored"]);
    let half_of_four = |circuits: &[Circuit]| {
        for circuit in circuits {
            if circuit.state() == Closed {
                finish(circuit, now, Outcome::Failure);
            }
        }
    };
    half_of_four(&circuits);
    assert_eq!(states(&circuits), [Open, Open, Closed, Closed]);
    for circuit in &circuits {
        circuit.replace(CircuitBreakerConfig {
            max_ejected: Ratio::ONE,
            ..config(1, 1)
        });
    }
    half_of_four(&circuits);
    assert_eq!(states(&circuits), [Open; 4]);
    drop(circuits);
    assert_eq!((fleet.ejected(), fleet.members()), (0, 0));
}

#[test]
fn one_may_be_ejected_however_few_there_are() {
    let fleet = fleet(&Arc::default());
    let config = CircuitBreakerConfig {
        max_ejected: Ratio::ZERO,
        ..config(1, 1)
    };
    let [only, other] = ["a", "b"].map(|name| Circuit::in_fleet(name, config, &fleet));
    let now = Instant::now();
    finish(&only, now, Outcome::Failure);
    finish(&other, now, Outcome::Failure);
    assert_eq!(only.state(), CircuitState::Open);
    assert_eq!(other.state(), CircuitState::Closed);
}

#[test]
fn threads_together_eject_no_more_than_may_be() {
    let fleet = fleet(&Arc::default());
    let now = Instant::now();
    let circuits: Vec<_> = (0..16)
        .map(|n| Circuit::in_fleet(n.to_string(), config(1, 1), &fleet))
        .collect();
    let most = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for part in circuits.chunks(4) {
            let (fleet, most) = (&fleet, &most);
            scope.spawn(move || {
                for round in 0..500_u32 {
                    let now = now + SECOND * 61 * round;
                    for circuit in part {
                        // Half of the time it is a failure.
                        let outcome = match rand::random() {
                            true => Outcome::Failure,
                            false => Outcome::Success,
                        };
                        if let Ok(permit) = circuit.admit(now) {
                            permit.finish(now, outcome);
                        }
                        most.fetch_max(fleet.ejected(), std::sync::atomic::Ordering::SeqCst);
                    }
                }
            });
        }
    });
    let ejected = circuits
        .iter()
        .filter(|c| c.state() != CircuitState::Closed);
    assert_eq!(fleet.ejected(), ejected.count());
    let most = most.into_inner();
    assert!(0 < most && most <= 8, "{most}");
}

#[cfg(kit_loom)]
#[test]
fn in_every_order_no_more_than_may_be_are_ejected() {
    let half = Ratio::new(0.5).unwrap();
    loom::model(move || {
        let fleet = Fleet::new("users".parse().unwrap(), nobody());
        let [first, second, _third] = [(); 3].map(|()| fleet.join());
        let other = loom::thread::spawn(move || (first.eject(half), first));
        let mine = second.eject(half);
        let (theirs, _first) = other.join().unwrap();
        assert!(mine != theirs);
        assert_eq!(fleet.ejected(), 1);
    });
}

#[cfg(kit_loom)]
#[test]
fn in_every_order_who_leaves_makes_room_once() {
    let half = Ratio::new(0.5).unwrap();
    loom::model(move || {
        let fleet = Fleet::new("users".parse().unwrap(), nobody());
        let [first, second, _third] = [(); 3].map(|()| fleet.join());
        assert!(first.eject(half));
        let other = loom::thread::spawn(move || {
            first.restore();
            drop(first);
        });
        let ejected = second.eject(half);
        other.join().unwrap();
        assert_eq!(
            (fleet.ejected(), fleet.members()),
            (usize::from(ejected), 2)
        );
    });
}
