//! `kit generate docker`: a Dockerfile for all services, and a docker-compose.yml that runs them with Consul and
//! Prometheus. Host ports are those of the manifests, so they stay when services are added.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{
    edit::{Changes, Mode},
    project::{ADMIN, Project, Service},
    template::fill,
};

/// A copy of the toolkit for Docker, which sees nothing outside of the workspace.
const COPY: &str = ".kit";
/// What a service is built from.
const TOOLKIT: &[&str] = &["Cargo.toml", "kit/Cargo.toml", "kit/src", "kit/macros"];

/// Writes what is missing.
pub(crate) fn run(mode: Mode) -> Result<ExitCode> {
    let project = Project::here()?;
    let first = project
        .services
        .first()
        .context("there is no service yet: `kit new service NAME` makes one")?;
    let elsewhere = toolkit(&project, first)?;
    let mut changes = Changes::new(&project.root);
    let at = |path: &str| project.root.join(path);

    let kit = match &elsewhere {
        Some(toolkit) => format!(
            "# `kit generate docker` copies the toolkit there.\nCOPY {COPY} {}\n",
            toolkit.display()
        ),
        None => String::new(),
    };
    let name = first.name.as_str();
    changes.create(
        &at("Dockerfile"),
        fill(
            include_str!("../../templates/docker/Dockerfile"),
            &[("kit", &kit), ("example", name)],
        ),
    )?;
    for (path, text) in [
        (
            ".dockerignore",
            include_str!("../../templates/docker/dockerignore"),
        ),
        (
            "prometheus.rules.yml",
            include_str!("../../templates/docker/prometheus.rules.yml"),
        ),
        ("prometheus.yml", include_str!("../../../../prometheus.yml")),
        (
            "consul/agent.hcl",
            include_str!("../../../../consul/agent.hcl"),
        ),
    ] {
        changes.create(&at(path), text.to_owned())?;
    }
    let path = at("docker-compose.yml");
    let mut compose = match changes.read(&path)? {
        Some(text) => text,
        None => {
            let upper = variable(first);
            let (port, admin) = (
                u32::from(first.port),
                u32::from(first.port) + u32::from(ADMIN),
            );
            let ranges = format!(
                "{upper}_PORTS={}-{} {upper}_ADMIN_PORTS={}-{}",
                port + 10,
                port + 19,
                admin + 10,
                admin + 19
            );
            fill(
                include_str!("../../templates/docker/docker-compose.yml"),
                &[("RANGES", &ranges), ("example", name)],
            )
        }
    };
    for service in &project.services {
        compose = with_service(&compose, service).with_context(|| {
            format!(
                "{} cannot be added to docker-compose.yml",
                service.name.as_str()
            )
        })?;
    }
    for gone in without_service(&compose, &project.services) {
        changes.report(format!(
            "docker-compose.yml has {gone}, which is no service of the workspace any more, and whose port may be \
             another's: take its block out, and its volume"
        ));
    }
    changes.write(&path, compose)?;
    if let Some(toolkit) = &elsewhere
        && !mode.dry_run
        && !mode.check
    {
        copy_toolkit(toolkit, &at(COPY))?;
        println!(
            "copied the toolkit to {COPY}, for Docker; run this again when the toolkit has changed"
        );
    }
    let code = changes.finish(mode)?;
    if !mode.dry_run && !mode.check {
        // The image is built from what the lock file says, so it has to be up to date.
        let cargo = Command::new("cargo")
            .args(["metadata", "--format-version=1", "--quiet"])
            .current_dir(&project.root)
            .stdout(Stdio::null())
            .status()?;
        ensure!(cargo.success(), "cargo does not understand the workspace");
        println!("\nNext: docker-compose up --build");
        for service in &project.services {
            println!(
                "  {:20} http://localhost:{}",
                service.name.as_str(),
                service.port
            );
        }
        println!(
            "  {:20} http://localhost:8500\n  {:20} http://localhost:9090",
            "Consul", "Prometheus"
        );
    }
    Ok(code)
}

/// `USERS`, the beginning of the names of variables.
fn variable(service: &Service) -> String {
    service.name.snake().to_uppercase()
}

/// The text with this service in it: as it is if the service is there, else with a block before that of Consul, or at
/// the end of the services.
fn with_service(compose: &str, service: &Service) -> Result<String> {
    let name = service.name.as_str();
    let services = section(compose, "services").context("there is no `services:`")?;
    let is_there = |line: &str| line.trim_end() == format!("  {name}:");
    if compose[services.clone()].lines().any(is_there) {
        return Ok(compose.to_owned());
    }
    let block = fill(
        include_str!("../../templates/docker/service.yml"),
        &[
            ("NAME", &variable(service)),
            ("name", name),
            ("port", &service.port.to_string()),
            ("admin", &service.port.saturating_add(ADMIN).to_string()),
        ],
    );
    let place = compose[services.clone()]
        .find("\n  consul:")
        .map(|at| services.start + at + 1);
    let mut text = compose.to_owned();
    text.insert_str(place.unwrap_or(services.end), &block);
    match section(&text, "volumes") {
        Some(volumes) => {
            let place = text[volumes.clone()]
                .find("\n  prometheus:")
                .map(|at| volumes.start + at + 1);
            text.insert_str(place.unwrap_or(volumes.end), &format!("  {name}:\n"));
        }
        None => text += &format!("\nvolumes:\n  {name}:\n"),
    }
    Ok(text)
}

