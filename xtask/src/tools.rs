//! What the tests need beside Rust: a real Consul, and Python with the programs of others that kit must get along with.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::{
    command::{self, announce, find, root},
    debian,
};

/// The last Debian suite that carries Consul, its package there, and what the package of amd64 must hash to. The
/// binary needs only libc, so it runs on later suites and on other distributions.
const SUITE: &str = "bullseye";
const VERSION: &str = "1.8.7+dfsg1-2+b3";
const SHA256: &str = "e4e888bba104daba1d9161f49bfc52649a7e4efd45b1a7ead5bc54f2cb9c89d9";

/// Where the binary is: `CONSUL_BIN`, or in `PATH`, or in `target/tools`, where it is put first if need be.
pub(crate) fn consul() -> Result<PathBuf> {
    if let Some(named) = env::var_os("CONSUL_BIN") {
        let named = PathBuf::from(named);
        ensure!(
            named.is_file(),
            "CONSUL_BIN names {}, where there is no file",
            named.display()
        );
        return Ok(named);
    }
    if let Some(installed) = find("consul") {
        return Ok(installed);
    }
    let home = unpacked()?;
    Ok(home.join("usr/bin/consul"))
}

/// The directory with the unpacked package, got first if it is not there. Images are made from it too.
pub(crate) fn unpacked() -> Result<PathBuf> {
    let tools = root().join("target/tools");
    let home = tools.join("consul");
    if !home.join("usr/bin/consul").is_file() {
        announce(&format!("Getting Consul {VERSION} into {}", home.display()));
        get(&tools, &home).context(
            "no Consul: install it (https://developer.hashicorp.com/consul/install), or name one with CONSUL_BIN",
        )?;
    }
    Ok(home)
}

fn get(tools: &Path, home: &Path) -> Result<()> {
    fs::create_dir_all(tools)?;
    // Beside its final place, so that it can be moved there at once: an interrupted run leaves no half of it.
    let fresh = tempfile::tempdir_in(tools)?;
    debian::download(SUITE, &[&format!("consul={VERSION}")], fresh.path())?;
    let package = debian::file_of(fresh.path(), "consul")?;
    let found = hex(&Sha256::digest(fs::read(&package)?));
    ensure!(
        found == SHA256,
        "{} has sha256 {found} instead of {SHA256}",
        package.display()
    );
    let unpacked = fresh.path().join("unpacked");
    debian::unpack(fresh.path(), "consul", &unpacked)?;
    match fs::rename(&unpacked, home) {
        // Another run was quicker.
        Err(_) if home.join("usr/bin/consul").is_file() => Ok(()),
        moved => moved.with_context(|| format!("{} cannot be made", home.display())),
    }
}

/// What is installed for Python, each with what it needs: gRPC's own implementation with what generates code for it, and
/// two readers of OpenAPI documents. Pinned, so that a new release breaks nothing on a day when nothing was changed.
const PACKAGES: [&str; 7] = [
    "grpcio==1.85.3",
    "grpcio-tools==1.85.1",
    "grpcio-health-checking==1.85.1",
    "grpcio-reflection==1.85.1",
    "grpcio-status==1.85.3",
    "openapi-spec-validator==0.9.0",
    "schemathesis==4.32.5",
];

/// A Python with [`PACKAGES`]: `PYTHON_BIN`, or the virtual environment in `target/tools/python`, which is made first if
/// need be.
pub(crate) fn python() -> Result<PathBuf> {
    if let Some(named) = env::var_os("PYTHON_BIN") {
        let named = PathBuf::from(named);
        ensure!(
            named.is_file(),
            "PYTHON_BIN names {}, where there is no file",
            named.display()
        );
        return Ok(named);
    }
    let home = root().join("target/tools/python");
    let python = home.join("bin/python");
    let list = PACKAGES.join("\n");
    // Written last: where it says what we want, nothing is missing.
    let installed = home.join("installed.txt");
    if fs::read_to_string(&installed).is_ok_and(|there| there == list) {
        return Ok(python);
    }
    announce(&format!(
        "Getting Python's gRPC and others into {}",
        home.display()
    ));
    let make = || {
        let home = home.display().to_string();
        command::run(Command::new("python3").args(["-m", "venv", &home]))?;
        let install = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ];
        command::run(Command::new(&python).args(install).args(PACKAGES))
    };
    make().context(
        "no Python: install Python 3.10 or later with its module venv, or name one that has these packages with PYTHON_BIN",
    )?;
    fs::write(&installed, list)
        .with_context(|| format!("{} cannot be written", installed.display()))?;
    Ok(python)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
