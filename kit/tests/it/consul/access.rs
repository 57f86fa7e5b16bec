//! Access that is denied, or taken away, while a service is followed.

use kit::discovery::View;

use super::*;

const ROOT: &str = "5ebd4a32-0c00-4f3a-8f3c-0d4f0d7b7e11";
const ALL: &str =
    r#"service_prefix \"\" { policy = \"write\" } node_prefix \"\" { policy = \"read\" }"#;

/// An agent that gives nothing to nobody but those who have a token.
async fn closed() -> Agent {
    Agent::start_with(&format!(
        r#"acl {{ enabled = true
           default_policy = "deny"
           tokens {{ master = "{ROOT}" }} }}"#
    ))
    .await
}

async fn as_root(agent: &Agent, method: &str, path: &str, body: &str) -> serde_json::Value {
    let root = format!("X-Consul-Token: {ROOT}\r\n");
    let answer = agent.send(method, path, &root, body).await.unwrap();
    serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{method} {path}: {answer}"))
}

/// Makes or replaces a policy and gives its id.
async fn policy(agent: &Agent, path: &str, rules: &str) -> String {
    let body = format!(r#"{{"Name": "p", "Rules": "{rules}"}}"#);
    let answer = as_root(agent, "PUT", path, &body).await;
    answer["ID"].as_str().unwrap().to_owned()
}

/// A new token: the name by which it can be deleted, and its secret.
async fn token(agent: &Agent, policy: &str) -> (String, String) {
    let body = format!(r#"{{"Policies": [{{"ID": "{policy}"}}]}}"#);
    let answer = as_root(agent, "PUT", "/v1/acl/token", &body).await;
    let text = |key: &str| answer[key].as_str().unwrap().to_owned();
    (text("AccessorID"), text("SecretID"))
}

#[tokio::test]
async fn access_that_is_taken_away_leaves_the_set_as_it_is_and_a_new_token_in_the_file_is_used() {
    let agent = closed().await;
    let id = policy(&agent, "/v1/acl/policy", ALL).await;
    let (name, secret) = token(&agent, &id).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{secret}\n")).unwrap();
    let config = ConsulConfig {
        token_file: Some(file.path().to_owned()),
        // A question that waits is answered with what the token may see when it is over.
        wait: Duration::from_secs(1),
        ..ConsulConfig::default()
    };
    let mut world = World::of(agent, config);
    let root = ConsulConfig {
        address: world.agent.address().parse().unwrap(),
        token: Some(ROOT.parse().unwrap()),
        ..ConsulConfig::default()
    };
    let other = Consul::new(root, nobody()).unwrap();
    let [first, second] = [Healthy::listen().await, Healthy::listen().await];
    let _first = other.registration(first.instance("users-1")).start();
    let mut watch = world.consul.watch(&users());
    let before = until(&mut watch, 1).await;

    // The agent answers 200 and an empty list to a token that may see nobody.
    let path = format!("/v1/acl/policy/{id}");
    for rules in [
        r#"service \"other\" { policy = \"read\" } node_prefix \"\" { policy = \"read\" }"#,
        r#"service_prefix \"\" { policy = \"read\" }"#,
    ] {
        policy(&world.agent, &path, rules).await;
        for _ in 0..2 {
            world.event("DiscoveryFailed").await;
        }
        assert_eq!(watch.current().as_ref(), Some(&before));
        assert!(!watch.has_changed());
        policy(&world.agent, &path, ALL).await;
        world.event("EndpointsConfirmed").await;
    }

    // And 403 to one that it does not know any more.
    as_root(&world.agent, "DELETE", &format!("/v1/acl/token/{name}"), "").await;
    for _ in 0..2 {
        world.event("DiscoveryFailed").await;
    }
    assert_eq!(watch.current().as_ref(), Some(&before));
    let (_, secret) = token(&world.agent, &id).await;
    std::fs::write(file.path(), secret).unwrap();
    let _second = other.registration(second.instance("users-2")).start();
    until(&mut watch, 2).await;

    // Whoever may see a service believes that nobody is there.
    drop(_second);
    drop(_first);
    for id in ["users-1", "users-2"] {
        let out = format!("/v1/agent/service/deregister/{id}");
        let root = format!("X-Consul-Token: {ROOT}\r\n");
        world.agent.send("PUT", &out, &root, "").await.unwrap();
    }
    until(&mut watch, 0).await;
}

#[tokio::test]
async fn policies_that_the_token_may_not_read_any_more_stay_and_are_followed_again_when_it_may() {
    const KEYS: &str = r#"key_prefix \"kit/\" { policy = \"read\" }"#;
    let agent = closed().await;
    let id = policy(&agent, "/v1/acl/policy", KEYS).await;
    let (_, secret) = token(&agent, &id).await;
    let config = ConsulConfig {
        token: Some(secret.parse().unwrap()),
        wait: Duration::from_secs(1),
        ..ConsulConfig::default()
    };
    let mut world = World::of(agent, config);
    let say = async |agent: &Agent, key: &str, value: &str| {
        as_root(agent, "PUT", &format!("/v1/kv/kit/users{key}"), value).await
    };
    say(
        &world.agent,
        "",
        r#"{"retry": {"attempts": 7}, "timeout": "9s"}"#,
    )
    .await;
    say(&world.agent, "/retry/attempts", "6").await;
    let mut view = View::new(
        world.consul.key_value(),
        "kit/users",
        ClientConfig::default(),
        Arc::new(Names(world.sender.clone())),
    );
    let until = async |view: &mut View<ClientConfig>, attempts: u32| {
        let reached = async {
            while view.get().retry.attempts.get() != attempts {
                view.changed().await;
            }
        };
        timeout(PATIENCE, reached).await.unwrap();
    };
    until(&mut view, 6).await;
    let path = format!("/v1/acl/policy/{id}");
    // The agent leaves out what may not be read, as if it were not there: all of it, or a part.
    for (round, rules) in (2..).zip([
        r#"key_prefix \"other/\" { policy = \"read\" }"#,
        r#"key_prefix \"kit/\" { policy = \"read\" } key \"kit/users/retry/attempts\" { policy = \"deny\" }"#,
    ]) {
        let before = view.get();
        policy(&world.agent, &path, rules).await;
        for _ in 0..3 {
            world.event("ConfigFailed").await;
        }
        assert_eq!(view.get(), before);
        say(&world.agent, "/retry/attempts", &round.to_string()).await;
        policy(&world.agent, &path, KEYS).await;
        until(&mut view, round).await;
        assert_eq!(view.get().timeout, Duration::from_secs(9));
    }
    // Whoever may read believes that it is gone.
    as_root(
        &world.agent,
        "DELETE",
        "/v1/kv/kit/users/retry/attempts",
        "",
    )
    .await;
    until(&mut view, 7).await;
}