/// The names of services that are built there and that the workspace does not have.
fn without_service<'a>(compose: &'a str, services: &[Service]) -> Vec<&'a str> {
    let within = section(compose, "services").map_or("", |services| &compose[services]);
    let built = within.lines().filter_map(|line| {
        let name = line.trim().strip_prefix("SERVICE:")?;
        Some(name.trim().trim_matches(['"', '\'']))
    });
    let is_gone = |name: &&str| !services.iter().any(|known| known.name.as_str() == *name);
    built.filter(is_gone).collect()
}

/// From the line after `key:` to the next line that is not indented.
fn section(text: &str, key: &str) -> Option<std::ops::Range<usize>> {
    let head = format!("\n{key}:\n");
    // The line break before the first entry belongs to it, so that each can be looked for with one.
    let start = text.find(&head)? + head.len() - 1;
    let mut end = start + 1;
    for line in text[end..].split_inclusive('\n') {
        if !line.starts_with([' ', '\n', '#']) {
            break;
        }
        end += line.len();
    }
    Some(start..end)
}

/// The root of the toolkit's repository, if the services take it from a folder outside of the workspace.
fn toolkit(project: &Project, service: &Service) -> Result<Option<PathBuf>> {
    let path = |table: &toml::Table| -> Option<PathBuf> {
        let kit = table
            .get("dependencies")?
            .get("kit")?
            .get("path")?
            .as_str()?;
        Some(PathBuf::from(kit))
    };
    let own = service.manifest()?;
    let shared = project.manifest["workspace"].as_table().and_then(path);
    let kit = match path(&own) {
        Some(own) => service.folder.join(own),
        None => match shared {
            Some(shared) => project.root.join(shared),
            None => return Ok(None),
        },
    };
    let kit = fs::canonicalize(&kit)
        .with_context(|| format!("the toolkit is not in {}", kit.display()))?;
    Ok(match kit.starts_with(fs::canonicalize(&project.root)?) {
        true => None,
        false => kit.parent().map(Path::to_owned),
    })
}

/// Puts a fresh copy in place of the one before.
fn copy_toolkit(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    for path in TOOLKIT {
        copy(&from.join(path), &to.join(path))
            .with_context(|| format!("{path} of the toolkit cannot be copied"))?;
    }
    fs::write(to.join(".gitignore"), "*\n")?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            copy(&from.join(&name), &to.join(&name))?;
        }
    } else {
        fs::create_dir_all(to.parent().context("it is below a folder")?)?;
        fs::copy(from, to)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, port: u16) -> Service {
        Service {
            name: name.parse().unwrap(),
            port,
            folder: PathBuf::new(),
        }
    }

    #[test]
    fn a_service_is_added_once_and_nothing_else_moves() {
        let template = include_str!("../../templates/docker/docker-compose.yml");
        let users = with_service(template, &service("users", 8800)).unwrap();
        let both = with_service(&users, &service("bug-reports", 8801)).unwrap();
        assert!(
            both.contains("- ${BIND:-127.0.0.1}:${BUG_REPORTS_PORTS:-8801}:8801\n"),
            "{both}"
        );
        assert!(
            both.ends_with("volumes:\n  users:\n  bug-reports:\n  prometheus:\n"),
            "{both}"
        );
        assert!(crate::edit::keeps_lines(&users, &both));
        assert_eq!(with_service(&both, &service("users", 8800)).unwrap(), both);
    }

    #[test]
    fn a_block_whose_service_has_gone_is_found() {
        let template = include_str!("../../templates/docker/docker-compose.yml");
        let (users, bugs) = (service("users", 8800), service("bugs", 8801));
        let both = with_service(template, &users).unwrap();
        let both = with_service(&both, &bugs).unwrap();
        assert!(without_service(&both, &[users.clone(), bugs]).is_empty());
        assert_eq!(without_service(&both, &[users]), ["bugs"]);
    }

    #[test]
    fn the_rules_of_prometheus_are_those_of_this_repository_but_for_the_one_that_names_its_services()
     {
        let own = include_str!("../../../../prometheus.rules.yml");
        let (before, named) = own.split_once("      - alert: NoInstance\n").unwrap();
        let (named, after) = named.split_once("\n\n").unwrap();
        assert!(named.contains("users"), "{named}");
        let template = include_str!("../../templates/docker/prometheus.rules.yml");
        assert_eq!(template, format!("{before}{after}"));
    }

    #[test]
    fn the_services_of_this_repository_are_in_its_own_file() {
        let own = include_str!("../../../../docker-compose.yml");
        for (name, port) in [("users", 8800), ("notificator", 8801), ("bugs", 8802)] {
            assert_eq!(with_service(own, &service(name, port)).unwrap(), own);
        }
    }
}
