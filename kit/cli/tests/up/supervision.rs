//! How `kit up` treats services that behave well and badly. The services of these tests are made for that: tiny
//! programs in a workspace of their own, whose manners an environment variable sets.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::OnceLock,
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::kit::{Kit, free_offset, runs};

const ALPHA: u16 = 9000;
const BETA: u16 = 9001;

/// A service without a toolkit. It serves in a child of its own, so that there is a grandchild to be left behind.
const SERVICE: &str = r#"
use std::{env, fs, io::{Read, Write}, net::TcpListener, os::unix::process::CommandExt, process::{Command, id}};

fn main() {
    let name = env!("CARGO_PKG_NAME");
    let var = |name: &str| env::var(name).unwrap_or_default();
    let manners = var(&format!("MANNERS_OF_{}", name.to_uppercase()));
    fs::write(format!("{}/{name}-{}.pid", var("KIT_DATA"), id()), "").unwrap();
    if manners == "dies" {
        eprintln!("{name} has no database");
        std::process::exit(3);
    }
    if env::args().nth(1).is_none() {
        println!("{name} hears of alpha at {:?} and consul at {:?}",
            var("KIT_DISCOVERY__FIXED__ALPHA"), var("KIT_DISCOVERY__CONSUL__ADDRESS"));
        let on_term = if manners == "stubborn" { "" } else { "kill $serving; exit 0" };
        let script = format!("trap '{on_term}' TERM; \"$0\" serve & serving=$!; wait");
        panic!("{}", Command::new("sh").arg("-c").arg(script).arg(env::current_exe().unwrap()).exec());
    }
    let _serving = TcpListener::bind(var("KIT_SERVER__LISTEN")).unwrap();
    let admin = TcpListener::bind(var("KIT_SERVER__ADMIN")).unwrap();
    for stream in admin.incoming() {
        let mut stream = stream.unwrap();
        let _ = stream.read(&mut [0; 1024]);
        if manners == "talks" {
            std::thread::spawn(|| loop { println!("{}", "x".repeat(1000)) });
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    }
}
"#;

/// The workspace with the services alpha and beta.
fn workspace() -> &'static Path {
    static WORKSPACE: OnceLock<PathBuf> = OnceLock::new();
    WORKSPACE.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("supervision");
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "Cargo.toml",
            "[workspace]\nresolver = \"3\"\nmembers = [\"alpha\", \"beta\", \"library\"]\n",
        );
        for (name, port) in [
            ("alpha", Some(ALPHA)),
            ("beta", Some(BETA)),
            ("library", None),
        ] {
            let mut manifest = format!("[package]\nname = \"{name}\"\nedition = \"2024\"\n");
            if let Some(port) = port {
                manifest += &format!("[package.metadata.kit]\nport = {port}\n");
            }
            if name == "alpha" {
                manifest += "example = { path = \"/create\", json = '{\"email\": \"test\"}' }\n";
            }
            write(&format!("{name}/Cargo.toml"), &manifest);
            let file = if port.is_some() { "main" } else { "lib" };
            write(
                &format!("{name}/src/{file}.rs"),
                if port.is_some() { SERVICE } else { "" },
            );
        }
        root
    })
}

/// One run of `kit up` with a data folder and ports of its own.
struct Run {
    kit: Kit,
    data: tempfile::TempDir,
    offset: u16,
}

fn up(arguments: &[&str], manners: &[(&str, &str)]) -> Run {
    let ports: Vec<u16> = [0, 10, 20]
        .iter()
        .flat_map(|next| [ALPHA, BETA].map(|port| port + next))
        .flat_map(|port| [port, port + 1000])
        .collect();
    up_at(free_offset(&ports), arguments, manners)
}

fn up_at(offset: u16, arguments: &[&str], manners: &[(&str, &str)]) -> Run {
    let data = tempfile::tempdir().unwrap();
    let offset_text = offset.to_string();
    let common = [
        "--port-offset",
        &offset_text,
        "--data",
        data.path().to_str().unwrap(),
    ];
    let target = workspace().join("target");
    let mut environment = vec![("CARGO_TARGET_DIR", target.to_str().unwrap())];
    environment.extend(manners);
    let arguments: Vec<_> = common.iter().chain(arguments).copied().collect();
    Run {
        kit: Kit::up(workspace(), &arguments, &environment),
        data,
        offset,
    }
}

impl Run {
    /// The processes that services and their children said they are.
    fn pids(&self) -> Vec<String> {
        let files = fs::read_dir(self.data.path()).unwrap();
        files
            .filter_map(|file| {
                let name = file.unwrap().file_name().into_string().unwrap();
                let pid = name.strip_suffix(".pid")?.split_once('-')?.1;
                Some(pid.to_owned())
            })
            .collect()
    }

    fn assert_none_left(&self) {
        let left: Vec<_> = self.pids().into_iter().filter(|pid| runs(pid)).collect();
        assert!(
            left.is_empty(),
            "left behind: {left:?}, {:#?}",
            self.kit.seen
        );
    }
}

