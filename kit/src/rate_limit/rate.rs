//! The policy: no clock, no tower.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    clock,
    policy::Live,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

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
    rate: Live<Option<Rate>>,
    bucket: Arc<Bucket>,
}

#[derive(Debug)]
// Written by all requests, so nobody else lies there.
#[repr(align(128))]
struct Bucket {
    /// In nanoseconds of [`clock::nanos`].
    epoch: u64,
    /// When the bucket will be full again, in nanoseconds since `epoch`.
    full_at: AtomicU64,
}

impl RateLimiter {
    /// A full bucket. Without a rate nothing is taken out of it.
    pub fn new(rate: impl Into<Option<Rate>>, now: Instant) -> Self {
        Self {
            rate: Live::new(rate.into()),
            bucket: Arc::new(Bucket {
                epoch: clock::nanos(now),
                full_at: AtomicU64::new(0),
            }),
        }
    }

    /// The handle that replaces the rate; `None` limits nothing. What was taken stays taken.
    pub fn rate(&self) -> &Live<Option<Rate>> {
        &self.rate
    }

    /// Takes one token, or returns how long it takes until there is one.
    pub fn take(&self, now: Instant) -> Result<(), Duration> {
        let rate = **self.rate.get();
        rate.map_or(Ok(()), |rate| self.take_at(rate, now))
    }

    /// The same for one who has read the rate already.
    pub(super) fn take_at(&self, rate: Rate, now: Instant) -> Result<(), Duration> {
        let now = clock::nanos(now).saturating_sub(self.bucket.epoch);
        let take = |full_at| rate.take(full_at, now);
        let taken = self
            .bucket
            .full_at
            .fetch_update(Relaxed, Relaxed, |full_at| take(full_at).ok());
        match taken {
            Ok(_) => Ok(()),
            Err(full_at) => take(full_at).map(drop),
        }
    }
}

impl Rate {
    /// Takes one token out of a bucket that will be full at `full_at`: when it will be full then, or how long it
    /// takes until there is a token. Moments are in nanoseconds since the epoch of the bucket.
    pub(super) fn take(&self, full_at: u64, now: u64) -> Result<u64, Duration> {
        let interval = nanos(self.interval);
        // When an empty bucket would be full.
        let latest = interval
            .saturating_mul(u64::from(self.burst.get()))
            .saturating_add(now);
        // Not before now, and not later than an empty one, as after the rate was replaced by a faster one.
        let taken = full_at.clamp(now, latest).saturating_add(interval);
        match taken.saturating_sub(latest) {
            0 => Ok(taken),
            wait => Err(Duration::from_nanos(wait)),
        }
    }
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

    #[cfg(kit_loom)]
    #[test]
    fn in_every_order_threads_take_what_is_in_the_bucket_and_no_more() {
        loom::model(|| {
            let now = Instant::now();
            let limiter = RateLimiter::new(rate(2, 1_000), now);
            let others = [(); 2].map(|()| {
                let limiter = limiter.clone();
                loom::thread::spawn(move || limiter.take(now))
            });
            let mine = limiter.take(now);
            let all = others.into_iter().map(|other| other.join().unwrap());
            assert_eq!(all.chain([mine]).filter(Result::is_ok).count(), 2);
        });
    }

    #[test]
    fn a_replaced_rate_keeps_what_was_taken() {
        let now = Instant::now();
        let limiter = RateLimiter::new(rate(2, 1_000), now);
        assert_eq!(limiter.take(now), Ok(()));
        assert_eq!(limiter.take(now), Ok(()));
        limiter.rate().set(Some(rate(2, 100)));
        assert_eq!(limiter.take(now), Err(Duration::from_millis(100)));
        limiter.rate().set(None);
        assert!((0..100).all(|_| limiter.take(now).is_ok()));
        limiter.rate().set(Some(rate(4, 1_000)));
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
