//! What can stand between a client and its Consul agent: a proxy that is slow, or broken.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::timeout,
};

/// What becomes of the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoil {
    /// They are passed on.
    Nothing,
    /// They are passed on so much later, or when this is over.
    Late(Duration),
    /// Something else comes in their place, each time another thing, of which none is what Consul would say.
    Garbage,
}

/// Passes requests on to an agent and spoils the answers. It ends with this.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    spoil: watch::Sender<Spoil>,
    task: AbortHandle,
}

impl Proxy {
    /// Listens in front of the agent at `http://host:port`; `seed` says which garbage comes.
    ///
    /// # Errors
    /// If it cannot listen.
    pub async fn start(agent: &str, seed: u64) -> Result<Self> {
        let agent = agent.strip_prefix("http://").context("over HTTP")?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (spoil, _) = watch::channel(Spoil::Nothing);
        let way = Arc::new(Way {
            agent: agent.to_owned(),
            spoil: spoil.clone(),
            chance: Mutex::new(StdRng::seed_from_u64(seed)),
        });
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let way = Arc::clone(&way);
                // Whoever is gone hears no answer, and where no agent is there is none.
                connections.spawn(async move { way.pass(stream).await.is_ok() });
            }
        });
        Ok(Self {
            address,
            spoil,
            task: task.abort_handle(),
        })
    }

    /// Where it answers, as `http://host:port`.
    pub fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Does this from now on, also to the answers that are awaited.
    pub fn spoil(&self, spoil: Spoil) {
        self.spoil.send_replace(spoil);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Way {
    agent: String,
    spoil: watch::Sender<Spoil>,
    chance: Mutex<StdRng>,
}

impl Way {
    /// One request, and the end of its connection.
    async fn pass(&self, mut stream: TcpStream) -> Result<()> {
        let request = read_request(&mut stream).await?;
        let mut agent = TcpStream::connect(&self.agent).await?;
        agent.write_all(&request).await?;
        let mut answer = Vec::new();
        let mut end = [0];
        tokio::select! {
            read = agent.read_to_end(&mut answer) => read?,
            // Who asked has gone away, so the agent need not wait either.
            _ = stream.read(&mut end) => return Ok(()),
        };
        let mut spoil = self.spoil.subscribe();
        let now = *spoil.borrow_and_update();
        match now {
            Spoil::Nothing => {}
            Spoil::Late(delay) => drop(timeout(delay, spoil.changed()).await),
            Spoil::Garbage => answer = self.garbage(&answer),
        }
        Ok(stream.write_all(&answer).await?)
    }

    /// Not what the agent said. An empty list is not among it: that would be an answer like any other.
    fn garbage(&self, answer: &[u8]) -> Vec<u8> {
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        let with = |status: &str, body: &str| {
            let length = body.len();
            let head = format!("HTTP/1.1 {status}\r\nX-Consul-Index: 1\r\nConnection: close\r\n");
            format!("{head}Content-Length: {length}\r\n\r\n{body}").into_bytes()
        };
        match chance.random_range(0..8) {
            0 => b"\0\x16\x03 what?\r\n\r\n".to_vec(),
            1 => Vec::new(),
            2 => with("200 OK", "<html><body>Please log in</body></html>"),
            3 => with("502 Bad Gateway", "<html><body>Sorry</body></html>"),
            4 => with("200 OK", "null"),
            5 => with("200 OK", r#"{"error": "not today"}"#),
            6 => with("200 OK", r#"[{"Node": 7, "Service": [], "Checks": "no"}]"#),
            _ => {
                // The head says more than comes.
                let mut some = answer.to_vec();
                some.truncate(some.len().saturating_sub(chance.random_range(1..=64)));
                some
            }
        }
    }
}

/// A request as it came, but for its version and that the connection ends with the answer, which then comes in one
/// piece.
async fn read_request(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut request = Vec::new();
    let head = loop {
        if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        anyhow::ensure!(stream.read_buf(&mut request).await? > 0, "it ended");
    };
    let text = String::from_utf8(request[..head].to_vec())?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse::<usize>().ok())?
    });
    while request.len() < head + length.unwrap_or(0) {
        anyhow::ensure!(stream.read_buf(&mut request).await? > 0, "it ended");
    }
    let text = text.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    let mut whole = text.into_bytes();
    whole.extend_from_slice(&request[head..]);
    Ok(whole)
}
