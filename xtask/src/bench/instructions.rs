//! Counts the instructions of a call: the difference of two runs that differ in how many calls they make, so that
//! starting up cancels. They repeat where times do not.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
};

use anyhow::{Context, Result, anyhow};

use super::report::Row;
use crate::{
    command::{find, root},
    debian,
};

const SHORT: u64 = 500;
const LONG: u64 = 2_500;

/// Callgrind.
pub(super) struct Counter {
    valgrind: PathBuf,
    /// Where its tools are, if it is not installed where it was built for.
    tools: Option<PathBuf>,
}

impl Counter {
    /// Finds valgrind, or gets it into `target/tools`.
    pub(super) fn new() -> Result<Self> {
        if let Some(valgrind) = find("valgrind") {
            return Ok(Self {
                valgrind,
                tools: None,
            });
        }
        let home = root().join("target/tools/valgrind");
        if !home.join("usr/bin/valgrind").is_file() {
            let fresh = tempfile::tempdir()?;
            debian::download(&debian::suite(), &["valgrind"], fresh.path())
                .and_then(|()| debian::unpack(fresh.path(), "valgrind", &home))
                .context("no valgrind: install it")?;
        }
        Ok(Self {
            valgrind: home.join("usr/bin/valgrind"),
            tools: Some(home.join("usr/libexec/valgrind")),
        })
    }

    /// Fills in how many instructions each row adds to those of the bare service.
    pub(super) fn count(&self, program: &Path, rows: &mut [Row]) -> Result<()> {
        let bare = |inner: &str| self.per_call(program, "bare", "bare", inner);
        let bare = [
            ("at_once", bare("at_once")?),
            ("pending_once", bare("pending_once")?),
        ];
        let next = AtomicUsize::new(0);
        let all: &[Row] = rows;
        let work = || {
            let mut counted = Vec::new();
            loop {
                let at = next.fetch_add(1, Relaxed);
                let Some(row) = all.get(at) else {
                    return anyhow::Ok(counted);
                };
                let taken = self.per_call(program, &row.group, &row.name, &row.inner)?;
                let bare = bare.iter().find(|(inner, _)| *inner == row.inner);
                counted.push((at, taken - bare.map_or(0.0, |(_, bare)| *bare)));
            }
        };
        let counted = thread::scope(|scope| {
            let threads = [(); 2].map(|()| scope.spawn(work));
            let counted = threads.map(|thread| thread.join().expect("it does not panic"));
            counted.into_iter().collect::<Result<Vec<_>>>()
        })?;
        for (at, instructions) in counted.into_iter().flatten() {
            rows[at].instructions = Some(instructions);
        }
        Ok(())
    }

    fn per_call(&self, program: &Path, group: &str, name: &str, inner: &str) -> Result<f64> {
        self.difference(program, &["run", group, name, inner], [SHORT, LONG])
    }

    /// The instructions of one request over HTTP of the client of this name.
    pub(super) fn per_request(&self, program: &Path, name: &str) -> Result<f64> {
        // As many callers make them side by side, a turn of the event loop serves several, and not always as many.
        self.difference(program, &["run", name], [6_400, 32_000])
    }

    fn difference(&self, program: &Path, arguments: &[&str], lengths: [u64; 2]) -> Result<f64> {
        let run = |calls: u64| {
            let mut command = Command::new(&self.valgrind);
            if let Some(tools) = &self.tools {
                command.env("VALGRIND_LIB", tools);
            }
            command
                .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
                .args(["--collect-atstart=no", "--toggle-collect=*counted_calls*"])
                .arg(program)
                .args(arguments)
                .arg(calls.to_string());
            let output = command.output().context("valgrind could not be started")?;
            let said = String::from_utf8_lossy(&output.stderr);
            collected(&said)
                .filter(|_| output.status.success())
                .ok_or_else(|| anyhow!("{}: {}", arguments.join(", "), said.trim_end()))
        };
        let [short, long] = lengths;
        Ok((run(long)? as f64 - run(short)? as f64) / (long - short) as f64)
    }
}

/// The number in `==7== Collected : 123`.
fn collected(said: &str) -> Option<u64> {
    let (_, rest) = said.rsplit_once("Collected : ")?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_what_callgrind_says() {
        let said =
            "==7== Events    : Ir\n==7== Collected : 2160234\n==7== \n==7== I   refs: 2,160,234\n";
        assert_eq!(collected(said), Some(2_160_234));
        assert_eq!(collected("no such file"), None);
    }
}
