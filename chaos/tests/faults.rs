//! One of three instances gets sick under load, in one way after the other: what a caller with kit's client notices.
#![allow(
    clippy::unwrap_used,
    reason = "a scenario that cannot go on says where by panicking"
)]

use std::{collections::BTreeMap, path::Path, time::Duration};

use chaos::{CALL, Fault, Load, Outcome, Pace, Peer, Report, eventually};
use http::{Method, Request, uri::Authority};
use http_body_util::BodyExt;
use kit::{
    Body, BoxError,
    client::{Client, ClientConfig},
    discovery::Fixed,
    error::Chain,
};
use tower::ServiceExt;

const PROGRAM: &str = env!("CARGO_BIN_EXE_chaos");
const PATIENCE: Duration = Duration::from_secs(60);
/// Calls before the instance gets sick, and after.
const WARM_UP: u64 = 40;
const CALLS: u64 = 150;
/// Calls a second.
const RATE: u32 = 40;

/// What became of calls of one method.
struct Seen {
    report: Report,
    /// How many came to the instance while it was sick.
    sick: u64,
    /// How often each call came to an instance, whichever.
    calls: BTreeMap<u64, u32>,
}

impl Seen {
    /// What the sick instance still got of all calls. A third would be its fair share.
    fn share(&self) -> f64 {
        self.sick as f64 / self.report.total() as f64
    }

    /// The calls that were made more than once.
    fn repeated(&self) -> Vec<u64> {
        let repeated = self.calls.iter().filter(|(_, times)| **times > 1);
        repeated.map(|(call, _)| *call).collect()
    }
}

/// A client as it comes, but for more patience: a machine on which others build stands still for seconds. Only with an
/// instance that hangs does it matter when an attempt is given up.
fn client(peers: &[Peer], fault: Fault) -> Client {
    let service: kit::name::ServiceName = "peer".parse().unwrap();
    let addresses: Vec<Authority> = peers.iter().map(|peer| peer.address().clone()).collect();
    let discovery = Fixed::new([(service.clone(), addresses)]);
    let config = ClientConfig {
        timeout: PATIENCE,
        attempt_timeout: match fault {
            Fault::Hangs => ClientConfig::default().attempt_timeout,
            _ => PATIENCE / 3,
        },
        ..ClientConfig::default()
    };
    Client::new(&discovery, service, config, kit::event::nobody())
}

/// Makes a call, and reads its answer to the end.
async fn call(client: Client, method: Method, number: u64) -> Result<(), BoxError> {
    let request = Request::builder()
        .method(method)
        .uri("/")
        .header(CALL, number);
    let answer = client.oneshot(request.body(Body::full("ping"))?).await?;
    let status = answer.status();
    answer.into_body().collect().await?;
    if !status.is_success() {
        return Err(status.to_string().into());
    }
    Ok(())
}

/// Waits until so many requests have ended.
async fn ended(load: &Load, count: u64) {
    let goal = async || (load.ended() >= count).then_some(());
    eventually("the load goes on", PATIENCE, goal)
        .await
        .unwrap();
}

/// Lets one of three instances have `fault` while calls of `method` are made.
async fn see(fault: Fault, method: Method) -> Seen {
    let mut peers = Peer::three(Path::new(PROGRAM)).await.unwrap();
    let client = client(&peers, fault);
    let load = Load::start(Pace::per_second(RATE), move |number| {
        let answer = call(client.clone(), method.clone(), number);
        async { Outcome::from(answer.await.map_err(|error| Chain(&*error).to_string())) }
    });
    ended(&load, WARM_UP).await;
    let before = peers[0].served().await.unwrap();
    assert!(before.requests > 0, "all are used while they are well");
    load.forget();
    peers[0].hurt(fault).await.unwrap();
    ended(&load, CALLS).await;
    let report = load.finish().await;
    println!("{fault}: {report}");

    peers[0].heal().await.unwrap();
    let mut calls = BTreeMap::new();
    for peer in &mut peers {
        for (call, times) in peer.served().await.unwrap().calls {
            *calls.entry(call).or_default() += times;
        }
    }
    let after = peers[0].served().await.unwrap();
    Seen {
        report,
        sick: after.requests - before.requests,
        calls,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_fails_fast_attracts_nothing() {
    // An error of its own making: nobody knows whether another one would do better, so it is not made again.
    let seen = see(Fault::FailsFast, Method::GET).await;
    assert!(seen.report.success_rate() >= 0.9, "{}", seen.report);
    assert!(seen.share() <= 0.1, "{}", seen.share());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_is_asked_seldom() {
    let seen = see(Fault::Slow, Method::GET).await;
    assert_eq!(seen.report.failures(), 0, "{}", seen.report);
    assert!(seen.share() <= 0.2, "{}", seen.share());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_fails_no_call_that_may_be_made_again() {
    let seen = see(Fault::Hangs, Method::GET).await;
    assert_eq!(seen.report.failures(), 0, "{}", seen.report);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_refuses_fails_no_call_that_may_be_made_again() {
    let seen = see(Fault::Refuses, Method::GET).await;
    assert_eq!(seen.report.failures(), 0, "{}", seen.report);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_breaks_off_its_answers_fails_no_call_that_may_be_made_again() {
    let seen = see(Fault::Resets, Method::GET).await;
    assert_eq!(seen.report.failures(), 0, "{}", seen.report);
    assert!(seen.share() <= 0.1, "{}", seen.share());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_done_comes_to_nobody_twice() {
    let [hangs, refuses, resets] = [Fault::Hangs, Fault::Refuses, Fault::Resets]
        .map(|fault| async move { see(fault, Method::POST).await.repeated() });
    let repeated = tokio::join!(hangs, refuses, resets);
    assert_eq!(repeated, (vec![], vec![], vec![]));
}
