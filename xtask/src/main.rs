//! Set-up and long jobs of this workspace: `cargo xtask tools | test | compose-test`.
//!
//! What a shell script would become once it has to be right: each job says what it does, stops at the first step
//! that fails, says which one, and exits with the right code.

mod command;
mod compose;
mod debian;
mod test;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set-up and long jobs of this workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    job: Job,
}

#[derive(Debug, Subcommand)]
enum Job {
    /// Gets what the tests need, a real Consul, into target/tools, without root, and says where it is
    Tools,
    /// Checks formatting, lints and documentation, then runs the unit, integration, documentation and chaos tests
    Test,
    /// Brings up docker-compose.yml, tries it, kills a container of it, and takes it down again
    ComposeTest,
}

fn main() -> ExitCode {
    let done = match Cli::parse().job {
        Job::Tools => tools::consul().map(|consul| {
            println!("consul: {}", consul.display());
            ExitCode::SUCCESS
        }),
        Job::Test => test::run(),
        Job::ComposeTest => compose::run().map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("\nerror: {error:#}");
        ExitCode::FAILURE
    })
}
