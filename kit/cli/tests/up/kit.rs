//! Starting `kit up` in a workspace and listening to what it says.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

/// Longer than anything here takes, a cold build included.
const PATIENCE: Duration = Duration::from_secs(600);

/// A running `kit up`.
pub(crate) struct Kit {
    process: Child,
    lines: Receiver<String>,
    /// All lines of its standard output that were read so far.
    pub(crate) seen: Vec<String>,
    /// All of its standard error, once it has ended.
    errors: Receiver<String>,
}

impl Kit {
    /// Starts `kit up` in `workspace`.
    pub(crate) fn up(workspace: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_kit"))
            .arg("up")
            .args(arguments)
            .current_dir(workspace)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        // Of no room: while the test waits for no line, nobody reads.
        let (sender, lines) = sync_channel(0);
        let stdout = BufReader::new(process.stdout.take().unwrap());
        thread::spawn(move || {
            for line in stdout.lines() {
                let _ = sender.send(line.unwrap());
            }
        });
        let mut stderr = process.stderr.take().unwrap();
        let (all, errors) = sync_channel(1);
        thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            let _ = all.send(text);
        });
        Self {
            process,
            lines,
            seen: Vec::new(),
            errors,
        }
    }

    /// Waits for a line that begins so.
    pub(crate) fn wait_for(&mut self, beginning: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.starts_with(beginning) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    panic!("no {beginning:?} in {PATIENCE:?}: {:#?}", self.seen)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let seen = std::mem::take(&mut self.seen);
                    panic!("no {beginning:?}: {seen:#?}\n{}", self.errors());
                }
            }
        }
    }

    /// Sends a signal to `kit` alone.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Waits for the end; what it printed is in `seen`.
    pub(crate) fn end(&mut self) -> (ExitStatus, String) {
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.seen.push(line);
        }
        let status = self.process.wait().unwrap();
        (status, self.errors())
    }

    /// Waits for the end, and reads nothing more of what it prints.
    pub(crate) fn end_unread(&mut self) -> ExitStatus {
        self.errors();
        self.process.wait().unwrap()
    }

    fn errors(&mut self) -> String {
        self.errors.recv_timeout(PATIENCE).unwrap()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.process.id()).unwrap())
    }
}

impl Drop for Kit {
    /// A test that fails leaves nothing running either: killing `kit` ends its services.
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            let _ = killpg(self.pid(), Signal::SIGKILL);
            let _ = self.process.wait();
        }
    }
}

/// Something to add to `ports` so that all of them are free.
pub(crate) fn free_offset(ports: &[u16]) -> u16 {
    let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    // Each test process begins elsewhere, and ports for outgoing connections begin at 32768.
    let begin = u16::try_from(std::process::id() % 1500).unwrap();
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    loop {
        let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let offset = (begin + next * 97) % 1500 * 10 + 3;
        if ports.iter().all(|port| free(port + offset)) {
            return offset;
        }
    }
}

/// Whether a process of this id exists and is more than the memory of a dead one.
pub(crate) fn runs(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "))
}
