//! Which endpoint takes a request: the better of two chosen at random.
//!
//! Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 1996: almost as good as asking all of
//! them, without everybody running to the same best one. The panic threshold is Envoy's.

use rand::{Rng, RngExt};

use crate::{Rejection, policy::Ratio};

/// What the pick wants to know of an endpoint, at the moment and for the call that `V` is about.
pub(super) trait Candidate<V> {
    /// What an admitted request holds.
    type Permit;

    /// Whether its gate would let a request pass.
    fn is_available(&self, view: &V) -> bool;

    /// What a request would have to wait there; lower is better.
    fn score(&self, view: &V) -> f32;

    /// Whether this call has been tried there.
    fn was_tried(&self, view: &V) -> bool;

    /// Lets a request pass.
    fn admit(&self, view: &V) -> Result<Self::Permit, Rejection>;
}

/// Which one was picked, with its permit; without one where the gate was overruled.
pub(super) type Picked<'a, C, V> = (&'a C, Option<<C as Candidate<V>>::Permit>);

/// Picks one of `candidates`.
///
/// - One whose gate is closed is not picked while another is available, unless less than `panic_threshold`
///   of all are: then the few would be overrun, and so many closed gates are more likely to be wrong than right,
///   so all are used.
/// - One that this call was tried at is not picked while another may be.
/// - `None`: there are no candidates at all.
/// - An error, the reason of one closed gate: all are closed, and the threshold is 0.
pub(super) fn pick<'a, C: Candidate<V>, V>(
    candidates: &'a [C],
    view: &V,
    panic_threshold: Ratio,
    rng: &mut impl Rng,
) -> Option<Result<Picked<'a, C, V>, Rejection>> {
    if let Some((first, second)) = two(candidates, rng) {
        let good = |c: &C| c.is_available(view) && !c.was_tried(view);
        if good(first) && good(second) {
            let (better, worse) = by_score(first, second, view);
            for candidate in [better, worse] {
                if let Ok(permit) = candidate.admit(view) {
                    return Some(Ok((candidate, Some(permit))));
                }
            }
        }
    }
    pick_among_all(candidates, view, panic_threshold, rng)
}

/// The careful way, where one of the two that chance proposed will not do.
fn pick_among_all<'a, C: Candidate<V>, V>(
    candidates: &'a [C],
    view: &V,
    panic_threshold: Ratio,
    rng: &mut impl Rng,
) -> Option<Result<Picked<'a, C, V>, Rejection>> {
    let available = candidates.iter().filter(|c| c.is_available(view)).count();
    let panic = (available as f64) < candidates.len() as f64 * panic_threshold.get();
    let usable = |c: &C| panic || c.is_available(view);
    let pair = sample(candidates, |c| usable(c) && !c.was_tried(view), rng)
        .or_else(|| sample(candidates, usable, rng))
        .or_else(|| sample(candidates, |_| true, rng));
    let (first, second) = pair?;
    let (better, worse) = by_score(first, second, view);
    let mut reason = None;
    // The others are asked only if somebody was quicker to take the last permits of the two.
    for candidate in [better, worse].into_iter().chain(candidates) {
        match candidate.admit(view) {
            Ok(permit) => return Some(Ok((candidate, Some(permit)))),
            Err(_) if panic => break,
            Err(rejection) => reason = reason.or(Some(rejection)),
        }
    }
    match reason {
        Some(rejection) if panic_threshold == Ratio::ZERO => Some(Err(rejection)),
        // Nobody is available any more, which is a panic too.
        _ => Some(Ok((better, None))),
    }
}

fn by_score<'a, C: Candidate<V>, V>(first: &'a C, second: &'a C, view: &V) -> (&'a C, &'a C) {
    if second.score(view) < first.score(view) {
        (second, first)
    } else {
        (first, second)
    }
}

/// Two different ones, each pair equally likely.
fn two<'a, C>(candidates: &'a [C], rng: &mut impl Rng) -> Option<(&'a C, &'a C)> {
    let others = candidates.len().checked_sub(1).filter(|n| *n > 0)?;
    let first = rng.random_range(0..=others);
    let second = rng.random_range(0..others);
    let second = second + usize::from(second >= first);
    Some((&candidates[first], &candidates[second]))
}

