//! `cargo xtask consulrs`: the crate that stands outside of the workspace.

use anyhow::Result;

use crate::{
    command::{self, announce, cargo, root},
    tools,
};

/// Lints and tests of `kit/consulrs`, with its own lock file. It brings over 60 crates with an HTTP stack of 2021
/// and OpenSSL, so `cargo xtask test` leaves it alone.
pub(crate) fn run() -> Result<()> {
    let consul = tools::consul()?;
    let manifest = root().join("kit/consulrs/Cargo.toml");
    let of = |arguments: &[&str]| {
        let mut cargo = cargo(arguments);
        cargo.arg("--manifest-path").arg(&manifest);
        // What it builds is of no use to the workspace.
        cargo
            .arg("--target-dir")
            .arg(root().join("target/consulrs"));
        cargo
    };
    announce("Lints of kit/consulrs");
    let mut clippy = of(&["clippy", "--locked", "--all-targets"]);
    command::run(clippy.args(["--", "-D", "warnings"]))?;
    announce("Tests of kit/consulrs against a real Consul");
    command::run(of(&["test", "--locked"]).env("CONSUL_BIN", consul))
}
