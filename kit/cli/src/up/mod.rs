//! `kit up`: builds the services of a workspace, runs them on this machine, and stops them all.

mod fleet;
mod http;
mod output;
mod plan;
mod signals;
mod workspace;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use self::{
    fleet::{Ended, Fleet},
    output::Output,
    plan::{Plan, Replicas},
    signals::Signals,
};

/// How long an instance may take until it answers that it is ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// What `kit up` is asked to do.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Runs COUNT instances of SERVICE; may be given once for each service
    #[arg(long, value_name = "SERVICE=COUNT")]
    replicas: Vec<Replicas>,

    /// The folder in which the services keep their data
    #[arg(long, value_name = "DIR", default_value = "data")]
    data: PathBuf,

    /// Lets the services find each other through the Consul agent at this address instead of a fixed list
    #[arg(long, value_name = "ADDR")]
    consul: Option<String>,

    /// Builds optimised
    #[arg(long)]
    release: bool,

    /// Adds this to every port, so that a second copy can run beside the first
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    port_offset: u16,
}

/// Runs the services until a signal comes or all of them have ended.
pub(crate) async fn run(options: Options) -> Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let workspace = workspace::load()?;
    let plan = Plan::new(&workspace.services, &options)?;
    // Before the build, which may take minutes.
    plan.check_ports()?;
    if let Some(consul) = &plan.consul {
        let leader = format!("{consul}/v1/status/leader");
        let status = http::get(&leader)
            .await
            .with_context(|| format!("no Consul answers at {consul}"))?;
        ensure!(
            status.is_success(),
            "{consul} answers {status} and not as a Consul with a leader"
        );
    }

    let programs = tokio::select! {
        programs = workspace.build(options.release) => programs?,
        signal = signals.next() => {
            eprintln!("{signal}: the build was stopped, nothing was started");
            return Ok(ExitCode::FAILURE);
        }
    };
    std::fs::create_dir_all(&plan.data)
        .with_context(|| format!("{} cannot be made", plan.data.display()))?;

    let (output, written) = Output::stdout(&plan);
    let result = supervise(&plan, &programs, &output, &mut signals).await;
    drop(output);
    // All that the services said comes before the error that ends the program.
    let _ = tokio::time::timeout(Duration::from_secs(2), written).await;
    result
}

/// Starts everything, waits, and stops everything; nothing runs any more when it returns.
async fn supervise(
    plan: &Plan,
    programs: &workspace::Programs,
    output: &Output,
    signals: &mut Signals,
) -> Result<ExitCode> {
    let mut fleet = Fleet::default();
    let started = tokio::select! {
        started = start(plan, programs, output, &mut fleet) => started,
        signal = signals.next() => {
            output.say(format!("{signal} before all were ready: stopping"));
            return fleet.stop(output, signals).await;
        }
    };
    if let Err(error) = started {
        output.say(format!("failed, so everything is stopped: {error:#}"));
        // What goes wrong now is a consequence; the cause is what the program ends with.
        if let Err(consequence) = fleet.stop(output, signals).await {
            output.say(format!("{consequence:#}"));
        }
        return Err(error);
    }
    output.say("ready: all instances answer; Ctrl-C stops them".to_owned());

    let mut died = Vec::new();
    while !fleet.is_empty() {
        tokio::select! {
            ended = fleet.next_end() => {
                output.say(format!("{ended}; the others go on"));
                died.push(ended.instance);
            }
            signal = signals.next() => {
                output.say(format!("{signal}: stopping"));
                break;
            }
            () = output.broken() => break,
        }
    }
    let code = fleet.stop(output, signals).await?;
    if !died.is_empty() {
        bail!("{} ended without being told to", died.join(", "));
    }
    Ok(code)
}

/// Starts all instances, shows what runs where, and waits until all are ready.
async fn start(
    plan: &Plan,
    programs: &workspace::Programs,
    output: &Output,
    fleet: &mut Fleet,
) -> Result<()> {
    for instance in &plan.instances {
        fleet.start(instance, plan, programs.of(&instance.service)?, output)?;
    }
    output.say(plan.table());
    let ready = tokio::time::timeout(READY_WITHIN, http::all_ready(&plan.instances));
    tokio::select! {
        ready = ready => match ready {
            Ok(()) => Ok(()),
            Err(_) => bail!("not every instance was ready after {READY_WITHIN:?}"),
        },
        Ended { instance, how } = fleet.next_end() => bail!("{instance} {how} before it was ready"),
    }
}
