//! `docs/tutorial.md`, done as it is written: its commands typed, its files saved, what it shows compared with what
//! comes.
//!
//! The info string of a block says what it is: `sh` is typed (`background`: it runs until it is interrupted;
//! `docker`: only where Docker is to be tried, see [`docker`]), `rust PATH` is saved, `text` is
//! what the command before it prints, where `...` stands for anything. Ports are moved out of the way of whatever runs
//! on this machine; nothing else is changed.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    newcomer::free_offset,
    user::{User, alone, target},
};

const TUTORIAL: &str = include_str!("../../../../docs/tutorial.md");
/// Moved where a command calls them.
const PORTS: [u16; 2] = [8800, 9800];

#[test]
fn every_command_of_the_tutorial_does_what_it_says() {
    let _alone = alone();
    let mut reader = Reader {
        user: User::in_an_empty_folder(),
        offset: free_offset(),
        background: None,
    };
    let mut said = None;
    for (info, text) in blocks(TUTORIAL) {
        match *info.as_slice() {
            ["sh", ref how @ ..] => {
                said = reader.types(&text, how);
                if said.is_none() {
                    println!("NOT TESTED, for it takes Docker: {text}");
                }
            }
            ["rust", path] => fs::write(reader.user.path(path), text).unwrap(),
            ["text"] => {
                let text = reader.moved(&text);
                let expected: Vec<_> = text.lines().collect();
                if let Some(said) = &said {
                    let said: Vec<_> = said.iter().map(String::as_str).collect();
                    assert!(
                        shows(&expected, &said),
                        "the tutorial shows\n{text}\nand what came is\n{}",
                        said.join("\n")
                    );
                }
            }
            _ => panic!("nobody knows what to do with a block of {info:?}"),
        }
    }
    let user = &reader.user;
    let clippy = ["clippy", "--workspace", "--all-targets", "--"];
    user.cargo(&[&clippy[..], &["-D", "warnings"]].concat())
        .succeeds();
}

/// Whether containers are to be started. `cargo xtask compose-test` says so, and brings the images.
fn docker() -> bool {
    env::var_os("TUTORIAL_WITH_DOCKER").is_some()
}

/// The info strings of the blocks, in words, and their texts.
fn blocks(markdown: &str) -> Vec<(Vec<&str>, String)> {
    let mut blocks = Vec::new();
    let mut lines = markdown.lines();
    while let Some(line) = lines.next() {
        if let Some(info) = line.strip_prefix("```") {
            let text = lines.by_ref().take_while(|line| *line != "```");
            let text: String = text.map(|line| format!("{line}\n")).collect();
            blocks.push((info.split(' ').collect(), text));
        }
    }
    blocks
}

/// Who goes through the tutorial.
struct Reader {
    user: User,
    offset: u16,
    background: Option<Background>,
}

impl Reader {
    /// The text with other ports.
    fn moved(&self, text: &str) -> String {
        let text = text.replace(
            "kit up\n",
            &format!("kit up --port-offset {}\n", self.offset),
        );
        PORTS.iter().fold(text, |text, port| {
            text.replace(
                &format!("localhost:{port}"),
                &format!("localhost:{}", port + self.offset),
            )
        })
    }

    /// Types commands and returns what they print; nothing if they are not to be typed here.
    fn types(&mut self, text: &str, how: &[&str]) -> Option<Vec<String>> {
        if how.contains(&"docker") {
            self.background = None;
            if !docker() {
                return None;
            }
        }
        let text = self.moved(text);
        if how.contains(&"background") {
            let background = Background::start(self.shell(&format!("exec {text}")));
            let lines = background.until_ready();
            self.background = Some(background);
            return Some(lines);
        }
        let output = self.shell(&text).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{text}: {output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        Some(said.lines().map(str::to_owned).collect())
    }

    fn shell(&self, text: &str) -> Command {
        let tools = Path::new(env!("CARGO_TARGET_TMPDIR")).join("installed");
        // The first command is typed in a clone of the toolkit, all others in the folder of the new services.
        let is_first = text.starts_with("cargo install");
        let mut shell = Command::new("sh");
        shell
            .args(["-e", "-c", text])
            .current_dir(match is_first {
                true => Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."),
                false => self.user.folder().to_owned(),
            })
            .env("CARGO_TARGET_DIR", target())
            .env_remove("RUSTFLAGS")
            // It is tried, not measured.
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
            .env("CARGO_INSTALL_ROOT", &tools)
            .env("PATH", search_path(&tools.join("bin")))
            // What docker-compose.yml reads.
            .env("COMPOSE_PROJECT_NAME", "kit-tutorial-test")
            .env("COMPOSE_DOCKER_CLI_BUILD", "0")
            .env("PROFILE", "dev");
        for (name, port) in [
            ("USERS_PORTS", 8800),
            ("USERS_ADMIN_PORTS", 9800),
            ("CONSUL_PORT", 8500),
            ("PROMETHEUS_PORT", 9090),
        ] {
            shell.env(name, (port + self.offset).to_string());
        }
        shell
    }
}

fn search_path(first: &Path) -> std::ffi::OsString {
    let others = env::var_os("PATH").unwrap_or_default();
    let all = [first.to_owned()]
        .into_iter()
        .chain(env::split_paths(&others));
    env::join_paths(all).unwrap()
}

impl Drop for Reader {
    fn drop(&mut self) {
        if docker() {
            // Nothing if all went well.
            let _ = self.shell("docker-compose down --volumes").output();
        }
    }
}

/// What runs in the other terminal, until it is interrupted.
struct Background {
    child: Child,
    lines: Receiver<String>,
}

impl Background {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        // Read to the end, or it would stop when the pipe is full.
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    fn until_ready(&self) -> Vec<String> {
        let mut seen: Vec<String> = Vec::new();
        while !seen.last().is_some_and(|line| line.starts_with("ready")) {
            seen.push(
                self.lines
                    .recv()
                    .unwrap_or_else(|_| panic!("it ended: {seen:#?}")),
            );
        }
        seen
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        let _ = kill(pid, Signal::SIGINT);
        let _ = self.child.wait();
    }
}

/// Whether lines are what a block shows: `...` in a line of its own stands for any lines, within one for anything.
fn shows(expected: &[&str], said: &[&str]) -> bool {
    match expected {
        [] => said.is_empty(),
        ["...", rest @ ..] => (0..=said.len()).any(|skipped| shows(rest, &said[skipped..])),
        [line, rest @ ..] => said
            .split_first()
            .is_some_and(|(first, others)| shows_line(line, first) && shows(rest, others)),
    }
}

fn shows_line(expected: &str, said: &str) -> bool {
    let mut parts = expected.split("...");
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = said.strip_prefix(first) else {
        return false;
    };
    let mut is_open = false;
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
        is_open = part.is_empty();
    }
    is_open || rest.is_empty()
}

#[test]
fn what_is_shown_is_compared_line_by_line() {
    for (expected, said, is_shown) in [
        ("a\nb", "a\nb", true),
        ("a", "a\nb", false),
        ("a\n...", "a\nb\nc", true),
        ("...\nc\n...", "a\nb", false),
        ("...\nc\n...", "a\nc", true),
        ("a...c", "abc", true),
        ("a...c", "abcd", false),
        ("...b...", "abc", true),
        ("...d...", "abc", false),
    ] {
        let lines = |text: &'static str| text.lines().collect::<Vec<_>>();
        assert_eq!(
            shows(&lines(expected), &lines(said)),
            is_shown,
            "{expected:?} and {said:?}"
        );
    }
}
