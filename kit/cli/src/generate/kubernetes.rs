//! `kit generate kubernetes`: a manifest for each service, and one for the Consul that they find each other in.

use std::process::ExitCode;

use anyhow::{Result, ensure};

use crate::{
    edit::{Changes, Mode},
    project::{ADMIN, Project},
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
    let code = changes.finish(mode)?;
    if !mode.dry_run && !mode.check {
        println!("\nNext: build the images (`kit generate docker` writes the Dockerfile), then");
        println!("  kubectl apply -f kubernetes/");
    }
    Ok(code)
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
