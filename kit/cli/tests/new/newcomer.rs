//! The whole path, from an empty folder to an answer.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::user::{Ran, User, alone, target, with_methods};

/// A running `kit up`, stopped with all that it started when this is dropped.
struct Up(Child);

impl Up {
    /// Starts it and waits until its services are ready.
    fn start(user: &User, offset: u16, environment: &[(&str, &str)]) -> (Self, Vec<String>) {
        Self::start_with(user, offset, &[], environment)
    }

    fn start_with(
        user: &User,
        offset: u16,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> (Self, Vec<String>) {
        let mut kit = Command::new(env!("CARGO_BIN_EXE_kit"))
            .args(["up", "--port-offset", &offset.to_string()])
            .args(arguments)
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

/// What `curl -XPOST http://localhost:PORT/create -d '{"email": "test"}'` prints, with the head of the answer.
fn created(port: u16) -> String {
    let url = format!("http://localhost:{port}/create");
    curl(&["--include", "-XPOST", &url, "-d", r#"{"email": "test"}"#])
}

fn curl(arguments: &[&str]) -> String {
    let output = Command::new("curl")
        .args(["--silent", "--show-error"])
        .args(arguments)
        .output()
        .expect("curl is needed");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
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
    // All that a person may have to read, but for blank lines.
    let files = user.files();
    let files = files
        .iter()
        .filter(|(path, _)| path.starts_with(user.path("services")));
    let texts: Vec<_> = files.map(|(_, text)| text).collect();
    assert_eq!(texts.len(), 8);
    let lines = texts.iter().flat_map(|text| text.lines());
    let lines = lines.filter(|line| !line.trim().is_empty()).count();
    assert!(lines < 150, "{lines} lines to read");

    // It runs as it is, and says that its logic is missing.
    let offset = free_offset();
    let (up, seen) = Up::start(&user, offset, &[]);
    let port = 8800 + offset;
    let try_this =
        format!("curl -XPOST http://localhost:{port}/create -d '{{\"email\": \"test\"}}'");
    assert!(
        seen.iter().any(|line| line.contains(&try_this)),
        "{try_this} is not in {seen:#?}"
    );
    let answer = created(port);
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
        // There is no agent here, and what is followed is followed there.
        let agent = "consul = { address = \"http://127.0.0.1:8500\" }\npolicies = \"kit\"\n";
        assert!(text.contains(agent), "{text}");
        text.replace(agent, "")
    };
    user.edit("services/users/config.toml", every_key);
    let config = user.path("services/users/config.toml");
    let (up, seen) = Up::start(&user, offset, &[("KIT_CONFIG", config.to_str().unwrap())]);
    assert!(
        seen.iter()
            .any(|line| line.contains(&format!("http://127.0.0.1:{}", 8800 + offset))),
        "{seen:#?}"
    );
    let answer = created(8800 + offset);
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
    user.kit(&["g", "c", "users"]).succeeds();
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
    let said = client(&user, "users", offset, &["find", "--limit", "3"]).fails();
    assert!(said.contains("find is not written yet"), "{said}");
    let said = client(&user, "users", offset, &["find", "--limit", "many"]).fails();
    assert!(said.contains("--limit") && said.contains("u32"), "{said}");
    up.stop();
}

/// What `cargo run --package NAME-client -- --at localhost:PORT ...` does.
fn client(user: &User, name: &str, offset: u16, arguments: &[&str]) -> Ran {
    let package = format!("{name}-client");
    let at = format!("localhost:{}", 8800 + offset);
    let run = ["run", "--quiet", "--package", &package, "--", "--at", &at];
    user.cargo(&[&run, arguments].concat())
}

/// Methods of every kind: with a route, with bytes, with a stream, and with names that mean something to clap.
const EVERY_KIND: &str = r#"    /// Who asks.
    #[kit(auth = "notes:secret")]
    async fn whoami(
        &self,
        ctx: Context,
        #[kit(max_length = 3)] prefix: Option<String>,
    ) -> Result<String, Error>;

    /// Stores a note.
    async fn put(&self, ctx: Context, help: String, content: Vec<u8>) -> Result<Note, Error>;

    /// Finds a note.
    #[kit(idempotent, route(GET, "/notes/{id}"))]
    async fn get(&self, _: Context, id: i32, verbose: Option<bool>) -> Result<Note, Error>;

    /// All notes from one on.
    async fn watch(
        &self,
        ctx: Context,
        first: u32,
    ) -> Result<impl Stream<Item = Result<Note, Error>>, Error>;

    /// Does nothing.
    async fn help(&self, ctx: Context) -> Result<(), Error>;
"#;
const NOTE: &str = r#"
/// What travels.
#[derive(Debug, serde::Serialize, serde::Deserialize, kit::Message)]
pub struct Note {
    /// Which one.
    pub id: i32,
    /// What stands there.
    pub content: Vec<u8>,
}
"#;
/// Their logic; the stream has a type of its own.
const LOGIC: &str = r#"//! What log-2 does.

use std::{
    pin::Pin,
    task::{Context as Task, Poll},
};

use kit::{Code, Context, Error, Stream};

use crate::api::{Log2, Note};

/// Answers calls.
#[derive(Clone, Debug, Default)]
pub struct Handler;

/// Counts to three, then fails.
#[derive(Debug)]
pub struct Notes(u32);

impl Stream for Notes {
    type Item = Result<Note, Error>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Task<'_>) -> Poll<Option<Self::Item>> {
        self.0 += 1;
        let next = match self.0 {
            4 => Err(Error::new(Code::DataLoss, "the fourth is lost")),
            id => note(id.try_into().unwrap_or_default(), Vec::new()),
        };
        Poll::Ready(Some(next))
    }
}

fn note(id: i32, content: Vec<u8>) -> Result<Note, Error> {
    Ok(Note { id, content })
}

impl Log2 for Handler {
    async fn put(&self, _: Context, help: String, content: Vec<u8>) -> Result<Note, Error> {
        note(help.len().try_into().unwrap_or_default(), content)
    }

    async fn get(&self, _: Context, id: i32, verbose: Option<bool>) -> Result<Note, Error> {
        match verbose {
            Some(true) => Err(Error::invalid("verbose", "is too much")),
            _ => note(id, Vec::new()),
        }
    }

    #[allow(refining_impl_trait, reason = "it is named")]
    async fn watch(&self, _: Context, first: u32) -> Result<Notes, Error> {
        Ok(Notes(first - 1))
    }

    async fn help(&self, _: Context) -> Result<(), Error> {
        Ok(())
    }

    async fn whoami(&self, ctx: Context, prefix: Option<String>) -> Result<String, Error> {
        let identity = ctx.identity().ok_or_else(|| Error::internal("nobody"))?;
        Ok(prefix.unwrap_or_default() + &identity.name)
    }
}
"#;

#[test]
fn methods_of_every_kind_are_generated_served_and_called_on_both_wires() {
    let _alone = alone();
    // Its trait is Log2, its crate log_2, and the module of the macro log2.
    let user = User::with_service("log-2", EVERY_KIND);
    user.edit("services/log-2/src/api.rs", |text| format!("{text}{NOTE}"));
    for arguments in [
        &["g", "s", "log-2", "--dmw"][..],
        &["g", "m", "audit", "-s", "log-2"],
        &["g", "m", "quota", "-s", "log-2", "--endpoint"],
        &["g", "c", "log-2"],
    ] {
        user.kit(arguments).succeeds();
    }
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    user.cargo(&clippy).succeeds();
    user.cargo(&["fmt", "--all", "--check"]).succeeds();
    // The names of the implementation's own stream are no reason for a complaint.
    fs::write(user.path("services/log-2/src/log_2.rs"), LOGIC).unwrap();
    user.kit(&["g", "s", "log-2", "--check"]).succeeds();
    user.cargo(&clippy).succeeds();
    let proto = user.kit(&["g", "proto", "log-2"]).succeeds();
    assert!(proto.contains("returns (stream Note)"), "{proto}");

    let offset = free_offset();
    let tokens = user.path("tokens.toml");
    let known = "tokens = [{ name = \"ada\", token = \"a-secret-of-sixteen\", scopes = [\"notes:secret\"] }]";
    fs::write(&tokens, known).unwrap();
    fs::write(user.path("token"), "a-secret-of-sixteen\n").unwrap();
    let environment = [("KIT_SERVER__TOKENS", tokens.to_str().unwrap())];
    let (up, _) = Up::start(&user, offset, &environment);
    // What it offers is told where the operator asks.
    let document = curl(&[&format!("http://localhost:{}/openapi.json", 9800 + offset)]);
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    let prefix = &document["components"]["schemas"]["WhoamiRequest"]["properties"]["prefix"];
    assert_eq!(prefix["anyOf"][0]["maxLength"], 3, "{document:#}");
    let file = user.path("bytes");
    fs::write(&file, [0, 255]).unwrap();
    let file = format!("@{}", file.display());
    for wire in [&[][..], &["--grpc"]] {
        let client =
            |arguments: &[&str]| client(&user, "log-2", offset, &[wire, arguments].concat());
        let json =
            |ran: Ran| -> serde_json::Value { serde_json::from_str(&ran.succeeds()).unwrap() };
        let put = client(&["put", "--help", "me", "--content", &file]);
        assert_eq!(
            json(put),
            serde_json::json!({ "id": 2, "content": [0, 255] })
        );
        let put = client(&["put", "--help", "me", "--content", "-A"]);
        assert_eq!(json(put)["content"], serde_json::json!([45, 65]));
        let got = client(&["get", "--id", "-7"]);
        assert_eq!(json(got)["id"], -7);
        let got = client(&["get", "--id", "7", "--verbose", "true"]).fails();
        assert!(got.contains("verbose: is too much"), "{got}");
        let watched = client(&["watch", "--first", "2"]);
        let said = watched.fails();
        assert!(said.contains("the fourth is lost"), "{said}");
        let items = "{\"id\":2,\"content\":[]}\n{\"id\":3,\"content\":[]}\n";
        assert_eq!(watched.stdout(), items);
        assert_eq!(client(&["help"]).succeeds(), "{}\n");
        // Who calls is said by a file, and by nothing that others could see.
        let said = client(&["whoami"]).fails();
        assert!(said.contains("for callers that say who they are"), "{said}");
        let token = user.path("token");
        let shown = ["--token-file", token.to_str().unwrap()];
        let who = |arguments: &[&str]| client(&[&shown, arguments].concat());
        assert_eq!(who(&["whoami"]).succeeds(), "\"ada\"\n");
        assert_eq!(who(&["whoami", "--prefix", "7:"]).succeeds(), "\"7:ada\"\n");
        let said = who(&["whoami", "--prefix", "1234"]).fails();
        assert!(
            said.contains("prefix: must not have more than 3 characters"),
            "{said}"
        );
    }
    let at = format!("localhost:{}", 8800 + offset);
    let whoami = [
        "run",
        "--quiet",
        "--package",
        "log-2-client",
        "--",
        "--at",
        &at,
        "whoami",
    ];
    let by_variable = |token| user.cargo_with(&[("LOG_2_TOKEN", token)], &whoami);
    assert_eq!(by_variable("a-secret-of-sixteen").succeeds(), "\"ada\"\n");
    let said = by_variable("another-of-sixteen").fails();
    assert!(!said.contains("another-of"), "{said}");
    up.stop();

    // The same instances, where nobody but Consul knows where they are.
    let agent = Agent::start();
    let (up, _) = Up::start_with(&user, offset, &["--consul", &agent.address], &[]);
    for wire in [&[][..], &["--grpc"]] {
        let run = ["run", "--quiet", "--package", "log-2-client", "--"];
        let at = ["--consul", &agent.address];
        let help = || user.cargo(&[&run[..], &at, wire, &["help"]].concat());
        // An instance is ready a moment before Consul has looked at it.
        let mut tries = (0..60).map(|_| help());
        let is_known = |ran: &Ran| !ran.all().contains("no endpoint of service log-2 is known");
        let ran = tries.find(is_known).unwrap_or_else(help);
        assert_eq!(ran.succeeds(), "{}\n");
    }
    up.stop();
}

/// A Consul agent in development mode, which ends with the test.
struct Agent {
    address: String,
    child: Child,
}

impl Agent {
    /// Starts one and waits until it has a leader.
    #[allow(
        clippy::disallowed_methods,
        reason = "there is nothing here that it could block"
    )]
    fn start() -> Self {
        let named = env::var_os("CONSUL_BIN").map(PathBuf::from);
        let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
        let binary = named.or_else(|| {
            folders
                .map(|folder| folder.join("target/tools/consul/usr/bin/consul"))
                .find(|path| path.is_file())
        });
        let binary = binary.expect("this test needs a real Consul: `cargo xtask test` gets it");
        // All are held until all are known, so that they differ.
        let held = [(); 5].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = held.map(|listener| listener.local_addr().unwrap().port().to_string());
        let mut agent = Command::new(binary);
        agent.args([
            "agent",
            "-dev",
            "-bind",
            "127.0.0.1",
            "-client",
            "127.0.0.1",
        ]);
        agent.args(["-node", "n1", "-serf-wan-port", "-1"]);
        for (name, port) in [
            "-http-port",
            "-grpc-port",
            "-dns-port",
            "-server-port",
            "-serf-lan-port",
        ]
        .iter()
        .zip(&ports)
        {
            agent.args([*name, port.as_str()]);
        }
        let child = agent
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let address = format!("http://127.0.0.1:{}", ports[0]);
        let agent = Self { address, child };
        for _ in 0..300 {
            let leader = format!("{}/v1/status/leader", agent.address);
            let said = Command::new("curl")
                .args(["--silent", &leader])
                .output()
                .unwrap();
            if said.stdout.len() > 2 {
                return agent;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("no leader at {}", agent.address);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_service_is_built_with_the_toolkit_out_of_a_git_repository() {
    let _alone = alone();
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(arguments)
            .output()
            .expect("git is needed");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    if !root.join(".git").exists() {
        println!("NOT TESTED, for this is no clone: the toolkit out of a git repository");
        return;
    }
    // What is committed here, under a branch and a tag, and a home of cargo that has what others have downloaded.
    let (clone, home) = (tmp.join("kit.git"), tmp.join("cargo-home"));
    let _ = fs::remove_dir_all(&clone);
    let _ = fs::remove_dir_all(&home);
    let at = clone.to_str().unwrap();
    git(&["clone", "--quiet", "--bare", root.to_str().unwrap(), at]);
    for (kind, name) in [("branch", "next"), ("tag", "v0.0.1")] {
        git(&["-C", at, kind, "--force", name, "HEAD"]);
    }
    let revision = git(&["-C", at, "rev-parse", "HEAD"]);
    fs::create_dir_all(&home).unwrap();
    let usual = env::var_os("CARGO_HOME").map(PathBuf::from);
    let usual = usual.unwrap_or_else(|| Path::new(&env::var_os("HOME").unwrap()).join(".cargo"));
    for shared in ["registry", "config.toml"] {
        if usual.join(shared).exists() {
            std::os::unix::fs::symlink(usual.join(shared), home.join(shared)).unwrap();
        }
    }
    let build = |reference: &str, command: &[&str]| {
        let user = User::in_an_empty_folder();
        let url = format!("file://{at}{reference}");
        user.kit(&["new", "service", "users", "--kit", &url])
            .succeeds();
        user.edit("services/users/src/api.rs", |text| {
            with_methods(
                text,
                "    async fn forget(&self, ctx: Context) -> Result<(), Error>;\n",
            )
        });
        user.kit(&["generate", "service", "users"]).succeeds();
        // The versions that were downloaded; a newcomer gets the newest.
        fs::copy(root.join("Cargo.lock"), user.path("Cargo.lock")).unwrap();
        user.cargo_at(&home, command).succeeds()
    };
    for reference in ["#branch=next", "#v0.0.1", &format!("#{revision}")] {
        let said = build(reference, &["metadata", "--format-version=1"]);
        assert!(said.contains(&revision), "{reference}: {said}");
    }
    build("", &["clippy", "--all-targets", "--", "-D", "warnings"]);
}

#[test]
fn a_service_over_one_wire_is_made_tested_and_called_over_that_one() {
    let _alone = alone();
    let create = "    async fn create(&self, ctx: Context, email: String) -> Result<(), Error>;\n";
    let user = User::with_service("users", create);
    user.kit(&["g", "s", "users", "--transport", "grpc"])
        .succeeds();
    user.kit(&["n", "s", "notes", "--transport", "http"])
        .succeeds();
    // What gRPC could not carry: a type that is nothing but serde's.
    user.edit("services/notes/src/api.rs", |text| {
        let put = "    async fn put(&self, ctx: Context, note: Note) -> Result<Note, Error>;\n";
        let note = "\n/// A note.\n#[derive(Debug, serde::Serialize, serde::Deserialize)]\n#[serde(untagged)]\n\
            pub enum Note {\n    /// A number.\n    Number(u8),\n    /// A text.\n    Text(String),\n}\n";
        with_methods(text, put) + note
    });
    user.kit(&["g", "s", "notes", "--dmw"]).succeeds();
    user.edit("services/notes/src/notes.rs", |text| {
        let text = text.replace("let _ = (ctx, note);", "let _ = ctx;");
        text.replace(
            "Err(Error::new(Code::Unimplemented, \"put is not written yet\"))",
            "Ok(note)",
        )
        .replace("{Code, ", "{")
    });
    for arguments in [
        &["g", "c", "users"][..],
        &["g", "c", "notes"],
        &["g", "chaos", "users"],
        &["g", "s", "users", "--check"],
        &["g", "s", "notes", "--check"],
    ] {
        user.kit(arguments).succeeds();
    }
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    user.cargo(&clippy).succeeds();

    let offset = free_offset();
    let (up, seen) = Up::start(&user, offset, &[]);
    // What is shown to be tried is JSON, of which users has none.
    assert!(
        !seen.iter().any(|line| line.contains("/create")),
        "{seen:#?}"
    );
    let said = client(&user, "users", offset, &["create", "--email", "x"]).fails();
    assert!(said.contains("create is not written yet"), "{said}");
    let answer = created(8800 + offset);
    assert!(!answer.contains("not written yet"), "{answer}");
    let package = ["run", "--quiet", "--package", "notes-client", "--", "--at"];
    let at = format!("localhost:{}", 8801 + offset);
    for (note, answer) in [("7", "7\n"), ("text", "\"text\"\n")] {
        let said = user.cargo(&[&package[..], &[&at, "put", "--note", note]].concat());
        assert_eq!(said.succeeds(), answer);
    }
    up.stop();
}
