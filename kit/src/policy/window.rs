//! Two counts over the last while, without a lock.

use std::{array, time::Duration};

use tokio::time::Instant;

use crate::{
    clock,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// In how many parts a window slides.
const BUCKETS: u64 = 10;
/// The bits of one count; a bucket that is full counts no further.
const COUNT_BITS: u32 = 22;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
/// The bits of the turn that a bucket was begun in. Turns come round after 121 days for a window of 10 s: what was
/// counted then, in a bucket that nobody touched since, would count again for as long as the window is.
const TURN_MASK: u64 = (1 << (64 - 2 * COUNT_BITS)) - 1;
/// By how many turns somebody who counts may be late. A bucket that seems to be further ahead is from before the turns
/// came round.
const LATEST: u64 = 4;

/// Counts two things that happened in the last `span`, give or take a tenth of it.
///
/// Time goes in ticks, each bucket has every tenth of them, and ten are a turn. Each bucket is one atomic word of its turn
/// and the two counts, so that a bucket is begun anew and counted in by one exchange. The counts order nothing else,
/// hence the relaxed accesses.
#[derive(Debug)]
// Written by all calls, so nobody else lies there.
#[repr(align(128))]
pub(crate) struct Window {
    /// In nanoseconds of [`clock::nanos`], as all moments.
    epoch: u64,
    /// The length of one bucket in nanoseconds, at least 1.
    bucket: u64,
    buckets: [AtomicU64; BUCKETS as usize],
}

/// Which of the two counts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Column {
    Left,
    Right,
}

impl Column {
    fn shift(self) -> u32 {
        match self {
            Self::Left => 0,
            Self::Right => COUNT_BITS,
        }
    }

    fn of(self, word: u64) -> u64 {
        word >> self.shift() & COUNT_MAX
    }
}

/// When something was counted, to take it back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tick(u64);

fn turn_of(word: u64) -> u64 {
    word >> (2 * COUNT_BITS)
}

/// How much later `turn` is than `other`, both modulo the mask; a large number if it is earlier.
fn later(turn: u64, other: u64) -> u64 {
    turn.wrapping_sub(other) & TURN_MASK
}

