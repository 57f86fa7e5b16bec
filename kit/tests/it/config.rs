//! Configuration of a process, from its own environment.

use std::process::Command;

use kit::config::{ConfigError, ServiceConfig, load};

/// Reads the configuration of this process, in a process whose environment another test made.
#[test]
#[ignore = "run by other tests, in a process of its own"]
fn as_a_process() {
    let loaded: Result<ServiceConfig, ConfigError> = load();
    match loaded {
        Ok(config) => println!("loaded: {config:?}"),
        Err(error) => println!("refused: {error}"),
    }
}

/// What a process with these variables says.
fn said(environment: &[(&str, &str)]) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "config::as_a_process",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_environment_of_the_process_is_read_and_secrets_are_not_printed() {
    let said = said(&[
        ("KIT_SERVER__LISTEN", "127.0.0.1:1234"),
        ("KIT_DISCOVERY__CONSUL__TOKEN", "hunter2"),
        ("KIT_LOG__FORMAT", "json"),
    ]);
    assert!(said.contains("loaded: "), "{said}");
    for part in ["127.0.0.1:1234", "Json"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn a_misspelt_key_is_refused_by_its_name() {
    let said = said(&[("KIT_SERVER__DRAIN__INFLIGHT", "30s")]);
    let refusal = "refused: configuration: server.drain.inflight (KIT_SERVER__DRAIN__INFLIGHT): unknown field";
    assert!(said.contains(refusal), "{said}");
}

#[test]
fn the_file_in_the_readme_is_understood() {
    let readme = include_str!("../../../README.md");
    let (_, rest) = readme.split_once("```toml\n").unwrap();
    let (file, _) = rest.split_once("```").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kit.toml");
    std::fs::write(&path, file).unwrap();
    let said = said(&[("KIT_CONFIG", path.to_str().unwrap())]);
    assert!(said.contains("loaded: "), "{said}");
    for part in ["eu-1a", "/readyz", "slow_call: Some(1s)"] {
        assert!(said.contains(part), "{part} in {said}");
    }
}
