//! `cargo xtask chaos`: what callers with different clients see of an instance that gets sick.

use anyhow::Result;

use crate::command::{self, announce, cargo};

/// Builds for release and compares. All three clients, and the instances, are in one process or its children: so the
/// machine is the same for all of them, and should be quiet. `options` are those of `chaos compare`.
pub(crate) fn run(options: &[String]) -> Result<()> {
    announce("One of three instances gets sick, in five ways");
    let mut compare = cargo(&["run", "--release", "--package", "chaos", "--", "compare"]);
    command::run(compare.args(options))
}
