//! What all threads count, kept apart for each, so that they do not wait for each other's caches.

use std::{
    num::NonZero,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

/// Something for each thread that can run at once, made when it is first asked for. Whoever is asked for often should fill
/// its cache lines alone, see [`Lines`]; it is shared all the same once there are more threads than processors.
pub(super) struct Striped<T>(Box<[OnceLock<T>]>);

impl<T> Striped<T> {
    pub(super) fn new() -> Self {
        static PROCESSORS: OnceLock<usize> = OnceLock::new();
        let processors =
            PROCESSORS.get_or_init(|| thread::available_parallelism().map_or(1, NonZero::get));
        let stripes = processors.next_power_of_two();
        Self((0..stripes).map(|_| OnceLock::new()).collect())
    }

    /// That of this thread.
    pub(super) fn mine(&self, make: impl FnOnce() -> T) -> &T {
        // A power of two of them.
        self.0[number() & (self.0.len() - 1)].get_or_init(make)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(OnceLock::get)
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

/// Alone in its cache lines, of which processors fetch two at once.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Lines<T>(pub(super) T);
