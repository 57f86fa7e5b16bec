//! Which instances are asked for, how fresh, and with which token.

use kit::discovery::consul::{Consistency, Query};

use super::*;

/// Registers an instance whose check is passing until it is told otherwise.
async fn register(agent: &Agent, id: &str, more: &str) {
    let body = format!(
        r#"{{"Name": "users", "ID": "{id}", "Address": "127.0.0.1", "Port": 1,
             "Check": {{"TTL": "1h", "Status": "passing"}}{more}}}"#
    );
    let answer = agent.send("PUT", "/v1/agent/service/register", "", &body);
    assert_eq!(answer.await.unwrap(), "");
}

fn ids(set: &Snapshot) -> Vec<&str> {
    set.iter().map(|endpoint| endpoint.id.as_str()).collect()
}

#[tokio::test]
async fn all_tags_must_be_there_whatever_is_in_them() {
    let world = World::new().await;
    let odd = r#"a"b`c\\d&e=f, ä"#;
    register(
        &world.agent,
        "both",
        &format!(r#", "Tags": ["x", {odd:?}, "y"]"#),
    )
    .await;
    register(&world.agent, "one", r#", "Tags": ["y"]"#).await;
    let find = async |tags: &[&str]| {
        let query = Query {
            tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            ..Query::default()
        };
        let mut watch = world.consul.select(query).watch(&users());
        timeout(PATIENCE, watch.known()).await.unwrap()
    };
    assert_eq!(ids(&find(&["y"]).await), ["both@n1", "one@n1"]);
    assert_eq!(ids(&find(&["y", "x"]).await), ["both@n1"]);
    assert_eq!(ids(&find(&["y", odd]).await), ["both@n1"]);
    assert!(find(&["y", "z"]).await.is_empty());
}

#[tokio::test]
async fn an_instance_with_a_warning_is_taken_with_its_own_weight_where_that_is_wanted() {
    let world = World::new().await;
    let weights = r#", "Weights": {"Passing": 8, "Warning": 2}"#;
    register(&world.agent, "a", weights).await;
    let mut strict = world.consul.watch(&users());
    let warnings = Query {
        warnings: true,
        ..Query::default()
    };
    let mut lenient = world.consul.select(warnings).watch(&users());
    assert_eq!(until(&mut strict, 1).await[0].weight, 8);
    assert_eq!(until(&mut lenient, 1).await[0].weight, 8);
    world
        .agent
        .put("/v1/agent/check/warn/service:a")
        .await
        .unwrap();
    until(&mut strict, 0).await;
    let warned = timeout(PATIENCE, async {
        while lenient.see().unwrap()[0].weight != 2 {
            lenient.changed().await;
        }
    });
    warned.await.unwrap();
    world
        .agent
        .put("/v1/agent/check/fail/service:a")
        .await
        .unwrap();
    until(&mut lenient, 0).await;
}

#[tokio::test]
async fn every_consistency_finds_an_instance_and_sees_it_go() {
    let second = Duration::from_secs(1);
    for consistency in [
        Consistency::Default,
        Consistency::Consistent,
        Consistency::Stale { max_stale: second },
        Consistency::Cached {
            max_age: second,
            stale_if_error: second,
        },
    ] {
        let world = World::new().await;
        let consul = world.consul.select(Query {
            consistency,
            near: Some("_agent".into()),
            datacenter: Some("dc1".into()),
            ..Query::default()
        });
        let mut watch = consul.watch(&users());
        until(&mut watch, 0).await;
        register(&world.agent, "a", r#", "Meta": {"version": "2"}"#).await;
        let set = until(&mut watch, 1).await;
        let metadata = format!("{:?}", set[0].metadata);
        assert_eq!(metadata, r#"{"near": "0", "node": "n1", "version": "2"}"#);
        world
            .agent
            .put("/v1/agent/service/deregister/a")
            .await
            .unwrap();
        until(&mut watch, 0).await;
    }
}

#[tokio::test]
async fn the_zone_of_the_node_is_that_of_its_instances() {
    let agent = Agent::start_with(r#"node_meta { zone = "a" }"#).await;
    let world = World::of(agent, ConsulConfig::default());
    register(&world.agent, "1", "").await;
    register(&world.agent, "2", r#", "Meta": {"zone": "b"}"#).await;
    let set = until(&mut world.consul.watch(&users()), 2).await;
    assert_eq!(
        [&set[0].metadata["zone"], &set[1].metadata["zone"]],
        ["a", "b"]
    );
}

#[tokio::test]
async fn a_namespace_is_sent_and_refused_by_an_agent_without_namespaces() {
    let config = ConsulConfig {
        namespace: Some("team".into()),
        ..ConsulConfig::default()
    };
    let mut world = World::of(Agent::start().await, config);
    let watch = world.consul.watch(&users());
    world.event("DiscoveryFailed").await;
    assert_eq!(watch.current(), None);
}

#[tokio::test]
async fn what_is_followed_by_different_queries_is_counted_apart_and_not_shown_once_nobody_follows()
{
    let agent = Agent::start().await;
    // A name of its own, for all tests of this process count in one place.
    let counted: ServiceName = "counted".parse().unwrap();
    for (id, tag) in [("a", "x"), ("b", "y")] {
        let body = format!(
            r#"{{"Name": "{counted}", "ID": "{id}", "Address": "127.0.0.1", "Port": 1, "Tags": ["{tag}"]}}"#
        );
        let answer = agent.send("PUT", "/v1/agent/service/register", "", &body);
        assert_eq!(answer.await.unwrap(), "");
    }
    let metrics = kit::metrics::install();
    let series = || {
        let text = metrics.render();
        let of = |line: &str| {
            let (name, rest) = line.split_once(r#"{peer_service="counted""#)?;
            let (query, value) = rest.split_once("} ")?;
            let since = name == "kit_endpoints_confirmed_timestamp_seconds";
            let value = if since { "since" } else { value };
            let query = query.trim_start_matches(",query=");
            (since || name == "kit_endpoints").then(|| format!("{query} {value}"))
        };
        let mut series: Vec<_> = text.lines().filter_map(of).collect();
        series.sort();
        series
    };
    let config = ConsulConfig {
        address: agent.address().parse().unwrap(),
        // Whoever follows is told again within it.
        wait: Duration::from_secs(1),
        ..ConsulConfig::default()
    };
    let consul = || Consul::new(config.clone(), kit::metrics::observer()).unwrap();
    let (one, other) = (consul(), consul());
    let tagged = Query {
        tags: vec!["x".into()],
        ..Query::default()
    };
    let mut tagged = one.select(tagged).watch(&counted);
    let [mut all, mut again] = [&one, &other].map(|consul| consul.watch(&counted));
    until(&mut tagged, 1).await;
    until(&mut all, 2).await;
    until(&mut again, 2).await;
    let shown = async |expected: &[&str]| {
        let shown = async {
            while series() != expected {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let shown = timeout(PATIENCE, shown).await;
        shown.unwrap_or_else(|_| panic!("{:?}, not {expected:?}", series()));
    };
    let by_tag = [r#""tags=x" 1"#, r#""tags=x" since"#];
    shown(&[" 2", " since", by_tag[0], by_tag[1]]).await;
    drop(tagged);
    shown(&[" 2", " since"]).await;
    // The same question to the same agent is one series, as long as anybody asks.
    drop(all);
    tokio::time::sleep(Duration::from_millis(100)).await;
    shown(&[" 2", " since"]).await;
    drop(again);
    shown(&[]).await;
}
