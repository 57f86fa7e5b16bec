//! `cargo xtask chaos`: what callers with different clients see of an instance that gets sick. `cargo xtask discovery`:
//! how soon a caller that follows Consul knows, and what that costs.

use anyhow::Result;

use crate::{
    command::{self, announce, cargo},
    tools,
};

/// Builds for release and compares. All three clients, and the instances, are in one process or its children: so the
/// machine is the same for all of them, and should be quiet. `options` are those of `chaos compare`.
pub(crate) fn run(options: &[String]) -> Result<()> {
    announce("One of three instances gets sick, in five ways");
    let mut compare = cargo(&["run", "--release", "--package", "chaos", "--", "compare"]);
    command::run(compare.args(options))
}

/// Builds for release and measures what `docs/discovery.md` shows. `options` are those of `chaos discovery`.
pub(crate) fn discovery(options: &[String]) -> Result<()> {
    let consul = tools::consul()?;
    announce("One of three instances is killed, others are started");
    let mut times = cargo(&["run", "--release", "--package", "chaos", "--", "discovery"]);
    command::run(times.args(options).env("CONSUL_BIN", &consul))?;

    announce("Very many services are followed");
    let mut costs = cargo(&["test", "--release", "--package", "kit", "--test", "it"]);
    costs.args(["what_following_costs", "--", "--ignored", "--nocapture"]);
    command::run(costs.env("CONSUL_BIN", &consul))
}
