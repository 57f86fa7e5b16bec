//! How long to wait before a registry is asked again, and how often it may be asked at all.

use std::time::Duration;

use tokio::time::Instant;

/// Exponential back-off with full jitter: the n-th wait is evenly distributed from zero to `base` doubled n times,
/// at most `max`.
///
/// Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015: when a registry comes back, those
/// that wait for it do not all come at once.
#[derive(Debug)]
pub(super) struct Backoff {
    base: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(base: Duration, max: Duration) -> Self {
        Self {
            base,
            max,
            failures: 0,
        }
    }

    /// The wait after one more failure; `random` is evenly distributed from 0 to 1.
    pub(super) fn next(&mut self, random: f64) -> Duration {
        let doubled = 2u32.saturating_pow(self.failures);
        let ceiling = self.base.saturating_mul(doubled).min(self.max);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(random)
    }

    /// Begins again at the base, after a success.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A token bucket: `burst` questions at once, then one every `interval`. A quick change is seen at once, and a
/// service that changes all the time is still not asked for more often than that.
#[derive(Debug)]
pub(super) struct Bucket {
    burst: u32,
    interval: Duration,
    /// When the bucket is full again.
    full_at: Instant,
}

impl Bucket {
    pub(super) fn new(burst: u32, interval: Duration, now: Instant) -> Self {
        Self {
            burst,
            interval,
            full_at: now,
        }
    }

    /// Takes one token and says when it may be used: now, or when it has been earned.
    pub(super) fn take(&mut self, now: Instant) -> Instant {
        let at = (self.full_at.max(now) + self.interval)
            .checked_sub(self.interval * self.burst)
            .map_or(now, |earned| earned.max(now));
        self.full_at = self.full_at.max(now) + self.interval;
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_its_maximum_and_begins_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let mut waits = |random| [(); 5].map(|()| backoff.next(random).as_millis());
        assert_eq!(waits(1.0), [100, 200, 400, 800, 1000]);
        assert_eq!(waits(0.0), [0; 5]);
        backoff.reset();
        assert_eq!(backoff.next(0.5), Duration::from_millis(50));
        backoff.failures = u32::MAX;
        assert_eq!(backoff.next(1.0), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_at_once_and_then_one_each_interval() {
        let interval = Duration::from_secs(1);
        let start = Instant::now();
        let mut bucket = Bucket::new(2, interval, start);
        let taken = [(); 4].map(|()| bucket.take(start) - start);
        assert_eq!(taken, [0, 0, 1, 2].map(|n| interval * n));
        tokio::time::advance(Duration::from_secs(60)).await;
        let now = Instant::now();
        assert_eq!(
            [(); 3].map(|()| bucket.take(now) - now),
            [0, 0, 1].map(|n| interval * n)
        );
    }
}
