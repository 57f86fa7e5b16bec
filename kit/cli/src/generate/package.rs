//! A service as the generator sees it: its sources, its trait, and what an implementation of the trait is made of.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{
    edit::{
        Changes, format,
        rust::{Insertions, Method, Source, plain, setting, sources},
    },
    project::{ADMIN, Service},
    template::fill,
};

/// What a service is offered over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// JSON over HTTP
    Http,
    /// gRPC
    Grpc,
    /// Either, on one port
    Both,
}

impl Transport {
    /// As `#[kit::service]` says it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Both => "both",
        }
    }

    /// The constructors of a generated client, the usual one first.
    pub(super) fn wires(self) -> &'static [&'static str] {
        match self {
            Self::Http => &["json"],
            Self::Grpc => &["grpc"],
            Self::Both => &["json", "grpc"],
        }
    }
}

/// What a trait may say of the toolkit's, without saying where it comes from.
pub(super) const KIT: &[&str] = &["Context", "Error", "Stream"];

/// A service, its sources, and the trait among them.
pub(super) struct Crate<'a> {
    pub(super) service: &'a Service,
    pub(super) sources: Vec<Source>,
    /// Which of them has the trait.
    api: usize,
    pub(super) methods: Vec<Method>,
    /// What the trait says; nothing means both.
    pub(super) said: Option<Transport>,
    /// What it is about to say.
    pub(super) wanted: Option<Transport>,
}

impl<'a> Crate<'a> {
    /// Reads the sources of a service.
    pub(super) fn read(changes: &Changes, service: &'a Service) -> Result<Self> {
        let sources = sources(&service.folder.join("src"))?;
        let name = service.name.camel();
        let api = sources
            .iter()
            .position(|source| source.service(&name).is_some());
        let api = api.with_context(|| {
            format!(
                "{} has no trait {name} with #[kit::service] before it",
                changes.show(&service.folder.join("src"))
            )
        })?;
        let item = sources[api].service(&name).expect("it is there");
        let methods = sources[api].trait_methods(item);
        let said = setting(item, "transport");
        Ok(Self {
            service,
            api,
            methods,
            said: said.and_then(|said| Transport::from_str(&said, false).ok()),
            wanted: None,
            sources,
        })
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.service.folder.join(path)
    }

    pub(super) fn api(&self) -> &Source {
        &self.sources[self.api]
    }

    pub(super) fn transport(&self) -> Transport {
        self.said.or(self.wanted).unwrap_or(Transport::Both)
    }

    pub(super) fn fill(&self, template: &str) -> String {
        let name = &self.service.name;
        fill(
            template,
            &[
                ("name", name.as_str()),
                ("module", &name.snake()),
                ("MODULE", &name.snake().to_ascii_uppercase()),
                ("Trait", &name.camel()),
                ("described", &name.module()),
                ("wire", self.transport().wires()[0]),
                ("port", &self.service.port.to_string()),
                (
                    "admin",
                    &self.service.port.saturating_add(ADMIN).to_string(),
                ),
            ],
        )
    }

    /// A template of an implementation, filled in with all methods.
    pub(super) fn fill_methods(
        &self,
        template: &str,
        body: impl Fn(&Method) -> String,
        is_unwritten: bool,
    ) -> String {
        let name = self.service.name.camel();
        let mut uses = self.uses(&self.methods.iter().collect::<Vec<_>>(), is_unwritten);
        uses.insert(name.clone(), format!("{}::{name}", self.api().module));
        let (mut others, mut own) = (Vec::new(), Vec::new());
        for path in uses.into_values() {
            let group = if path.starts_with("crate::") {
                &mut own
            } else {
                &mut others
            };
            group.push(path);
        }
        let groups = [together(others), together(own)];
        let uses: Vec<_> = groups
            .iter()
            .filter(|group| !group.is_empty())
            .map(String::as_str)
            .collect();
        let bodies: Vec<_> = self.methods.iter().map(body).collect();
        fill(
            &self.fill(template),
            &[
                ("uses", &uses.join("\n\n")),
                ("methods", &bodies.join("\n")),
            ],
        )
    }

