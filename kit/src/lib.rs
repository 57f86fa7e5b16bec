//! A toolkit for microservices: service discovery, load balancing, circuit breakers, rate limits, retries,
//! deadlines, tracing and metrics, in the process and as [tower](tower_service) layers.
//!
//! Each layer works alone in any `ServiceBuilder`; [`client`] and [`server`] hold the stacks in which they stand
//! in the right order; [`macro@service`] makes a server and a client for JSON over HTTP and for gRPC from one
//! trait.

// What the macros write says `::kit`, here too.
extern crate self as kit;

// The vocabulary: words that all others share.
mod asked;
pub mod body;
pub mod classify;
pub mod clock;
pub mod context;
pub mod endpoint;
pub mod error;
pub mod event;
pub mod name;
pub mod policy;
pub mod rejection;
mod sync;
pub mod wire;

// Where instances are, and which one is asked.
pub mod balance;
pub mod discovery;

// Layers, each usable alone. They never import each other.
pub mod authenticate;
pub mod circuit_breaker;
pub mod coalesce;
pub mod concurrency;
pub mod deadline;
pub mod fallback;
pub mod fault;
pub mod hedge;
pub mod metrics;
pub mod outbox;
pub mod rate_limit;
pub mod retry;
pub mod trace;

// Assembly: what puts the others together.
pub mod client;
pub mod config;
pub mod log;
pub mod server;
pub mod service;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod testing;

pub use body::Body;
pub use context::Context;
pub use error::{Code, Error};
pub use futures_core::Stream;
pub use kit_macros::{Message, service};
pub use rejection::Rejection;
pub use service::message::Message;

/// An error of any type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The examples of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
