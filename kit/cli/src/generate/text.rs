//! `kit generate proto|openapi NAME`: a service, told to people who use other languages.
//!
//! The texts are made by the code that `#[kit::service]` writes, so they cannot differ from what is served. To run
//! that code, a small program around the service is built where cargo keeps what it builds.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, ensure};
use cargo_metadata::MetadataCommand;
use clap::Args;

use crate::{
    edit::{
        rust::{setting, sources},
        say,
    },
    names::Name,
    project::Project,
    template::fill,
};

/// A service, and where its text goes.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The service's name
    name: Name,
    /// The file to write, instead of standard output
    #[arg(short, long, value_name = "FILE", conflicts_with = "check")]
    output: Option<PathBuf>,
    /// For CI: fails unless this file has the text already
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

/// What to make.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Text {
    Proto,
    OpenApi,
}

/// Makes it.
pub(crate) fn run(text: Text, options: &Options) -> Result<ExitCode> {
    let project = Project::here()?;
    let service = project.service(&options.name)?;
    let source = service.folder.join("src");
    let name = service.name.camel();
    let sources = sources(&source)?;
    let api = sources
        .iter()
        .find(|source| source.service(&name).is_some());
    let api = api.with_context(|| {
        format!(
            "{} has no trait {name} with #[kit::service] before it",
            source.display()
        )
    })?;
    let item = api.service(&name).expect("it was found");
    let said = setting(item, "transport").unwrap_or_default();
    let (other, what) = match text {
        Text::Proto => ("http", "a .proto file is for gRPC"),
        Text::OpenApi => ("grpc", "an OpenAPI document is for JSON"),
    };
    ensure!(
        said != other,
        "{what}, and {} is offered with transport = \"{said}\" only",
        options.name.as_str()
    );
    // `crate::api`, and in it the module that the macro writes.
    let module = api.module.replacen("crate", "service", 1);
    let call = match text {
        Text::Proto => "print!(\"{}\", __module__::proto())",
        Text::OpenApi => "println!(\"{:#}\", __module__::openapi())",
    };
    let module = format!("{module}::{}", service.name.module());
    let program = format!("fn main() {{ {} }}\n", call.replace("__module__", &module));
    let text = build_and_run(&project, service.name.as_str(), &service.folder, &program)?;
    if let Some(path) = &options.check {
        let there = fs::read_to_string(path).unwrap_or_default();
        if there != text {
            eprintln!(
                "{} is not what the service is; write it with --output",
                path.display()
            );
            return Ok(ExitCode::FAILURE);
        }
        return Ok(ExitCode::SUCCESS);
    }
    match &options.output {
        None => say(&text)?,
        Some(path) => {
            fs::write(path, text)
                .with_context(|| format!("{} cannot be written", path.display()))?;
            println!("wrote {}", path.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What a program that uses the service prints.
fn build_and_run(project: &Project, name: &str, service: &Path, program: &str) -> Result<String> {
    let metadata = MetadataCommand::new()
        .current_dir(&project.root)
        .no_deps()
        .exec()?;
    let target = metadata.target_directory.into_std_path_buf();
    let folder = target.join("kit").join(format!("describe-{name}"));
    fs::create_dir_all(folder.join("src"))?;
    let manifest = fill(
        include_str!("../../templates/describe/Cargo.toml"),
        &[
            ("name", name),
            ("path", &format!("{:?}", service.display().to_string())),
        ],
    );
    write_if_other(&folder.join("Cargo.toml"), &manifest)?;
    write_if_other(&folder.join("src/main.rs"), program)?;
    let lock = folder.join("Cargo.lock");
    if !lock.exists() && project.root.join("Cargo.lock").exists() {
        fs::copy(project.root.join("Cargo.lock"), lock)?;
    }
    let output = Command::new("cargo")
        .args(["run", "--quiet", "--manifest-path"])
        .arg(folder.join("Cargo.toml"))
        .env("CARGO_TARGET_DIR", target)
        .stderr(Stdio::inherit())
        .output()
        .context("cargo could not be started")?;
    ensure!(
        output.status.success(),
        "the service cannot be built with its trait in reach: see cargo's messages above"
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// cargo builds again what was written again.
fn write_if_other(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    Ok(fs::write(path, text)?)
}
