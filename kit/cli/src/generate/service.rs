//! `kit generate service NAME`: from a trait to a service that runs.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{
    middleware,
    package::{Crate, marked_place, save},
};
use crate::{
    edit::{
        Changes, Mode, format,
        rust::{Insertions, Method, Source},
    },
    names::Name,
    project::{Project, Service},
    template::fill,
};

/// What is made for a service that has none of it, by path below its folder.
const HANDLER: &str = include_str!("../../templates/service/handler.rs");
const APP: &str = include_str!("../../templates/service/app.rs");
const RUN: &str = include_str!("../../templates/service/run.rs");
const MAIN: &str = include_str!("../../templates/service/main.rs");
const TEST: &str = include_str!("../../templates/service/test.rs");

/// A service.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Its name
    name: Name,
    /// Also adds a middleware around the methods that logs each call. Requests are logged and measured without it
    #[arg(long)]
    dmw: bool,
    #[command(flatten)]
    mode: Mode,
}

/// Adds what the service lacks.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let project = Project::here()?;
    let mut changes = Changes::new(&project.root);
    add(&mut changes, project.service(&options.name)?, options)?;
    changes.finish(options.mode)
}

fn add(changes: &mut Changes, service: &Service, options: &Options) -> Result<()> {
    let package = Crate::read(changes, service)?;
    package.imports(changes)?;
    let mut modules: Vec<_> = package.implementation(changes)?.into_iter().collect();
    modules.extend(package.app(changes)?);
    let logging = match options.dmw {
        true => package.logging(changes)?,
        false => None,
    };
    package.lib(changes, &modules, logging)?;
    package.main(changes)?;
    package.test(changes)
}

impl Crate<'_> {
    /// `Context` and `Error`, where the trait says them and nothing tells what they are.
    fn imports(&self, changes: &mut Changes) -> Result<()> {
        let api = self.api();
        let unknown = api.unknown(&self.methods);
        let kit: Vec<_> = ["Context", "Error"]
            .into_iter()
            .filter(|name| unknown.contains(*name))
            .collect();
        let path = match kit.as_slice() {
            [] => return Ok(()),
            [one] => format!("kit::{one}"),
            several => format!("kit::{{{}}}", several.join(", ")),
        };
        let mut insertions = Insertions::default();
        api.add_uses([path], &mut insertions);
        save(changes, api, insertions)
    }

    /// The methods that the implementation lacks, or a whole one; then its module is returned.
    fn implementation(&self, changes: &mut Changes) -> Result<Option<String>> {
        let name = self.service.name.camel();
        let mut found = false;
        for source in &self.sources {
            for item in source.implementations(&name) {
                found = true;
                let present = source.implemented(item);
                for method in &present {
                    self.compare(changes, source, method);
                }
                let missing: Vec<_> = self
                    .methods
                    .iter()
                    .filter(|method| !present.iter().any(|other| other.name == method.name))
                    .collect();
                // Middleware, which is around another implementation.
                let is_around = item.generics.type_params().next().is_some();
                let body = match is_around {
                    true => middleware::body(source),
                    false => marked_place,
                };
                let mut insertions = source.add_methods(item, &self.methods, body)?;
                let uses = self.uses(&missing, !is_around);
                let unknown = uses.into_iter().filter(|(name, _)| !source.knows(name));
                source.add_uses(unknown.map(|(_, path)| path), &mut insertions);
                save(changes, source, insertions)?;
            }
        }
        if found {
            return Ok(None);
        }
        let module = self.service.name.snake();
        let text = self.fill_methods(HANDLER, marked_place, true);
        let path = self.path(&format!("src/{module}.rs"));
        changes.create(&path, format::new_file(&path, text))?;
        Ok(Some(format!("pub {module}")))
    }

    /// Tells what only the author of an implementation can mend.
    fn compare(&self, changes: &mut Changes, source: &Source, method: &Method) {
        let place = format!("{}:{}", changes.show(&source.path), method.line);
        match self.methods.iter().find(|other| other.name == method.name) {
            None => changes.report(format!(
                "{place}: `{}` is no longer a method of the trait; take it out here or put it back there",
                method.name
            )),
            Some(declared) if !declared.agrees_with(method) => changes.report(format!(
                "{place}: `{}` takes or returns something else than in the trait, which says\n    {}",
                method.name, declared.signature
            )),
            Some(_) => {}
        }
    }

    /// The stack, unless one stands somewhere.
    fn app(&self, changes: &mut Changes) -> Result<Option<String>> {
        if self.sources.iter().any(|source| source.says("Inbound")) {
            return Ok(None);
        }
        let path = self.path("src/app.rs");
        changes.create(&path, format::new_file(&path, self.fill(APP)))?;
        Ok(Some("app".to_owned()))
    }

    /// Declares new modules, and adds what makes an instance out of them unless something does; there, `logging` is
    /// put around the handler.
    fn lib(
        &self,
        changes: &mut Changes,
        modules: &[String],
        logging: Option<String>,
    ) -> Result<()> {
        let path = self.path("src/lib.rs");
        let Some(lib) = self.sources.iter().find(|source| source.path == path) else {
            return Ok(());
        };
        let mut insertions = Insertions::default();
        for module in modules.iter().chain(&logging) {
            let (vis, name) = module.split_once(' ').unwrap_or(("", module));
            if !lib.has_module(name) {
                lib.add_module(vis, name, &mut insertions);
            }
        }
        let line = middleware::LOGGING_AROUND;
        if !self.sources.iter().any(|source| source.says("RunOptions")) {
            let around = logging.map_or(String::new(), |_| format!("    {line}\n"));
            let run = fill(&self.fill(RUN), &[("middleware", &around)]);
            lib.add_at_end(&format!("\n{run}"), &mut insertions);
        } else if logging.is_some() && !lib.add_after_let("run", "handler", line, &mut insertions) {
            changes.report(middleware::by_hand("handler", line));
        }
        save(changes, lib, insertions)
    }

    fn main(&self, changes: &mut Changes) -> Result<()> {
        let path = self.path("src/main.rs");
        let text = format::new_file(&path, self.fill(MAIN));
        changes.create(&path, text)
    }

    /// A test, unless there is one.
    fn test(&self, changes: &mut Changes) -> Result<()> {
        let folder = self.path("tests");
        if folder.exists() || self.sources.iter().any(|source| source.says("test")) {
            return Ok(());
        }
        let path = folder.join(format!("{}.rs", self.service.name.snake()));
        let text = format::new_file(&path, self.fill(TEST));
        changes.create(&path, text)
    }
}
