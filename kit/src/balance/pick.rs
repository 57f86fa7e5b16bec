//! Which endpoint takes a request: the better of two chosen at random, or what a picker proposes.
//!
//! Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 1996: almost as good as asking all of
//! them, without everybody running to the same best one. The panic threshold is Envoy's.

use rand::{Rng, RngExt};

use super::{chunked::Chunked, load::Cost};
use crate::{Rejection, policy::Ratio};

/// What the pick wants to know of an endpoint, at the moment and for the call that `V` is about.
pub(super) trait Candidate<V> {
    /// What an admitted request holds.
    type Permit;

    /// Whether its gate would let a request pass.
    fn is_available(&self, view: &V) -> bool;

    /// What a request would have to wait there.
    fn cost(&self, view: &V) -> Cost;

    /// Whether it is too new to take this request if it need not. Chance decides, against it at first.
    fn hesitates(&self, view: &V, rng: &mut impl Rng) -> bool;

    /// Whether this call has been tried there.
    fn was_tried(&self, view: &V) -> bool;

    /// Lets a request pass.
    fn admit(&self, view: &V) -> Result<Self::Permit, Rejection>;
}

/// Which one was picked, with its permit; without one where the gate was overruled.
pub(super) type Picked<'a, C, V> = (&'a C, Option<<C as Candidate<V>>::Permit>);

/// In a set of more than so many, chance is asked up to so many times before all are looked at.
pub(super) const TURNS: usize = 16;

/// What there is to pick from, and by which rules.
///
/// - One whose gate is closed is not picked while another is available, unless less than `panic_threshold`
///   of all are: then the few would be overrun, and so many closed gates are more likely to be wrong than right,
///   so all are used.
/// - One that this call was tried at is not picked while another may be.
/// - `None`: there are no candidates at all.
/// - An error, the reason of one closed gate: all are closed, and the threshold is 0.
pub(super) struct Crowd<'a, C, V, F> {
    pub(super) candidates: &'a Chunked<C>,
    pub(super) view: &'a V,
    pub(super) panic_threshold: Ratio,
    /// How many of the candidates are available; may be a little old.
    pub(super) available: F,
}

impl<'a, C: Candidate<V>, V, F: Fn() -> usize> Crowd<'a, C, V, F> {
    /// Picks the better of two.
    pub(super) fn pick(&self, rng: &mut impl Rng) -> Option<Result<Picked<'a, C, V>, Rejection>> {
        let Self {
            candidates, view, ..
        } = *self;
        if candidates.len() == 1
            && let only = candidates.get(0)
            && let Ok(permit) = only.admit(view)
        {
            return Some(Ok((only, Some(permit))));
        }
        let mut panic = None;
        // A good one of a pair whose other one was not.
        let mut kept: Option<&'a C> = None;
        let turns = if candidates.len() > TURNS { TURNS } else { 1 };
        for _ in 0..turns {
            let Some((first, second)) = two(candidates, rng) else {
                break;
            };
            let available = [first, second].map(|c| c.is_available(view));
            let tried = [first, second].map(|c| c.was_tried(view));
            let pair = match [available[0] && !tried[0], available[1] && !tried[1]] {
                [true, true] => (first, second),
                _ if available.contains(&false)
                    && !tried.contains(&true)
                    && *panic.get_or_insert_with(|| self.is_panic()) =>
                {
                    let (better, _) = by_cost(first, second, view, rng);
                    return Some(Ok((better, better.admit(view).ok())));
                }
                [false, false] => continue,
                [is_first, _] => {
                    let good = if is_first { first } else { second };
                    match kept.replace(good) {
                        Some(kept) if !std::ptr::eq(kept, good) => (kept, good),
                        _ => continue,
                    }
                }
            };
            let (better, worse) = by_cost(pair.0, pair.1, view, rng);
            for candidate in [better, worse] {
                if let Ok(permit) = candidate.admit(view) {
                    return Some(Ok((candidate, Some(permit))));
                }
            }
        }
        pick_among_all(candidates, view, self.panic_threshold, rng)
    }

    /// Picks the first of those that `propose` proposes, given the number of proposals before, that will do. An
    /// index that is too large counts from the start again.
    pub(super) fn pick_proposed(
        &self,
        mut propose: impl FnMut(usize) -> usize,
        rng: &mut impl Rng,
    ) -> Option<Result<Picked<'a, C, V>, Rejection>> {
        let Self {
            candidates, view, ..
        } = *self;
        if candidates.is_empty() {
            return None;
        }
        let mut panic = None;
        for turn in 0..TURNS {
            let candidate = candidates.get(propose(turn) % candidates.len());
            // Where all are new, the careful way takes one of them.
            if candidate.was_tried(view) || candidate.hesitates(view, rng) {
                continue;
            }
            if candidate.is_available(view) {
                if let Ok(permit) = candidate.admit(view) {
                    return Some(Ok((candidate, Some(permit))));
                }
            } else if *panic.get_or_insert_with(|| self.is_panic()) {
                return Some(Ok((candidate, candidate.admit(view).ok())));
            }
        }
        pick_among_all(candidates, view, self.panic_threshold, rng)
    }

    fn is_panic(&self) -> bool {
        let enough = self.candidates.len() as f64 * self.panic_threshold.get();
        ((self.available)() as f64) < enough
    }
}

