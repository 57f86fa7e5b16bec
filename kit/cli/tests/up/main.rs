//! `kit up`, the real program, watched from outside.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where by panicking"
)]

mod kit;
mod services;
mod supervision;
