//! `kit generate service NAME`: from a trait to a service that runs.

use std::{collections::BTreeSet, ffi::OsStr, fs, process::ExitCode};

use anyhow::{Context, Result};
use clap::Args;

use super::{
    middleware::{self, Around},
    package::{Additions, Crate, KIT, Transport, marked_place},
};
use crate::{
    edit::{
        Changes, Mode, format,
        rust::{Insertions, Method, Source, is_around},
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
    /// What it is offered over; written into the trait. Default: what the trait says, else both
    #[arg(long, short, value_enum)]
    transport: Option<Transport>,
    /// Also adds the default middlewares: one around the methods that logs how each call ended, and one around the
    /// endpoints that logs how long each took within the stack. The stack itself logs and measures every request
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
    let mut package = Crate::read(changes, service)?;
    package.wanted = options.transport;
    let mut additions = Additions::default();
    let imported = package.imports(&mut additions);
    let mut modules: Vec<_> = package
        .implementation(changes, &imported, &mut additions)?
        .into_iter()
        .collect();
    modules.extend(package.app(changes)?);
    let defaults = match options.dmw {
        true => package.defaults(changes)?,
        false => Vec::new(),
    };
    package.lib(changes, &modules, &defaults, &mut additions);
    package.main(changes)?;
    package.test(changes)?;
    additions.save(changes, &package.sources)?;
    // Last, for all else adds to lines as they stand.
    match options.transport {
        Some(transport) => package.offer_over(changes, transport),
        None => Ok(()),
    }
}

impl Crate<'_> {
    /// Says in the trait what it is offered over, unless it says so.
    fn offer_over(&self, changes: &mut Changes, transport: Transport) -> Result<()> {
        if self.said.unwrap_or(Transport::Both) == transport {
            return Ok(());
        }
        let api = self.api();
        let name = self.service.name.camel();
        let setting = format!("transport = \"{}\"", transport.as_str());
        let item = api.service(&name).context("it was found")?;
        let grown = api.with_setting(item, &setting);
        match (self.said, grown) {
            (None, Some((line, grown))) => changes.grow(&api.path, line, grown),
            _ => {
                changes.report(format!(
                    "{}: the trait {name} says something else than `{setting}`; write that there",
                    changes.show(&api.path)
                ));
                Ok(())
            }
        }
    }

    /// Words of the toolkit, where the trait says them and nothing tells what they are.
    fn imports(&self, additions: &mut Additions) -> Vec<&'static str> {
        let api = self.api();
        let unknown = api.unknown(&self.methods);
        let kit: Vec<_> = KIT
            .iter()
            .copied()
            .filter(|name| unknown.contains(*name))
            .collect();
        let path = match kit.as_slice() {
            [] => return kit,
            [one] => format!("kit::{one}"),
            several => format!("kit::{{{}}}", several.join(", ")),
        };
        let mut insertions = Insertions::default();
        api.add_uses([path], &mut insertions);
        additions.add(api, insertions);
        kit
    }

    /// The methods that the implementation lacks, or a whole one; then its module is returned. What is `imported`
    /// already where the trait stands is not imported there once more.
    fn implementation(
        &self,
        changes: &mut Changes,
        imported: &[&str],
        additions: &mut Additions,
    ) -> Result<Option<String>> {
        let name = self.service.name.camel();
        let mut found = false;
        // What is not in the texts yet.
        let at_api = imported
            .iter()
            .map(|name| (&self.api().path, (*name).to_owned()));
        let mut known: BTreeSet<_> = at_api.collect();
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
                let is_around = is_around(item, &name);
                let body = match is_around {
                    true => middleware::body(source),
                    false => marked_place,
                };
                let mut insertions = source.add_methods(item, &self.methods, body)?;
                let uses = self.uses(&missing, !is_around);
                let unknown = uses.into_iter().filter(|(name, _)| {
                    !source.knows(name) && known.insert((&source.path, name.clone()))
                });
                source.add_uses(unknown.map(|(_, path)| path), &mut insertions);
                additions.add(source, insertions);
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

    /// Declares new modules, and adds what makes an instance out of them unless something does; there, the default
    /// middlewares are put in their places.
    fn lib(
        &self,
        changes: &mut Changes,
        modules: &[String],
        defaults: &[Around],
        additions: &mut Additions,
    ) {
        let path = self.path("src/lib.rs");
        let Some(lib) = self.sources.iter().find(|source| source.path == path) else {
            return;
        };
        let mut insertions = Insertions::default();
        let defaulted = defaults.iter().map(|default| default.module);
        for module in modules.iter().map(String::as_str).chain(defaulted) {
            let (vis, name) = module.split_once(' ').unwrap_or(("", module));
            if !lib.has_module(name) {
                lib.add_module(vis, name, &mut insertions);
            }
        }
        if self.sources.iter().any(|source| source.says("RunOptions")) {
            for Around { variable, line, .. } in defaults {
                if !lib.add_after_let("run", variable, line, &mut insertions) {
                    changes.report(middleware::by_hand(variable, line));
                }
            }
        } else {
            let around = |variable| {
                let lines = defaults.iter().filter(|it| it.variable == variable);
                lines
                    .map(|it| format!("    {}\n", it.line))
                    .collect::<String>()
            };
            let run = fill(
                &self.fill(RUN),
                &[
                    ("middleware", &around("handler")),
                    ("endpoint", &around("server")),
                ],
            );
            lib.add_at_end(&format!("\n{run}"), &mut insertions);
        }
        additions.add(lib, insertions);
    }

    fn main(&self, changes: &mut Changes) -> Result<()> {
        let path = self.path("src/main.rs");
        let text = format::new_file(&path, self.fill(MAIN));
        changes.create(&path, text)
    }

    /// A test, unless there is one besides that of `kit generate chaos`.
    fn test(&self, changes: &mut Changes) -> Result<()> {
        let folder = self.path("tests");
        let is_other = |name: &OsStr| name != "chaos.rs";
        let mut others = fs::read_dir(&folder).into_iter().flatten().flatten();
        if others.any(|entry| is_other(&entry.file_name()))
            || self.sources.iter().any(Source::has_test)
        {
            return Ok(());
        }
        let path = folder.join(format!("{}.rs", self.service.name.snake()));
        let text = format::new_file(&path, self.fill(TEST));
        changes.create(&path, text)
    }
}
