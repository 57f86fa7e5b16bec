//! The programs of the services, built as `kit up` builds them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use cargo_metadata::Message;

/// Builds the program of a service, unless it is up to date, and copies it into the folder `into`: what is restarted
/// must be what was killed, also when somebody builds meanwhile. Blocks the thread.
///
/// # Errors
/// If it cannot be built; cargo has then said why.
pub fn program(service: &str, into: &Path) -> Result<PathBuf> {
    // Two builds at once only wait for each other.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("chaos lies in the workspace");
    let built = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--message-format=json-render-diagnostics"])
        // All three, as `kit up` does: features are unified over what is built, so less would be built differently.
        .args(["--package=users", "--package=notificator", "--package=bugs"])
        .current_dir(workspace)
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cargo could not be started")?;
    ensure!(built.status.success(), "the services could not be built");
    let mut found = None;
    for message in Message::parse_stream(&built.stdout[..]) {
        if let Message::CompilerArtifact(artifact) = message?
            && artifact.target.name == service
            && artifact.executable.is_some()
        {
            found = artifact.executable;
        }
    }
    let found = found.with_context(|| format!("there is no program {service}"))?;
    let copy = into.join(service);
    fs::copy(&found, &copy).with_context(|| format!("{found} could not be copied"))?;
    Ok(copy)
}
