//! What is there for somebody who does not know the way: completions, the doctor, and help.

use std::{net::TcpListener, process::Command};

use crate::user::User;

#[test]
fn every_shell_gets_completions_that_know_every_command() {
    let user = User::in_an_empty_folder();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = user.kit(&["completions", shell]).succeeds();
        for word in [
            "generate",
            "kubernetes",
            "middleware",
            "--transport",
            "doctor",
            "dry-run",
        ] {
            let word = match shell {
                "fish" => word.trim_start_matches("--"),
                _ => word,
            };
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    // As bash asks when somebody presses the tab key.
    let script = "eval \"$(\"$KIT\" completions bash)\"\n\
                  COMP_WORDS=(kit generate mid); COMP_CWORD=2\n\
                  _kit kit mid generate; echo \"${COMPREPLY[@]}\"";
    let output = Command::new("bash")
        .args(["-c", script])
        .env("KIT", env!("CARGO_BIN_EXE_kit"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "middleware\n");
    let said = user.kit(&["completions", "tcsh"]).fails();
    assert!(said.contains("[possible values: bash,"), "{said}");
}

#[test]
fn the_doctor_tells_what_is_there_and_which_port_is_taken() {
    let user = User::in_an_empty_folder();
    let said = user.kit(&["doctor"]).succeeds();
    assert!(said.contains("ok       Rust: rustc "), "{said}");
    assert!(
        said.contains("missing  workspace: none here: kit new service NAME"),
        "{said}"
    );
    user.kit(&["new", "service", "users"]).succeeds();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    user.edit("services/users/Cargo.toml", |text| {
        text.replace("port = 8800", &format!("port = {port}"))
    });
    // That is no reason to fail: services are built all the same.
    let said = user.kit(&["doctor"]).succeeds();
    assert!(
        said.contains(&format!("missing  ports of users: in use: {port}")),
        "{said}"
    );
    assert!(said.contains("services: 1"), "{said}");
    user.edit("Cargo.toml", |text| {
        text.replace("[workspace]", "[work space]")
    });
    let said = user.kit(&["doctor"]).fails();
    assert!(
        said.contains("missing  workspace: ") && said.contains("Cargo.toml"),
        "{said}"
    );
}

#[test]
fn where_nothing_is_installed_the_doctor_says_how_to_get_all_of_it() {
    let user = User::in_an_empty_folder();
    let output = Command::new(env!("CARGO_BIN_EXE_kit"))
        .arg("doctor")
        .current_dir(user.folder())
        .env_remove("CARGO")
        .env("PATH", "")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    for (what, hint) in [
        ("Rust", "https://rustup.rs"),
        ("cargo", "https://rustup.rs"),
        ("rustfmt", "rustup component add rustfmt"),
        ("clippy", "rustup component add clippy"),
        ("workspace", "rustup.rs"),
        ("Docker", "https://docs.docker.com"),
        ("Compose", "https://docs.docker.com"),
    ] {
        let line = said
            .lines()
            .find(|line| line.starts_with(&format!("missing  {what}: ")));
        assert!(
            line.is_some_and(|line| line.contains(hint)),
            "{what}: {said}"
        );
    }
}

#[test]
fn help_is_at_every_command_under_each_of_its_names() {
    let user = User::in_an_empty_folder();
    for (command, says) in [
        (&["--help"][..], "Builds the services of this workspace"),
        (&["help", "generate"], "Adds a Dockerfile"),
        (&["n", "s", "--help"], "--kit <PATH|URL>"),
        (&["g", "s", "--help"], "--dmw"),
        (&["g", "d", "--help"], "--check"),
        (&["g", "k", "--help"], "--dry-run"),
        (&["g", "m", "--help"], "--endpoint"),
        (&["g", "c", "--help"], "--check"),
        (&["generate", "proto", "--help"], "--output <FILE>"),
        (&["generate", "openapi", "--help"], "--check <FILE>"),
        (&["generate", "chaos", "--help"], "--dry-run"),
        (&["up", "--help"], "--port-offset"),
    ] {
        let said = user.kit(command).succeeds();
        assert!(said.contains(says), "{command:?}: {said}");
    }
    // Without a command, it is an answer to nobody's question.
    let said = user.kit(&[]).fails();
    assert!(said.contains("Usage: kit <COMMAND>"), "{said}");
}
