//! What the tests need beside Rust: a real Consul.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::{
    command::{announce, find, root},
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
