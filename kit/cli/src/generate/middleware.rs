//! `kit generate middleware NAME --service SERVICE`: a layer around the methods of a service, or around its requests,
//! and the line that puts it there.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Args;

use super::package::{Crate, passed_on, save};
use crate::{
    edit::{
        Changes, Mode, format,
        rust::{Insertions, Method, Source},
    },
    names::Name,
    project::Project,
    template::fill,
};

const SERVICE: &str = include_str!("../../templates/middleware/service.rs");
const METHOD: &str = include_str!("../../templates/middleware/method.rs");
const ENDPOINT: &str = include_str!("../../templates/middleware/endpoint.rs");
const LOGGING: &str = include_str!("../../templates/middleware/logging.rs");
const LOGGED: &str = include_str!("../../templates/middleware/logged.rs");

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
    let words = [
        ("Middleware", &*camel),
        ("name", options.name.as_str()),
        ("service", options.service.as_str()),
    ];
    let text = match options.endpoint {
        true => package.fill(&fill(ENDPOINT, &words)),
        false => {
            let method = |method: &Method| passed_on(METHOD, method);
            package.fill_methods(&fill(SERVICE, &words), method, false)
        }
    };
    changes.create(&path, format::new_file(&path, text))?;

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
        changes.report(by_hand(variable, &line));
    }
    changes.finish(options.mode)
}

/// What a person is asked to do where the place for a middleware was not found.
pub(super) fn by_hand(variable: &str, line: &str) -> String {
    format!("put it around the {variable}, where the service is put together: {line}")
}

/// The line that puts the middleware of `--dmw` around the handler.
pub(super) const LOGGING_AROUND: &str = "let handler = logging::Logging { inner: handler };";

impl Crate<'_> {
    /// The middleware of `--dmw`; its module is returned, unless it is there.
    pub(super) fn logging(&self, changes: &mut Changes) -> Result<Option<String>> {
        let path = self.path("src/logging.rs");
        if path.exists() {
            return Ok(None);
        }
        if self.methods.is_empty() {
            changes.report(format!(
                "the middleware of --dmw logs calls of methods, and there are none yet: add one to the trait {}",
                self.service.name.camel()
            ));
            return Ok(None);
        }
        let logging = fill(LOGGING, &[("service", self.service.name.as_str())]);
        let text = self.fill_methods(&logging, |method| passed_on(LOGGED, method), false);
        changes.create(&path, format::new_file(&path, text))?;
        Ok(Some("logging".to_owned()))
    }
}

/// How a middleware in `source` passes a call on.
pub(super) fn body(source: &Source) -> fn(&Method) -> String {
    match source.says("logged") {
        true => |method| passed_on(LOGGED, method),
        false => |method| passed_on(METHOD, method),
    }
}
