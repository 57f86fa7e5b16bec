//! The whole path, from an empty folder to an answer.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::user::{User, alone, target, with_methods};

/// A running `kit up`, stopped with all that it started when this is dropped.
struct Up(Child);

impl Up {
    /// Starts it and waits until its services are ready.
    fn start(user: &User, offset: u16, environment: &[(&str, &str)]) -> (Self, Vec<String>) {
        let mut kit = Command::new(env!("CARGO_BIN_EXE_kit"))
            .args(["up", "--port-offset", &offset.to_string()])
            .current_dir(user.folder())
            .env("CARGO_TARGET_DIR", target())
            .env("KIT_LOG__FORMAT", "json")
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(kit.stdout.take().unwrap()).lines();
        let up = Self(kit);
        let mut seen = Vec::new();
        loop {
            let line = lines
                .next()
                .unwrap_or_else(|| panic!("it ended: {seen:#?}"))
                .unwrap();
            let is_ready = line.starts_with("ready");
            seen.push(line);
            if is_ready {
                break;
            }
        }
        // Somebody has to read on, or it stops when the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        (up, seen)
    }

    /// Presses Ctrl-C.
    fn stop(mut self) {
        kill(self.pid(), Signal::SIGINT).unwrap();
        let status = self.0.wait().unwrap();
        assert!(status.success(), "{status}");
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().try_into().unwrap())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = kill(self.pid(), Signal::SIGTERM);
            let _ = self.0.wait();
        }
    }
}

/// What `curl -XPOST http://localhost:PORT/create -d '{"email": "test"}'` sends, and what comes back.
fn curl(port: u16) -> String {
    let body = r#"{"email": "test"}"#;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        stream,
        "POST /create HTTP/1.1\r\nhost: localhost:{port}\r\nuser-agent: curl/8\r\naccept: */*\r\nconnection: close\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// An offset at which the ports of the service are free.
pub(crate) fn free_offset() -> u16 {
    let start = u16::try_from(std::process::id() % 1000).unwrap();
    (0..1000)
        .map(|next| 11_000 + (start + next) % 1000 * 9)
        .find(|offset| {
            [8800, 9800]
                .iter()
                .all(|port| std::net::TcpListener::bind(("127.0.0.1", port + offset)).is_ok())
        })
        .unwrap()
}

#[test]
fn five_commands_lead_from_nothing_to_an_answer() {
    let _alone = alone();
    let user = User::in_an_empty_folder();

    let said = user.kit(&["new", "service", "users"]).succeeds();
    assert!(
        said.contains("kit generate service users"),
        "it says what comes next: {said}"
    );
    user.cargo(&["check", "--offline"]).succeeds();

    user.edit("services/users/src/api.rs", |text| {
        with_methods(
            text,
            "    async fn create(&self, ctx: Context, email: String) -> Result<(), Error>;\n",
        )
    });
    user.kit(&["generate", "service", "users"]).succeeds();

    // No warning, neither from the compiler nor from clippy, nothing to format, and a test that passes.
    user.cargo(&[
        "clippy",
        "--offline",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ])
    .succeeds();
    user.cargo(&["fmt", "--all", "--check"]).succeeds();
    let said = user.cargo(&["test", "--offline", "--workspace"]).succeeds();
    assert!(said.contains("1 passed"), "{said}");
    let lines: usize = [
        "Cargo.toml",
        "src/api.rs",
        "src/lib.rs",
        "src/main.rs",
        "src/app.rs",
        "src/users.rs",
    ]
    .iter()
    .map(|file| user.read(&format!("services/users/{file}")).lines().count())
    .sum();
    assert!(lines < 150, "{lines} lines to read");

    // It runs as it is, and says that its logic is missing.
    let offset = free_offset();
    let (up, _) = Up::start(&user, offset, &[]);
    let answer = curl(8800 + offset);
    assert!(answer.starts_with("HTTP/1.1 501 "), "{answer}");
    assert!(answer.contains("create is not written yet"), "{answer}");
    up.stop();

    // The logic of the tutorial, in the one place for it.
    user.edit("services/users/src/users.rs", |text| {
        let start = text.find("        // Here goes").unwrap();
        let end = start + text[start..].find("    }\n").unwrap();
        let logic = "        tracing::info!(email, \"created user\");\n        Ok(())\n";
        let text = format!("{}{logic}{}", &text[..start], &text[end..]);
        text.replace("ctx: Context", "_: Context")
            .replace("{Code, Context", "{Context")
    });
    user.cargo(&[
        "clippy",
        "--offline",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ])
    .succeeds();
    // The file that shows what can be configured is one that can be used, as it is and with every key.
    let every_key = |text: &str| {
        let line = |line: &str| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') => format!("{key}\n"),
            _ => format!("{line}\n"),
        };
        let text: String = text.lines().map(line).collect();
        // There is no agent here.
        let consul = "[discovery.consul]\naddress = \"http://127.0.0.1:8500\"\n";
        assert!(text.contains(consul), "{text}");
        text.replace(consul, "")
    };
    user.edit("services/users/config.toml", every_key);
    let config = user.path("services/users/config.toml");
    let (up, seen) = Up::start(&user, offset, &[("KIT_CONFIG", config.to_str().unwrap())]);
    assert!(
        seen.iter()
            .any(|line| line.contains(&format!("http://127.0.0.1:{}", 8800 + offset))),
        "{seen:#?}"
    );
    let answer = curl(8800 + offset);
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n{}"),
        "{answer}"
    );
    up.stop();
}

