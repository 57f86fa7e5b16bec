//! What callers with different clients see of the same sick instance, in the same seconds.

use std::{collections::BTreeMap, env, fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use chaos::{Fault, Load, Outcome, Pace, Peer, Report};
use clap::Args;
use http::{Method, uri::Authority};
use kit::error::Chain;
use serde::Serialize;
use tokio::time::sleep;

use crate::callers::Kind;

/// Calls that do not count, before an instance gets sick: connections are made, latencies known.
const WARM_UP: Duration = Duration::from_secs(3);
/// Calls that were under way when it got sick count too.
const BEFORE: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Calls a second of each method from each client
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Seconds for which an instance is sick
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// How often each fault is tried
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Where the results are written
    #[arg(long, default_value = "target/chaos.json")]
    json: PathBuf,
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Row {
    fault: Fault,
    /// GET, which may be made again, or POST, which may not.
    method: String,
    client: &'static str,
    calls: u64,
    succeeded: u64,
    success_rate: f64,
    /// The time in which half of all calls had succeeded; null if fewer did.
    p50_ms: Option<f64>,
    /// The same for 99 of 100.
    p99_ms: Option<f64>,
    /// The same for 999 of 1000.
    p999_ms: Option<f64>,
    /// What the others saw.
    failed: BTreeMap<String, u64>,
}

impl Row {
    fn new(fault: Fault, method: &Method, kind: Kind, report: Report) -> Self {
        let millis = |share| report.quantile(share).map(|took| took.as_secs_f64() * 1e3);
        Self {
            fault,
            method: method.to_string(),
            client: kind.as_str(),
            calls: report.total(),
            succeeded: report.succeeded(),
            success_rate: report.success_rate(),
            p50_ms: millis(0.5),
            p99_ms: millis(0.99),
            p999_ms: millis(0.999),
            failed: report.failed,
        }
    }
}

/// Prints a table, and writes it as JSON.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let mut rows = Vec::new();
    println!("| one of three instances | call | client | success | p50 ms | p99 ms | p99.9 ms |");
    println!("|---|---|---|---|---|---|---|");
    for fault in Fault::ALL {
        let mut reports: Vec<_> = ways().map(|way| (way, Report::default())).collect();
        for _ in 0..options.rounds {
            let seen = round(options, fault).await?;
            for ((_, all), seen) in reports.iter_mut().zip(seen) {
                all.merge(seen);
            }
        }
        for ((method, kind), report) in reports {
            let row = Row::new(fault, &method, kind, report);
            let shown =
                |millis: Option<f64>| millis.map_or("-".to_owned(), |ms| format!("{ms:.1}"));
            println!(
                "| {fault} | {} | {} | {:.2} % | {} | {} | {} |",
                row.method,
                row.client,
                row.success_rate * 100.0,
                shown(row.p50_ms),
                shown(row.p99_ms),
                shown(row.p999_ms),
            );
            rows.push(row);
        }
    }
    if let Some(folder) = options.json.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&options.json, serde_json::to_vec_pretty(&rows)?)
        .with_context(|| format!("{} could not be written", options.json.display()))?;
    eprintln!("as JSON: {}", options.json.display());
    Ok(())
}

/// Each client, once for each method: what it learns from calls of one method does not help the other.
fn ways() -> impl Iterator<Item = (Method, Kind)> {
    let methods = [Method::GET, Method::POST].into_iter();
    methods.flat_map(|method| Kind::ALL.map(|kind| (method.clone(), kind)))
}

/// Three fresh instances, of which one gets sick while all clients call.
async fn round(options: &Options, fault: Fault) -> Result<Vec<Report>> {
    let mut peers = Peer::three(&env::current_exe()?).await?;
    let addresses: Vec<Authority> = peers.iter().map(|peer| peer.address().clone()).collect();
    let loads: Vec<Load> = ways()
        .map(|(method, kind)| {
            let caller = Arc::new(kind.caller(addresses.clone()));
            Load::start(Pace::per_second(options.rate), move |_| {
                let answer = caller.call(method.clone());
                async { Outcome::from(answer.await.map_err(|error| Chain(&*error).to_string())) }
            })
        })
        .collect();
    sleep(WARM_UP).await;
    for load in &loads {
        load.forget();
    }
    sleep(BEFORE).await;
    peers[0].hurt(fault).await?;
    sleep(Duration::from_secs(options.seconds)).await;
    let mut reports = Vec::new();
    for load in loads {
        reports.push(load.finish().await);
    }
    Ok(reports)
}
