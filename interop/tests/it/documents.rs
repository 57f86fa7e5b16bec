//! OpenAPI documents: held against the specification, and against the services that they are about.

use std::{path::Path, time::Duration};

use interop::fair;
use kit::testing::Instance;
use serde_json::Value;
use tokio::process::Command;

use super::{python, python_bin, run, services, url, write};

fn documents() -> [(&'static str, Value); 4] {
    [
        ("fair", fair::openapi()),
        ("users", users::api::users::openapi()),
        ("bugs", bugs::api::bugs::openapi()),
        ("notificator", notificator::api::notificator::openapi()),
    ]
}

#[tokio::test]
async fn every_document_is_valid_by_the_specification() {
    let folder = tempfile::tempdir().unwrap();
    let files = documents()
        .map(|(name, document)| write(folder.path(), format!("{name}.json"), document.to_string()));
    let mut python = python("documents.py");
    run(python.args(files), Duration::from_secs(60)).await;
}

/// What schemathesis finds out about a running service, beside that it never answers with an error of its own, answers
/// nothing but what its document says, refuses what it says is wrong, and takes what it says is right.
async fn schemathesis(name: &str, running: &Instance, folder: &Path, document: &Value) {
    let file = write(folder, format!("{name}.json"), document.to_string());
    let bin = python_bin().with_file_name("schemathesis");
    let mut command = Command::new(bin);
    command
        .arg("run")
        .arg(file)
        .args(["--url", &url(running)])
        .args(["--checks", "all"])
        .args([
            "--header",
            &format!("Authorization: Bearer {}", super::fair::TOKEN),
        ])
        .args(["--phases", "examples,coverage,fuzzing"])
        // The same at each run, and no more than a few seconds of it.
        .args(["--max-examples", "25", "--seed", "1"])
        .args(["--generation-database", "none", "--no-color"])
        .current_dir(folder)
        .kill_on_drop(true)
        .stdin(std::process::Stdio::null());
    run(&mut command, Duration::from_secs(120)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing_in_a_service_that_differs_from_its_document() {
    let data = tempfile::tempdir().unwrap();
    let services = services::start(data.path());
    let fair = super::fair::start();
    let folder = tempfile::tempdir().unwrap();
    let running = [
        &fair,
        &services.users,
        &services.bugs,
        &services.notificator,
    ];
    for ((name, document), running) in documents().iter().zip(running) {
        schemathesis(name, running, folder.path(), document).await;
    }
}
