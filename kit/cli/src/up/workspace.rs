//! Which packages of the workspace are services, and building them with cargo.

use std::{
    collections::BTreeMap, env, ffi::OsString, io::BufReader, path::PathBuf, process::Stdio,
};

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::{Message, MetadataCommand, Package};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde::Deserialize;
use tokio::{io::AsyncReadExt, process::Command};

use crate::generate;

/// A package that is a service, because its manifest says so:
/// ```toml
/// [package.metadata.kit]
/// port = 8800
/// ```
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// The package's name, under which it is discovered too.
    pub(crate) name: String,
    /// Where its first instance listens.
    pub(crate) port: u16,
    /// A request to show to whoever started it: `example = { path = "/create", json = '{...}' }` beside the port,
    /// else one made up from its trait.
    pub(crate) example: Option<Example>,
}

/// A request that is worth trying.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Example {
    pub(crate) path: String,
    pub(crate) json: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    port: u16,
    example: Option<Example>,
}

/// The workspace in whose directory, or below it, the program was started.
pub(crate) struct Workspace {
    root: PathBuf,
    /// In the order of their ports.
    pub(crate) services: Vec<Service>,
}

/// Asks cargo.
pub(crate) fn load() -> Result<Workspace> {
    let metadata = MetadataCommand::new()
        .no_deps()
        .exec()
        .context("cargo does not know a workspace here")?;
    let mut services = metadata
        .workspace_packages()
        .into_iter()
        .filter_map(|package| service(package).transpose())
        .collect::<Result<Vec<_>>>()?;
    services.sort_by_key(|service| service.port);
    let root = metadata.workspace_root.into_std_path_buf();
    ensure!(
        !services.is_empty(),
        "no package of the workspace {} is a service: one has `port = ...` under [package.metadata.kit] in its Cargo.toml",
        root.display()
    );
    Ok(Workspace { root, services })
}

fn service(package: &Package) -> Result<Option<Service>> {
    let Some(metadata) = package.metadata.get("kit") else {
        return Ok(None);
    };
    let Metadata { port, example } = serde_json::from_value(metadata.clone())
        .with_context(|| format!("[package.metadata.kit] in {}", package.manifest_path))?;
    let folder = package.manifest_path.parent();
    let made_up = || {
        let (path, json) = generate::example(folder?.as_std_path(), &package.name)?;
        Some(Example { path, json })
    };
    let example = example.or_else(made_up);
    Ok(Some(Service {
        name: package.name.to_string(),
        port,
        example,
    }))
}

/// Where the built programs are, by service.
#[derive(Debug)]
pub(crate) struct Programs(BTreeMap<String, PathBuf>);

impl Programs {
    /// The program of one service.
    pub(crate) fn of(&self, service: &str) -> Result<&PathBuf> {
        self.0
            .get(service)
            .with_context(|| format!("the package {service} has no program of its own name"))
    }
}

impl Workspace {
    /// Builds all services. cargo shows its own progress; dropping the future stops it with all it has started.
    pub(crate) async fn build(&self, release: bool) -> Result<Programs> {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut command = Command::new(cargo);
        command
            .arg("build")
            .arg("--message-format=json-render-diagnostics")
            .current_dir(&self.root)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0);
        if release {
            command.arg("--release");
        }
        // Under `cargo run` these describe kit itself; build scripts that look at them would run again.
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                command.env_remove(name);
            }
        }
        for service in &self.services {
            command.args(["--package", &service.name]);
        }
        let mut cargo = command.spawn().context("cargo could not be started")?;
        let group = Group::of(&cargo);
        let mut messages = Vec::new();
        let mut stdout = cargo.stdout.take().expect("it is piped");
        stdout.read_to_end(&mut messages).await?;
        let status = cargo.wait().await?;
        group.disarm();
        if !status.success() {
            bail!("the services could not be built: see cargo's messages above");
        }
        let mut programs = BTreeMap::new();
        for message in Message::parse_stream(BufReader::new(&messages[..])) {
            if let Message::CompilerArtifact(artifact) = message?
                && let Some(program) = artifact.executable
            {
                programs.insert(artifact.target.name, program.into_std_path_buf());
            }
        }
        Ok(Programs(programs))
    }
}

/// A process group that is ended when this is dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &tokio::process::Child) -> Self {
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        Self(pid.map(Pid::from_raw))
    }

    /// It has ended by itself.
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = killpg(group, Signal::SIGTERM);
        }
    }
}
