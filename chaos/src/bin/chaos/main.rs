//! The processes of the scenarios, and what is measured with them.

mod callers;
mod compare;
mod discovery;
mod peer;
mod relay;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The processes of the scenarios, and what is measured with them.
#[derive(Debug, Parser)]
#[command(name = "chaos")]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Answers HTTP, and has the faults that it is told to have on its standard input
    Peer {
        /// Where it listens, on the loopback interface
        port: u16,
    },
    /// A service of kit that asks the next one, where its environment names one
    Relay,
    /// Hurts one of three instances in each way, and compares what callers with different clients see
    Compare(compare::Options),
    /// Kills and starts instances, and measures how soon a caller that follows Consul does as if it knew
    Discovery(discovery::Options),
}

#[tokio::main]
async fn main() -> Result<()> {
    match Cli::parse().role {
        Role::Peer { port } => peer::run(port).await,
        Role::Relay => relay::run().await,
        Role::Compare(options) => compare::run(&options).await,
        Role::Discovery(options) => discovery::run(&options).await,
    }
}
