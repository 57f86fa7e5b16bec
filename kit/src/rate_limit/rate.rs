//! The policy: no clock, no tower.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::policy::Live;

/// `burst` requests at once, then one every `interval`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Requests that are admitted at once after idling.
    pub burst: NonZeroU32,
    /// The time to earn one more. Zero limits nothing.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
}

/// A bucket of tokens. Clones share it.
#[derive(Clone, Debug)]
pub struct RateLimiter {
    rate: Live<Rate>,
    bucket: Arc<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    epoch: Instant,
    /// When the bucket will be full again, in nanoseconds since `epoch`.
    full_at: AtomicU64,
}

impl RateLimiter {
    /// A full bucket.
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate: Live::new(rate),
            bucket: Arc::new(Bucket {
                epoch: now,
                full_at: AtomicU64::new(0),
            }),
        }
    }

    /// The handle that replaces the rate. What was taken stays taken.
    pub fn rate(&self) -> &Live<Rate> {
        &self.rate
    }

    /// Takes one token, or returns how long it takes until there is one.
    pub fn take(&self, now: Instant) -> Result<(), Duration> {
        let rate = **self.rate.get();
        let interval = nanos(rate.interval);
        // The time to earn a full burst.
        let depth = interval.saturating_mul(u64::from(rate.burst.get()));
        let now = nanos(now.saturating_duration_since(self.bucket.epoch));
        let taken = self
            .bucket
            .full_at
            .fetch_update(Relaxed, Relaxed, |full_at| {
                let taken = fill(full_at, now, depth).saturating_add(interval);
                (taken <= now.saturating_add(depth)).then_some(taken)
            });
        match taken {
            Ok(_) => Ok(()),
            Err(full_at) => {
                let taken = fill(full_at, now, depth).saturating_add(interval);
                Err(Duration::from_nanos(
                    taken.saturating_sub(now.saturating_add(depth)),
                ))
            }
        }
    }
}

/// When the bucket is full: not before now, and not later than an empty one would be, which it could be after the
/// rate was replaced by a faster one.
fn fill(full_at: u64, now: u64, depth: u64) -> u64 {
    full_at.clamp(now, now.saturating_add(depth))
}

/// Whole nanoseconds; five centuries are as good as for ever.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(burst: u32, millis: u64) -> Rate {
        Rate {
            burst: NonZeroU32::new(burst).unwrap(),
            interval: Duration::from_millis(millis),
        }
    }

    proptest! {
        /// Against a bucket of tokens in exact arithmetic: `interval` units are one token.
        #[test]
        fn it_admits_what_a_bucket_of_tokens_admits(
            burst in 1_u32..10,
            interval in 1_u64..1_000,
            steps in prop::collection::vec(0_u64..2_000, 1..100),
        ) {
            let epoch = Instant::now();
            let limiter = RateLimiter::new(rate(burst, interval), epoch);
            let (mut now, mut units) = (0, u64::from(burst) * interval);
            for step in steps {
                now += step;
                units = (units + step).min(u64::from(burst) * interval);
                let expected = if units >= interval {
                    units -= interval;
                    Ok(())
                } else {
                    Err(Duration::from_millis(interval - units))
                };
                prop_assert_eq!(limiter.take(epoch + Duration::from_millis(now)), expected);
            }
        }
    }

    #[test]
    fn a_replaced_rate_keeps_what_was_taken() {
        let now = Instant::now();
        let limiter = RateLimiter::new(rate(2, 1_000), now);
        assert_eq!(limiter.take(now), Ok(()));
        assert_eq!(limiter.take(now), Ok(()));
        limiter.rate().set(rate(2, 100));
        assert_eq!(limiter.take(now), Err(Duration::from_millis(100)));
        limiter.rate().set(rate(4, 1_000));
        assert_eq!(limiter.take(now), Ok(()));
        assert_eq!(limiter.take(now), Ok(()));
        assert_eq!(limiter.take(now), Err(Duration::from_secs(1)));
    }

    #[test]
    fn an_interval_of_nothing_limits_nothing() {
        let now = Instant::now();
        let limiter = RateLimiter::new(rate(1, 0), now);
        assert!((0..100).all(|_| limiter.take(now).is_ok()));
    }
}
