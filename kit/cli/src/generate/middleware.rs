//! `kit generate middleware NAME --service SERVICE`: a layer around the methods of a service, or around its requests,
//! and the line that puts it there.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Args;

use super::package::{Crate, passed_on, save};
use crate::{
    edit::{Changes, Mode, format, rust::Insertions},
    names::Name,
    project::Project,
    template::fill,
};

/// A middleware.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Its name
    name: Name,
    /// The service that it is around
    #[arg(long, short)]
    service: Name,
    /// Around requests, a tower layer, instead of around the methods of the trait
    #[arg(long, short)]
    endpoint: bool,
    #[command(flatten)]
    mode: Mode,
}

/// Adds it.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let project = Project::here()?;
    let mut changes = Changes::new(&project.root);
    let package = Crate::read(&changes, project.service(&options.service)?)?;
    let (module, camel) = (options.name.snake(), options.name.camel());
    let path = package.path(&format!("src/{module}.rs"));
    ensure!(!path.exists(), "{} exists already", changes.show(&path));
    let template = match options.endpoint {
        true => package.fill(&name(
            include_str!("../../templates/middleware/endpoint.rs"),
            options,
        )),
        false => package.fill_methods(
            &name(
                include_str!("../../templates/middleware/service.rs"),
                options,
            ),
            passed_on,
            false,
        ),
    };
    changes.create(&path, format::new_file(&path, template))?;

    let (variable, line) = match options.endpoint {
        true => (
            "server",
            format!("let server = {module}::{camel}Layer.layer(server);"),
        ),
        false => (
            "handler",
            format!("let handler = {module}::{camel} {{ inner: handler }};"),
        ),
    };
    let lib = package.path("src/lib.rs");
    let lib = package.sources.iter().find(|source| source.path == lib);
    let mut is_wired = false;
    if let Some(lib) = lib {
        let mut insertions = Insertions::default();
        lib.add_module("", &module, &mut insertions);
        is_wired = lib.add_after_let("run", variable, &line, &mut insertions);
        save(&mut changes, lib, insertions)?;
    }
    if !is_wired {
        changes.report(format!(
            "put it around the {variable}, where the service is put together: {line}"
        ));
    }
    changes.finish(options.mode)
}

fn name(template: &str, options: &Options) -> String {
    fill(
        template,
        &[
            ("Middleware", &options.name.camel()),
            ("name", options.name.as_str()),
            ("service", options.service.as_str()),
        ],
    )
}
