//! Services that do not outlive `kit`, even when it is killed in a way that it cannot notice.
//!
//! Linux tells a process when its parent dies, if the process asks for it, and the wish survives `exec` (prctl(2),
//! `PR_SET_PDEATHSIG`). So `kit up` starts each service through itself: `kit exec` asks, then becomes the service.
//! Elsewhere it only becomes the service.

use std::{
    convert::Infallible,
    os::unix::process::{CommandExt, parent_id},
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};

/// Becomes `program`, which gets SIGTERM when the process `parent` dies.
pub(crate) fn exec(parent: u32, program: &Path) -> Result<ExitCode> {
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?;
    // It may have died before the wish was made.
    if parent_id() != parent {
        bail!("kit is gone, so {} is not started", program.display());
    }
    let error: Result<Infallible, _> = Err(Command::new(program).exec());
    match error.with_context(|| format!("{} could not be started", program.display()))? {}
}
