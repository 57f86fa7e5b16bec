//! The program `kit`: makes services, and starts those of a workspace on this machine.

mod doctor;
mod edit;
mod generate;
mod names;
mod new;
mod parent;
mod project;
mod template;
mod up;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

/// A toolkit for microservices in Rust.
#[derive(Debug, Parser)]
#[command(name = "kit", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes something new
    #[command(subcommand, visible_alias = "n")]
    New(new::Options),
    /// Adds what is missing to what is there, without touching a line of it
    #[command(subcommand, visible_alias = "g")]
    Generate(generate::Options),
    /// Builds the services of this workspace and runs them on this machine until Ctrl-C
    Up(up::Options),
    /// Tells what this machine lacks to build and run services, and how to get it
    Doctor,
    /// Prints the completions of a shell: `kit completions bash >> ~/.bashrc`, or as your shell wants it
    Completions {
        /// Which one.
        shell: clap_complete::Shell,
    },
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
        Command::New(options) => new::run(options),
        Command::Generate(options) => generate::run(options),
        Command::Doctor => doctor::run(),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "kit", &mut text);
            edit::say(&String::from_utf8(text)?)?;
            Ok(ExitCode::SUCCESS)
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_every_argument_says_what_it_is_for() {
        fn walk(command: &clap::Command, path: &str) {
            let name = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some(), "{name} says nothing");
            for argument in command.get_arguments() {
                let id = argument.get_id();
                assert!(argument.get_help().is_some(), "{name}: {id} says nothing");
            }
            for inner in command.get_subcommands() {
                walk(inner, &name);
            }
        }
        let command = Cli::command();
        command.clone().debug_assert();
        walk(&command, "");
    }
}
