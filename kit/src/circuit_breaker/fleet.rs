//! How many of an upstream's circuits may be open at once.
//!
//! After the `max_ejection_percent` of Envoy's outlier detection: where most peers seem to fail, what they share, or
//! the caller itself, is the more likely culprit, and whoever is left would be overrun.

use std::{fmt, sync::Arc};

use crate::{
    event::{Event, SharedObserver},
    name::ServiceName,
    policy::Ratio,
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed},
    },
};

/// The circuits that guard the endpoints of one upstream, see [`Circuit::in_fleet`](super::Circuit::in_fleet).
/// Clones are the same fleet.
#[derive(Clone)]
pub struct Fleet(Arc<Shared>);

struct Shared {
    upstream: ServiceName,
    observer: SharedObserver,
    /// Those that are ejected in the upper half of the word, all of them in the lower half: one word, so that
    /// threads together never eject more than may be.
    counts: AtomicU64,
}

const EJECTED: u64 = 1 << 32;
const MEMBER: u64 = 1;

fn ejected(counts: u64) -> usize {
    (counts >> 32) as usize
}

fn members(counts: u64) -> usize {
    counts as u32 as usize
}

/// Whether one more of so many may be ejected. One may be in any case: a fleet of one would have no breaker.
fn may_eject(counts: u64, max_ejected: Ratio) -> bool {
    let most = members(counts) as f64 * max_ejected.get();
    ejected(counts) == 0 || (ejected(counts) + 1) as f64 <= most
}

impl Fleet {
    /// A fleet without members. What happens in its circuits is told to `observer`.
    pub fn new(upstream: ServiceName, observer: SharedObserver) -> Self {
        Self(Arc::new(Shared {
            upstream,
            observer,
            counts: AtomicU64::new(0),
        }))
    }

    /// How many of its circuits are not closed.
    pub fn ejected(&self) -> usize {
        ejected(self.0.counts.load(Relaxed))
    }

    /// How many circuits there are.
    pub fn members(&self) -> usize {
        members(self.0.counts.load(Relaxed))
    }

    pub(super) fn observer(&self) -> &SharedObserver {
        &self.0.observer
    }

    pub(super) fn join(&self) -> Member {
        self.0.counts.fetch_add(MEMBER, Relaxed);
        Member {
            fleet: self.clone(),
            is_ejected: AtomicBool::new(false),
        }
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet")
            .field("upstream", &self.0.upstream)
            .field("ejected", &self.ejected())
            .field("members", &self.members())
            .finish()
    }
}

/// A circuit's place in its fleet, given back when this is dropped.
pub(super) struct Member {
    fleet: Fleet,
    is_ejected: AtomicBool,
}

impl Member {
    /// Takes it out of the fleet's service, if so many may be out. Called under the circuit's lock.
    pub(super) fn eject(&self, max_ejected: Ratio) -> bool {
        let eject = |counts| may_eject(counts, max_ejected).then_some(counts + EJECTED);
        let counts = &self.fleet.0.counts;
        let ejected = counts.fetch_update(AcqRel, Acquire, eject).is_ok();
        self.is_ejected.store(ejected, Relaxed);
        ejected
    }

    /// It is back in service. Called under the circuit's lock.
    pub(super) fn restore(&self) {
        if self.is_ejected.swap(false, Relaxed) {
            self.fleet.0.counts.fetch_sub(EJECTED, AcqRel);
        }
    }

    /// Says that it was ejected, to be called outside the lock.
    pub(super) fn tell_ejected(&self) {
        self.fleet.observer().observe(Event::EndpointEjected {
            upstream: &self.fleet.0.upstream,
            ejected: self.fleet.ejected(),
            total: self.fleet.members(),
        });
    }

    /// Says that it is not ejected any more, to be called outside the lock.
    pub(super) fn tell_restored(&self) {
        self.fleet.observer().observe(Event::EndpointRestored {
            upstream: &self.fleet.0.upstream,
            ejected: self.fleet.ejected(),
            total: self.fleet.members(),
        });
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let was_ejected = self.is_ejected.load(Relaxed);
        self.restore();
        self.fleet.0.counts.fetch_sub(MEMBER, AcqRel);
        if was_ejected {
            self.tell_restored();
        }
    }
}