    /// What an implementation of `methods` needs to name, and the paths that lead there.
    pub(super) fn uses(&self, methods: &[&Method], is_unwritten: bool) -> BTreeMap<String, String> {
        let mut uses = self.api().origins(methods);
        // The import of what is imported just now is not in the text that was read.
        for name in KIT {
            if methods.iter().any(|method| method.mentions(name)) {
                uses.entry((*name).to_owned())
                    .or_insert_with(|| format!("kit::{name}"));
            }
        }
        if is_unwritten && !methods.is_empty() {
            for name in ["Code", "Error"] {
                uses.entry(name.to_owned())
                    .or_insert_with(|| format!("kit::{name}"));
            }
        }
        uses
    }
}

/// What is put into the sources of a crate, gathered: whatever is read of one, such as the trait and its implementation,
/// may stand in one file, whose places are those of its text before.
#[derive(Default)]
pub(super) struct Additions(BTreeMap<PathBuf, Insertions>);

impl Additions {
    pub(super) fn add(&mut self, source: &Source, insertions: Insertions) {
        let all = self.0.entry(source.path.clone()).or_default();
        all.append(insertions);
    }

    /// Puts them all into their files.
    pub(super) fn save(mut self, changes: &mut Changes, sources: &[Source]) -> Result<()> {
        sources.iter().try_for_each(|source| {
            let insertions = self.0.remove(&source.path).unwrap_or_default();
            save(changes, source, insertions)
        })
    }
}

/// Puts insertions into a file, formatted where that touches nothing else.
pub(super) fn save(changes: &mut Changes, source: &Source, insertions: Insertions) -> Result<()> {
    if insertions.is_empty() {
        return Ok(());
    }
    let text = format::additions(&source.path, &source.text, source.with(insertions));
    changes.write(&source.path, text)
}

/// `use` lines for paths of one group, those with the same beginning in one.
fn together(paths: Vec<String>) -> String {
    let mut by_module: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in paths {
        let (module, name) = path.rsplit_once("::").unwrap_or((&path, ""));
        by_module
            .entry(module.to_owned())
            .or_default()
            .push(name.to_owned());
    }
    let lines = by_module
        .into_iter()
        .map(|(module, names)| match names.as_slice() {
            [name] if name.is_empty() => format!("use {module};"),
            [name] => format!("use {module}::{name};"),
            names => format!("use {module}::{{{}}};", names.join(", ")),
        });
    lines.collect::<Vec<_>>().join("\n")
}

/// A method that says that it is not written yet.
pub(super) fn marked_place(method: &Method) -> String {
    let named = method.arguments.iter().filter(|name| *name != "_");
    let named = named.cloned().collect::<Vec<_>>();
    let unused = match named.as_slice() {
        [one] => one.clone(),
        several => format!("({})", several.join(", ")),
    };
    let template = match method.streams() {
        true => include_str!("../../templates/service/stream.rs"),
        false => include_str!("../../templates/service/method.rs"),
    };
    let template = match named.is_empty() {
        true => template.replace("        let _ = __unused__;\n", ""),
        false => template.to_owned(),
    };
    fill(
        &template,
        &[
            ("signature", &method.signature),
            ("method", &method.name),
            ("unused", &unused),
        ],
    )
}

/// The arm of a client program that calls a method.
pub(super) fn called(method: &Method) -> String {
    let given = |name: &String| format!("given.take(\"{}\")?", plain(name));
    let arguments = method.arguments.iter().skip(1).map(given);
    let arguments: Vec<_> = ["ctx".to_owned()].into_iter().chain(arguments).collect();
    let template = match method.streams() {
        true => include_str!("../../templates/client/stream.rs"),
        false => include_str!("../../templates/client/method.rs"),
    };
    fill(
        template,
        &[
            ("plain", plain(&method.name)),
            ("method", &method.name),
            ("arguments", &arguments.join(", ")),
        ],
    )
}

/// A method of a middleware: it calls the one inside, as `template` says.
pub(super) fn passed_on(template: &str, method: &Method) -> String {
    // Only the context may be without a name.
    let named = |name: &String| match name.as_str() {
        "_" => "ctx".to_owned(),
        name => name.to_owned(),
    };
    let arguments: Vec<_> = method.arguments.iter().map(named).collect();
    fill(
        template,
        &[
            ("signature", &method.signature.replacen("_:", "ctx:", 1)),
            ("method", &method.name),
            ("arguments", &arguments.join(", ")),
        ],
    )
}
