//! The processes that run: started each in a process group of its own, told to stop together, none left behind.

use std::{
    env, fmt, future,
    io::IsTerminal,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitCode, ExitStatus, Stdio},
    task::Poll,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::process::{Child, Command};

use super::{
    output::Output,
    plan::{Instance, Plan},
    signals::Signals,
};

/// How long a service may take to stop: more than it allows itself for what is in flight.
const GRACE: Duration = Duration::from_secs(40);

/// All that runs. Dropping it kills whatever still does.
#[derive(Default)]
pub(crate) struct Fleet {
    running: Vec<Running>,
    /// The process groups of those that ended.
    ended: Vec<Pid>,
}

struct Running {
    name: String,
    group: Pid,
    process: Child,
}

/// That an instance ended, and how.
pub(crate) struct Ended {
    pub(crate) instance: String,
    pub(crate) how: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.instance, self.how)
    }
}

impl Fleet {
    /// Starts one instance. It must be called from a thread that lives as long as the program, because it counts
    /// as the parent whose death the instance hears of.
    pub(crate) fn start(
        &mut self,
        instance: &Instance,
        plan: &Plan,
        program: &Path,
        output: &Output,
    ) -> Result<()> {
        let mut command = Command::new(env::current_exe()?);
        command
            .args(["exec", &std::process::id().to_string()])
            .arg(program)
            .env_remove("KIT_DISCOVERY__CONSUL__ADDRESS")
            .envs(plan.environment(instance))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C reaches `kit` alone, which then stops the services in good order.
            .process_group(0)
            .kill_on_drop(true);
        if env::var_os("KIT_LOG__FORMAT").is_none() {
            // People read text; whatever else reads gets one JSON object per line.
            let terminal = std::io::stdout().is_terminal();
            command.env("KIT_LOG__FORMAT", if terminal { "text" } else { "json" });
        }
        let mut process = command
            .spawn()
            .with_context(|| format!("{} could not be started", instance.name))?;
        let id = process.id().context("it was just started")?;
        // Each ends when the process has closed its end, that is with the process.
        let stdout = process.stdout.take().expect("it is piped");
        tokio::spawn(output.clone().pump(instance.clone(), stdout));
        let stderr = process.stderr.take().expect("it is piped");
        tokio::spawn(output.clone().pump(instance.clone(), stderr));
        self.running.push(Running {
            name: instance.name.clone(),
            group: Pid::from_raw(i32::try_from(id)?),
            process,
        });
        Ok(())
    }

    /// Whether nothing runs.
    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Waits until one of the instances ends, with all that it started. Never returns when none runs.
    pub(crate) async fn next_end(&mut self) -> Ended {
        let (index, status) = future::poll_fn(|cx| {
            for (index, running) in self.running.iter_mut().enumerate() {
                let wait = std::pin::pin!(running.process.wait());
                if let Poll::Ready(status) = wait.poll(cx) {
                    return Poll::Ready((index, status));
                }
            }
            Poll::Pending
        })
        .await;
        let running = self.running.remove(index);
        // What it started and left behind goes too.
        let _ = killpg(running.group, Signal::SIGKILL);
        self.ended.push(running.group);
        Ended {
            instance: running.name,
            how: how(status),
        }
    }

    /// Tells all to stop and waits until they have. A second signal, or too long a wait, kills what is left.
    pub(crate) async fn stop(mut self, output: &Output, signals: &mut Signals) -> Result<ExitCode> {
        self.signal(Signal::SIGTERM);
        let mut bad = Vec::new();
        let deadline = tokio::time::sleep(GRACE);
        tokio::pin!(deadline);
        let cut_short = loop {
            if self.is_empty() {
                break None;
            }
            tokio::select! {
                ended = self.next_end() => {
                    output.say(ended.to_string());
                    if ended.how != CLEAN {
                        bad.push(ended.to_string());
                    }
                }
                signal = signals.next() => break Some(format!("a second signal ({signal}) came")),
                () = &mut deadline => break Some(format!("{GRACE:?} had passed")),
            }
        };
        if let Some(why) = cut_short {
            let left: Vec<_> = self
                .running
                .iter()
                .map(|running| running.name.clone())
                .collect();
            self.signal(Signal::SIGKILL);
            while !self.is_empty() {
                self.next_end().await;
            }
            self.all_gone().await;
            bail!("{} had to be killed, because {why}", left.join(", "));
        }
        self.all_gone().await;
        if !bad.is_empty() {
            bail!("not everything stopped in good order: {}", bad.join(", "));
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn all_gone(&self) {
        for group in &self.ended {
            gone(*group).await;
        }
    }

    fn signal(&self, signal: Signal) {
        for running in &self.running {
            // An error says that it has ended just now.
            let _ = killpg(running.group, signal);
        }
    }
}

/// Waits until none of a group that was killed exists any more. Its id is not given to others while one of it does.
async fn gone(group: Pid) {
    // One that nobody reaps stays for ever; it does no harm.
    for _ in 0..100 {
        if killpg(group, None).is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const CLEAN: &str = "stopped";

fn how(status: std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) if status.success() => CLEAN.to_owned(),
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, Some(signal)) => {
                let name = Signal::try_from(signal).map(Signal::as_str);
                format!("was ended by {}", name.unwrap_or("a signal"))
            }
            (None, None) => format!("ended: {status}"),
        },
        Err(error) => format!("is lost: {error}"),
    }
}
