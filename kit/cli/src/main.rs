//! The program `kit`: starts the services of a workspace on this machine.

mod parent;
mod up;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

/// A toolkit for microservices in Rust.
#[derive(Debug, Parser)]
#[command(name = "kit", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Builds the services of this workspace and runs them on this machine until Ctrl-C
    Up(up::Options),
    /// Becomes a program that is told to stop when its parent dies; how `up` starts services
    #[command(hide = true)]
    Exec {
        /// The process that must still be the parent.
        parent: u32,
        /// What to become.
        program: PathBuf,
    },
}

fn main() -> ExitCode {
    run(Cli::parse().command).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up(options) => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .worker_threads(2)
                .build()?;
            let code = runtime.block_on(up::run(options));
            // Nothing may hold up the end: a reader of a blocked terminal, for example.
            runtime.shutdown_background();
            code
        }
        Command::Exec { parent, program } => parent::exec(parent, &program),
    }
}
