//! `kit generate kubernetes`: a manifest for each service, and one for the Consul that they find each other in.

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Result, ensure};

use crate::{
    edit::{Changes, Mode},
    project::{ADMIN, Project, Service},
    template::fill,
};

const SERVICE: &str = include_str!("../../templates/kubernetes/service.yml");
const CONSUL: &str = include_str!("../../templates/kubernetes/consul.yml");
const AGENT: &str = include_str!("../../../../consul/agent.hcl");

/// Writes what is missing.
pub(crate) fn run(mode: Mode) -> Result<ExitCode> {
    let project = Project::here()?;
    ensure!(
        !project.services.is_empty(),
        "there is no service yet: `kit new service NAME` makes one"
    );
    let mut changes = Changes::new(&project.root);
    let folder = project.root.join("kubernetes");
    changes.create(&folder.join("consul.yml"), consul())?;
    for service in &project.services {
        let name = service.name.as_str();
        let text = manifest(name, service.port);
        changes.create(&folder.join(format!("{name}.yml")), text)?;
    }
    for gone in without_service(&folder, &project.services) {
        changes.report(format!(
            "kubernetes/{gone}.yml is of no service of the workspace any more: take it out, here and in the cluster"
        ));
    }
    let code = changes.finish(mode)?;
    if !mode.dry_run && !mode.check {
        println!("\nNext: build the images (`kit generate docker` writes the Dockerfile), then");
        println!("  kubectl apply -f kubernetes/");
    }
    Ok(code)
}

/// The services that have a manifest of ours there and that the workspace does not have.
fn without_service(folder: &Path, services: &[Service]) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| {
        let path = entry.path();
        let name = path.file_stem()?.to_str()?.to_owned();
        let text = fs::read_to_string(&path).ok()?;
        let is_ours = text.starts_with(&format!("# {name} in Kubernetes:"));
        is_ours.then_some(name)
    });
    let is_gone = |name: &String| !services.iter().any(|known| known.name.as_str() == name);
    named.filter(is_gone).collect()
}

fn manifest(name: &str, port: u16) -> String {
    let (port, admin) = (port.to_string(), port.saturating_add(ADMIN).to_string());
    fill(
        SERVICE,
        &[("name", name), ("port", &port), ("admin", &admin)],
    )
}

/// The same configuration as in docker-compose, indented as a text within YAML.
fn consul() -> String {
    let line = |line: &str| match line {
        "" => String::new(),
        line => format!("    {line}"),
    };
    let agent: Vec<_> = AGENT.lines().map(line).collect();
    fill(CONSUL, &[("agent", &agent.join("\n"))])
}
