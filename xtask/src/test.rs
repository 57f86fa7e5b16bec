//! `cargo xtask test`: all checks and tests, in the order in which they cost time.

use std::{
    io::{BufRead, BufReader},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result};

use crate::{
    command::{self, announce, cargo, shown},
    tools,
};

/// Runs everything and ends with the count on a line of its own. The first step that fails is the last one.
pub(crate) fn run() -> Result<ExitCode> {
    announce("Formatting");
    run_step(
        &mut cargo(&["fmt", "--all", "--check"]),
        "run `cargo fmt --all`",
    )?;

    announce("Lints");
    let mut clippy = cargo(&["clippy", "--workspace", "--all-targets"]);
    run_step(
        clippy.args(["--", "-D", "warnings"]),
        "warnings are errors here",
    )?;

    announce("Documentation");
    let mut doc = cargo(&["doc", "--quiet", "--workspace", "--no-deps"]);
    run_step(
        doc.env("RUSTDOCFLAGS", "-D warnings"),
        "warnings are errors here",
    )?;

    announce("Every order of what threads share without a lock");
    models()?;

    announce("Tools");
    let consul = tools::consul()?;
    eprintln!("consul: {}", consul.display());
    let python = tools::python()?;
    eprintln!("python: {}", python.display());

    announce("Unit, integration, documentation, interoperation and chaos tests");
    let mut test = cargo(&["test", "--workspace", "--no-fail-fast"]);
    counted(test.env("CONSUL_BIN", consul).env("PYTHON_BIN", python))
}

/// Runs the models of `kit::sync`, for which the toolkit, and none of its dependencies, is built in another way.
fn models() -> Result<()> {
    let mut build = cargo(&["rustc", "--package", "kit", "--lib", "--profile", "test"]);
    build.args([
        "--message-format=json-render-diagnostics",
        "--",
        "--cfg",
        "kit_loom",
    ]);
    build.stderr(Stdio::inherit());
    let built = command::output(&mut build)?;
    let program = built
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| Some(message["executable"].as_str()?.to_owned()))
        .context("cargo did not say what it built")?;
    command::run(Command::new(program).arg("in_every_order"))
}

fn run_step(command: &mut Command, hint: &str) -> Result<()> {
    command::run(command).with_context(|| hint.to_owned())
}

/// What the test runner counted, over all of its binaries.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Count {
    /// Adds what `line` says, if it is a line with which the runner ends one binary:
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for part in counts.split("; ") {
            let Some((number, word)) = part.split_once(' ') else {
                continue;
            };
            let number = number.parse().unwrap_or(0);
            match word {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" | "filtered out" => self.skipped += number,
                _ => {}
            }
        }
    }
}

/// Runs the tests, passing their output through, and prints the sum of their counts.
fn counted(command: &mut Command) -> Result<ExitCode> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} could not be started", shown(command)))?;
    let mut count = Count::default();
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut line = Vec::new();
    // Bytes, because a test may print anything.
    while lines.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        print!("{text}");
        count.add(text.trim_end());
        line.clear();
    }
    let status = child.wait()?;
    let wrong = match (status.success(), &count) {
        (true, Count { passed: 0, .. }) => Some("no test was run".to_owned()),
        (true, _) => None,
        (_, Count { failed: 0, .. }) => Some(format!("{} failed ({status})", shown(command))),
        (_, Count { failed, .. }) => Some(format!("{failed} of the tests failed")),
    };
    if let Some(wrong) = &wrong {
        eprintln!("\nerror: {wrong}: see above");
    }
    // The count is the last word, also of a run that failed.
    let Count {
        passed,
        failed,
        skipped,
    } = count;
    println!("\n{passed} passed, {failed} failed, {skipped} skipped");
    Ok(match wrong {
        None => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_all_binaries_are_summed() {
        let mut count = Count::default();
        for line in [
            "running 4 tests",
            "test a_name ... ok",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s",
            "test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s",
        ] {
            count.add(line);
        }
        let sum = Count {
            passed: 13,
            failed: 2,
            skipped: 3,
        };
        assert_eq!(count, sum);
    }
}
