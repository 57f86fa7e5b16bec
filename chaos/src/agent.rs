//! A Consul agent of a scenario's own, which can be hurt.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Response};
use kit::discovery::{Consul, ConsulConfig};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{Addresses, ask, eventually, ports};

/// How long an agent may take until there is a leader.
const LEADER_WITHIN: Duration = Duration::from_secs(60);

/// A Consul agent that is a server too. It is killed when this is dropped.
#[derive(Debug)]
pub struct Agent {
    program: PathBuf,
    arguments: Vec<String>,
    address: String,
    token: Option<String>,
    process: Option<Child>,
    /// Where it keeps what it knows, if it does.
    _data: Option<TempDir>,
}

/// Where an agent listens: the same ports at each address of a cluster.
#[derive(Clone, Copy, Debug)]
struct Place {
    ip: &'static str,
    /// Of HTTP, gRPC, DNS, the server and Serf.
    ports: [u16; 5],
}

impl Place {
    fn on(ip: &'static str) -> Self {
        Self {
            ip,
            ports: std::array::from_fn(|_| ports::free()),
        }
    }

    fn serf(&self) -> String {
        format!("{}:{}", self.ip, self.ports[4])
    }

    /// An agent of this name here, with more configuration in HCL, that is not started yet.
    fn agent(self, name: &str, hcl: &str, data: Option<TempDir>) -> Result<Agent> {
        let [http, grpc, dns, server, serf] = self.ports.map(|port| port.to_string());
        let mut arguments = vec!["agent".to_owned()];
        match &data {
            None => arguments.push("-dev".to_owned()),
            Some(data) => {
                arguments.extend(["-server", "-data-dir"].map(str::to_owned));
                arguments.push(data.path().display().to_string());
            }
        }
        let hcl = format!("disable_update_check = true\n{hcl}");
        let named = [
            ("-node", name),
            ("-bind", self.ip),
            ("-client", self.ip),
            ("-http-port", &http),
            ("-grpc-port", &grpc),
            ("-dns-port", &dns),
            ("-server-port", &server),
            ("-serf-lan-port", &serf),
            ("-serf-wan-port", "-1"),
            ("-log-level", "err"),
            ("-hcl", &hcl),
        ];
        arguments.extend(named.map(|(name, value)| format!("{name}={value}")));
        Ok(Agent {
            program: binary()?,
            arguments,
            address: format!("http://{}:{http}", self.ip),
            token: None,
            process: None,
            _data: data,
        })
    }
}

impl Agent {
    /// Starts one in development mode, which keeps everything in memory, and waits until it has a leader.
    ///
    /// # Errors
    /// If there is no Consul, or it does not come up.
    pub async fn start() -> Result<Self> {
        Self::start_with("").await
    }

