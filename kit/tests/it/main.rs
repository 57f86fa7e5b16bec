//! The integration tests of the kit, as one program.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod architecture;
mod client;
mod config;
mod consul;
mod contract;
mod examples;
mod server;
mod service;
mod support;
