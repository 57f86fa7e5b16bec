//! `kit doctor`: what a machine lacks to build and run services, and how to get it.

use std::{
    net::{TcpListener, TcpStream},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::Result;

use crate::project::{ADMIN, Project};

/// The oldest Rust that builds the toolkit.
const RUST: &str = env!("CARGO_PKG_RUST_VERSION");

/// Looks at everything; fails if something is missing without which nothing can be built.
pub(crate) fn run() -> Result<ExitCode> {
    let mut well = true;
    match version("rustc", &["--version"]) {
        Some(found) if is_new_enough(&found) => good("Rust", &found),
        Some(found) => {
            well = false;
            bad(
                "Rust",
                &format!("{found} is older than {RUST}: rustup update"),
            );
        }
        None => {
            well = false;
            bad("Rust", "not installed: https://rustup.rs");
        }
    }
    for (what, program, arguments, hint) in [
        (
            "cargo",
            "cargo",
            &["--version"][..],
            "not installed: https://rustup.rs",
        ),
        (
            "rustfmt",
            "rustfmt",
            &["--version"],
            "not installed, so new code is not formatted: rustup component add rustfmt",
        ),
        (
            "clippy",
            "cargo-clippy",
            &["--version"],
            "not installed: rustup component add clippy",
        ),
    ] {
        match version(program, arguments) {
            Some(found) => good(what, &found),
            None => {
                well &= what != "cargo";
                bad(what, hint);
            }
        }
    }
    match Project::find() {
        Ok(Some(project)) => {
            let root = project.root.display();
            match project.services.len() {
                0 => bad(
                    "workspace",
                    &format!("{root} has no service yet: kit new service NAME"),
                ),
                count => good("workspace", &format!("{root}, services: {count}")),
            }
            for service in &project.services {
                let ports = [service.port, service.port.saturating_add(ADMIN)];
                let taken: Vec<_> = ports
                    .iter()
                    .filter(|port| !is_free(**port))
                    .map(ToString::to_string)
                    .collect();
                let what = format!("ports of {}", service.name.as_str());
                match taken.as_slice() {
                    [] => good(&what, &format!("{} and {} are free", ports[0], ports[1])),
                    taken => bad(
                        &what,
                        &format!(
                            "in use: {}; another instance? `kit up --port-offset` moves all ports",
                            taken.join(", ")
                        ),
                    ),
                }
            }
        }
        Ok(None) => bad("workspace", "none here: kit new service NAME"),
        Err(error) => {
            well = false;
            bad("workspace", &format!("{error:#}"));
        }
    }
    match answers(8500) {
        true => good(
            "Consul",
            "something answers on port 8500: kit up --consul localhost:8500",
        ),
        false => bad(
            "Consul",
            "no agent on port 8500; `kit up` does without. https://developer.hashicorp.com/consul/install, or docker-compose up",
        ),
    }
    match version("docker", &["version", "--format", "{{.Server.Version}}"]) {
        Some(found) => good("Docker", &format!("engine {found}")),
        None => bad(
            "Docker",
            "no engine answers; `kit up` does without. https://docs.docker.com/engine/install",
        ),
    }
    match version("docker", &["compose", "version", "--short"])
        .or_else(|| version("docker-compose", &["version", "--short"]))
    {
        Some(found) => good("Compose", &found),
        None => bad(
            "Compose",
            "not installed: https://docs.docker.com/compose/install",
        ),
    }
    Ok(match well {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn good(what: &str, text: &str) {
    println!("ok       {what}: {text}");
}

fn bad(what: &str, text: &str) {
    println!("missing  {what}: {text}");
}

/// The first line that a program prints, if there is one and it succeeds.
fn version(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next()?.trim().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}

/// Whether `rustc 1.95.0 (...)` is not older than what is needed.
fn is_new_enough(found: &str) -> bool {
    let numbers = |text: &str| -> Vec<u32> {
        text.split(['.', '-'])
            .map_while(|part| part.parse().ok())
            .collect()
    };
    found
        .split(' ')
        .nth(1)
        .is_some_and(|version| numbers(version) >= numbers(RUST))
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

fn answers(port: u16) -> bool {
    TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), Duration::from_millis(300)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_compiler_is_told_from_a_new_one() {
        assert!(is_new_enough("rustc 1.94.0 (abc 2026-01-01)"));
        assert!(is_new_enough("rustc 2.0.0-nightly (abc)"));
        assert!(!is_new_enough("rustc 1.93.1 (abc)"));
        assert!(!is_new_enough("nonsense"));
    }
}
