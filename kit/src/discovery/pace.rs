//! When and with what a registry is asked again, by the rules of blocking queries.
//!
//! They are those of Consul's documentation (API features, "Blocking Queries") and of what agents were seen to do:
//! [`next_index`] says which index to ask with, a token bucket bounds how often, and that something is gone is believed
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

/// So long an agent that comes back is not believed that something is gone. It may have lost what it knew, or not have
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
    retry_at: Instant,
    doubt_ends: Instant,
    anew_ends: Instant,
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
            retry_at: now,
            doubt_ends: now,
            anew_ends: now,
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

    /// An answer came, with this index. Whether it is in doubt that something is gone which it does not name any more.
    pub(super) fn answered(&mut self, index: u64) -> bool {
        let now = Instant::now();
        if index < self.last {
            self.anew_ends = now + DOUBT;
        }
        if self.failures > 0 || index < self.last {
            self.doubt_ends = now + DOUBT;
        }
        self.last = index;
        self.failures = 0;
        self.index = next_index(self.index, index);
        self.wait = self.general_wait;
        self.is_doubtful()
    }

    /// The answer was not believed: what it says is asked again when the doubt is over, or something changes.
    pub(super) fn doubted(&mut self) {
        let doubt = self.doubt_ends.saturating_duration_since(Instant::now());
        self.wait = doubt.min(self.general_wait);
    }

    /// Whether an answer that came now would be in doubt.
    pub(super) fn is_doubtful(&self) -> bool {
        self.is_failing() || Instant::now() < self.doubt_ends
    }

    /// Whether it has begun to count anew not long ago: it has forgotten what it knew.
    pub(super) fn is_anew(&self) -> bool {
        Instant::now() < self.anew_ends
    }

    /// Whether no answer came since a question failed.
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// None came: how long to wait before the next question. `None` if it was asked ahead of [`retry_at`](Self::retry_at),
    /// which stays.
    pub(super) fn failed(&mut self) -> Option<Duration> {
        // An agent that comes back may have begun to count anew, and a question with an index beyond its own would
        // sleep through all changes. (The index that came with the error is not one either.)
        self.index = 0;
        let now = Instant::now();
        if self.is_failing() && now < self.retry_at {
            return None;
        }
        // By chance, so that those who wait for one agent do not all come back at once.
        let retry_in = BACKOFF.full_jitter(self.failures, &mut rand::rng());
        self.failures = self.failures.saturating_add(1);
        self.retry_at = now + retry_in;
        Some(retry_in)
    }

    /// When to ask again after a failure, at the latest.
    pub(super) fn retry_at(&self) -> Instant {
        self.retry_at
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
        assert!(!pace.answered(7));
        pace.failed();
        assert!(pace.is_doubtful());
        assert_eq!(pace.next().await.0, 0);
        assert!(pace.answered(7) && !pace.is_anew());
        assert!(pace.answered(1) && pace.is_anew());
        pace.doubted();
        assert_eq!(pace.wait, DOUBT);
        assert!(pace.answered(2));
        assert_eq!(pace.wait, Duration::from_secs(30));
        tokio::time::advance(DOUBT).await;
        assert!(!pace.answered(2) && !pace.is_anew());
        // An agent that counts anew has lost what it knew, whether or not a question failed.
        assert!(pace.answered(1));
    }

    #[tokio::test(start_paused = true)]
    async fn who_fails_again_ahead_of_his_time_neither_tells_nor_backs_off_further() {
        let mut pace = Pace::new(Duration::from_secs(30));
        for _ in 0..20 {
            let retry_in = pace.failed().unwrap();
            let retry_at = pace.retry_at();
            assert_eq!(retry_at, Instant::now() + retry_in);
            tokio::time::advance(retry_in / 2).await;
            if !retry_in.is_zero() {
                assert_eq!(pace.failed(), None);
            }
            assert_eq!(pace.retry_at(), retry_at);
            sleep_until(retry_at).await;
        }
        pace.answered(1);
        assert!(pace.failed().unwrap() <= BACKOFF.base);
    }
}