/// The careful way, where one of the two that chance proposed will not do.
#[cold]
fn pick_among_all<'a, C: Candidate<V>, V>(
    candidates: &'a Chunked<C>,
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
    let (better, worse) = by_cost(first, second, view, rng);
    let mut reason = None;
    // The others are asked only if somebody was quicker to take the last permits of the two.
    for candidate in [better, worse].into_iter().chain(candidates.iter()) {
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

/// The better one, and the other one.
fn by_cost<'a, C: Candidate<V>, V>(
    first: &'a C,
    second: &'a C,
    view: &V,
    rng: &mut impl Rng,
) -> (&'a C, &'a C) {
    let second_is_better = match [first, second].map(|c| c.hesitates(view, rng)) {
        [true, false] => true,
        [false, true] => false,
        _ => second.cost(view).is_below(&first.cost(view)),
    };
    if second_is_better {
        (second, first)
    } else {
        (first, second)
    }
}

/// Two different ones, each pair equally likely.
fn two<'a, C>(candidates: &'a Chunked<C>, rng: &mut impl Rng) -> Option<(&'a C, &'a C)> {
    let others = candidates.len().checked_sub(1).filter(|n| *n > 0)?;
    // Two numbers out of one word: a share of half a word, whose rounding nobody sees in so few.
    let word = rng.next_u64();
    let share = |half: u64, of: usize| ((half * of as u64) >> 32) as usize;
    let first = share(word >> 32, others + 1);
    let second = share(word & u64::from(u32::MAX), others);
    let second = second + usize::from(second >= first);
    Some((candidates.get(first), candidates.get(second)))
}

