//! Which latency a share of the answers stays under: no tower, no lock, no clock of its own.

use std::{array, time::Duration};

use tokio::time::Instant;

use crate::{
    policy::Ratio,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

/// Parts that each doubling of the latency is divided into: a quantile is at most an eighth too high.
const STEP_BITS: u32 = 3;
const STEPS: usize = 1 << STEP_BITS;
/// Up to 2^27 microseconds, two minutes; what takes longer counts as that.
const BUCKETS: usize = STEPS * 25;
/// After this time an answer counts half.
const HALF_LIFE: Duration = Duration::from_secs(10);
/// A quantile is worked out anew after this time, so that a call costs one load and not a walk through the buckets.
const REFRESH: Duration = Duration::from_millis(100);
/// No quantile: too few answers.
const UNKNOWN: u64 = u64::MAX;

/// A histogram of latencies that forgets. Each bucket is one atomic count; counts order nothing else, hence the
/// relaxed accesses, and an answer that is counted while the buckets are halved may count half or whole.
#[derive(Debug)]
pub(super) struct Latency {
    epoch: Instant,
    /// How many half-lives have been taken off.
    halved: AtomicU64,
    /// How often `REFRESH` had passed when the quantile was worked out.
    refreshed: AtomicU64,
    /// The quantile in microseconds.
    quantile: AtomicU64,
    buckets: [AtomicU32; BUCKETS],
}

impl Latency {
    /// Nothing is known.
    pub(super) fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            halved: AtomicU64::new(0),
            refreshed: AtomicU64::new(0),
            quantile: AtomicU64::new(UNKNOWN),
            buckets: array::from_fn(|_| AtomicU32::new(0)),
        }
    }

    /// Counts an answer that took `latency`.
    pub(super) fn record(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let bucket = &self.buckets[bucket_of(micros)];
        let _ = bucket.fetch_update(Relaxed, Relaxed, |count| count.checked_add(1));
    }

    /// The latency that `quantile` of the answers stayed under, or `None` while they are fewer than `min`. It is
    /// the one of up to a tenth of a second ago.
    pub(super) fn quantile(&self, now: Instant, quantile: Ratio, min: u32) -> Option<Duration> {
        let elapsed = now.saturating_duration_since(self.epoch);
        // The first one is worked out after the first tenth of a second.
        if passed(&self.refreshed, elapsed, REFRESH).is_some() {
            if let Some(half_lives) = passed(&self.halved, elapsed, HALF_LIFE) {
                self.halve(half_lives);
            }
            let micros = self.work_out(quantile, min).unwrap_or(UNKNOWN);
            self.quantile.store(micros, Relaxed);
        }
        match self.quantile.load(Relaxed) {
            UNKNOWN => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    fn halve(&self, times: u64) {
        for bucket in &self.buckets {
            let _ = bucket.fetch_update(Relaxed, Relaxed, |count| {
                (count > 0).then(|| count.checked_shr(times as u32).unwrap_or(0))
            });
        }
    }

    fn work_out(&self, quantile: Ratio, min: u32) -> Option<u64> {
        let counts = self.buckets.each_ref().map(|count| count.load(Relaxed));
        let total: u64 = counts.iter().copied().map(u64::from).sum();
        if total < u64::from(min.max(1)) {
            return None;
        }
        let rank = (quantile.get() * total as f64).ceil() as u64;
        let mut below = 0;
        let bucket = counts.iter().position(|count| {
            below += u64::from(*count);
            below >= rank
        });
        Some(upper_bound(bucket.expect("the rank is at most the total")))
    }
}

/// How many more whole `period`s have passed than `seen` says; one caller is told of each of them.
fn passed(seen: &AtomicU64, elapsed: Duration, period: Duration) -> Option<u64> {
    let periods = (elapsed.as_nanos() / period.as_nanos()) as u64;
    let before = seen.load(Relaxed);
    let mine = periods > before
        && seen
            .compare_exchange(before, periods, Relaxed, Relaxed)
            .is_ok();
    mine.then(|| periods - before)
}

/// Below `STEPS` microseconds each has a bucket of its own; above, each doubling is divided into `STEPS`.
fn bucket_of(micros: u64) -> usize {
    if micros < STEPS as u64 {
        return micros as usize;
    }
    let doublings = micros.ilog2() - STEP_BITS;
    let step = (micros >> doublings) as usize - STEPS;
    ((doublings as usize + 1) * STEPS + step).min(BUCKETS - 1)
}

/// The first number of microseconds that is above a bucket.
fn upper_bound(bucket: usize) -> u64 {
    let above = bucket + 1;
    match above / STEPS {
        0 => above as u64,
        doublings => ((above % STEPS + STEPS) as u64) << (doublings - 1),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn p95() -> Ratio {
        Ratio::new(0.95).unwrap()
    }

    proptest! {
        #[test]
        fn a_bucket_is_at_most_an_eighth_wide(micros in 0_u64..1 << 27) {
            let bound = upper_bound(bucket_of(micros));
            prop_assert!(micros < bound && bound <= micros + micros / 8 + 1, "{bound}");
        }

        /// Against the sorted list.
        #[test]
        fn a_quantile_is_that_of_the_list(
            mut list in prop::collection::vec(0_u64..1 << 27, 1..300), percent in 0_u32..=100,
        ) {
            let start = Instant::now();
            let latency = Latency::new(start);
            list.iter().for_each(|micros| latency.record(Duration::from_micros(*micros)));
            list.sort_unstable();
            let ratio = f64::from(percent) / 100.0;
            let rank = ((ratio * list.len() as f64).ceil() as usize).max(1);
            let expected = list[rank - 1];
            let found = latency.quantile(start + REFRESH, Ratio::new(ratio).unwrap(), 1);
            let found = found.unwrap().as_micros() as u64;
            prop_assert!(percent == 0 || expected < found && found <= expected + expected / 8 + 1);
        }
    }

    #[cfg(kit_loom)]
    #[test]
    fn in_every_order_each_period_is_told_of_once() {
        loom::model(|| {
            let seen = std::sync::Arc::new(AtomicU64::new(0));
            let theirs = std::sync::Arc::clone(&seen);
            // They see the clock at different times.
            let other = loom::thread::spawn(move || passed(&theirs, REFRESH * 3, REFRESH));
            let told = [passed(&seen, REFRESH * 2, REFRESH), other.join().unwrap()];
            assert_eq!(told.into_iter().flatten().sum::<u64>(), seen.load(Relaxed));
            assert!(seen.load(Relaxed) >= 2);
        });
    }

    #[test]
    fn with_too_few_answers_nothing_is_known() {
        let start = Instant::now();
        let latency = Latency::new(start);
        (0..19).for_each(|_| latency.record(Duration::from_millis(1)));
        assert_eq!(latency.quantile(start + REFRESH, p95(), 20), None);
        latency.record(Duration::from_millis(1));
        assert!(latency.quantile(start + REFRESH * 2, p95(), 20).is_some());
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let start = Instant::now();
        let latency = Latency::new(start);
        (0..100).for_each(|_| latency.record(Duration::from_secs(1)));
        assert!(latency.quantile(start + REFRESH, p95(), 20).unwrap() >= Duration::from_secs(1));
        // Two half-lives: 25 are left of them, and that is less than a twentieth.
        let later = start + HALF_LIFE * 2;
        latency.quantile(later, p95(), 20);
        (0..1_000).for_each(|_| latency.record(Duration::from_millis(8)));
        let now = latency.quantile(later + REFRESH, p95(), 20).unwrap();
        assert!(now < Duration::from_millis(10), "{now:?}");
        let much_later = later + HALF_LIFE * 100;
        assert_eq!(latency.quantile(much_later, p95(), 20), None);
    }

    #[test]
    fn whatever_it_takes_it_counts() {
        let start = Instant::now();
        let latency = Latency::new(start);
        latency.record(Duration::ZERO);
        latency.record(Duration::MAX);
        let max = latency.quantile(start + REFRESH, Ratio::ONE, 2).unwrap();
        assert!(max > Duration::from_secs(120), "{max:?}");
    }
}
