//! One process of a service, which can be hurt.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use http::uri::Authority;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::{Child, Command};

use crate::{Agent, ask, eventually, metrics, ports};

/// How long an instance may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// One instance of a service: an address, and most of the time a process there. The process is killed when this is
/// dropped.
#[derive(Debug)]
pub struct Instance {
    program: PathBuf,
    role: Option<&'static str>,
    environment: Vec<(&'static str, String)>,
    address: Authority,
    admin: String,
    process: Option<Child>,
}

impl Instance {
    /// Starts an instance that finds others, and is found, through `agent`, and keeps its data in `data`, with whatever
    /// else is in its `environment`; waits until it says that it is ready.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start(
        program: &Path,
        agent: &Agent,
        data: &Path,
        environment: &[(&'static str, &str)],
    ) -> Result<Self> {
        let found = [
            ("KIT_DISCOVERY__CONSUL__ADDRESS", agent.address().to_owned()),
            ("KIT_DATA", data.display().to_string()),
        ];
        let own = environment
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        Self::launch(program, None, found.into_iter().chain(own)).await
    }

    /// Starts a program of kit's server on ports of its own: `role` is its argument, where it has one.
    pub(crate) async fn launch(
        program: &Path,
        role: Option<&'static str>,
        environment: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Self> {
        let (listen, admin) = (ports::free(), ports::free());
        let [listen, admin] = [listen, admin].map(|port| format!("127.0.0.1:{port}"));
        let own = [
            ("KIT_SERVER__LISTEN", listen.clone()),
            ("KIT_SERVER__ADMIN", admin.clone()),
            ("KIT_LOG__FILTER", "error".to_owned()),
        ];
        let mut instance = Self {
            program: program.to_owned(),
            role,
            environment: own.into_iter().chain(environment).collect(),
            address: listen.parse()?,
            admin: format!("http://{admin}"),
            process: None,
        };
        instance.restart().await?;
        Ok(instance)
    }

    /// Where it serves.
    pub fn address(&self) -> &Authority {
        &self.address
    }

    /// Starts it again, at the same address and with the same data, and waits until it is ready.
    ///
    /// # Errors
    /// If it runs, or does not come up.
    pub async fn restart(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{} runs already", self.address);
        let process = Command::new(&self.program)
            .args(self.role)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} could not be started", self.program.display()))?;
        self.process = Some(process);
        let ready = format!("{}/readyz", self.admin);
        let what = format!("{} is ready", self.address);
        eventually(&what, READY_WITHIN, async || ask::get(&ready).await.ok()).await?;
        Ok(())
    }

    /// Ends it at once (SIGKILL): it can finish and say nothing. Waits until it is gone.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("it does not run")?;
        process.kill().await?;
        Ok(())
    }

    /// Tells it to drain and stop (SIGTERM), and waits until it has.
    ///
    /// # Errors
    /// If it does not run, or ends with another exit code than 0.
    pub async fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let mut process = self.process.take().context("it does not run")?;
        let status = process.wait().await?;
        ensure!(status.success(), "{} ended with {status}", self.address);
        Ok(())
    }

    /// Freezes it (SIGSTOP): its connections stay open and nothing answers.
    ///
    /// # Errors
    /// If it does not run.
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on after [`stop`](Self::stop).
    ///
    /// # Errors
    /// If it does not run.
    pub fn cont(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.process.as_ref().and_then(Child::id);
        let id = id.context("it does not run")?;
        Ok(kill(Pid::from_raw(i32::try_from(id)?), signal)?)
    }

    /// How many requests this process has answered since it started, by its own count.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn requests(&self) -> Result<u64> {
        let text = ask::get(&format!("{}/metrics", self.admin)).await?;
        Ok(
            metrics::sum(&text, "http_server_request_duration_seconds_count")
                + metrics::sum(&text, "rpc_server_call_duration_seconds_count"),
        )
    }
}
