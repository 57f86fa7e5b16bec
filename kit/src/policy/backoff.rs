//! How long to wait before the next try.

use std::time::Duration;

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

/// Doubles from `base` up to `max`, and spreads by chance, so that those who failed together do not come back
/// together: Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
///
/// It remembers nothing: whoever counts the failures says which one it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backoff {
    /// The bound of the first wait. Default 25 ms.
    #[serde(with = "humantime_serde")]
    pub base: Duration,
    /// The bound of every wait. Default 250 ms.
    #[serde(with = "humantime_serde")]
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(25),
            max: Duration::from_millis(250),
        }
    }
}

impl Backoff {
    /// The bound of the wait after `failures` failures in a row before this one: `base`, twice that, four times.
    pub fn bound(&self, failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.max)
    }

    /// A wait of anything up to the bound: the best spread, for work that many do at the same time.
    pub fn full_jitter(&self, failures: u32, rng: &mut impl Rng) -> Duration {
        rng.random_range(Duration::ZERO..=self.bound(failures))
    }

    /// A wait from half the bound up to the bound: for what must not come back at once.
    pub fn equal_jitter(&self, failures: u32, rng: &mut impl Rng) -> Duration {
        let bound = self.bound(failures);
        rng.random_range(bound / 2..=bound)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn the_bound_doubles_up_to_the_maximum() {
        let backoff = Backoff::default();
        let bounds = [0, 1, 2, 3, 4, 31, 32, u32::MAX].map(|n| backoff.bound(n).as_millis());
        assert_eq!(bounds, [25, 50, 100, 200, 250, 250, 250, 250]);
    }

    proptest! {
        #[test]
        fn a_wait_stays_within_its_bound(
            base in 0_u64..100_000, max in 0_u64..100_000, failures in 0_u32..40, seed: u64,
        ) {
            let backoff = Backoff {
                base: Duration::from_millis(base),
                max: Duration::from_millis(max),
            };
            let mut rng = StdRng::seed_from_u64(seed);
            let bound = backoff.bound(failures);
            prop_assert!(backoff.full_jitter(failures, &mut rng) <= bound);
            let wait = backoff.equal_jitter(failures, &mut rng);
            prop_assert!(bound / 2 <= wait && wait <= bound);
        }
    }
}
