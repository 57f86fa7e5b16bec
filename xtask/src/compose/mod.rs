//! `cargo xtask compose-test`: docker-compose.yml, brought up, tried, hurt and taken down again; then the same for the
//! one that `docs/tutorial.md` generates.

mod checks;
mod images;
mod stack;

use std::process::Command;

use anyhow::{Result, ensure};

use self::stack::Stack;
use crate::command::{self, announce, cargo, output};

/// Runs the whole of it. Whatever happens, nothing but images is left in the engine.
pub(crate) fn run() -> Result<()> {
    ensure!(
        output(docker().args(["version", "--format", "{{.Server.Version}}"])).is_ok(),
        "no Docker engine answers"
    );
    let images = images::variables()?;
    let stack = Stack::new(images.clone())?;

    let taken_down_at_the_end = stack.take_down_at_the_end()?;
    announce("Building the services");
    stack.run(&["build"])?;
    announce("Starting");
    stack.run(&["up", "-d", "--no-build"])?;
    let result = checks::all(&stack);
    if result.is_err() {
        announce("What the containers said last");
        let _ = stack.run(&["logs", "--tail=40"]);
        let _ = stack.run(&["ps"]);
    }
    drop(taken_down_at_the_end);
    result?;

    announce("The tutorial, with containers");
    let mut tutorial = cargo(&["test", "--package", "kit-cli", "--test", "new", "tutorial"]);
    command::run(tutorial.env("TUTORIAL_WITH_DOCKER", "1").envs(images))?;
    println!("\ncompose-test passed");
    Ok(())
}

fn docker() -> Command {
    Command::new("docker")
}
