//! When and with what a registry is asked again, by the rules of blocking queries.
//!
//! They are those of Consul's documentation (API features, "Blocking Queries") and of what agents were seen to do:
//! [`next_index`] says which index to ask with, a token bucket bounds how often, and that nothing is left is believed
//! like any other answer, but for the first [`DOUBT`] after a failure.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::bucket::Bucket;
use crate::policy::Backoff;

/// Several changes that come together are seen at once; what changes all the time, or a service that nobody has
/// registered (which wakes its watchers at any registration), is looked at twice a second at most.
const BURST: u32 = 3;
const INTERVAL: Duration = Duration::from_millis(500);

/// The way back to an agent that fails.
const BACKOFF: Backoff = Backoff {
    base: Duration::from_millis(200),
    max: Duration::from_secs(60),
};

/// So long an agent that comes back is not believed that nothing is there. It may have lost what it knew, or not have
/// checked anybody yet; instances notice that, register again and are checked within less.
const DOUBT: Duration = Duration::from_secs(10);

/// Where one who asks again and again has got to.
#[derive(Debug)]
pub(super) struct Pace {
    /// With what to ask next: 0 asks for what there is, anything above waits for a change.
    pub(super) index: u64,
    /// How long the next question waits for a change.
    pub(super) wait: Duration,
    general_wait: Duration,
    last: u64,
    failures: u32,
    doubt_ends: Instant,
    bucket: Bucket,
    paid: bool,
}

impl Pace {
    /// At the beginning; a question for changes waits for `wait` in general.
    pub(super) fn new(wait: Duration) -> Self {
        let now = Instant::now();
        Self {
            index: 0,
            wait,
            general_wait: wait,
            last: 0,
            failures: 0,
            doubt_ends: now,
            bucket: Bucket::new(BURST, INTERVAL, now),
            paid: false,
        }
    }

    /// The next question is for what there is, whatever is known.
    pub(super) fn look_again(&mut self) {
        self.index = 0;
        self.paid = false;
    }

    /// Waits until the next question may be asked, and says with which index, and how long it waits for a change.
    pub(super) async fn next(&mut self) -> (u64, Duration) {
        if !self.paid {
            let now = Instant::now();
            let free = self.bucket.take(now);
            if free > now {
                sleep_until(free).await;
                // An agent that was restarted meanwhile was not missed by any question, and would sleep through all
                // changes up to the index of the one before it.
                self.index = 0;
            }
        }
        // A look at what there is, and the wait for what comes after it, are paid together.
        self.paid = self.index == 0;
        (self.index, self.wait)
    }

    /// An answer came, with this index; `is_loss` if it says that nothing is left of what was known. Whether it is
    /// believed.
    pub(super) fn answered(&mut self, index: u64, is_loss: bool) -> bool {
        let now = Instant::now();
        if self.failures > 0 || index < self.last {
            self.doubt_ends = now + DOUBT;
        }
        self.last = index;
        self.failures = 0;
        self.index = next_index(self.index, index);
        let doubt = self.doubt_ends.saturating_duration_since(now);
        let believed = !is_loss || doubt.is_zero();
        self.wait = if believed {
            self.general_wait
        } else {
            // Asked again when the doubt is over, or something changes.
            doubt.min(self.general_wait)
        };
        believed
    }

    /// None came: how long to wait before the next question.
    pub(super) fn failed(&mut self) -> Duration {
        // An agent that comes back may have begun to count anew, and a question with an index beyond its own would
        // sleep through all changes. (The index that came with the error is not one either.)
        self.index = 0;
        // By chance, so that those who wait for one agent do not all come back at once.
        let retry_in = BACKOFF.full_jitter(self.failures, &mut rand::rng());
        self.failures = self.failures.saturating_add(1);
        retry_in
    }
}

/// The index to ask with next, after an answer with `new` to a question with `old`: 0 asks for what there is,
/// anything above waits for a change. No answer has the index 0; one that says so is not asked in a circle.
pub(super) fn next_index(old: u64, new: u64) -> u64 {
    if new < old { 0 } else { new.max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_went_back_is_begun_anew() {
        assert_eq!(next_index(0, 7), 7);
        assert_eq!(next_index(7, 7), 7);
        assert_eq!(next_index(42, 1), 0);
        assert_eq!(next_index(42, 0), 0);
        assert_eq!(next_index(0, 0), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loss_is_doubted_for_a_while_after_a_failure_only() {
        let mut pace = Pace::new(Duration::from_secs(30));
        assert!(pace.answered(7, true));
        pace.failed();
        assert_eq!(pace.next().await.0, 0);
        assert!(!pace.answered(1, true));
        assert_eq!(pace.wait, DOUBT);
        assert!(pace.answered(2, false), "what is there is never doubted");
        tokio::time::advance(DOUBT).await;
        assert!(pace.answered(2, true));
        // An agent that counts anew has lost what it knew, whether or not a question failed.
        assert!(!pace.answered(1, true));
    }
}
