//! A chain of services, each of which calls the next one with retries, and a leaf that answers nothing well.
#![allow(
    clippy::unwrap_used,
    reason = "a scenario that cannot go on says where by panicking"
)]

use std::{path::Path, time::Duration};

use chaos::{Instance, Load, Outcome, Pace, Relay, RelayClient, eventually};
use kit::{
    Context,
    client::{Client, ClientConfig},
    discovery::Fixed,
    name::ServiceName,
    policy::{BudgetConfig, Ratio},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_chaos");
const PATIENCE: Duration = Duration::from_secs(60);

/// Three services and a client of the first one. The last one is dead: it refuses whatever it is asked for.
struct Chain {
    client: RelayClient<Client>,
    hops: [Instance; 3],
}

impl Chain {
    /// `budget` is that of all who call, the test's own client included.
    async fn start(budget: BudgetConfig) -> Self {
        let program = Path::new(PROGRAM);
        let dead = [
            ("KIT_SERVER__FAULT__ERROR__RATIO", "1"),
            ("KIT_SERVER__FAULT__ERROR__CODE", "unavailable"),
        ];
        let (ratio, floor) = (budget.ratio.get().to_string(), budget.floor.to_string());
        let calling = [
            ("KIT_CLIENT__RETRY__BUDGET__RATIO", &*ratio),
            ("KIT_CLIENT__RETRY__BUDGET__FLOOR", &*floor),
            // A machine on which others build stands still for seconds, and what is given up never comes to the leaf.
            ("KIT_SERVER__DEADLINE__TIMEOUT", "60s"),
            ("KIT_CLIENT__TIMEOUT", "60s"),
            ("KIT_CLIENT__ATTEMPT_TIMEOUT", "20s"),
        ];
        let leaf = Instance::relay(program, None, &dead).await.unwrap();
        let second = Instance::relay(program, Some(leaf.address()), &calling);
        let second = second.await.unwrap();
        let first = Instance::relay(program, Some(second.address()), &calling);
        let first = first.await.unwrap();

        let service: ServiceName = "relay".parse().unwrap();
        let discovery = Fixed::new([(service.clone(), vec![first.address().clone()])]);
        let mut config = ClientConfig {
            timeout: PATIENCE,
            attempt_timeout: PATIENCE / 3,
            ..ClientConfig::default()
        };
        config.retry.budget = budget;
        let client = Client::new(&discovery, service, config, kit::event::nobody());
        Self {
            client: RelayClient::json(client),
            hops: [first, second, leaf],
        }
    }

    /// What each hop was asked so far.
    async fn requests(&self) -> [u64; 3] {
        let [first, second, leaf] = &self.hops;
        let counted = tokio::try_join!(first.requests(), second.requests(), leaf.requests());
        counted.unwrap().into()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_three_hops_a_dead_leaf_gets_a_fifth_more_than_was_asked_and_not_more() {
    // A fifth of the calls, as it comes, but nothing beside that for those who call seldom.
    let budget = BudgetConfig {
        floor: 0,
        ..BudgetConfig::default()
    };
    let chain = Chain::start(budget).await;
    let client = chain.client.clone();
    let load = Load::start(Pace::per_second(40), move |_| {
        let client = client.clone();
        async move {
            let answer = client.ask(Context::new()).await;
            Outcome::from(answer.map(drop).map_err(|error| error.to_string()))
        }
    });
    let goal = async || (load.ended() >= 200).then_some(());
    eventually("the load goes on", PATIENCE, goal)
        .await
        .unwrap();
    let report = load.finish().await;
    let requests = chain.requests().await;
    println!("{report}\nthe hops got {requests:?}");
    assert_eq!(report.succeeded(), 0, "the leaf is dead");
    let [first, _, leaf] = requests;
    assert!(leaf > first, "it is tried again: {requests:?}");
    let most = 1.2 * report.total() as f64;
    assert!(leaf as f64 <= most, "each hop adds its own: {requests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_hop_next_to_the_trouble_tries_again_and_not_what_is_a_retry_already() {
    // As much as anybody could want, so that nothing but the word of other hops holds them back.
    let chain = Chain::start(BudgetConfig {
        ratio: Ratio::ONE,
        floor: 1000,
        ..BudgetConfig::default()
    })
    .await;
    for _ in 0..10 {
        chain.client.ask(Context::new()).await.unwrap_err();
    }
    // Three attempts at each, and not three to the power of three.
    assert_eq!(chain.requests().await, [10, 10, 30]);
    for _ in 0..10 {
        let again = Context {
            previous_attempts: 1,
            ..Context::new()
        };
        chain.client.ask(again).await.unwrap_err();
    }
    assert_eq!(chain.requests().await, [20, 20, 40]);
}
