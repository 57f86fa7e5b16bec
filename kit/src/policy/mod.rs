//! What every policy is: sync, given the time, without locks across await, and replaceable while it runs.

mod backoff;
mod budget;
mod ratio;
mod window;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Release},
        },
    },
};

use arc_swap::{ArcSwap, Guard};
use tokio::time::Instant;

use crate::{classify::Outcome, rejection::Rejection};

pub use backoff::Backoff;
pub(crate) use budget::Terms;
pub use budget::{Budget, BudgetConfig, Withdrawal};
pub use ratio::{InvalidRatio, Ratio};
pub(crate) use window::{Column, Tick, Window};

/// Decides whether a call may pass, and learns from what became of it.
///
/// A circuit breaker is one. The balancer holds one per endpoint as its gate.
pub trait Admit: Send + Sync + 'static {
    /// What one admitted call holds.
    type Permit: Permit;

    /// Whether a call would pass now. A pure read: nothing is reserved.
    fn is_available(&self, now: Instant) -> bool;

    /// Lets a call pass, or says why not.
    fn admit(&self, now: Instant) -> Result<Self::Permit, Rejection>;
}

/// One admitted call. Dropping it says that the call was cancelled: what it reserved is given back, and nothing
/// is learnt.
pub trait Permit: Send + 'static {
    /// Says what became of the call. [`Outcome::Rejected`] is the same as dropping.
    fn finish(self, now: Instant, outcome: Outcome);
}

/// Lets everything pass.
impl Admit for () {
    type Permit = ();

    fn is_available(&self, _: Instant) -> bool {
        true
    }

    fn admit(&self, _: Instant) -> Result<(), Rejection> {
        Ok(())
    }
}

impl Permit for () {
    fn finish(self, _: Instant, _: Outcome) {}
}

/// A policy's settings, replaceable while it runs. Reading takes no lock.
///
/// All clones are the same handle: a layer keeps one and reads it at each call, its owner keeps another and
/// [`set`](Self::set)s it. What the layer has counted is not touched.
pub struct Live<P>(Arc<Versioned<P>>);

// Read by all calls, so it lies where nobody else writes.
#[repr(align(128))]
struct Versioned<P> {
    settings: ArcSwap<P>,
    /// How often they were replaced, for those who only want to know whether they were.
    version: AtomicU64,
}

impl<P> Live<P> {
    /// A handle on `settings`.
    pub fn new(settings: P) -> Self {
        Self(Arc::new(Versioned {
            settings: ArcSwap::from_pointee(settings),
            version: AtomicU64::new(0),
        }))
    }

    /// The settings at this moment. Keep it for one decision, not across an await.
    pub fn get(&self) -> Guard<Arc<P>> {
        self.0.settings.load()
    }

    /// Changes after the settings did. Who reads it first and the settings then has these or later ones.
    pub(crate) fn version(&self) -> u64 {
        self.0.version.load(Acquire)
    }

    /// A reader for one who reads them at each call.
    pub fn reader(&self) -> Reader<P>
    where
        P: Clone,
    {
        Reader {
            version: self.version(),
            settings: P::clone(&self.get()),
            live: self.clone(),
        }
    }

    /// Replaces the settings for all who hold this handle.
    pub fn set(&self, settings: P) {
        self.0.settings.store(Arc::new(settings));
        self.0.version.fetch_add(1, Release);
    }
}

impl<P> From<P> for Live<P> {
    fn from(settings: P) -> Self {
        Self::new(settings)
    }
}

impl<P: Default> Default for Live<P> {
    fn default() -> Self {
        Self::new(P::default())
    }
}

/// Reads [`Live`] settings and keeps a copy of what it read, so that reading them again costs one comparison. Each
/// service has one of its own; settings are small, so that cloning it is cheap.
#[derive(Clone)]
pub struct Reader<P> {
    live: Live<P>,
    version: u64,
    settings: P,
}

impl<P: Clone> Reader<P> {
    /// The settings at this moment.
    pub fn get(&mut self) -> &P {
        if self.live.version() != self.version {
            self.read_again();
        }
        &self.settings
    }

    #[cold]
    fn read_again(&mut self) {
        *self = self.live.reader();
    }
}

impl<P> fmt::Debug for Reader<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl<P> Clone for Live<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P: fmt::Debug> fmt::Debug for Live<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}
