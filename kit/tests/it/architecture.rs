//! The arrows of ARCHITECTURE.md, read from the code: which room may speak of which.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// What all others share. Speaks of nothing but itself.
const VOCABULARY: &[&str] = &[
    "asked",
    "body",
    "classify",
    "clock",
    "context",
    "endpoint",
    "error",
    "event",
    "name",
    "policy",
    "rejection",
    "sync",
    "wire",
];
/// Speak of the vocabulary only, never of each other.
const ROOMS: &[&str] = &[
    "authenticate",
    "balance",
    "circuit_breaker",
    "coalesce",
    "concurrency",
    "deadline",
    "discovery",
    "fallback",
    "fault",
    "hedge",
    "log",
    "metrics",
    "outbox",
    "rate_limit",
    "retry",
    "trace",
];
/// Put the others together, and may speak of all.
const ASSEMBLY: &[&str] = &["client", "config", "server", "service", "sqlite", "testing"];

/// All Rust files below a folder of the workspace, what was built left out.
pub(crate) fn rust_files(dir: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&workspace().join(dir), &mut found);
    found
}

fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// All Rust files of the library, each with the room it belongs to.
fn files() -> Vec<(String, PathBuf)> {
    let src = workspace().join("kit/src");
    let room = |path: &Path| {
        let first = path.strip_prefix(&src).unwrap().components().next();
        let first = first.unwrap().as_os_str().to_str().unwrap();
        first.trim_end_matches(".rs").to_owned()
    };
    let files = rust_files("kit/src").into_iter();
    files
        .map(|path| (room(&path), path))
        .filter(|(room, _)| room != "lib")
        .collect()
}

/// The modules of the crate that a source names, in `use crate::{...}` or in a path, comments left out.
fn named_modules(source: &str) -> BTreeSet<String> {
    let code: String = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|l| l.to_owned() + "\n")
        .collect();
    let identifier = |text: &str| {
        text.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    let mut named = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with('$')
            || code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
        {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            named.insert(identifier(rest));
            continue;
        };
        // The first word of each item of the group, at the group's own depth.
        let (mut depth, mut start) = (0, true);
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                c if start && !c.is_whitespace() => {
                    named.insert(identifier(&group[at..]));
                    start = false;
                }
                _ => {}
            }
        }
    }
    // What is not a module is a re-export of the vocabulary at the crate's root: `Error`, `BoxError`.
    named.retain(|name| name.starts_with(|c: char| c.is_ascii_lowercase()));
    named
}

#[test]
fn the_arrows_go_one_way() {
    let mut wrong = Vec::new();
    for (room, path) in files() {
        let may = |other: &str| {
            other == room || VOCABULARY.contains(&other) || ASSEMBLY.contains(&room.as_str())
        };
        for other in named_modules(&fs::read_to_string(&path).unwrap()) {
            if !may(&other) {
                wrong.push(format!("{} speaks of {other}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_room_has_its_place() {
    let known: BTreeSet<_> = [VOCABULARY, ROOMS, ASSEMBLY]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect();
    let there: BTreeSet<_> = files().into_iter().map(|(room, _)| room).collect();
    assert_eq!(there, known);
}

#[test]
fn the_reader_of_use_lines_reads_them() {
    let source = "use crate::{\n    BoxError, Error,\n    retry::{Budget, policy},\n    trace,\n};\nfn f() { crate::balance::pick() }\n// crate::fault\n";
    let named: Vec<_> = named_modules(source).into_iter().collect();
    assert_eq!(named, ["balance", "retry", "trace"]);
}

#[test]
fn the_tree_has_one_version_of_what_must_not_be_doubled() {
    let lock = fs::read_to_string(workspace().join("Cargo.lock")).unwrap();
    let versions = |name: &str| lock.matches(&format!("name = \"{name}\"\n")).count();
    for name in [
        "h2",
        "http",
        "hyper",
        "hyper-util",
        "prost",
        "rustls",
        "tokio",
        "tonic",
        "tower",
    ] {
        assert_eq!(versions(name), 1, "{name}");
    }
    // The first pins an HTTP stack of its own with open advisories; the others need a C toolchain or OpenSSL.
    for name in ["consulrs", "openssl", "aws-lc-rs"] {
        assert_eq!(versions(name), 0, "{name}");
    }
}

#[test]
fn every_promise_names_tests_that_exist() {
    let text = fs::read_to_string(workspace().join("ARCHITECTURE.md")).unwrap();
    let promises = text
        .split("\n## ")
        .find(|part| part.starts_with("Promises"))
        .unwrap();
    let code: String = ["kit", "services", "chaos", "interop"]
        .into_iter()
        .flat_map(rust_files)
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    // Between every second pair of backticks; the name of a test is a sentence, that of a lint is not.
    let named = promises
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.matches('_').count() > 2);
    let missing: Vec<_> = named
        .filter(|name| !code.contains(&format!("fn {name}(")))
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
}
