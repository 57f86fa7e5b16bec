//! Runs every example, for what is shown to people must work. Each asserts what it shows.

use std::{collections::BTreeSet, fs, path::Path};

macro_rules! examples {
    ($($name:ident => $path:literal,)*) => {
        $(#[path = $path]
        mod $name;)*

        mod runs {
            $(#[test]
            fn $name() {
                super::$name::main().unwrap();
            })*
        }

        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

examples! {
    balance => "../../examples/balance.rs",
    circuit_breaker => "../../examples/circuit_breaker.rs",
    client => "../../examples/client.rs",
    coalesce => "../../examples/coalesce.rs",
    concurrency => "../../examples/concurrency.rs",
    deadline => "../../examples/deadline.rs",
    fallback => "../../examples/fallback.rs",
    fault => "../../examples/fault.rs",
    hedge => "../../examples/hedge.rs",
    metrics => "../../examples/metrics.rs",
    rate_limit => "../../examples/rate_limit.rs",
    retry => "../../examples/retry.rs",
    server => "../../examples/server.rs",
    service => "../../examples/service.rs",
    tower_http => "../../examples/tower_http.rs",
    trace => "../../examples/trace.rs",
}

#[test]
fn every_example_is_run_and_stays_under_40_lines() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines < 40, "{} has {lines} lines", path.display());
        found.insert(path.file_stem().unwrap().to_str().unwrap().to_owned());
    }
    let run: BTreeSet<_> = NAMES.iter().map(|name| name.to_string()).collect();
    assert_eq!(found, run);
}
