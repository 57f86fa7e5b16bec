//! Which endpoints calls go to where some are near, and where only some are used.

use std::{collections::BTreeMap, num::NonZeroUsize};

use super::*;

fn zoned(endpoints: impl IntoIterator<Item = (String, &'static str)>) -> Snapshot {
    let endpoint = |(address, zone): (String, &str)| Endpoint {
        metadata: BTreeMap::from([("zone".to_owned(), zone.to_owned())]),
        ..Endpoint::at(Authority::try_from(address).unwrap())
    };
    endpoints.into_iter().map(endpoint).collect()
}

/// Three endpoints in zone a, where the caller is, and six in zone b; the zone is the first letter of their names.
fn world(config: BalanceConfig) -> World {
    let near = (0..3).map(|n| (format!("a{n}:1"), "a"));
    let far = (0..6).map(|n| (format!("b{n}:1"), "b"));
    let world = World::unknown(answer);
    world.balance.shared.config.set(BalanceConfig {
        locality: Some(LocalityConfig::zone("a")),
        ..config
    });
    world.set.send_replace(Some(zoned(near.chain(far))));
    world.refresh();
    world
}

fn close(world: &World, endpoints: &[&str]) {
    for endpoint in endpoints {
        world.gate(endpoint).0.closed.store(true, SeqCst);
    }
}

/// How many of a thousand calls stay near, and the endpoints that were used.
async fn near(world: &mut World) -> (usize, BTreeMap<String, usize>) {
    // What was seen before is forgotten by then.
    advance(Duration::from_millis(20)).await;
    let mut used = BTreeMap::new();
    for n in 0..1000_u32 {
        let mut request = Request::new(());
        request
            .extensions_mut()
            .insert(HashKey::of(&n.to_be_bytes()));
        let answer = world.call(request).await.unwrap();
        *used.entry(answer.into_body().to_string()).or_default() += 1;
    }
    let near = used.iter().filter(|(address, _)| address.starts_with('a'));
    (near.map(|(_, count)| count).sum(), used)
}

#[tokio::test(start_paused = true)]
async fn calls_stay_near_and_leave_in_proportion_with_every_picker() {
    for pick in PICKS {
        let mut world = world(BalanceConfig {
            pick,
            ..BalanceConfig::default()
        });
        let (stayed, used) = near(&mut world).await;
        assert_eq!((stayed, used.len()), (1000, 3), "{pick:?}: {used:?}");
        // Two can take what three did, and something of the slack.
        close(&world, &["a0:1"]);
        let (stayed, used) = near(&mut world).await;
        assert_eq!((stayed, used.len()), (1000, 2), "{pick:?}: {used:?}");
        // One may get 1.4 times its share, which is a seventh of all that a third of the callers is entitled to: 600, and
        // up to a ninth of those that leave, which are for all of them. Four standard deviations beside both.
        close(&world, &["a1:1"]);
        let (stayed, used) = near(&mut world).await;
        assert!((538..705).contains(&stayed), "{pick:?}: {used:?}");
        assert_eq!(used.len(), 7, "{pick:?}: {used:?}");
        close(&world, &["a2:1"]);
        let (stayed, used) = near(&mut world).await;
        assert_eq!((stayed, used.len()), (0, 6), "{pick:?}: {used:?}");
        // Now so few are left that all are used.
        close(&world, &["b0:1", "b1:1", "b2:1"]);
        let (_, used) = near(&mut world).await;
        assert_eq!(used.len(), 9, "{pick:?}: {used:?}");
        assert_eq!((world.in_flight(), world.permits()), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn near_endpoints_that_fail_lose_calls_until_they_are_forgiven() {
    let mut world = world(BalanceConfig::default());
    let fail = |world: &World, endpoint: &str| {
        let set = world.balance.shared.set.load();
        let mut members = set.all.members.iter();
        let member = members.find(|member| member.endpoint.id.as_str() == endpoint);
        let now = load::millis(clock::nanos(Instant::now()));
        let load = &member.unwrap().node.load;
        load.failed(now, Duration::ZERO, &set.terms);
    };
    for endpoint in ["a0:1", "a1:1"] {
        fail(&world, endpoint);
    }
    let (stayed, used) = near(&mut world).await;
    assert!((500..750).contains(&stayed), "{used:?}");
    advance(Duration::from_secs(20)).await;
    assert_eq!(near(&mut world).await.0, 1000);
}

#[tokio::test(start_paused = true)]
async fn a_near_endpoint_that_joins_begins_with_a_part_of_the_calls() {
    let mut world = World::unknown(answer);
    world.balance.shared.config.set(BalanceConfig {
        locality: Some(LocalityConfig::zone("a")),
        slow_start: Duration::from_secs(10),
        ..BalanceConfig::default()
    });
    let far = || (0..4).map(|n| (format!("b{n}:1"), "b"));
    let sender = world.set.clone();
    sender.send_replace(Some(zoned(far())));
    world.refresh();
    let joined = far().chain([("a0:1".to_owned(), "a")]);
    sender.send_replace(Some(zoned(joined)));
    world.refresh();
    let (stayed, _) = near(&mut world).await;
    assert!((50..300).contains(&stayed), "{stayed}");
    advance(Duration::from_secs(10)).await;
    assert_eq!(near(&mut world).await.0, 1000);
}

#[tokio::test(start_paused = true)]
async fn a_retried_call_goes_far_rather_than_back_to_where_it_failed() {
    let mut world = World::unknown(answer);
    world.balance.shared.config.set(BalanceConfig {
        locality: Some(LocalityConfig::zone("a")),
        ..BalanceConfig::default()
    });
    let endpoints = [("a0:1".to_owned(), "a"), ("b0:1".to_owned(), "b")];
    world.set.send_replace(Some(zoned(endpoints)));
    for _ in 0..50 {
        let tried = Tried::default();
        let mut asked = Vec::new();
        for _ in 0..2 {
            let mut request = Request::new(());
            context::Context::of_mut(request.extensions_mut()).tried = Some(tried.clone());
            asked.push(world.call(request).await.unwrap().into_body());
        }
        assert_eq!(asked, ["a0:1", "b0:1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn where_the_caller_is_and_what_it_uses_are_replaced_while_it_runs() {
    let mut world = world(BalanceConfig::default());
    let set = |world: &World, zone: Option<&str>, subset: Option<SubsetConfig>| {
        world.balance.shared.config.set(BalanceConfig {
            locality: zone.map(LocalityConfig::zone),
            subset,
            ..BalanceConfig::default()
        });
    };
    let serials = |world: &World| -> Vec<u32> {
        let set = world.balance.shared.set.load();
        let members = set.all.members.iter();
        members.map(|member| member.node.serial).collect()
    };
    let before = serials(&world);
    set(&world, Some("b"), None);
    let (stayed, used) = near(&mut world).await;
    assert_eq!((stayed, used.len()), (0, 6));
    // Nobody is there: all are as near as each other.
    set(&world, Some("z"), None);
    assert_eq!(near(&mut world).await.1.len(), 9);
    set(&world, None, None);
    assert_eq!(near(&mut world).await.1.len(), 9);
    assert_eq!(serials(&world), before, "nothing was made anew");
    let four = SubsetConfig {
        size: NonZeroUsize::new(4).unwrap(),
        client: Some("bugs-1".to_owned()),
    };
    set(&world, None, Some(four.clone()));
    let (_, used) = near(&mut world).await;
    assert_eq!(used.len(), 4);
    // Who stays in the subset keeps what was learnt.
    assert!(serials(&world).iter().all(|serial| before.contains(serial)));
    // All three that are near, and four of the others.
    set(&world, Some("a"), Some(four));
    let (stayed, used) = near(&mut world).await;
    assert_eq!((stayed, used.len()), (1000, 3));
    assert_eq!(serials(&world).len(), 7);
}
