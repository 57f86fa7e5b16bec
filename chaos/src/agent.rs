//! A Consul agent of a scenario's own.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result};
use kit::discovery::{Consul, ConsulConfig};
use tokio::process::{Child, Command};

use crate::{eventually, metrics, ports};

/// A Consul agent in development mode: one server, everything in memory. It is killed when this is dropped.
#[derive(Debug)]
pub struct Agent {
    address: String,
    _process: Child,
}

impl Agent {
    /// Starts one and waits until it has a leader.
    ///
    /// # Errors
    /// If there is no Consul, or it does not come up.
    pub async fn start() -> Result<Self> {
        let [http, grpc, dns, server, serf] = std::array::from_fn(|_| ports::free().to_string());
        let program = binary()?;
        let process = Command::new(&program)
            .args([
                "agent",
                "-dev",
                "-bind=127.0.0.1",
                "-client=127.0.0.1",
                "-node=chaos",
            ])
            .args(["-http-port", &http, "-grpc-port", &grpc, "-dns-port", &dns])
            .args([
                "-server-port",
                &server,
                "-serf-lan-port",
                &serf,
                "-serf-wan-port=-1",
            ])
            .args(["-hcl", "disable_update_check = true", "-log-level=err"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} could not be started", program.display()))?;
        let address = format!("http://127.0.0.1:{http}");
        let leader = format!("{address}/v1/status/leader");
        eventually("Consul's leader", Duration::from_secs(30), async || {
            let leader = metrics::get(&leader).await.ok()?;
            leader.contains(':').then_some(())
        })
        .await?;
        Ok(Self {
            address,
            _process: process,
        })
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