    /// The same with more configuration, in HCL.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with(hcl: &str) -> Result<Self> {
        let mut agent = Place::on("127.0.0.1").agent("chaos", hcl, None)?;
        agent.restart().await?;
        Ok(agent)
    }

    /// Starts one that knows after a restart what it knew before.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_keeping() -> Result<Self> {
        let hcl = "bootstrap_expect = 1\nperformance { raft_multiplier = 1 }";
        let data = tempfile::tempdir()?;
        let mut agent = Place::on("127.0.0.1").agent("chaos", hcl, Some(data))?;
        agent.restart().await?;
        Ok(agent)
    }

    /// Starts three servers of one cluster, at addresses of their own, that know after a restart what they knew before.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_three() -> Result<[Self; 3]> {
        let first = Place::on("127.0.0.11");
        let places = ["127.0.0.11", "127.0.0.12", "127.0.0.13"].map(|ip| Place { ip, ..first });
        let all: Vec<_> = places
            .iter()
            .map(|place| format!("{:?}", place.serf()))
            .collect();
        let hcl = format!(
            "bootstrap_expect = 3\nretry_join = [{}]\nretry_interval = \"1s\"\nperformance {{ raft_multiplier = 1 }}",
            all.join(", ")
        );
        let mut agents = Vec::new();
        for (number, place) in (1..).zip(places) {
            let data = tempfile::tempdir()?;
            agents.push(place.agent(&format!("server-{number}"), &hcl, Some(data))?);
        }
        let mut agents: [Self; 3] = agents.try_into().map_err(|_| anyhow::anyhow!("three"))?;
        for agent in &mut agents {
            agent.launch()?;
        }
        for agent in &agents {
            agent.has_leader().await?;
        }
        Ok(agents)
    }

    /// Uses this token for whatever the harness asks from now on.
    pub fn with_token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// Where it answers, as `http://host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A client of it.
    ///
    /// # Errors
    /// None that a scenario could mend.
    pub fn discovery(&self) -> Result<Consul> {
        let config = ConsulConfig {
            address: self.address.parse()?,
            ..ConsulConfig::default()
        };
        Ok(Consul::new(config, kit::event::nobody())?)
    }

    /// Starts it without waiting for anything.
    ///
    /// # Errors
    /// If it runs, or cannot be started.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{} runs already", self.address);
        let process = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} could not be started", self.program.display()))?;
        self.process = Some(process);
        Ok(())
    }

    /// Starts it, at the same address, and waits until it has a leader.
    ///
    /// # Errors
    /// If it runs, or does not come up.
    pub async fn restart(&mut self) -> Result<()> {
        self.launch()?;
        self.has_leader().await
    }

    /// Waits until it knows of a leader.
    ///
    /// # Errors
    /// If that takes too long.
    pub async fn has_leader(&self) -> Result<()> {
        let what = format!("{} has a leader", self.address);
        eventually(&what, LEADER_WITHIN, async || {
            let leader = self.get("/v1/status/leader").await.ok()?;
            leader.contains(&b':').then_some(())
        })
        .await
    }

    /// Whether it is the leader of its cluster.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn leads(&self) -> Result<bool> {
        let leader = self.get("/v1/status/leader").await?;
        let own = self.address.parse::<http::Uri>()?;
        let host = own.host().context("it has one")?;
        Ok(String::from_utf8_lossy(&leader).contains(&format!("\"{host}:")))
    }

    /// Ends it at once (SIGKILL). Waits until it is gone.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("it does not run")?;
        Ok(process.kill().await?)
    }

    /// What it answers to `GET path`.
    ///
    /// # Errors
    /// If it does not, or not with success.
    pub async fn get(&self, path: &str) -> Result<Bytes> {
        let answer = self.send(Method::GET, path, Bytes::new()).await?;
        Ok(answer.into_body())
    }

    /// What it answers to `PUT path` with this body.
    ///
    /// # Errors
    /// If it does not, or not with success.
    pub async fn put(&self, path: &str, body: impl Into<Bytes>) -> Result<Bytes> {
        let answer = self.send(Method::PUT, path, body.into()).await?;
        Ok(answer.into_body())
    }

    /// The index of the instances of a service: what a question for changes of them would be asked with.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn index(&self, service: &str) -> Result<u64> {
        let path = format!("/v1/health/service/{service}");
        let answer = self.send(Method::GET, &path, Bytes::new()).await?;
        let index = answer.headers().get("x-consul-index");
        Ok(index.context("it has an index")?.to_str()?.parse()?)
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Bytes>> {
        let url = format!("{}{path}", self.address);
        ask::send(method, &url, self.token.as_deref(), body).await
    }

    /// The truth: where the instances of a service are whose checks pass, as Consul itself says without any wait or
    /// cache. An agent that is a server asks the leader.
    ///
    /// # Errors
    /// If it does not answer, or has no leader.
    pub async fn passing(&self, service: &str) -> Result<Addresses> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Entry {
            service: Service,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Service {
            address: String,
            port: u16,
        }
        let path = format!("/v1/health/service/{service}?passing");
        let entries: Vec<Entry> = serde_json::from_slice(&self.get(&path).await?)?;
        let addresses = entries.into_iter().map(|entry| {
            let Service { address, port } = entry.service;
            format!("{address}:{port}")
        });
        Ok(addresses.collect())
    }
}

/// `CONSUL_BIN`, or what `cargo xtask tools` has got, or the one in `PATH`.
fn binary() -> Result<PathBuf> {
    if let Some(named) = env::var_os("CONSUL_BIN") {
        return Ok(named.into());
    }
    let got = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/consul/usr/bin/consul");
    if got.is_file() {
        return Ok(got);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|directory| directory.join("consul"))
        .find(|file| file.is_file())
        .context("there is no Consul here: run `cargo xtask tools`, or set CONSUL_BIN")
}
