//! Serves: the inbound stack in its one right order, the listener, the admin port, and an end without loss.
//!
//! [`run`] serves any tower service over HTTP/1 and HTTP/2 on one port, within bounds on everything that a peer
//! may do, and drains when it is told to stop.

mod admin;
mod body_limit;
mod config;
mod connection;
mod health;
mod inbound;
mod instance;
mod listen;
mod live;
mod progress;
mod respond;
mod run;
mod signal;

pub use admin::Check;
pub use body_limit::{BodyLimitLayer, LimitBody};
pub use config::{DrainConfig, ServerConfig};
pub use inbound::{Inbound, InboundService};
pub use instance::{InstanceError, instance, registration};
pub use listen::{BindError, Listeners};
pub use live::InboundPolicies;
pub use respond::{Respond, RespondLayer};
pub use run::{RunOptions, ServeError, run};
pub use signal::shutdown_signal;
