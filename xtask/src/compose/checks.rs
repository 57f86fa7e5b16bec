//! What must be true of the stack once it is up. Everything is asked from outside, as a person would with curl.

use std::{
    process::Command,
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{docker, stack::Stack};
use crate::command::{announce, output};

/// How long anything may take to come true.
const PATIENCE: Duration = Duration::from_secs(90);
const SERVICES: [&str; 3] = ["users", "notificator", "bugs"];

/// Checks everything; the first thing that is wrong is the error.
pub(super) fn all(stack: &Stack) -> Result<()> {
    let users = stack.url("users", 8800)?;
    let bugs = stack.url("bugs", 8802)?;
    let consul = stack.url("consul", 8500)?;
    let prometheus = stack.url("prometheus", 9090)?;

    announce("Consul knows three healthy services");
    for service in SERVICES {
        eventually(|| healthy(&consul, service, 1))?;
    }

    announce("Docker finds the containers healthy, by what the image itself says");
    for service in SERVICES {
        for container in stack.containers(service)? {
            eventually(|| docker_healthy(&container))?;
        }
    }

    announce("The request that creates a user");
    let create = format!("{users}/create");
    let body = r#"{"email": "test"}"#;
    println!("curl -XPOST {create} -d '{body}'");
    // No content type is said, so curl says that it is a form; it is JSON all the same.
    let user = curl(&["-XPOST", &create, "-d", body])?;
    println!("{user}");
    let user = user["id"]
        .as_str()
        .context("no id in the answer")?
        .to_owned();
    ensure!(
        stack
            .output(&["logs", "--no-color", "users"])?
            .lines()
            .any(|line| line.contains("\"trace_id\":\"") && line.contains("users.Users/Create")),
        "users logged no line of JSON with the trace id of the request"
    );
    eventually(|| {
        let mails = stack.output(&["exec", "-T", "notificator", "ls", "/data/mails"])?;
        ensure!(mails.contains(".eml"), "notificator wrote no mail");
        Ok(())
    })?;

    announce("Prometheus has all targets up, and counted the request");
    eventually(|| targets_are_up(&prometheus))?;
    eventually(|| rules_are_well(&prometheus))?;
    eventually(|| {
        let counted =
            "sum(http_server_request_duration_seconds_count{job=\"users\",http_route=\"/create\"})";
        let counted = query(&prometheus, counted)?;
        ensure!(
            counted >= 1.0,
            "Prometheus counted {counted} requests to users"
        );
        println!("requests to users, by Prometheus: {counted}");
        Ok(())
    })?;

    announce("Killing one of two containers of users; requests go on");
    stack.run(&[
        "up",
        "-d",
        "--no-build",
        "--no-recreate",
        "--scale",
        "users=2",
    ])?;
    eventually(|| healthy(&consul, "users", 2))?;
    report_bugs(&bugs, &user, 10)?;
    let containers = stack.containers("users")?;
    let victim = containers.first().context("users has no container")?;
    output(docker().args(["kill", "--signal=KILL", victim]))?;
    println!("killed {victim}");
    // bugs asks users about the reporter of each: over the time in which the victim is found out, and after it.
    report_bugs(&bugs, &user, 60)?;
    eventually(|| healthy(&consul, "users", 1))?;
    report_bugs(&bugs, &user, 10)
}

/// Reports bugs, one every 100 ms. Not one may fail.
fn report_bugs(bugs: &str, reporter: &str, count: usize) -> Result<()> {
    let body = json!({"title": "It fell over", "description": "And did not get up.", "reporter": reporter});
    for number in 1..=count {
        let answer = curl(&["-XPOST", &format!("{bugs}/create"), "-d", &body.to_string()])
            .with_context(|| format!("request {number} of {count} failed"))?;
        ensure!(
            answer["reporter"] == reporter,
            "unexpected answer: {answer}"
        );
        pause(Duration::from_millis(100));
    }
    println!("{count} of {count} requests succeeded");
    Ok(())
}

/// Whether Consul has exactly `count` instances of a service whose check passes.
fn healthy(consul: &str, service: &str, count: usize) -> Result<()> {
    let instances = curl(&[&format!("{consul}/v1/health/service/{service}?passing")])?;
    let found = instances.as_array().map_or(0, Vec::len);
    ensure!(
        found == count,
        "Consul has {found} healthy instances of {service}, not {count}"
    );
    println!("{service}: {found} healthy");
    Ok(())
}

fn docker_healthy(container: &str) -> Result<()> {
    let mut inspect = docker();
    inspect.args(["inspect", "--format", "{{.State.Health.Status}}", container]);
    let status = output(&mut inspect)?;
    ensure!(
        status.trim() == "healthy",
        "{container} is {}",
        status.trim()
    );
    Ok(())
}

/// Whether Prometheus scrapes an instance of each service, Consul and itself, and all of them answer.
fn targets_are_up(prometheus: &str) -> Result<()> {
    let targets = curl(&[&format!("{prometheus}/api/v1/targets?state=active")])?;
    let targets = targets["data"]["activeTargets"]
        .as_array()
        .context("no targets")?;
    for target in targets {
        let up = target["health"] == "up";
        ensure!(
            up,
            "{} is not up: {}",
            target["scrapeUrl"],
            target["lastError"]
        );
    }
    for job in SERVICES.iter().chain(&["consul", "prometheus"]) {
        let found = targets.iter().any(|target| target["labels"]["job"] == *job);
        ensure!(found, "Prometheus has no target {job}");
    }
    println!("{} targets up", targets.len());
    Ok(())
}

/// Whether Prometheus can evaluate all of its rules, and has.
fn rules_are_well(prometheus: &str) -> Result<()> {
    let rules = curl(&[&format!("{prometheus}/api/v1/rules")])?;
    let groups = rules["data"]["groups"].as_array().context("no groups")?;
    let rules = groups.iter().filter_map(|group| group["rules"].as_array());
    let rules: Vec<_> = rules.flatten().collect();
    ensure!(!rules.is_empty(), "Prometheus has no rules");
    for rule in &rules {
        let (name, error) = (&rule["name"], &rule["lastError"]);
        ensure!(rule["health"] == "ok", "{name}: {error}");
    }
    println!("{} rules evaluated", rules.len());
    Ok(())
}

/// The single number that a query gives; 0 for none.
fn query(prometheus: &str, query: &str) -> Result<f64> {
    let url = format!("{prometheus}/api/v1/query");
    let parameter = format!("query={query}");
    let answer = curl(&["--get", &url, "--data-urlencode", &parameter])?;
    let value = answer["data"]["result"][0]["value"][1]
        .as_str()
        .unwrap_or("0");
    Ok(value.parse()?)
}

/// Runs curl; an answer that is not a success is an error with what the answer says.
fn curl(words: &[&str]) -> Result<Value> {
    let mut command = Command::new("curl");
    command
        .args(["-sS", "--max-time", "10", "-w", "\n%{http_code}"])
        .args(words);
    let said = output(&mut command)?;
    let (body, status) = said.rsplit_once('\n').context("curl said nothing")?;
    if !status.starts_with('2') {
        bail!("{status}: {body}");
    }
    serde_json::from_str(body).with_context(|| format!("this is not JSON: {body}"))
}

/// Tries until it is true, or says what is wrong at the end.
fn eventually(mut check: impl FnMut() -> Result<()>) -> Result<()> {
    let begin = SystemTime::now();
    loop {
        match check() {
            Ok(()) => return Ok(()),
            Err(error) if begin.elapsed().unwrap_or(PATIENCE) >= PATIENCE => {
                return Err(error.context(format!("not within {PATIENCE:?}")));
            }
            Err(_) => pause(Duration::from_millis(500)),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "there is no runtime here whose thread would be blocked"
)]
fn pause(duration: Duration) {
    thread::sleep(duration);
}
