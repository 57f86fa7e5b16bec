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
const ENDPOINTS: &str = include_str!("../../templates/middleware/endpoints.rs");
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
    // A type of the service of the same name would be meant where the middleware is.
    let taken = package.uses(&package.methods.iter().collect::<Vec<_>>(), false);
    ensure!(
        !taken.contains_key(&camel) && camel != package.service.name.camel(),
        "{camel} is a type of {} already: choose another name",
        options.service.as_str()
    );
    let words = [
        ("Middleware", &*camel),
        ("name", options.name.as_str()),
        ("service", options.service.as_str()),
    ];
    let layer = format!("{camel}Layer");
    let text = match options.endpoint {
        true => package.fill(&fill(ENDPOINT, &words)),
        false => {
            let method = |method: &Method| passed_on(METHOD, method);
            package.fill_methods(&fill(SERVICE, &words), method, false)
        }
    };
    if let Some(there) = package.sources.iter().find(|source| source.path == path) {
        ensure!(
            there.says(&camel) && there.says(&layer) == options.endpoint,
            "{} exists already, and is not what this would make",
            changes.show(&path)
        );
    }
    changes.create(&path, format::new_file(&path, text))?;

    let (variable, name, line) = match options.endpoint {
        true => (
            "server",
            &layer,
            format!("let server = {module}::{layer}.layer(server);"),
        ),
        false => (
            "handler",
            &camel,
            format!("let handler = {module}::{camel} {{ inner: handler }};"),
        ),
    };
    package.wire(&mut changes, &module, name, variable, &line)?;
    changes.finish(options.mode)
}

/// What a person is asked to do where the place for a middleware was not found.
pub(super) fn by_hand(variable: &str, line: &str) -> String {
    format!("put it around the {variable}, where the service is put together: {line}")
}

/// A middleware of `--dmw` that is not there yet.
pub(super) struct Around {
    pub(super) module: &'static str,
    /// What it is put around, and the line that does so.
    pub(super) variable: &'static str,
    pub(super) line: &'static str,
}

const AROUND_METHODS: Around = Around {
    module: "logging",
    variable: "handler",
    line: "let handler = logging::Logging { inner: handler };",
};
const AROUND_ENDPOINTS: Around = Around {
    module: "endpoints",
    variable: "server",
    line: "let server = endpoints::logged(server);",
};

impl Crate<'_> {
    /// Declares `module` and puts `line` after the last `let variable` of `run`, unless some source but the module's
    /// own speaks of `name` already.
    fn wire(
        &self,
        changes: &mut Changes,
        module: &str,
        name: &str,
        variable: &str,
        line: &str,
    ) -> Result<()> {
        let own = self.path(&format!("src/{module}.rs"));
        let mut others = self.sources.iter().filter(|source| source.path != own);
        let mut is_wired = others.any(|source| source.says(name));
        let lib = self.path("src/lib.rs");
        if let Some(lib) = self.sources.iter().find(|source| source.path == lib) {
            let mut insertions = Insertions::default();
            if !lib.has_module(module) {
                lib.add_module("", module, &mut insertions);
            }
            is_wired = is_wired || lib.add_after_let("run", variable, line, &mut insertions);
            save(changes, lib, insertions)?;
        }
        if !is_wired {
            changes.report(by_hand(variable, line));
        }
        Ok(())
    }

    /// The middlewares of `--dmw` that are not there.
    pub(super) fn defaults(&self, changes: &mut Changes) -> Result<Vec<Around>> {
        let mut made = Vec::new();
        if self.methods.is_empty() {
            changes.report(format!(
                "the middlewares of --dmw log calls of methods, and there are none yet: add one to the trait {}",
                self.service.name.camel()
            ));
            return Ok(made);
        }
        let words = [("service", self.service.name.as_str())];
        for (default, template) in [(AROUND_METHODS, LOGGING), (AROUND_ENDPOINTS, ENDPOINTS)] {
            let path = self.path(&format!("src/{}.rs", default.module));
            if !path.exists() {
                let method = |method: &Method| passed_on(LOGGED, method);
                let text = self.fill_methods(&fill(template, &words), method, false);
                changes.create(&path, format::new_file(&path, text))?;
                made.push(default);
            }
        }
        Ok(made)
    }
}

/// How a middleware in `source` passes a call on.
pub(super) fn body(source: &Source) -> fn(&Method) -> String {
    match source.says("logged") {
        true => |method| passed_on(LOGGED, method),
        false => |method| passed_on(METHOD, method),
    }
}
