//! Programs that others wrote, against running services: Python's grpcio, two readers of OpenAPI documents, and curl.
//!
//! Python is the one that `PYTHON_BIN` names, with the packages that `cargo xtask tools` installs.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod curl;
mod documents;
mod fair;
mod services;

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use kit::testing::Instance;
use tokio::{process::Command, time::timeout};

fn url(instance: &Instance) -> String {
    format!("http://{}", instance.address())
}

fn python_bin() -> PathBuf {
    let Some(python) = env::var_os("PYTHON_BIN") else {
        panic!(
            "PYTHON_BIN names no Python with grpcio and schemathesis: `cargo xtask tools` makes one, and `cargo xtask test` names it"
        );
    };
    python.into()
}

/// One of the programs in `python/`.
fn python(script: &str) -> Command {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    let mut command = Command::new(python_bin());
    command
        // Nothing is left in the source tree.
        .arg("-B")
        .arg(folder.join(script))
        .kill_on_drop(true)
        .stdin(Stdio::null());
    command
}

/// Runs a program to its end, which has to be a good one, and returns what it printed.
async fn run(command: &mut Command, longest: Duration) -> String {
    let output = timeout(longest, command.output())
        .await
        .unwrap_or_else(|_| panic!("{command:?} takes longer than {longest:?}"))
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{printed}\n{complained}",
        output.status
    );
    printed
}

fn write(folder: &Path, name: impl AsRef<OsStr>, text: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(Path::new(name.as_ref()));
    std::fs::write(&path, text).unwrap();
    path
}
