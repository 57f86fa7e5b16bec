//! From nothing to a running service, command by command, as somebody goes who has never done it before.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where by panicking"
)]

mod deployment;
mod growth;
mod middleware;
mod newcomer;
mod terminal;
mod tutorial;
mod user;
mod workspace;