#[test]
fn whatever_is_generated_compiles_without_a_warning_and_grows_with_its_trait() {
    let _alone = alone();
    let create = "    async fn create(&self, ctx: Context, email: String) -> Result<(), Error>;\n";
    let user = User::with_service("users", create);
    user.kit(&["g", "s", "users"]).succeeds();
    user.kit(&["g", "m", "audit", "--service", "users"])
        .succeeds();
    user.kit(&["g", "m", "quota", "--service", "users", "--endpoint"])
        .succeeds();
    user.kit(&["g", "c", "users"]).succeeds();
    user.kit(&["g", "chaos", "users"]).succeeds();
    user.kit(&["g", "d"]).succeeds();
    user.kit(&["n", "s", "bug-reports"]).succeeds();
    user.edit("services/users/src/api.rs", |text| {
        let find = "    /// Finds some.\n    #[kit(idempotent)]\n    \
            async fn find(&self, _: Context, name: Option<String>, limit: u32) -> Result<Found, Error>;\n";
        let found = "\n/// What was found.\n#[derive(Debug, serde::Serialize, serde::Deserialize, kit::Message)]\n\
            pub struct Found {\n    /// How many.\n    pub count: u32,\n}\n";
        with_methods(text, find) + found
    });
    user.kit(&["g", "s", "users", "--dmw"]).succeeds();
    user.kit(&["g", "s", "bug-reports"]).succeeds();
    user.kit(&["g", "d"]).succeeds();
    user.kit(&["g", "d", "--check"]).succeeds();
    user.cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ])
    .succeeds();
    user.cargo(&["fmt", "--all", "--check"]).succeeds();
    let audit = user.read("services/users/src/audit.rs");
    assert!(
        audit.contains("self.inner.find(ctx, name, limit).await"),
        "{audit}"
    );
    let compose = user.read("docker-compose.yml");
    for port in [
        "${USERS_PORTS:-8800}:8800",
        "${BUG_REPORTS_PORTS:-8801}:8801",
    ] {
        assert!(compose.contains(port), "{compose}");
    }

    let proto = user.kit(&["g", "proto", "users"]).succeeds();
    assert!(
        proto.contains("  rpc Find(FindRequest) returns (Found) {\n"),
        "{proto}"
    );
    user.kit(&["g", "openapi", "users", "--output", "openapi.json"])
        .succeeds();
    assert!(user.read("openapi.json").contains("\"/find\""));
    user.kit(&["g", "openapi", "users", "--check", "openapi.json"])
        .succeeds();

    let offset = free_offset();
    let (up, _) = Up::start(&user, offset, &[]);
    let at = format!("localhost:{}", 8800 + offset);
    let client = |arguments: &[&str]| {
        let call = [
            "run",
            "--quiet",
            "--package",
            "users-client",
            "--",
            "--at",
            &at,
        ];
        user.cargo(&[&call, arguments].concat())
    };
    let said = client(&["find", "--limit", "3"]).fails();
    assert!(said.contains("find is not written yet"), "{said}");
    let said = client(&["find", "--limit", "many"]).fails();
    assert!(
        said.contains("400 Bad Request") && said.contains("limit"),
        "{said}"
    );
    up.stop();
}