/// Two different ones for which `wanted` holds, or the same one twice if there is no other. Reservoir sampling.
fn sample<'a, C>(
    candidates: &'a [C],
    wanted: impl Fn(&C) -> bool,
    rng: &mut impl Rng,
) -> Option<(&'a C, &'a C)> {
    let mut wanted = candidates.iter().filter(|c| wanted(c));
    let first = wanted.next()?;
    let mut pair = [first, first];
    for (index, candidate) in wanted.enumerate() {
        let seen = index + 2;
        // The second one always takes its place, the n-th with a probability of 2/n.
        let place = if seen == 2 {
            1
        } else {
            rng.random_range(0..seen)
        };
        if let Some(place) = pair.get_mut(place) {
            *place = candidate;
        }
    }
    let [first, second] = pair;
    // The earlier one is more often first; where both are equal, none shall be preferred.
    Some(if rng.random() {
        (first, second)
    } else {
        (second, first)
    })
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Duration};

    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    /// A candidate with as many permits as it says.
    #[derive(Clone, Debug)]
    struct Fake {
        permits: Cell<u32>,
        load: f32,
        tried: bool,
    }

    const HALF: Ratio = Ratio::new(0.5).unwrap();
    const CLOSED: Rejection = Rejection::CircuitOpen {
        retry_after: Duration::from_secs(1),
    };

    impl Candidate<()> for Fake {
        type Permit = ();

        fn is_available(&self, (): &()) -> bool {
            self.permits.get() > 0
        }

        fn score(&self, (): &()) -> f32 {
            self.load
        }

        fn was_tried(&self, (): &()) -> bool {
            self.tried
        }

        fn admit(&self, (): &()) -> Result<(), Rejection> {
            let left = self.permits.get().checked_sub(1).ok_or(CLOSED)?;
            self.permits.set(left);
            Ok(())
        }
    }

    fn fake(permits: u32, load: f32, tried: bool) -> Fake {
        Fake {
            permits: Cell::new(permits),
            load,
            tried,
        }
    }

    fn counts(fakes: &[Fake], panic_threshold: Ratio, picks: usize) -> Vec<usize> {
        let mut rng = StdRng::seed_from_u64(7);
        let mut counts = vec![0; fakes.len()];
        for _ in 0..picks {
            let (picked, _) = pick(fakes, &(), panic_threshold, &mut rng)
                .unwrap()
                .unwrap();
            let index = fakes.iter().position(|f| std::ptr::eq(f, picked));
            counts[index.unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn the_most_loaded_of_three_is_never_better_than_another() {
        let fakes = [1.0, 2.0, 3.0].map(|load| fake(u32::MAX, load, false));
        let counts = counts(&fakes, HALF, 9000);
        assert_eq!(counts[2], 0);
        // The best is in two of the three pairs.
        assert!((5800..6200).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn equals_share_evenly() {
        let fakes = [(); 4].map(|()| fake(u32::MAX, 1.0, false));
        for count in counts(&fakes, HALF, 8000) {
            assert!((1850..2150).contains(&count), "{count}");
        }
    }

    #[test]
    fn when_too_few_are_available_all_are_used() {
        let fakes = [u32::MAX, 0, 0].map(|permits| fake(permits, 1.0, false));
        assert!(counts(&fakes, HALF, 300).iter().all(|count| *count > 50));
        assert_eq!(counts(&fakes, Ratio::new(0.33).unwrap(), 300), [300, 0, 0]);
    }

    #[test]
    fn without_a_panic_threshold_the_reason_of_a_closed_gate_is_given() {
        let mut rng = StdRng::seed_from_u64(7);
        let fakes = [fake(0, 1.0, false), fake(0, 2.0, true)];
        let picked = pick(&fakes, &(), Ratio::ZERO, &mut rng).unwrap();
        assert_eq!(picked.unwrap_err(), CLOSED);
        assert!(pick::<Fake, ()>(&[], &(), Ratio::ZERO, &mut rng).is_none());
    }

    proptest! {
        /// Whatever the state of the candidates is.
        #[test]
        fn a_closed_gate_or_a_second_try_is_the_last_choice(
            fakes in prop::collection::vec((0u32..2, 0f32..9.0, any::<bool>()), 1..9),
            panic_threshold in (0u8..=4).prop_map(|n| Ratio::new(f64::from(n) / 4.0).unwrap()),
            seed: u64,
        ) {
            let fakes: Vec<_> = fakes.into_iter().map(|(p, l, t)| fake(p, l, t)).collect();
            let available = fakes.iter().filter(|f| f.permits.get() > 0).count();
            let panic = (available as f64) < fakes.len() as f64 * panic_threshold.get();
            let before = fakes.clone();
            let usable = |f: &Fake| panic || f.permits.get() > 0;
            let mut rng = StdRng::seed_from_u64(seed);
            match pick(&fakes, &(), panic_threshold, &mut rng).unwrap() {
                Err(_) => prop_assert!(available == 0 && panic_threshold == Ratio::ZERO),
                Ok((picked, permit)) => {
                    let index = fakes.iter().position(|f| std::ptr::eq(f, picked)).unwrap();
                    let picked = &before[index];
                    prop_assert!(usable(picked));
                    prop_assert_eq!(permit.is_some(), picked.permits.get() > 0);
                    let untried = before.iter().any(|f| usable(f) && !f.tried);
                    prop_assert!(!(picked.tried && untried));
                }
            }
        }
    }
}
