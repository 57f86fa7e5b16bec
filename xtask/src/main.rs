//! Set-up and long jobs of this workspace: `cargo xtask tools | test | chaos | discovery | consulrs | compose-test`.
//!
//! What a shell script would become once it has to be right: each job says what it does, stops at the first step
//! that fails, says which one, and exits with the right code.

mod bench;
mod chaos;
mod command;
mod compose;
mod consulrs;
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
    /// Gets what the tests need, a real Consul and some packages of Python, into target/tools, without root, and says
    /// where they are
    Tools,
    /// Checks formatting, lints and documentation, then runs all tests: also those of interoperation and chaos
    Test,
    /// Prints what a call costs in each layer and in whole stacks, beside tower, failsafe, governor, tower-resilience
    Bench(bench::Options),
    /// Hurts one of three instances under load, and compares what callers with kit's client and with others see
    Chaos {
        /// Options of the comparison, such as `--seconds 5`; `--help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Measures how soon a caller knows of instances that come and die, and what following services costs
    Discovery {
        /// Options of the first, such as `--rounds 5`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Builds kit/consulrs, which is no part of the workspace, and tests it against a real Consul
    Consulrs,
    /// Brings up docker-compose.yml, tries it, kills a container of it, and takes it down again
    ComposeTest,
}

fn main() -> ExitCode {
    let done = match Cli::parse().job {
        Job::Tools => tools().map(|()| ExitCode::SUCCESS),
        Job::Test => test::run(),
        Job::Bench(options) => bench::bench(&options),
        Job::Chaos { options } => chaos::run(&options).map(|()| ExitCode::SUCCESS),
        Job::Discovery { options } => chaos::discovery(&options).map(|()| ExitCode::SUCCESS),
        Job::Consulrs => consulrs::run().map(|()| ExitCode::SUCCESS),
        Job::ComposeTest => compose::run().map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("\nerror: {error:#}");
        ExitCode::FAILURE
    })
}

fn tools() -> anyhow::Result<()> {
    println!("consul: {}", tools::consul()?.display());
    println!("python: {}", tools::python()?.display());
    Ok(())
}
