//! `kit generate client NAME`: a library to call a service from other programs, and a program to call it by hand.

use std::process::ExitCode;

use anyhow::{Result, ensure};

use super::package::{Crate, called, save};
use crate::{
    edit::{
        Changes, Mode, format,
        rust::{Insertions, Method, Source, plain},
    },
    names::Name,
    new::{dependency_lines, package_lines},
    project::Project,
    template::fill,
};

const DEPENDENCIES: &[(&str, &str)] = &[
    ("anyhow", r#""1""#),
    ("clap", r#""4""#),
    ("http", r#""1""#),
    ("kit", ""),
    ("serde", r#"{ version = "1", features = ["derive"] }"#),
    ("serde_json", r#""1""#),
    (
        "tokio",
        r#"{ version = "1", features = ["macros", "rt-multi-thread"] }"#,
    ),
    ("tower", r#"{ version = "0.5", features = ["util"] }"#),
];

const LIB: &str = include_str!("../../templates/client/lib.rs");
const WIRE: &str = include_str!("../../templates/client/wire.rs");
const MAIN: &str = include_str!("../../templates/client/main.rs");

/// Writes it, or adds to the program what the trait has got since.
pub(crate) fn run(name: &Name, mode: Mode) -> Result<ExitCode> {
    let project = Project::here()?;
    let service = project.service(name)?;
    let mut changes = Changes::new(&project.root);
    let package = Crate::read(&changes, service)?;
    ensure!(
        !package.methods.is_empty(),
        "there is nothing to call yet: add a method to the trait {}",
        name.camel()
    );
    let own = format!("{}-client", name.as_str());
    ensure!(
        !project
            .services
            .iter()
            .any(|other| other.name.as_str() == own),
        "the client would be the package {own}, and there is a service of this name"
    );
    let folder = project.root.join("clients").join(name.as_str());
    // As the service names it, where the workspace does not.
    let kit = service.manifest()?["dependencies"]
        .get("kit")
        .map(ToString::to_string)
        .unwrap_or_default();
    let dependencies = dependency_lines(&project, DEPENDENCIES, &kit);
    let mut manifest = fill(
        &package.fill(include_str!("../../templates/client/Cargo.toml")),
        &[
            ("package", &package_lines(&project)),
            ("dependencies", &dependencies),
        ],
    );
    if project.manifest["workspace"].get("lints").is_some() {
        manifest += "\n[lints]\nworkspace = true\n";
    }
    changes.create(&folder.join("Cargo.toml"), manifest)?;
    let wires = package.transport().wires();
    let constructors = wires.iter().map(|wire| fill(WIRE, &[("wire", *wire)]));
    let lib = fill(LIB, &[("constructors", &constructors.collect::<String>())]);
    let main = match wires {
        [_, _] => MAIN.to_owned(),
        // No choice, no flag.
        _ => MAIN
            .lines()
            .filter(|line| !line.contains("grpc"))
            .map(|line| format!("{line}\n"))
            .collect(),
    };
    let arms: String = package.methods.iter().map(called).collect();
    let main = fill(&main, &[("arms", &arms)]);
    let path = folder.join("src/lib.rs");
    changes.create(&path, format::new_file(&path, package.fill(&lib)))?;
    let path = folder.join("src/main.rs");
    match changes.read(&path)? {
        None => changes.create(&path, format::new_file(&path, package.fill(&main)))?,
        Some(text) => {
            let source = Source::parse(&folder.join("src"), &path, text)?;
            package.grow(&mut changes, &source)?;
        }
    }
    project.include(&mut changes, "clients", name)?;
    let code = changes.finish(mode)?;
    if !mode.dry_run && !mode.check {
        println!("\nNext: cargo run --package {own} -- --help");
    }
    Ok(code)
}

impl Crate<'_> {
    /// Adds the methods that a client program does not call yet, and tells of those that have gone.
    fn grow(&self, changes: &mut Changes, program: &Source) -> Result<()> {
        let known = program.known("call");
        let is_known = |method: &&Method| known.iter().any(|name| name == plain(&method.name));
        let missing = self.methods.iter().filter(|method| !is_known(method));
        let arms: String = missing.map(called).collect();
        let mut insertions = Insertions::default();
        if !arms.is_empty() && !program.add_arms("call", &arms, &mut insertions) {
            changes.report(format!(
                "{} has no `fn call` that ends with a `match` of names, where these belong:\n{arms}",
                changes.show(&program.path)
            ));
        }
        for name in &known {
            if !self
                .methods
                .iter()
                .any(|method| plain(&method.name) == name)
            {
                changes.report(format!(
                    "{}: `{name}` is no longer a method of the trait; take it out here or put it back there",
                    changes.show(&program.path)
                ));
            }
        }
        save(changes, program, insertions)
    }
}
