//! Atomic words and locks for what threads share without waiting for each other.
//!
//! They are std's. Built with `--cfg kit_loom`, which `cargo xtask test` does for this crate and no other, they are
//! those of [loom](https://docs.rs/loom): the tests whose names begin with `in_every_order` then run through every order in which
//! threads may take their steps, and every value that memory may show them. What is swapped as a whole, settings and the
//! set of a balancer, is in the hands of `arc_swap`, which is tested in that way itself.

#[cfg(kit_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard, atomic};
#[cfg(not(kit_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic};
