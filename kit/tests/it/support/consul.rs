//! A real Consul agent for a test: on loopback ports of its own, without data, ended with its handle.
//!
//! Whoever needs one elsewhere in the workspace includes this file with `#[path]`; it needs tokio only.

use std::{
    env,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

/// A Consul agent in development mode: one server that keeps everything in memory.
pub(crate) struct Agent {
    /// Of HTTP, gRPC, DNS, the server and Serf.
    ports: [u16; 5],
    config: String,
    /// Where it keeps what it knows; without it, it forgets all when it ends.
    data: Option<PathBuf>,
    child: Child,
}

impl Agent {
    /// Starts an agent and waits until it can be written to.
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// The same with more configuration, in HCL.
    pub(crate) async fn start_with(config: &str) -> Self {
        Self::launch(config, None).await
    }

    /// Starts an agent that finds in a folder what it knew when it was killed.
    pub(crate) async fn start_in(data: &Path) -> Self {
        Self::launch("performance { raft_multiplier = 1 }", Some(data)).await
    }

    async fn launch(config: &str, data: Option<&Path>) -> Self {
        // Somebody else may take a port between the look and the start.
        for _ in 0..3 {
            let ports = free_ports();
            let mut agent = Self {
                ports,
                config: config.to_owned(),
                data: data.map(Path::to_owned),
                child: spawn(ports, config, data),
            };
            if agent.is_ready().await {
                return agent;
            }
        }
        panic!("{} did not start", binary().display());
    }

    /// Where its HTTP API is.
    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.http())
    }

    /// Where it answers questions for names.
    #[allow(dead_code, reason = "only who asks for names needs it")]
    pub(crate) fn dns(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[2]).into()
    }

    fn http(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[0]).into()
    }

    /// Ends it with SIGKILL.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Ends it with SIGTERM, and waits until it has ended.
    pub(crate) async fn terminate(&mut self) {
        let pid = self.child.id().unwrap().to_string();
        let kill = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(kill.await.unwrap().success());
        self.child.wait().await.unwrap();
    }

    /// Starts it again at the same address, without what it knew unless that was kept.
    pub(crate) async fn start_again(&mut self) {
        // While it was down a connection may have gone out from one of its ports.
        for _ in 0..10 {
            self.child = spawn(self.ports, &self.config, self.data.as_deref());
            if self.is_ready().await {
                return;
            }
            sleep(Duration::from_millis(500)).await;
        }
        panic!("the agent did not start again");
    }

    /// The body of `GET path`.
    pub(crate) async fn get(&self, path: &str) -> std::io::Result<String> {
        self.send("GET", path, "", "").await
    }

    /// The body of the answer to `PUT path`, without a body.
    pub(crate) async fn put(&self, path: &str) -> std::io::Result<String> {
        self.put_with(path, "").await
    }

    /// The body of the answer to `PUT path` with `body`.
    pub(crate) async fn put_with(&self, path: &str, body: &str) -> std::io::Result<String> {
        self.send("PUT", path, "", body).await
    }

    /// The body of the answer to a request with headers, each with its end of line, and a body.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.http()).await?;
        // Version 1.0, so that the body ends with the connection.
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: consul\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await?;
        let body = response.split_once("\r\n\r\n").map(|(_, body)| body);
        Ok(body.unwrap_or_default().trim().to_owned())
    }

    /// Waits until there is a leader; false if it ended or took too long.
    async fn is_ready(&mut self) -> bool {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(20) {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            let leader = timeout(Duration::from_secs(1), self.get("/v1/status/leader")).await;
            // An address in quotes; without a leader, an empty text in quotes.
            if let Ok(Ok(leader)) = leader
                && leader.starts_with('"')
                && leader.len() > 2
            {
                return true;
            }
            sleep(Duration::from_millis(50)).await;
        }
        false
    }
}

fn spawn(ports: [u16; 5], config: &str, data: Option<&Path>) -> Child {
    let [http, grpc, dns, server, serf] = ports.map(|port| port.to_string());
    let mut command = Command::new(binary());
    command.arg("agent");
    match data {
        None => command.arg("-dev"),
        Some(data) => command
            .args(["-server", "-bootstrap-expect", "1", "-data-dir"])
            .arg(data),
    };
    command
        .args(["-node", "n1", "-log-level", "err"])
        .args(["-bind", "127.0.0.1", "-client", "127.0.0.1"])
        .args(["-http-port", &http, "-grpc-port", &grpc, "-dns-port", &dns])
        .args(["-server-port", &server, "-serf-lan-port", &serf])
        .args(["-serf-wan-port", "-1"])
        .args(["-hcl", &format!("disable_update_check = true\n{config}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// `CONSUL_BIN`, or what `cargo xtask test` has got.
pub(crate) fn binary() -> PathBuf {
    let found = env::var_os("CONSUL_BIN").map_or_else(
        || {
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .ancestors()
                .map(|dir| dir.join("target/tools/consul/usr/bin/consul"))
                .find(|path| path.is_file())
        },
        |path| Some(path.into()),
    );
    found
        .expect("this test needs a real Consul: `cargo xtask test` gets it, or CONSUL_BIN names it")
}

/// Ports at which nobody listens.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    // All are held until all are known, so that they differ.
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}
