//! Names, asked of a real agent.

use kit::discovery::{Dns, DnsConfig};
use tokio::time::Instant;

use super::*;

#[tokio::test]
async fn what_srv_records_say_is_found_until_it_is_gone_and_stays_while_nobody_answers() {
    let mut world = World::new().await;
    let config = |names: &[(&str, &str)]| DnsConfig {
        names: names
            .iter()
            .map(|(service, name)| (service.parse().unwrap(), name.parse().unwrap()))
            .collect(),
        server: Some(world.agent.dns()),
        most: Duration::from_secs(2),
        ..DnsConfig::default()
    };
    let config = config(&[
        ("users", "users.service.consul"),
        ("ported", "users.service.consul:7"),
        ("nobody", "nobody.service.consul"),
    ]);
    let dns = Dns::new(config, Arc::new(Names(world.sender.clone())));
    let watch = |service: &str| dns.watch(&service.parse().unwrap());
    let mut srv = watch("users");
    // NXDOMAIN is an answer.
    until(&mut srv, 0).await;
    until(&mut watch("nobody"), 0).await;
    let [first, second] = [Healthy::listen().await, Healthy::listen().await];
    let weights = Weights {
        passing: 5,
        warning: 1,
    };
    let registered = [(&first, "users-1"), (&second, "users-2")].map(|(healthy, id)| {
        world.register(Instance {
            weights,
            ..healthy.instance(id)
        })
    });
    let set = until(&mut srv, 2).await;
    for healthy in [&first, &second] {
        let address = healthy.address.to_string();
        let found = set.iter().find(|endpoint| endpoint.address == address);
        assert_eq!(found.unwrap().weight, 5);
    }
    // Both are at one address.
    let set = until(&mut watch("ported"), 1).await;
    assert_eq!(set[0].address, "127.0.0.1:7");
    // A client calls them.
    let client = Client::new(&dns, users(), ClientConfig::default(), nobody());
    let request = Request::post("/create").body(Body::full("{}")).unwrap();
    assert_eq!(client.oneshot(request).await.unwrap().status(), 200);

    let [one, other] = registered;
    one.deregister().await.unwrap();
    let set = until(&mut srv, 1).await;
    while world.events.try_recv().is_ok() {}
    world.agent.kill().await;
    world.event("DiscoveryFailed").await;
    assert_eq!(srv.current(), Some(set));
    world.agent.start_again().await;
    let back = Instant::now();
    // It comes back by itself, and its instance with it.
    world.event("EndpointsConfirmed").await;
    until(&mut srv, 1).await;
    assert!(back.elapsed() < PATIENCE);
    drop(other);
}
