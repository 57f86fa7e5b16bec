//! What all threads count, kept apart for each, so that they do not wait for each other's caches.

use std::sync::{
    OnceLock,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// More than there are processors, on most machines: it costs a pointer for each.
const STRIPES: usize = 32;

/// Some of a kind, of which each thread has one that it seldom shares, made when it is first asked for. What is written to
/// should be alone in its cache lines, see [`Lines`].
pub(super) struct Striped<T>(Lines<[OnceLock<T>; STRIPES]>);

impl<T> Striped<T> {
    pub(super) const fn new() -> Self {
        Self(Lines([const { OnceLock::new() }; STRIPES]))
    }

    /// That of this thread.
    pub(super) fn mine(&self, make: impl FnOnce() -> T) -> &T {
        self.0.0[number() % STRIPES].get_or_init(make)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.0.0.iter().filter_map(OnceLock::get)
    }
}

/// Which of the threads that count this one is. They are numbered as they begin to, so the few that a runtime has are next
/// to each other.
fn number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, Relaxed);
    }
    NUMBER.with(|number| *number)
}

/// Alone in its cache lines, of which processors fetch two at once: nobody else writes to them, so that what is only read
/// stays where it was read, and what is written takes nothing from anybody.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Lines<T>(pub(super) T);
