//! How often a registry may be asked.

use std::time::Duration;

use tokio::time::Instant;

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
