use std::collections::BTreeMap;

use http::{Request, uri::Authority};
use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};

use super::{ring::Keyed, *};
use crate::endpoint::Snapshot;

/// A set of endpoints with these names and weights, which a picker is asked about without a balancer.
struct Table(Set<(), ()>);

impl Table {
    fn new<'a>(endpoints: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        let endpoint = |(name, weight)| Endpoint {
            weight,
            ..Endpoint::at(Authority::try_from(name).unwrap())
        };
        let snapshot: Snapshot = endpoints.into_iter().map(endpoint).collect();
        let watch = Watch::fixed("users".parse().unwrap(), snapshot);
        let config = BalanceConfig::default();
        Self(Set::first(
            watch,
            &|_: &Endpoint| (),
            &|_: &Endpoint| (),
            Arc::new(config),
            Instant::now(),
        ))
    }

    fn of(names: &[String]) -> Self {
        Self::new(names.iter().map(|name| (name.as_str(), 1)))
    }

    fn pick(&self, picker: &dyn Picker, key: Option<HashKey>, rng: &mut StdRng) -> String {
        let view = self.0.view(Instant::now(), None);
        let seen = Seen {
            group: &self.0.all,
            view: &view,
        };
        let mut request = Request::new(());
        if let Some(key) = key {
            request.extensions_mut().insert(key);
        }
        let mut candidates = Candidates::new(&seen, rng);
        let index = picker.pick(&mut candidates, &Call::of(&request), 0);
        candidates.endpoint(index).id.to_string()
    }

    fn counts(&self, picker: &dyn Picker, picks: usize) -> BTreeMap<String, usize> {
        let mut rng = StdRng::seed_from_u64(7);
        let mut counts = BTreeMap::new();
        for _ in 0..picks {
            *counts.entry(self.pick(picker, None, &mut rng)).or_default() += 1;
        }
        counts
    }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("h{n}:1")).collect()
}

fn keys(count: u32) -> impl Iterator<Item = HashKey> {
    (0..count).map(|n| HashKey::of(&n.to_be_bytes()))
}

#[test]
fn round_robin_is_exactly_even() {
    let counts = Table::of(&names(7)).counts(&RoundRobin::default(), 700);
    assert!(counts.len() == 7 && counts.values().all(|count| *count == 100));
}

#[test]
fn random_is_even() {
    let counts = Table::of(&names(4)).counts(&Random, 8000);
    let even = |count: &usize| (1850..2150).contains(count);
    assert!(counts.len() == 4 && counts.values().all(even), "{counts:?}");
}

#[test]
fn weighted_is_in_proportion_to_the_weights() {
    let table = Table::new([("a:1", 1), ("b:1", 2), ("c:1", 7)]);
    let counts = table.counts(&Weighted, 10_000);
    for (name, expected) in [("a:1", 1000), ("b:1", 2000), ("c:1", 7000)] {
        assert!(counts[name].abs_diff(expected) < 150, "{counts:?}");
    }
}

#[test]
fn a_hash_key_stays_the_same_in_all_releases() {
    assert_eq!(HashKey::of(b"ann"), HashKey(9_265_845_255_492_201_856));
    assert_ne!(HashKey::of(b"ann"), HashKey::of(b"bob"));
}

#[test]
fn a_key_goes_to_the_same_endpoint_in_all_releases() {
    let table = Table::of(&names(10));
    let mut rng = StdRng::seed_from_u64(7);
    for (name, at) in [
        ("ann", "h0:1"),
        ("carol", "h4:1"),
        ("dave", "h6:1"),
        ("eve", "h2:1"),
    ] {
        let key = HashKey::of(name.as_bytes());
        assert_eq!(table.pick(&Keyed(Ratio::ONE), Some(key), &mut rng), at);
    }
}

#[test]
fn keys_spread_over_the_endpoints() {
    let table = Table::of(&names(10));
    let mut rng = StdRng::seed_from_u64(7);
    let mut counts = BTreeMap::<_, usize>::new();
    for key in keys(10_000) {
        let picked = table.pick(&Keyed(Ratio::ONE), Some(key), &mut rng);
        *counts.entry(picked).or_default() += 1;
    }
    assert_eq!(counts.len(), 10);
    assert!(
        counts.values().all(|count| (500..1500).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn an_endpoint_that_comes_or_goes_moves_its_own_keys_only() {
    let all = names(10);
    let (before, after) = (Table::of(&all), Table::of(&all[..9]));
    let mut rng = StdRng::seed_from_u64(7);
    let mut moved = 0;
    for key in keys(2000) {
        let [before, after] =
            [&before, &after].map(|table| table.pick(&Keyed(Ratio::ONE), Some(key), &mut rng));
        match before == all[9] {
            true => moved += 1,
            false => assert_eq!(before, after),
        }
    }
    assert!((50..400).contains(&moved), "{moved}");
}

#[test]
fn a_closure_finds_the_key_and_without_one_the_better_of_two_is_picked() {
    let table = Table::of(&names(5));
    let picker = ConsistentHash::by(Ratio::ONE, |_| Some(HashKey::of(b"ann")));
    assert_eq!(table.counts(&picker, 100).len(), 1);
    assert_eq!(table.counts(&ConsistentHash::new(Ratio::ONE), 100).len(), 5);
}

proptest! {
    /// However keys are distributed: all of them may be the same one.
    #[test]
    fn no_endpoint_has_more_in_flight_than_its_share_and_the_slack(
        keys in prop::collection::vec(0u8..4, 1..200),
        weights in prop::collection::vec(1u32..4, 1..9),
        slack in (0u8..=4).prop_map(|n| Ratio::new(f64::from(n) / 4.0).unwrap()),
    ) {
        let names = names(weights.len());
        let table = Table::new(names.iter().map(String::as_str).zip(weights.iter().copied()));
        let total: u32 = weights.iter().sum();
        let mut rng = StdRng::seed_from_u64(7);
        for (before, key) in keys.into_iter().enumerate() {
            let picked = table.pick(&Keyed(slack), Some(HashKey::of(&[key])), &mut rng);
            let index = names.iter().position(|name| *name == picked).unwrap();
            let load = &table.0.all.members.get(index).node.load;
            load.enter(0);
            let share = (before + 1) as f64 * f64::from(weights[index]) / f64::from(total);
            let most = (share * (1.0 + slack.get())).ceil();
            prop_assert!(f64::from(load.in_flight()) <= most + 1e-6);
        }
    }
}
