//! An instance that does as it is told: the sick one of a set.

use std::{collections::BTreeMap, fmt, path::Path, process::Stdio};

use anyhow::{Context, Result, ensure};
use http::uri::Authority;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::ports;

/// What can be wrong with an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// It answers 500 at once.
    FailsFast,
    /// It takes 20 times as long as it should.
    Slow,
    /// Its process is stopped (SIGSTOP): connections are accepted, by the kernel, and nothing answers.
    Hangs,
    /// Nobody listens, and the connections that there were are reset.
    Refuses,
    /// It sends the head of its answer and half of the body, and resets the connection.
    Resets,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::FailsFast,
        Self::Slow,
        Self::Hangs,
        Self::Refuses,
        Self::Resets,
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FailsFast => "fails fast",
            Self::Slow => "slow by 20x",
            Self::Hangs => "hangs",
            Self::Refuses => "refuses connections",
            Self::Resets => "resets mid-body",
        })
    }
}

/// What a peer is told over its standard input, one JSON text a line. It answers each with a line, [`Served`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Only say what was served.
    Tell,
    /// Be well, from now on.
    BeWell,
    /// Have this fault, from now on.
    Have(Fault),
}

/// The requests that came to a peer since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// How many.
    pub requests: u64,
    /// How many of them said that they were not the first attempt.
    pub retries: u64,
    /// How often each call came that named itself ([`CALL`]).
    pub calls: BTreeMap<u64, u32>,
}

/// The header with a call's number, by which a peer knows one that comes twice.
pub const CALL: &str = "chaos-call";

/// A process that answers HTTP, `chaos peer`, and can be given a [`Fault`] while it runs. It ends with this.
#[derive(Debug)]
pub struct Peer {
    address: Authority,
    process: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    fault: Option<Fault>,
}

impl Peer {
    /// Starts one, well, and waits until it listens. `program` is this crate's.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start(program: &Path) -> Result<Self> {
        let port = ports::free();
        let mut process = Command::new(program)
            .args(["peer", &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} could not be started", program.display()))?;
        let orders = process.stdin.take().context("it is piped")?;
        let answers = process.stdout.take().context("it is piped")?;
        let mut peer = Self {
            address: format!("127.0.0.1:{port}").parse()?,
            process,
            orders,
            answers: BufReader::new(answers).lines(),
            fault: None,
        };
        peer.served().await?;
        Ok(peer)
    }

    /// Three, which is what a sick one among others needs.
    ///
    /// # Errors
    /// If one does not come up.
    pub async fn three(program: &Path) -> Result<[Self; 3]> {
        Ok([
            Self::start(program).await?,
            Self::start(program).await?,
            Self::start(program).await?,
        ])
    }

    /// Where it listens, or would.
    pub fn address(&self) -> &Authority {
        &self.address
    }

    /// Gives it a fault, in place of the one that it had, and returns when it has it.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn hurt(&mut self, fault: Fault) -> Result<()> {
        self.heal().await?;
        match fault {
            Fault::Hangs => self.signal(Signal::SIGSTOP)?,
            fault => drop(self.order(Order::Have(fault)).await?),
        }
        self.fault = Some(fault);
        Ok(())
    }

    /// Makes it well, and returns when it is.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn heal(&mut self) -> Result<()> {
        match self.fault.take() {
            Some(Fault::Hangs) => self.signal(Signal::SIGCONT),
            Some(_) => self.order(Order::BeWell).await.map(drop),
            None => Ok(()),
        }
    }

    /// What came to it, by its own count.
    ///
    /// # Errors
    /// If it does not run, or hangs.
    pub async fn served(&mut self) -> Result<Served> {
        self.order(Order::Tell).await
    }

    async fn order(&mut self, order: Order) -> Result<Served> {
        ensure!(self.fault != Some(Fault::Hangs), "it can say nothing now");
        let mut line = serde_json::to_string(&order)?;
        line.push('\n');
        self.orders.write_all(line.as_bytes()).await?;
        let answer = self.answers.next_line().await?;
        let answer = answer.with_context(|| format!("the peer {} ended", self.address))?;
        Ok(serde_json::from_str(&answer)?)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.process.id().context("it does not run")?;
        Ok(kill(Pid::from_raw(i32::try_from(id)?), signal)?)
    }
}
