//! `kit generate client NAME`: a library to call a service from other programs, and a program to call it by hand.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    edit::{Changes, Mode, format},
    names::Name,
    new::{dependency_lines, package_lines},
    project::Project,
    template::fill,
};

const DEPENDENCIES: &[(&str, &str)] = &[
    ("anyhow", r#""1""#),
    ("clap", r#""4""#),
    ("http", r#""1""#),
    ("http-body-util", r#""0.1""#),
    ("kit", ""),
    ("serde_json", r#""1""#),
    (
        "tokio",
        r#"{ version = "1", features = ["macros", "rt-multi-thread"] }"#,
    ),
    ("tower", r#""0.5""#),
];

/// Writes it.
pub(crate) fn run(name: &Name, mode: Mode) -> Result<ExitCode> {
    let project = Project::here()?;
    let service = project.service(name)?;
    let folder = project.root.join("clients").join(name.as_str());
    let mut changes = Changes::new(&project.root);
    let port = service.port.to_string();
    let (camel, snake) = (name.camel(), name.snake());
    let values = [
        ("name", name.as_str()),
        ("module", &*snake),
        ("Trait", &*camel),
        ("port", &*port),
    ];
    // As the service names it, where the workspace does not.
    let kit = service.manifest()?["dependencies"]
        .get("kit")
        .map(ToString::to_string)
        .unwrap_or_default();
    let mut manifest = fill(
        &fill(include_str!("../../templates/client/Cargo.toml"), &values),
        &[
            ("package", &package_lines(&project)),
            (
                "dependencies",
                &dependency_lines(&project, DEPENDENCIES, &kit),
            ),
        ],
    );
    if project.manifest["workspace"].get("lints").is_some() {
        manifest += "\n[lints]\nworkspace = true\n";
    }
    changes.create(&folder.join("Cargo.toml"), manifest)?;
    for (path, template) in [
        ("src/lib.rs", include_str!("../../templates/client/lib.rs")),
        (
            "src/main.rs",
            include_str!("../../templates/client/main.rs"),
        ),
    ] {
        let path = folder.join(path);
        changes.create(&path, format::new_file(&path, fill(template, &values)))?;
    }
    project.include(&mut changes, "clients", name)?;
    let code = changes.finish(mode)?;
    if !mode.dry_run && !mode.check {
        println!(
            "\nNext: cargo run --package {}-client -- --help",
            name.as_str()
        );
    }
    Ok(code)
}