#[test]
fn all_run_until_a_signal_stops_them_in_good_order() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut run = up(&[], &[]);
        run.kit.wait_for("ready");
        let seen = run.kit.seen.join("\n");
        let (alpha, admin) = (ALPHA + run.offset, ALPHA + run.offset + 1000);
        assert!(
            seen.contains(&format!(
                "alpha     http://127.0.0.1:{alpha}  http://127.0.0.1:{admin}"
            )),
            "{seen}"
        );
        let curl = format!(
            "Try: curl -XPOST http://localhost:{alpha}/create -d '{{\"email\": \"test\"}}'"
        );
        assert!(seen.contains(&curl), "{seen}");
        assert!(
            !seen.contains('\x1b'),
            "plain, because this is no terminal: {seen}"
        );
        assert_eq!(run.pids().len(), 4);
        run.kit.signal(signal);
        let (status, errors) = run.kit.end();
        assert!(status.success(), "{status}: {errors}");
        run.assert_none_left();
    }
}

#[test]
fn logs_are_streamed_with_the_name_of_their_instance() {
    let mut run = up(&["--replicas", "alpha=3"], &[]);
    run.kit.wait_for("ready");
    run.kit.signal(Signal::SIGTERM);
    run.kit.end();
    let first = ALPHA + run.offset;
    let list = format!(
        "127.0.0.1:{first},127.0.0.1:{},127.0.0.1:{}",
        first + 10,
        first + 20
    );
    for (prefix, name) in [
        ("alpha   ", "alpha"),
        ("alpha-2 ", "alpha"),
        ("alpha-3 ", "alpha"),
        ("beta    ", "beta"),
    ] {
        let line = format!("{prefix}| {name} hears of alpha at {list:?} and consul at \"\"");
        assert!(
            run.kit.seen.contains(&line),
            "{line:?} is not in {:#?}",
            run.kit.seen
        );
    }
    run.assert_none_left();
}

#[test]
fn a_port_that_is_taken_is_named_with_the_service_that_needs_it() {
    let ports = [ALPHA, BETA, ALPHA + 1000, BETA + 1000];
    let offset = free_offset(&ports);
    let _taken = TcpListener::bind(("127.0.0.1", BETA + 1000 + offset)).unwrap();
    let mut run = up_at(offset, &[], &[]);
    let (status, errors) = run.kit.end();
    assert!(!status.success());
    let expected = format!(
        "port {} is taken, and beta's admin port needs it",
        BETA + 1000 + offset
    );
    assert!(errors.contains(&expected), "{errors}");
    assert!(run.pids().is_empty());
}

#[test]
fn a_service_that_dies_at_start_stops_everything() {
    let mut run = up(&[], &[("MANNERS_OF_BETA", "dies")]);
    let (status, errors) = run.kit.end();
    assert!(!status.success());
    assert!(
        errors.contains("beta ended with exit code 3 before it was ready"),
        "{errors}"
    );
    let seen = run.kit.seen.join("\n");
    assert!(seen.contains("beta  | beta has no database"), "{seen}");
    assert!(!seen.contains("ready:"), "{seen}");
    run.assert_none_left();
}

#[test]
fn a_second_signal_kills_what_does_not_stop() {
    let mut run = up(&[], &[("MANNERS_OF_BETA", "stubborn")]);
    run.kit.wait_for("ready");
    run.kit.signal(Signal::SIGTERM);
    run.kit.wait_for("alpha stopped");
    run.kit.signal(Signal::SIGTERM);
    let (status, errors) = run.kit.end();
    assert!(!status.success());
    assert!(errors.contains("beta had to be killed"), "{errors}");
    run.assert_none_left();
}

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "a process is given time, and nothing else runs in this thread"
)]
fn a_signal_stops_everything_also_where_nobody_reads_what_the_services_say() {
    let mut run = up(&[], &[("MANNERS_OF_ALPHA", "talks")]);
    run.kit.wait_for("ready");
    // As long as it takes to fill all that lies between alpha and this test, and more than that.
    thread::sleep(Duration::from_secs(1));
    run.kit.signal(Signal::SIGINT);
    assert!(run.kit.end_unread().success());
    run.assert_none_left();
}

#[test]
fn the_others_go_on_when_one_dies_later_and_the_exit_code_tells() {
    let mut run = up(&["--replicas", "alpha=2"], &[]);
    run.kit.wait_for("ready");
    // The one that listens, not its shell: the service itself then ends.
    let alphas = fs::read_dir(run.data.path()).unwrap().filter_map(|file| {
        let name = file.unwrap().file_name().into_string().unwrap();
        let pid = name
            .strip_prefix("alpha-")?
            .strip_suffix(".pid")?
            .to_owned();
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        line.ends_with(b"serve\0").then_some(pid)
    });
    let one: i32 = alphas.into_iter().next().unwrap().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(one), Signal::SIGKILL).unwrap();
    run.kit.wait_for("alpha");
    run.kit.signal(Signal::SIGTERM);
    let (status, errors) = run.kit.end();
    assert!(!status.success());
    assert!(errors.contains("ended without being told to"), "{errors}");
    assert!(
        run.kit
            .seen
            .iter()
            .any(|line| line.ends_with("the others go on"))
    );
    run.assert_none_left();
}

#[cfg(target_os = "linux")]
#[test]
fn services_do_not_outlive_a_kit_that_is_killed() {
    let mut run = up(&[], &[]);
    run.kit.wait_for("ready");
    run.kit.signal(Signal::SIGKILL);
    run.kit.end();
    let patience = 200;
    for _ in 0..patience {
        if !run.pids().iter().any(|pid| runs(pid)) {
            return;
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "no runtime here, and processes to wait for"
        )]
        thread::sleep(Duration::from_millis(50));
    }
    run.assert_none_left();
}