/// Two different ones for which `wanted` holds, or the same one twice if there is no other. Reservoir sampling.
fn sample<'a, C>(
    candidates: &'a Chunked<C>,
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
    use std::{cell::Cell, cmp::Ordering, time::Duration};

    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    /// A candidate with as many permits as it says.
    #[derive(Clone, Debug)]
    struct Fake {
        permits: Cell<u32>,
        load: f32,
        tried: bool,
        /// With which probability it does not hesitate.
        ramp: f32,
        /// How often it was looked at.
        asked: Cell<u32>,
    }

    const HALF: Ratio = Ratio::new(0.5).unwrap();
    const CLOSED: Rejection = Rejection::CircuitOpen {
        retry_after: Duration::from_secs(1),
    };

    impl Candidate<()> for Fake {
        type Permit = ();

        fn is_available(&self, (): &()) -> bool {
            self.asked.set(self.asked.get() + 1);
            self.permits.get() > 0
        }

        fn cost(&self, (): &()) -> Cost {
            Cost {
                latency: Some(self.load),
                penalty: 0.0,
                requests: 1.0,
                assumed: 1.0,
            }
        }

        fn hesitates(&self, (): &(), rng: &mut impl Rng) -> bool {
            self.ramp < 1.0 && rng.random::<f32>() >= self.ramp
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
            ramp: 1.0,
            asked: Cell::new(0),
        }
    }

    type Picked<'a> = Option<Result<super::Picked<'a, Fake, ()>, Rejection>>;

    fn crowd(
        fakes: &Chunked<Fake>,
        panic_threshold: Ratio,
    ) -> Crowd<'_, Fake, (), impl Fn() -> usize> {
        Crowd {
            candidates: fakes,
            view: &(),
            panic_threshold,
            available: || fakes.iter().filter(|f| f.permits.get() > 0).count(),
        }
    }

    fn pick<'a>(fakes: &'a Chunked<Fake>, panic_threshold: Ratio, rng: &mut StdRng) -> Picked<'a> {
        crowd(fakes, panic_threshold).pick(rng)
    }

    fn counts(fakes: &Chunked<Fake>, panic_threshold: Ratio, picks: usize) -> Vec<usize> {
        let mut rng = StdRng::seed_from_u64(7);
        let mut counts = vec![0; fakes.len()];
        for _ in 0..picks {
            let (picked, _) = pick(fakes, panic_threshold, &mut rng).unwrap().unwrap();
            let index = fakes.iter().position(|f| std::ptr::eq(f, picked));
            counts[index.unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn the_most_loaded_of_three_is_never_better_than_another() {
        let fakes = [1.0, 2.0, 3.0].map(|load| fake(u32::MAX, load, false));
        let fakes = Chunked::from_iter(fakes);
        let counts = counts(&fakes, HALF, 9000);
        assert_eq!(counts[2], 0);
        // The best is in two of the three pairs.
        assert!((5800..6200).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn equals_share_evenly() {
        let fakes = Chunked::from_iter([(); 4].map(|()| fake(u32::MAX, 1.0, false)));
        for count in counts(&fakes, HALF, 8000) {
            assert!((1850..2150).contains(&count), "{count}");
        }
    }

    #[test]
    fn one_that_hesitates_gets_its_part_of_a_share_and_all_of_it_if_nobody_else_is_there() {
        let mut fakes = [(); 4].map(|()| fake(u32::MAX, 1.0, false));
        fakes[0].ramp = 0.4;
        let some = Chunked::from_iter(fakes.clone());
        // 0.4 of a quarter; and where each is proposed in turn, 0.4 beside three times 1.
        let by_two = counts(&some, HALF, 10_000);
        assert!((900..1100).contains(&by_two[0]), "{by_two:?}");
        let mut rng = StdRng::seed_from_u64(7);
        let mut next = 0;
        let mut proposed = 0;
        for _ in 0..10_000 {
            let propose = |_| {
                next += 1;
                next
            };
            let picked = crowd(&some, HALF).pick_proposed(propose, &mut rng);
            proposed += usize::from(std::ptr::eq(picked.unwrap().unwrap().0, some.get(0)));
        }
        assert!((1076..1276).contains(&proposed), "{proposed}");

        for fake in &mut fakes {
            fake.ramp = 0.0;
        }
        let fakes = Chunked::from_iter(fakes);
        for count in counts(&fakes, HALF, 8000) {
            assert!((1850..2150).contains(&count), "{count}");
        }
        let picked = crowd(&fakes, HALF).pick_proposed(|turn| turn, &mut rng);
        assert!(picked.unwrap().is_ok());
    }

    #[test]
    fn when_too_few_are_available_all_are_used() {
        let fakes = [u32::MAX, 0, 0].map(|permits| fake(permits, 1.0, false));
        let fakes = Chunked::from_iter(fakes);
        assert!(counts(&fakes, HALF, 300).iter().all(|count| *count > 50));
        assert_eq!(counts(&fakes, Ratio::new(0.33).unwrap(), 300), [300, 0, 0]);
    }

    #[test]
    fn without_a_panic_threshold_the_reason_of_a_closed_gate_is_given() {
        let mut rng = StdRng::seed_from_u64(7);
        let fakes = Chunked::from_iter([fake(0, 1.0, false), fake(0, 2.0, true)]);
        let picked = pick(&fakes, Ratio::ZERO, &mut rng).unwrap();
        assert_eq!(picked.unwrap_err(), CLOSED);
        assert!(pick(&Chunked::empty(), Ratio::ZERO, &mut rng).is_none());
    }

    #[test]
    fn half_of_ten_thousand_gates_closed_or_more_does_not_make_a_pick_look_at_all() {
        for open_every in [1, 2, 10] {
            let open = |n| if n % open_every == 0 { u32::MAX } else { 0 };
            let fakes: Chunked<_> = (0..10_000).map(|n| fake(open(n), 1.0, false)).collect();
            let counts = counts(&fakes, HALF, 20_000);
            let asked: u32 = fakes.iter().map(|fake| fake.asked.get()).sum();
            // Two good ones are all but sure to be among 32 when half of them are.
            assert!(asked < 20_000 * 20, "{asked} for {open_every}");
            let closed = counts
                .iter()
                .zip(fakes.iter())
                .filter(|(_, f)| f.permits.get() == 0);
            let used: usize = closed.map(|(count, _)| count).sum();
            match open_every {
                10 => assert!((17_500..18_500).contains(&used), "all are used: {used}"),
                _ => assert_eq!(used, 0),
            }
        }
    }

    proptest! {
        /// Whatever the state of the candidates is.
        #[test]
        fn a_closed_gate_or_a_second_try_is_the_last_choice(
            fakes in prop::collection::vec((0u32..2, 0f32..9.0, any::<bool>()), 1..40),
            proposed: Option<[u8; 3]>,
            panic_threshold in (0u8..=4).prop_map(|n| Ratio::new(f64::from(n) / 4.0).unwrap()),
            seed: u64,
        ) {
            let before: Vec<_> = fakes.into_iter().map(|(p, l, t)| fake(p, l, t)).collect();
            let fakes = Chunked::from_iter(before.clone());
            let available = fakes.iter().filter(|f| f.permits.get() > 0).count();
            let panic = (available as f64) < fakes.len() as f64 * panic_threshold.get();
            let usable = |f: &Fake| panic || f.permits.get() > 0;
            let mut rng = StdRng::seed_from_u64(seed);
            let picked = match proposed {
                None => pick(&fakes, panic_threshold, &mut rng),
                Some(proposed) => {
                    let propose = |turn| usize::from(proposed[turn % 3]);
                    crowd(&fakes, panic_threshold).pick_proposed(propose, &mut rng)
                }
            };
            match picked.unwrap() {
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
    /// The model: of all that will do, any two, and the better one of these; the chance that each has.
    fn chances(fakes: &[Fake]) -> Vec<f64> {
        let open = |f: &Fake| f.permits.get() > 0;
        let choices: [&dyn Fn(&Fake) -> bool; 2] = [&|f| open(f) && !f.tried, &open];
        let groups = choices.map(|will_do| {
            let (indices, _): (Vec<_>, Vec<_>) =
                fakes.iter().enumerate().filter(|(_, f)| will_do(f)).unzip();
            indices
        });
        let group: Vec<usize> = groups.into_iter().find(|group| !group.is_empty()).unwrap();
        let mut chances = vec![0.0; fakes.len()];
        if let [only] = group[..] {
            chances[only] = 1.0;
        }
        let pairs = (group.len() * (group.len() - 1)) as f64;
        for (a, b) in group
            .iter()
            .flat_map(|a| group.iter().map(move |b| (*a, *b)))
        {
            if a != b {
                let share = match fakes[a].load.total_cmp(&fakes[b].load) {
                    Ordering::Less => 1.0,
                    Ordering::Equal => 0.5,
                    Ordering::Greater => 0.0,
                };
                chances[a] += 2.0 * share / pairs;
            }
        }
        chances
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// So of two that will do the cheaper one is always picked, and the dearest of three or more never.
        #[test]
        fn each_is_picked_as_often_as_it_is_the_better_one_of_any_two(
            fakes in prop::collection::vec((any::<bool>(), 1_u8..6, any::<bool>()), 1..40),
            few in any::<bool>(),
            seed: u64,
        ) {
            const PICKS: usize = 2_000;
            let mut left = if few { 2 } else { usize::MAX };
            let fakes: Vec<_> = fakes
                .into_iter()
                .map(|(open, load, tried)| {
                    let will_do = open && !tried && left > 0;
                    left -= usize::from(will_do);
                    // Others that will do are none, where there are to be few.
                    let tried = tried || open && !will_do;
                    fake(if open { u32::MAX } else { 0 }, f32::from(load), tried)
                })
                .collect();
            prop_assume!(fakes.iter().any(|f| f.permits.get() > 0));
            let chances = chances(&fakes);
            let fakes = Chunked::from_iter(fakes);
            let mut rng = StdRng::seed_from_u64(seed);
            let mut counts = vec![0_u32; fakes.len()];
            for _ in 0..PICKS {
                let (picked, _) = pick(&fakes, Ratio::ZERO, &mut rng).unwrap().unwrap();
                counts[fakes.iter().position(|f| std::ptr::eq(f, picked)).unwrap()] += 1;
            }
            for (count, chance) in counts.into_iter().zip(chances) {
                let expected = chance * PICKS as f64;
                // Six standard deviations; nothing where chance has no say.
                let error = (expected * (1.0 - chance).max(0.0)).sqrt() * 6.0;
                let error = if error < 1e-6 { 1e-6 } else { error + 5.0 };
                prop_assert!((f64::from(count) - expected).abs() <= error, "{count} and not {expected}");
            }
        }
    }
}
