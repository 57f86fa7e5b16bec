//! The workspace in which a command was started: its services, and what a new one may inherit from it.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::MetadataCommand;

use crate::{edit::Changes, names::Name};

/// Where the first service listens.
const FIRST_PORT: u16 = 8800;
/// From the port of a service to its admin port.
pub(crate) const ADMIN: u16 = 1000;

/// A workspace of cargo.
#[derive(Debug)]
pub(crate) struct Project {
    pub(crate) root: PathBuf,
    /// Its manifest.
    pub(crate) manifest: toml::Table,
    /// In the order of their ports.
    pub(crate) services: Vec<Service>,
}

/// A package whose manifest says `package.metadata.kit`.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) name: Name,
    pub(crate) port: u16,
    /// Where its manifest is.
    pub(crate) folder: PathBuf,
}

impl Project {
    /// The workspace around the present folder, if there is one.
    pub(crate) fn find() -> Result<Option<Self>> {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let output = Command::new(cargo)
            .args(["locate-project", "--workspace", "--message-format=plain"])
            .output()
            .context("cargo could not be started; rustup.rs tells how to install it")?;
        if !output.status.success() {
            // It looks for a manifest first; if there is one, it is what is wrong.
            let around = env::current_dir()?;
            let manifest = around
                .ancestors()
                .map(|folder| folder.join("Cargo.toml"))
                .find(|path| path.exists());
            match manifest {
                None => return Ok(None),
                Some(_) => bail!("{}", String::from_utf8_lossy(&output.stderr).trim()),
            }
        }
        let path = PathBuf::from(String::from_utf8(output.stdout)?.trim_end());
        Self::at(&path).map(Some)
    }

    /// The workspace around the present folder.
    pub(crate) fn here() -> Result<Self> {
        Self::find()?.context(
            "there is no workspace here: `kit new service NAME` makes one with its first service",
        )
    }

    /// The workspace of this manifest.
    fn at(path: &Path) -> Result<Self> {
        let manifest: toml::Table = fs::read_to_string(path)?
            .parse()
            .with_context(|| format!("{} is no manifest", path.display()))?;
        ensure!(
            manifest.contains_key("workspace"),
            "{} is a package of its own, and services stand in a workspace: begin in another folder",
            path.display()
        );
        let metadata = MetadataCommand::new()
            .manifest_path(path)
            .no_deps()
            .exec()?;
        let mut services = Vec::new();
        for package in metadata.workspace_packages() {
            let Some(kit) = package.metadata.get("kit") else {
                continue;
            };
            let port = kit["port"]
                .as_u64()
                .and_then(|port| u16::try_from(port).ok());
            services.push(Service {
                name: package.name.parse().with_context(|| {
                    format!(
                        "{} says [package.metadata.kit], so it is a service, and cannot be called {}",
                        package.manifest_path, package.name
                    )
                })?,
                port: port.with_context(|| {
                    format!(
                        "{} has no port under [package.metadata.kit]",
                        package.manifest_path
                    )
                })?,
                folder: package
                    .manifest_path
                    .parent()
                    .expect("a manifest is in a folder")
                    .as_std_path()
                    .to_owned(),
            });
        }
        services.sort_by_key(|service| service.port);
        Ok(Self {
            root: metadata.workspace_root.into_std_path_buf(),
            manifest,
            services,
        })
    }

    /// The service of this name.
    pub(crate) fn service(&self, name: &Name) -> Result<&Service> {
        let found = self.services.iter().find(|service| service.name == *name);
        found.with_context(|| {
            let known: Vec<_> = self
                .services
                .iter()
                .map(|known| known.name.as_str())
                .collect();
            let known = match known.as_slice() {
                [] => "there are none yet".to_owned(),
                known => format!("there are {}", known.join(", ")),
            };
            format!(
                "there is no service {0}; {known}. `kit new service {0}` makes it",
                name.as_str()
            )
        })
    }

    /// The first port from 8800 on that no service has, neither for itself nor as its admin port.
    pub(crate) fn free_port(&self) -> Result<u16> {
        let taken: BTreeSet<_> = self
            .services
            .iter()
            .flat_map(|service| [service.port, service.port.saturating_add(ADMIN)])
            .collect();
        let mut ports = FIRST_PORT..=u16::MAX - ADMIN;
        ports
            .find(|port| !taken.contains(port) && !taken.contains(&(port + ADMIN)))
            .context("no port is left")
    }

    /// Whether `[workspace.<table>]` has `key`.
    pub(crate) fn shares(&self, table: &str, key: &str) -> bool {
        let workspace = self.manifest.get("workspace");
        let table = workspace.and_then(|workspace| workspace.get(table));
        table.and_then(|table| table.get(key)).is_some()
    }

    /// Makes sure that a package in `folder/name` below the root is a member: by a line for all of `folder` where
    /// the members have a line each, else by asking a person for it; then `false` is returned.
    pub(crate) fn include(&self, changes: &mut Changes, folder: &str, name: &Name) -> Result<bool> {
        let members = self.manifest["workspace"].get("members");
        let mut members = members
            .and_then(toml::Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(toml::Value::as_str);
        let (one, all) = (format!("{folder}/{}", name.as_str()), format!("{folder}/*"));
        if members.any(|member| [&*one, &*all].contains(&member.trim_end_matches('/'))) {
            return Ok(true);
        }
        let path = self.root.join("Cargo.toml");
        let text = changes.read(&path)?.unwrap_or_default();
        match with_member(&text, &all) {
            Some(text) => changes.write(&path, text).map(|()| true),
            None => {
                changes.report(format!(
                    "add \"{one}\" to `members` in Cargo.toml: kit does not change a line that exists"
                ));
                Ok(false)
            }
        }
    }
}

/// The manifest with one more line in its list of members, if that is a list of lines.
fn with_member(manifest: &str, member: &str) -> Option<String> {
    let begin = manifest.find("\nmembers = [\n")? + "\nmembers = [\n".len();
    let end = begin + manifest[begin..].find("]\n")?;
    let is_ended = manifest[begin..end].trim_end().ends_with([',', '[']);
    let mut text = manifest.to_owned();
    text.insert_str(end, &format!("    \"{member}\",\n"));
    let parses = text.parse::<toml::Table>().is_ok();
    (is_ended && manifest[..end].ends_with('\n') && parses).then_some(text)
}

impl Service {
    /// Its manifest.
    pub(crate) fn manifest(&self) -> Result<toml::Table> {
        let path = self.folder.join("Cargo.toml");
        let text = fs::read_to_string(&path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        text.parse()
            .with_context(|| format!("{} is no manifest", path.display()))
    }
}
