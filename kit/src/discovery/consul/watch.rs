//! Follows one service with blocking queries.
//!
//! The rules are those of Consul's documentation (API features, "Blocking Queries") and of what agents were seen
//! to do: [`next_index`] says which index to ask with, a token bucket bounds how often, and a failure leaves the
//! set as it is. That nobody is there is believed like any other answer, but for the first [`DOUBT`] after a failure.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::client::Agent;
use crate::{
    discovery::bucket::Bucket,
    endpoint::Snapshot,
    event::{Event, SharedObserver},
    name::ServiceName,
    policy::Backoff,
};

/// Several changes that come together are seen at once; a service that changes all the time, or one that nobody
/// has registered (which wakes its watchers at any registration), is looked at twice a second at most.
const BURST: u32 = 3;
const INTERVAL: Duration = Duration::from_millis(500);

/// The way back to an agent that fails.
const BACKOFF: Backoff = Backoff {
    base: Duration::from_millis(200),
    max: Duration::from_secs(60),
};

/// So long an agent that comes back is not believed that nobody is there. It may have lost what it knew, or not have
/// checked anybody yet; instances notice that, register again and are checked within less.
const DOUBT: Duration = Duration::from_secs(10);

/// Keeps `set` up to date until it is aborted.
pub(super) async fn follow(
    agent: Arc<Agent>,
    service: ServiceName,
    set: watch::Sender<Option<Snapshot>>,
    observer: SharedObserver,
) {
    let mut index = 0;
    let mut last = 0;
    let mut wait = agent.wait();
    let mut failures = 0;
    let mut doubt_ends = Instant::now();
    let mut bucket = Bucket::new(BURST, INTERVAL, Instant::now());
    let mut paid = false;
    loop {
        if !paid {
            let now = Instant::now();
            let free = bucket.take(now);
            if free > now {
                sleep_until(free).await;
                // An agent that was restarted meanwhile was not missed by any question, and would sleep through all
                // changes up to the index of the one before it.
                index = 0;
            }
        }
        // A look at the set as it is, and the wait for what comes after it, are paid together.
        paid = index == 0;
        match agent.instances(&service, index, wait).await {
            Ok(answer) => {
                let now = Instant::now();
                if failures > 0 || answer.index < last {
                    doubt_ends = now + DOUBT;
                }
                last = answer.index;
                failures = 0;
                index = next_index(index, answer.index);
                let doubt = doubt_ends.saturating_duration_since(now);
                let known = set.borrow().as_ref().is_some_and(|set| !set.is_empty());
                if known && answer.endpoints.is_empty() && !doubt.is_zero() {
                    // Asked again when the doubt is over, or something changes.
                    wait = doubt.min(agent.wait());
                } else {
                    wait = agent.wait();
                    replace(&set, answer.endpoints, &service, &observer);
                }
            }
            Err(error) => {
                // An agent that comes back may have begun to count anew, and a question with an index beyond its
                // own would sleep through all changes. (The index that came with the error is not one either.)
                index = 0;
                // By chance, so that those who wait for one agent do not all come back at once.
                let retry_in = BACKOFF.full_jitter(failures, &mut rand::rng());
                failures = failures.saturating_add(1);
                observer.observe(Event::DiscoveryFailed {
                    service: &service,
                    error: &error,
                    retry_in,
                });
                sleep(retry_in).await;
            }
        }
    }
}

/// The index to ask with next, after an answer with `new` to a question with `old`: 0 asks for the set as it is,
/// anything above waits for a change. No answer has the index 0; one that says so is not asked in a circle.
fn next_index(old: u64, new: u64) -> u64 {
    if new < old { 0 } else { new.max(1) }
}

/// Replaces the set if it is another one, and says so.
fn replace(
    set: &watch::Sender<Option<Snapshot>>,
    new: Snapshot,
    service: &ServiceName,
    observer: &SharedObserver,
) {
    let old = set.borrow().clone();
    if old.as_ref() == Some(&new) {
        return;
    }
    let ids = |set: &Snapshot| -> BTreeSet<_> { set.iter().map(|e| e.id.clone()).collect() };
    let (before, after) = (ids(&old.unwrap_or_default()), ids(&new));
    set.send_replace(Some(new));
    observer.observe(Event::EndpointsChanged {
        service,
        total: after.len(),
        added: after.difference(&before).count(),
        removed: before.difference(&after).count(),
    });
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
}
