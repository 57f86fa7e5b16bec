//! A process that follows very many services of one agent.

use std::collections::BTreeSet;

use super::*;

const SERVICES: usize = 1_000;

fn name(number: usize) -> ServiceName {
    format!("service-{number}").parse().unwrap()
}

async fn register(agent: &Agent, number: usize, instance: usize) {
    let body = format!(
        r#"{{"Name": "service-{number}", "ID": "service-{number}-{instance}", "Address": "127.0.0.1",
             "Port": 1, "Check": {{"TTL": "1h", "Status": "passing"}}}}"#
    );
    let answer = agent.send("PUT", "/v1/agent/service/register", "", &body);
    assert_eq!(answer.await.unwrap(), "");
}

/// Established connections of this process to a port on loopback.
fn connections(port: u16) -> usize {
    let own: BTreeSet<_> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
        .filter_map(|link| link.to_str().map(str::to_owned))
        .collect();
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let to = format!("0100007F:{port:04X}");
    let lines = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .filter(|line| line.len() > 9 && line[2] == to && line[3] == "01")
        .filter(|line| own.contains(&format!("socket:[{}]", line[9])))
        .count()
}

fn port(agent: &Agent) -> u16 {
    agent.address().rsplit_once(':').unwrap().1.parse().unwrap()
}

/// Memory of this process in RAM, in bytes.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 4096
}

/// What this thread has used of the processor; a test's runtime has no other.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

fn tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

async fn all_known(watches: &mut [Watch]) {
    for watch in watches {
        until(watch, 1).await;
    }
}

#[tokio::test]
async fn a_thousand_services_are_followed_over_few_connections_and_each_change_is_seen() {
    let world = World::new().await;
    for number in 0..SERVICES {
        register(&world.agent, number, 0).await;
    }
    let mut watches: Vec<_> = (0..SERVICES)
        .map(|n| world.consul.watch(&name(n)))
        .collect();
    all_known(&mut watches).await;
    // Those of questions that wait, of looks, of the tide, and those that are kept for the next look.
    let most = 64 + 8 + 2 + 8;
    // One for each service, two of the tide, and up to two for each connection.
    assert!(tasks() <= SERVICES + 2 + 2 * most, "{}", tasks());
    for number in [0, SERVICES / 2, SERVICES - 1] {
        register(&world.agent, number, 1).await;
        until(&mut watches[number], 2).await;
        let out = format!("/v1/agent/service/deregister/service-{number}-1");
        world.agent.put(&out).await.unwrap();
        until(&mut watches[number], 1).await;
        let fail = format!("/v1/agent/check/fail/service:service-{number}-0");
        world.agent.put(&fail).await.unwrap();
        until(&mut watches[number], 0).await;
        assert!(connections(port(&world.agent)) <= most);
    }
    // A place that becomes free is taken by one of the others.
    drop(watches.drain(..SERVICES - 1));
    let last = &mut watches[0];
    register(&world.agent, SERVICES - 1, 2).await;
    until(last, 1).await;
    drop(watches);
    timeout(PATIENCE, async {
        // What is left are the connections that are kept, which close when nobody has used them for a while.
        while tasks() > 2 * 8 + 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{} tasks are left", tasks()));
}

/// Prints the numbers of `docs/discovery.md`, which says how to run it.
#[tokio::test]
#[ignore = "measures for two minutes"]
async fn what_following_costs() {
    for services in [1, 10, SERVICES] {
        let agent = Agent::start().await;
        let world = World::of(agent, ConsulConfig::default());
        for number in 0..services {
            register(&world.agent, number, 0).await;
        }
        let (memory_before, start) = (memory(), tokio::time::Instant::now());
        let mut watches: Vec<_> = (0..services)
            .map(|n| world.consul.watch(&name(n)))
            .collect();
        all_known(&mut watches).await;
        let known = start.elapsed();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let (cpu_before, idle) = (cpu(), tokio::time::Instant::now());
        tokio::time::sleep(Duration::from_secs(60)).await;
        let share = (cpu() - cpu_before).as_secs_f64() / idle.elapsed().as_secs_f64();
        let memory = memory().saturating_sub(memory_before) / 1024;
        let mut latencies = Vec::new();
        for round in 0..20 {
            let number = services - 1 - round % services.min(20);
            let start = tokio::time::Instant::now();
            register(&world.agent, number, 1).await;
            until(&mut watches[number], 2).await;
            latencies.push(start.elapsed());
            let out = format!("/v1/agent/service/deregister/service-{number}-1");
            world.agent.put(&out).await.unwrap();
            until(&mut watches[number], 1).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        latencies.sort();
        println!(
            "{services} services: known after {known:?}, {} tasks, {} connections, {memory} KiB more memory, \
             {:.3} % of a core while idle, a change seen after {:?} (median), {:?} (most)",
            tasks(),
            connections(port(&world.agent)),
            share * 100.0,
            latencies[latencies.len() / 2],
            latencies.last().unwrap(),
        );
    }
}
