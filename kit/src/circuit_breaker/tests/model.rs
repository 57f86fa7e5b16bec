//! Any interleaving of calls, results, cancellations and time, against a model.

use proptest::prelude::*;

use super::*;

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
