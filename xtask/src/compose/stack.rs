//! docker-compose.yml as a running thing: its program, its project, its ports.

use std::{env, net::TcpListener, process::Command, thread};

use anyhow::{Context, Result, bail};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use super::docker;
use crate::command::{self, announce, output, root};

/// Apart from what somebody may have running by hand in the same directory.
const PROJECT: &str = "kit-compose-test";
/// How many host ports a service gets, so that it can be scaled.
const RANGE: u16 = 10;

#[derive(Clone)]
pub(super) struct Stack {
    /// `docker compose`, or `docker-compose`.
    program: Vec<&'static str>,
    variables: Vec<(&'static str, String)>,
}

impl Stack {
    /// A stack of these images, on ports that are free.
    pub(super) fn new(images: Vec<(&'static str, String)>) -> Result<Self> {
        let plugin = output(docker().args(["compose", "version"])).is_ok();
        let program = match plugin {
            true => vec!["docker", "compose"],
            false => vec!["docker-compose"],
        };
        if !plugin {
            output(Command::new(program[0]).arg("version"))
                .context("neither `docker compose` nor docker-compose is here")?;
        }
        let mut variables = images;
        variables.extend(ports()?);
        // Half the time of a release build, and nothing here depends on the difference.
        let profile = env::var("PROFILE").unwrap_or_else(|_| "dev".to_owned());
        variables.push(("PROFILE", profile));
        // Compose 1.29 would call whichever client comes first in PATH; the engine's own builder is always there.
        variables.push(("COMPOSE_DOCKER_CLI_BUILD", "0".to_owned()));
        Ok(Self { program, variables })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.program[0]);
        command
            .args(&self.program[1..])
            .args(["--project-name", PROJECT])
            .args(words)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(root());
        command
    }

    /// Runs compose, its output passed through.
    pub(super) fn run(&self, words: &[&str]) -> Result<()> {
        command::run(&mut self.command(words))
    }

    /// Runs compose and returns what it prints.
    pub(super) fn output(&self, words: &[&str]) -> Result<String> {
        output(&mut self.command(words))
    }

    /// Where on this machine a port of the first container of a service is: `http://localhost:PORT`.
    pub(super) fn url(&self, service: &str, port: u16) -> Result<String> {
        let published = self.output(&["port", service, &port.to_string()])?;
        let (_, port) = published
            .trim()
            .rsplit_once(':')
            .with_context(|| format!("port {port} of {service} is not published"))?;
        Ok(format!("http://localhost:{port}"))
    }

    /// The ids of a service's containers.
    pub(super) fn containers(&self, service: &str) -> Result<Vec<String>> {
        let ids = self.output(&["ps", "-q", service])?;
        Ok(ids.lines().map(str::to_owned).collect())
    }

    /// Takes it down when the returned guard is dropped, or when a signal ends this program before. What an earlier
    /// run may have left behind is removed at once.
    pub(super) fn take_down_at_the_end(&self) -> Result<Down> {
        self.down()?;
        // Handled and not blocked: what this program starts would inherit the blocking, and never hear a signal.
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let stack = self.clone();
        thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                announce(&format!("signal {signal}: taking it down"));
                let _ = stack.down();
                std::process::exit(128 + signal);
            }
        });
        Ok(Down(self.clone()))
    }

    fn down(&self) -> Result<()> {
        self.output(&["down", "--volumes", "--remove-orphans"])?;
        Ok(())
    }
}

/// Takes the stack down when it is dropped.
pub(super) struct Down(Stack);

impl Drop for Down {
    fn drop(&mut self) {
        announce("Taking it down");
        if let Err(error) = self.0.down() {
            eprintln!("error: {error:#}");
        }
    }
}

/// A block of free ports, given to the variables of docker-compose.yml: services of this name may run here too.
fn ports() -> Result<Vec<(&'static str, String)>> {
    let variables = [
        ("USERS_PORTS", RANGE),
        ("USERS_ADMIN_PORTS", RANGE),
        ("NOTIFICATOR_PORTS", 1),
        ("NOTIFICATOR_ADMIN_PORTS", 1),
        ("BUGS_PORTS", 1),
        ("BUGS_ADMIN_PORTS", 1),
        ("CONSUL_PORT", 1),
        ("PROMETHEUS_PORT", 1),
    ];
    let size: u16 = variables.iter().map(|(_, count)| count).sum();
    let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let Some(mut next) = (18_800..32_000)
        .step_by(100)
        .find(|first| (*first..first + size).all(free))
    else {
        bail!("there is no block of {size} free ports");
    };
    let mut take = |count| {
        let first = next;
        next += count;
        match count {
            1 => first.to_string(),
            _ => format!("{first}-{}", next - 1),
        }
    };
    Ok(variables.map(|(name, count)| (name, take(count))).into())
}
