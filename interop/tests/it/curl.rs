//! curl, as the README uses it.

use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use super::{fair, run, services, url};

const LONGEST: Duration = Duration::from_secs(30);

fn curl() -> Command {
    let mut curl = Command::new("curl");
    // What somebody has configured is of no use here.
    curl.args(["--disable", "--silent", "--show-error", "--max-time", "20"]);
    curl.kill_on_drop(true);
    curl
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_created_by_what_the_readme_says() {
    let data = tempfile::tempdir().unwrap();
    let services = services::start(data.path());
    let mut create = curl();
    create
        .args(["-XPOST", &format!("{}/create", url(&services.users))])
        .args(["-d", r#"{"email": "test"}"#]);
    let user: Value = serde_json::from_str(&run(&mut create, LONGEST).await).unwrap();
    assert_eq!(user["email"], "test");

    // The same over HTTP/2, and twice: the address is taken.
    let mut again = curl();
    again
        .args([
            "--http2-prior-knowledge",
            "--write-out",
            "%{http_code} %{content_type}",
        ])
        .args(["-XPOST", &format!("{}/create", url(&services.users))])
        .args(["-d", r#"{"email": "test"}"#, "--output", "/dev/null"]);
    let told = run(&mut again, LONGEST).await;
    assert_eq!(told, "409 application/problem+json");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_lines_and_a_route_is_an_address() {
    let running = fair::start();
    let mut count = curl();
    count
        .args(["--no-buffer", &format!("{}/count", url(&running))])
        .args(["-d", r#"{"to": 3}"#]);
    let lines = run(&mut count, LONGEST).await;
    assert_eq!(lines, "{\"result\":1}\n{\"result\":2}\n{\"result\":3}\n");

    let mut visitor = curl();
    visitor
        .arg(format!("{}/visitors/7?title=Sir", url(&running)))
        .args(["-H", &format!("Authorization: Bearer {}", fair::TOKEN)]);
    assert_eq!(run(&mut visitor, LONGEST).await, "\"Sir visitor 7\"");

    let mut nobody = curl();
    nobody.args(["--include", &format!("{}/visitors/7", url(&running))]);
    let told = run(&mut nobody, LONGEST).await.to_ascii_lowercase();
    assert!(told.starts_with("http/1.1 401"), "{told}");
    assert!(told.contains("\r\nwww-authenticate: bearer\r\n"), "{told}");
}
