//! A service as a process of its own.

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use serde_json::Value;

use super::instance::client_of;
use crate::client::Client;

/// A running program that was made with the kit, and its log. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    command: Command,
    child: Child,
    log: Receiver<String>,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Process {
    /// Starts it on free ports of the loopback interface, with nobody to be waited for when draining, and waits until
    /// it listens. Blocks.
    ///
    /// # Panics
    /// If it ends before.
    pub fn start(mut command: Command) -> Self {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        command
            .env("KIT_SERVER__DRAIN__WATCHERS", "0s")
            .env("KIT_LOG__FORMAT", "json")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let (child, log) = spawn(&mut command, anywhere, anywhere);
        let mut process = Self {
            command,
            child,
            log,
            address: anywhere,
            admin: anywhere,
        };
        process.listens();
        process
    }

    /// Starts it again where it was, once it has ended, and waits until it listens. Blocks.
    ///
    /// # Panics
    /// If it ends before.
    pub fn start_again(&mut self) {
        (self.child, self.log) = spawn(&mut self.command, self.address, self.admin);
        self.listens();
    }

    fn listens(&mut self) {
        let line = self.logged("listening");
        let address = |key: &str| line[key].as_str().and_then(|text| text.parse().ok());
        self.address = address("address").expect("it says where it listens");
        self.admin = address("admin_address").expect("it says where its admin port is");
    }

    /// The next line of its log with this message. Blocks until it is there.
    ///
    /// # Panics
    /// If it ends before.
    pub fn logged(&mut self, message: &str) -> Value {
        loop {
            let Ok(line) = self.log.recv() else {
                panic!("it ended before it said {message:?}");
            };
            let line: Value = serde_json::from_str(&line).expect("its log is JSON");
            if line["message"] == message {
                return line;
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The assembled client, as it comes, of this process alone.
    pub fn client(&self) -> Client {
        client_of(self.address)
    }

    /// Ends it as no destructor expects it, by SIGKILL, and waits until it has ended.
    pub fn kill(&mut self) {
        // An error says that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends it a signal, such as `TERM`, `STOP` or `CONT`.
    ///
    /// # Panics
    /// If it has ended.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.is_ok_and(|status| status.success()), "{name} to {id}");
    }

    /// Waits until it has ended. Blocks.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("it is a child of this process")
    }
}

/// The log is read to its end: a program whose log nobody reads stops when the pipe is full.
fn spawn(
    command: &mut Command,
    address: SocketAddr,
    admin: SocketAddr,
) -> (Child, Receiver<String>) {
    let mut child = command
        .env("KIT_SERVER__LISTEN", address.to_string())
        .env("KIT_SERVER__ADMIN", admin.to_string())
        .spawn()
        .expect("the program can be started");
    let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
    let (lines, log) = channel();
    thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            // Nobody listens any more when it is started again.
            let _ = lines.send(line);
        }
    });
    (child, log)
}
