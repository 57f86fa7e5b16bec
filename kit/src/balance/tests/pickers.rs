//! Whoever picks.

use super::*;

fn keyed(key: u8) -> Request<()> {
    let mut request = Request::new(());
    request.extensions_mut().insert(HashKey::of(&[key]));
    request
}

#[tokio::test(start_paused = true)]
async fn gates_the_panic_threshold_and_earlier_tries_hold_for_all_pickers() {
    for pick in PICKS {
        let mut world = World::new(&["a:1", "b:1", "c:1"], answer).pick(pick);
        world.gate("b:1").0.closed.store(true, SeqCst);
        for key in 0..100 {
            let tried = Tried::default();
            let mut asked = Vec::new();
            for _ in 0..2 {
                let mut request = keyed(key);
                context::Context::of_mut(request.extensions_mut()).tried = Some(tried.clone());
                asked.push(world.call(request).await.unwrap().into_body());
            }
            asked.sort_by_key(ToString::to_string);
            assert_eq!(asked, ["a:1", "c:1"], "{pick:?}");
        }
        world.gate("c:1").0.closed.store(true, SeqCst);
        let mut used = HashMap::new();
        for key in 0..100 {
            let answer = world.call(keyed(key)).await.unwrap();
            *used.entry(answer.into_body()).or_insert(0) += 1;
        }
        assert_eq!(used.len(), 3, "{pick:?}: {used:?}");
        assert_eq!((world.in_flight(), world.permits()), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_key_goes_to_the_same_endpoint_also_while_others_come_and_go() {
    let mut world = World::new(&["a:1", "b:1", "c:1"], answer).pick(Pick::ConsistentHash);
    let at = world.call(keyed(1)).await.unwrap().into_body();
    for _ in 0..50 {
        assert_eq!(world.call(keyed(1)).await.unwrap().into_body(), at);
    }
    let others: Vec<_> = ["a:1", "b:1", "c:1"]
        .into_iter()
        .filter(|other| at != *other)
        .collect();
    let only = ["a:1", "b:1", "c:1"]
        .into_iter()
        .find(|a| at == *a)
        .unwrap();
    for other in others {
        world.endpoints(&[only, other]);
        assert_eq!(world.call(keyed(1)).await.unwrap().into_body(), at);
    }
}

#[tokio::test(start_paused = true)]
async fn a_picker_of_ones_own_is_used() {
    struct Last;
    impl Picker for Last {
        fn pick(&self, candidates: &mut Candidates<'_>, call: &Call<'_>, turn: usize) -> usize {
            assert_eq!(call.uri.path(), "/");
            candidates.len() - 1 - turn
        }
    }
    let mut world = World::new(&["a:1", "b:1", "c:1"], answer);
    world.balance = world.balance.with_picker(Last);
    for _ in 0..10 {
        assert_eq!(world.ask().await.unwrap(), "c:1");
    }
    world.gate("c:1").0.closed.store(true, SeqCst);
    assert_eq!(world.ask().await.unwrap(), "b:1");
}

#[test]
fn a_picker_is_chosen_by_name() {
    let config = |json| serde_json::from_str::<BalanceConfig>(json);
    assert_eq!(config("{}").unwrap().pick, Pick::PeakEwma);
    assert_eq!(
        config(r#"{"pick": "round_robin"}"#).unwrap().pick,
        Pick::RoundRobin
    );
    let error = config(r#"{"pick": "best"}"#).unwrap_err().to_string();
    assert!(error.contains("consistent_hash"), "{error}");
}

/// How many of 2000 requests, one after the other and each answered in a millisecond, go to an endpoint that joined
/// two others `before` that.
async fn share_of_a_newcomer(pick: Pick, slow_start: Duration, before: Duration) -> usize {
    let mut world = World::new(&["a:1", "b:1"], |endpoint: &Endpoint| {
        let address = endpoint.address.clone();
        BoxCloneSyncService::new(service_fn(move |_| {
            let address = address.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Ok(Response::new(address))
            }
        }))
    });
    world.balance.shared.config.set(BalanceConfig {
        pick,
        slow_start,
        ..BalanceConfig::default()
    });
    for _ in 0..100 {
        world.ask().await.unwrap();
    }
    world.endpoints(&["a:1", "b:1", "c:1"]);
    world.refresh();
    advance(before).await;
    let mut count = 0;
    for n in 0..2000 {
        let answer = world.call(keyed((n % 256) as u8)).await.unwrap();
        count += usize::from(answer.into_body() == "c:1");
    }
    count
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_starts_slowly_and_is_not_starved() {
    for pick in PICKS {
        let [new, grown, at_once] = [(100, 0), (100, 100), (0, 0)].map(|(slow_start, before)| {
            share_of_a_newcomer(
                pick,
                Duration::from_secs(slow_start),
                Duration::from_secs(before),
            )
        });
        let (new, grown, at_once) = (new.await, grown.await, at_once.await);
        assert!((20..150).contains(&new), "{pick:?}: {new}");
        assert!(grown > 400, "{pick:?}: {grown}");
        assert!(at_once > 400, "{pick:?}: {at_once}");
    }
}
