//! `kit generate chaos NAME`: a test that kills and stops instances of a service while it is called.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use super::package::Crate;
use crate::{
    edit::{Changes, Mode, format},
    names::Name,
    project::Project,
    template::fill,
};

const TEST: &str = include_str!("../../templates/chaos/chaos.rs");

/// A service.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Its name
    name: Name,
    #[command(flatten)]
    mode: Mode,
}

/// Adds the test.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let project = Project::here()?;
    let mut changes = Changes::new(&project.root);
    let name = &options.name;
    let package = Crate::read(&changes, project.service(name)?)?;
    // Arguments that have a default for certain; the author replaces them by better ones.
    let method = package
        .methods
        .iter()
        .find(|method| method.takes_defaults());
    let method = method.with_context(|| {
        format!(
            "the trait {} has no method that could be called without knowing more: the test calls one whose arguments \
             are texts, numbers, lists, maps or options",
            name.camel()
        )
    })?;
    let defaults = method
        .arguments
        .iter()
        .skip(1)
        .map(|_| "Default::default()");
    let arguments: Vec<_> = ["ctx"].into_iter().chain(defaults).collect();
    let path = package.path("tests/chaos.rs");
    let text = fill(
        &package.fill(TEST),
        &[
            (
                "fast",
                package
                    .transport()
                    .wires()
                    .last()
                    .copied()
                    .unwrap_or("json"),
            ),
            ("method", &method.name),
            ("arguments", &arguments.join(", ")),
        ],
    );
    changes.create(&path, format::new_file(&path, text))?;
    let code = changes.finish(options.mode)?;
    if !options.mode.dry_run && !options.mode.check {
        println!(
            "\nNext: cargo test --package {} --test chaos",
            name.as_str()
        );
    }
    Ok(code)
}