impl Window {
    /// An empty window over the last `span`, which begins at `epoch`.
    pub(crate) fn new(span: Duration, epoch: Instant) -> Self {
        let bucket = span.as_nanos() / u128::from(BUCKETS);
        Self {
            epoch: clock::nanos(epoch),
            bucket: u64::try_from(bucket).unwrap_or(u64::MAX).max(1),
            buckets: array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// A window over another span, with what this one counts by now; each bucket counts as of its last moment.
    pub(crate) fn over(&self, span: Duration, now: Instant) -> Self {
        let mut new = Self {
            epoch: self.epoch,
            ..Self::new(span, now)
        };
        let (tick, now) = (self.tick(now), self.nanos(now));
        let newest = now / new.bucket;
        let mut words = [0; BUCKETS as usize];
        for (begun, word) in self.counting(tick) {
            let ends = (begun + 1).saturating_mul(self.bucket) - 1;
            let counted = ends.min(now) / new.bucket;
            if newest - counted >= BUCKETS {
                continue;
            }
            // Nothing else is in its place: all are of the last few ticks.
            let place = &mut words[(counted % BUCKETS) as usize];
            let sum = |column: Column| (column.of(*place) + column.of(word)).min(COUNT_MAX);
            let (left, right) = (sum(Column::Left), sum(Column::Right));
            *place = ((counted / BUCKETS) & TURN_MASK) << (2 * COUNT_BITS)
                | right << Column::Right.shift()
                | left << Column::Left.shift();
        }
        new.buckets = words.map(AtomicU64::new);
        new
    }

    fn nanos(&self, now: Instant) -> u64 {
        clock::nanos(now).saturating_sub(self.epoch)
    }

    fn tick(&self, now: Instant) -> u64 {
        self.nanos(now) / self.bucket
    }

    /// Counts one more.
    pub(crate) fn add(&self, now: Instant, column: Column) -> Tick {
        let tick = self.tick(now);
        let (turn, bucket) = (tick / BUCKETS, &self.buckets[(tick % BUCKETS) as usize]);
        let _ = bucket.fetch_update(Relaxed, Relaxed, |word| {
            match later(turn, turn_of(word)) {
                0 if column.of(word) == COUNT_MAX => None,
                0 => Some(word + (1 << column.shift())),
                // Somebody who read the clock later has begun the bucket anew. One of which nothing is kept was begun by
                // nobody.
                _ if word != 0 && later(turn_of(word), turn) <= LATEST => None,
                _ => Some((turn & TURN_MASK) << (2 * COUNT_BITS) | 1 << column.shift()),
            }
        });
        Tick(tick)
    }

    /// Takes back one that was counted at `tick`, if it still counts.
    pub(crate) fn take_back(&self, Tick(tick): Tick, column: Column) {
        let (turn, bucket) = (tick / BUCKETS, &self.buckets[(tick % BUCKETS) as usize]);
        let _ = bucket.fetch_update(Relaxed, Relaxed, |word| {
            (later(turn, turn_of(word)) == 0 && column.of(word) > 0)
                .then(|| word - (1 << column.shift()))
        });
    }

    /// The left and the right count.
    pub(crate) fn sum(&self, now: Instant) -> (u64, u64) {
        self.counting(self.tick(now))
            .fold((0, 0), |(left, right), (_, word)| {
                (left + Column::Left.of(word), right + Column::Right.of(word))
            })
    }

    /// The buckets that count at `tick`, each with the tick in which it was begun.
    fn counting(&self, tick: u64) -> impl Iterator<Item = (u64, u64)> {
        let now = tick % BUCKETS;
        self.buckets
            .iter()
            .zip(0..)
            .filter_map(move |(bucket, place)| {
                // One whose tick is still to come in this turn had its last one in the turn before, if there was one.
                let begun = match place <= now {
                    true => tick - now + place,
                    false => (tick - now + place).checked_sub(BUCKETS)?,
                };
                let word = bucket.load(Relaxed);
                (later(begun / BUCKETS, turn_of(word)) == 0).then_some((begun, word))
            })
    }

    /// Forgets all.
    pub(crate) fn clear(&self) {
        for bucket in &self.buckets {
            bucket.store(0, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a list of all that happened.
        #[test]
        fn a_window_counts_what_happened_in_its_last_ten_buckets(
            steps in prop::collection::vec((0_u64..2_500, any::<bool>()), 1..200),
        ) {
            let epoch = Instant::now();
            let window = Window::new(Duration::from_secs(10), epoch);
            let mut happened = Vec::new();
            let mut millis = 0;
            for (step, left) in steps {
                millis += step;
                let now = epoch + Duration::from_millis(millis);
                window.add(now, if left { Column::Left } else { Column::Right });
                happened.push((millis / 1_000, left));
                let count = |which| {
                    let counts = |(tick, left): &&(u64, bool)| *left == which && tick + 10 > millis / 1_000;
                    happened.iter().filter(counts).count() as u64
                };
                prop_assert_eq!(window.sum(now), (count(true), count(false)));
            }
        }
    }

    proptest! {
        /// However many days nothing happens, what happens then counts, and nothing else does. They are whole days, and
        /// fewer than the 1214 after which the turns of a window of 10 s come back to within minutes of what they were.
        #[test]
        fn what_happens_after_long_idle_times_counts(
            steps in prop::collection::vec((0_u64..3, 0_u64..1_000), 1..100),
        ) {
            let epoch = Instant::now();
            let window = Window::new(Duration::from_secs(10), epoch);
            let mut happened = Vec::new();
            let mut millis = 0;
            for (days, more) in steps {
                millis += days * 86_400_000 + more;
                let now = epoch + Duration::from_millis(millis);
                window.add(now, Column::Left);
                happened.push(millis / 1_000);
                let counts = |tick: &&u64| **tick + 10 > millis / 1_000;
                let expected = happened.iter().filter(counts).count() as u64;
                prop_assert_eq!(window.sum(now), (expected, 0));
            }
        }
    }

    #[cfg(kit_loom)]
    #[test]
    fn in_every_order_a_bucket_is_begun_anew_once() {
        loom::model(|| {
            let epoch = Instant::now();
            let window = std::sync::Arc::new(Window::new(Duration::from_secs(10), epoch));
            window.add(epoch, Column::Left);
            let now = epoch + Duration::from_secs(10);
            let other = std::sync::Arc::clone(&window);
            let other = loom::thread::spawn(move || other.add(now, Column::Left));
            window.add(now, Column::Right);
            other.join().unwrap();
            assert_eq!(window.sum(now), (1, 1));
        });
    }

    /// As many ticks as once came round, and some more and less.
    #[test]
    fn after_twelve_days_nothing_counts_that_happened_before_and_all_that_happens() {
        for late in -50..=50 {
            let epoch = Instant::now();
            let window = Window::new(Duration::from_secs(10), epoch);
            for second in 0..10 {
                window.add(epoch + Duration::from_secs(second), Column::Left);
            }
            let now = (1 << 20) + late;
            let now = epoch + Duration::from_secs(now as u64);
            assert_eq!(window.sum(now), (0, 0), "{late}");
            window.add(now, Column::Right);
            assert_eq!(window.sum(now), (0, 1), "{late}");
        }
    }

    #[test]
    fn what_was_forgotten_does_not_keep_anything_from_counting_shortly_before_turns_come_round() {
        let epoch = Instant::now();
        for before in 1..100 {
            let window = Window::new(Duration::from_secs(10), epoch);
            let now = epoch + Duration::from_secs((TURN_MASK + 1) * BUCKETS - before);
            window.add(now, Column::Left);
            assert_eq!(window.sum(now), (1, 0), "{before}");
        }
    }

    #[test]
    fn what_is_taken_back_does_not_count() {
        let now = Instant::now();
        let window = Window::new(Duration::from_secs(10), now);
        let tick = window.add(now, Column::Right);
        window.add(now, Column::Left);
        window.take_back(tick, Column::Right);
        assert_eq!(window.sum(now), (1, 0));
        window.take_back(tick, Column::Right);
        assert_eq!(window.sum(now), (1, 0));
        window.clear();
        assert_eq!(window.sum(now), (0, 0));
    }

    proptest! {
        /// As often as one likes, and never are there more than there were.
        #[test]
        fn a_window_over_another_span_counts_what_is_not_too_old_for_it(
            steps in prop::collection::vec((0_u64..3_000, any::<bool>(), 1_u64..30), 1..40),
        ) {
            let epoch = Instant::now();
            let mut window = Window::new(Duration::from_secs(10), epoch);
            let (mut millis, mut happened, mut spans) = (0, Vec::new(), vec![(0, 10_000)]);
            for (step, left, span) in steps {
                millis += step;
                let now = epoch + Duration::from_millis(millis);
                window.add(now, if left { Column::Left } else { Column::Right });
                happened.push((millis, left));
                let before = window.sum(now);
                window = window.over(Duration::from_secs(span), now);
                let after = window.sum(now);
                prop_assert!(after.0 <= before.0 && after.1 <= before.1);
                spans.push((millis, span * 1_000));
                // What every window since then had room for, a tenth for each exchange aside, is there.
                let stays = |(at, which): &&(u64, bool)| {
                    let held = |spans: &[(u64, u64)]| {
                        let until = spans.get(1).map_or(millis, |(until, _)| *until);
                        until <= *at || until - at < spans[0].1 * 9 / 10
                    };
                    *which == left && (0..spans.len()).all(|from| held(&spans[from..]))
                };
                let kept = happened.iter().filter(stays).count() as u64;
                let counted = if left { after.0 } else { after.1 };
                prop_assert!(kept <= counted, "{} of {}", counted, kept);
            }
        }
    }

    #[test]
    fn a_late_comer_does_not_clear_a_newer_bucket() {
        let epoch = Instant::now();
        let window = Window::new(Duration::from_secs(10), epoch);
        let now = epoch + Duration::from_secs(25);
        window.add(now, Column::Left);
        window.add(epoch + Duration::from_secs(5), Column::Left);
        assert_eq!(window.sum(now), (1, 0));
    }
}
