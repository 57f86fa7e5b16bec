//! Names whose server is a list.

use std::collections::VecDeque;

use tokio::time::{Instant, advance};

use super::*;
use crate::{BoxError, event::nobody};

const SECOND: Duration = Duration::from_secs(1);

/// A server that gives one answer after the other, the last one again and again, and notes when it was asked.
#[derive(Default)]
struct Server {
    answers: Mutex<VecDeque<Option<Records>>>,
    asked: Mutex<Vec<Duration>>,
}

fn records(addresses: &[&str], ttl: Duration) -> Option<Records> {
    let found = addresses.iter().map(|address| Record {
        address: address.parse().unwrap(),
        priority: 0,
        weight: 1,
    });
    Some(Records {
        found: found.collect(),
        ttl,
    })
}

impl Server {
    fn of(answers: impl IntoIterator<Item = Option<Records>>) -> Arc<Self> {
        Arc::new(Self {
            answers: Mutex::new(answers.into_iter().collect()),
            asked: Mutex::default(),
        })
    }

    fn dns(self: &Arc<Self>) -> Dns {
        let (server, start) = (Arc::clone(self), Instant::now());
        let ask = move |_| -> Answer<'static, Records> {
            let mut asked = server.asked.lock().unwrap();
            // Who asks without a pause never lets the clock go on; his task ends here, and the test sees why.
            assert!(asked.len() < 1_000, "asked again and again");
            asked.push(start.elapsed());
            drop(asked);
            let mut answers = server.answers.lock().unwrap();
            let answer = match answers.len() {
                1 => answers[0].clone(),
                _ => answers.pop_front().unwrap(),
            };
            Box::pin(async move { answer.ok_or_else(|| BoxError::from("SERVFAIL")) })
        };
        let config = serde_json::json!({"names": {"users": "users.example:80"}, "max_age": "60s"});
        Dns::asking(
            serde_json::from_value(config).unwrap(),
            Arc::new(ask),
            nobody(),
        )
    }

    fn asked(&self) -> Vec<Duration> {
        self.asked.lock().unwrap().clone()
    }
}

fn users() -> ServiceName {
    "users".parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_name_is_asked_for_again_when_its_time_to_live_is_over_within_bounds() {
    for (ttl, least, most) in [(0, 1.0, 1.1), (5, 5.0, 5.5), (86_400, 30.0, 33.0)] {
        let server = Server::of([records(&["10.0.0.1:80"], ttl * SECOND)]);
        let _watch = server.dns().watch(&users());
        tokio::time::sleep(100 * SECOND).await;
        let asked = server.asked();
        assert!(asked.len() > 2);
        for pair in asked.windows(2) {
            let pause = (pair[1] - pair[0]).as_secs_f64();
            // Timers count in whole milliseconds.
            assert!((least..most + 0.002).contains(&pause), "{ttl}: {pause}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_good_set_stays_while_no_server_answers_and_is_empty_when_it_is_too_old() {
    let good = records(&["10.0.0.1:80", "[::1]:80"], SECOND);
    let server = Server::of([good.clone(), None]);
    let mut watch = server.dns().watch(&users());
    assert_eq!(watch.known().await.len(), 2);
    tokio::time::sleep(50 * SECOND).await;
    assert_eq!(watch.current().unwrap().len(), 2);
    // It backs off, by chance, and no further than the longest pause.
    let asked = server.asked();
    assert!((4..30).contains(&asked.len()), "{asked:?}");
    tokio::time::sleep(12 * SECOND).await;
    assert!(watch.current().unwrap().is_empty());
    server.answers.lock().unwrap().push_back(good);
    // It may fail once more.
    tokio::time::sleep(61 * SECOND).await;
    assert_eq!(watch.current().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn that_nothing_is_there_is_believed() {
    let server = Server::of([records(&["10.0.0.1:80"], SECOND), records(&[], SECOND)]);
    let mut watch = server.dns().watch(&users());
    assert_eq!(watch.known().await.len(), 1);
    tokio::time::sleep(2 * SECOND).await;
    assert!(watch.current().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn all_who_follow_a_name_share_one_watch_until_the_last_one_leaves() {
    let server = Server::of([records(&["10.0.0.1:80"], SECOND)]);
    let dns = server.dns();
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let watches = [dns.watch(&users()), dns.clone().watch(&users())];
    assert_eq!(tasks(), 1);
    assert_eq!(
        dns.watch(&"bugs".parse().unwrap()).current().unwrap().len(),
        0
    );
    let [first, second] = watches;
    drop(first);
    tokio::task::yield_now().await;
    assert_eq!(tasks(), 1);
    drop(second);
    advance(SECOND).await;
    assert_eq!(tasks(), 0);
    let _again = dns.watch(&users());
    assert_eq!(tasks(), 1);
}

#[test]
fn of_srv_records_those_of_the_lowest_priority_are_used_with_their_weights() {
    let record = |address: &str, priority, weight| Record {
        address: address.parse().unwrap(),
        priority,
        weight,
    };
    let set = endpoints(vec![
        record("10.0.0.1:80", 2, 9),
        record("10.0.0.2:80", 1, 7),
        record("[::1]:81", 1, 0),
    ]);
    let used: Vec<_> = set
        .iter()
        .map(|one| (one.address.as_str(), one.weight))
        .collect();
    assert_eq!(used, [("10.0.0.2:80", 7), ("[::1]:81", 1)]);
}

#[test]
fn a_name_has_a_port_or_srv_records_and_nothing_else_is_one() {
    for good in [
        "users:80",
        "users.example.",
        "_users._tcp.example",
        "10.0.0.1:1",
    ] {
        assert!(good.parse::<DnsName>().is_ok(), "{good}");
    }
    for bad in [
        "",
        ".",
        "a..b",
        "a:0",
        "a:x",
        "a b",
        "http://a:1",
        "me@a:1",
        "a:1:2",
    ] {
        let error = bad.parse::<DnsName>().unwrap_err().to_string();
        assert!(error.contains(&format!("{bad:?}")), "{error}");
    }
}
