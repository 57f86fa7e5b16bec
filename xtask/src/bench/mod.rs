//! `cargo xtask bench`: what a call costs in each layer and in whole stacks, beside the peers.

mod instructions;
mod report;

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use self::report::Row;
use crate::command::{announce, cargo, output, root, run};

/// How much is measured, and what for.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// A few rounds only, to see that all of it works
    #[arg(long)]
    quick: bool,
    /// Measures no time: fails if the full stack takes more instructions or allocations than are allowed
    #[arg(long, conflicts_with = "quick")]
    check: bool,
    /// Writes what was measured into this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What one call through the full stack may take at most, over ten endpoints: instructions, allocations. Both repeat
/// to a percent on any machine with the same compiler; a change that needs more has to say why.
const ALLOWED: [(&str, f64, f64); 2] = [("at_once", 6_900.0, 0.0), ("pending_once", 7_800.0, 0.0)];
const FULL_STACK: &str = "full stack, 10 endpoints";

pub(crate) fn bench(options: &Options) -> Result<ExitCode> {
    announce("Building");
    run(&mut cargo(&[
        "build",
        "--quiet",
        "--release",
        "--package",
        "kit-benches",
    ]))?;
    let instructions = instructions::Counter::new()?;

    announce("Allocations");
    let allocations = read(&mut Command::new(program("allocations")))?;
    let mut rows = report::rows(&allocations)?;

    announce("Instructions");
    if options.check {
        rows.retain(|row| row.is(FULL_STACK, "kit"));
    }
    if !options.quick {
        instructions.count(&program("time"), &mut rows)?;
    }
    if options.check {
        return check(&rows);
    }
    let mut clients = read(&mut Command::new(program("http")))?["rows"].take();
    let clients = clients.as_array_mut().context("no client was measured")?;
    if !options.quick {
        for client in &mut *clients {
            let name = client["name"].as_str().context("a client has no name")?;
            client["instructions"] = instructions.per_request(&program("http"), name)?.into();
        }
    }

    announce("Time");
    let mut time = Command::new(program("time"));
    if options.quick {
        time.arg("--quick");
    }
    let time = read(&mut time)?;
    report::add_time(&mut rows, &time)?;

    println!("{}", report::table(&rows, &time));
    println!("{}", report::http_table(clients));
    let machine = machine()?;
    println!("{machine}");
    if let Some(file) = &options.json {
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        let all = json!({ "machine": machine, "rows": rows, "updates": time["updates"], "http": clients });
        fs::write(file, serde_json::to_string_pretty(&all)?)
            .with_context(|| format!("{} cannot be written", file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Where and when this was measured.
fn machine() -> Result<String> {
    let said = |command: &mut Command| output(command).map(|said| said.trim().to_owned());
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let cpu = cpu.map_or("an unknown CPU", |cpu| {
        cpu.trim_start_matches([' ', '\t', ':'])
    });
    let cores = std::thread::available_parallelism()?;
    Ok(format!(
        "{}, {cores} cores of {cpu}, {} {}, {}",
        said(Command::new("date").args(["-u", "+%F"]))?,
        said(Command::new("uname").arg("-s"))?,
        said(Command::new("uname").arg("-r"))?,
        said(Command::new("rustc").arg("--version"))?,
    ))
}

fn program(name: &str) -> PathBuf {
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join("release").join(name)
}

fn read(command: &mut Command) -> Result<Value> {
    Ok(serde_json::from_str(&output(command)?)?)
}

fn check(rows: &[Row]) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for (inner, instructions, allocations) in ALLOWED {
        let row = rows.iter().find(|row| row.inner == inner);
        let row = row.with_context(|| format!("{inner} was not measured"))?;
        let taken = row.instructions.context("instructions were not counted")?;
        println!(
            "{FULL_STACK}, {inner}: {taken:.0} instructions of {instructions:.0}, {:.2} allocations of {allocations:.0}",
            row.allocations
        );
        // What a histogram's store allocates now and then is less than that.
        if taken > instructions || row.allocations > allocations + 0.1 {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}
