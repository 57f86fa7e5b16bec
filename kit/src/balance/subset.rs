//! Which endpoints of a large set this client talks to at all.
//!
//! With n clients and m endpoints there are n x m connections, most of them idle. By rendezvous hashing (Thaler and
//! Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998; gRFC A68 and Envoy subset so, too) each client
//! ranks all endpoints by a hash of both names and takes the first k: an endpoint that comes or goes changes at most one
//! of a client's k, clients need not know of each other, and the more clients there are the more evenly they spread.
//!
//! Not taken: the deterministic subsetting of the SRE book (chapter 20) and its successor "Rocksteadier" (ACM Queue
//! 20(5), 2022), and Twitter's deterministic aperture, which are exactly even. They need clients that are numbered
//! without gaps, or that know all the other clients; where a change of endpoints reshuffles them, connections are torn
//! down everywhere.

use std::{
    env,
    ffi::OsString,
    fs,
    num::NonZeroUsize,
    sync::{Arc, OnceLock},
};

use serde::{Deserialize, Serialize};

use super::ring::{HashKey, mix};
use crate::endpoint::{Endpoint, Snapshot};

/// How many endpoints a client talks to, and which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SubsetConfig {
    /// So many of those that discovery knows; of those that are near and of the others so many each, where the
    /// client has a [`LocalityConfig`](super::LocalityConfig). All, if there are no more. Default 20.
    pub size: NonZeroUsize,
    /// Tells this client from others: clients of the same name take the same endpoints. Default `None`: what
    /// `KIT_SERVER__REGISTRATION__ID` says, or else the name of its host, with the program, its arguments and the
    /// variables that say where its server listens. So a process that is started again in its place takes the same
    /// endpoints again. All clients of a process have the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
}

impl Default for SubsetConfig {
    fn default() -> Self {
        Self {
            size: NonZeroUsize::new(20).expect("not zero"),
            client: None,
        }
    }
}

/// How one client ranks all endpoints of a snapshot, from which the next one's ranks are made: to hash 10,000 ids takes
/// longer than all else that a change of one of them brings.
#[derive(Debug, Default)]
pub(super) struct Ranking {
    all: Snapshot,
    ranks: Vec<Rank>,
}

#[derive(Clone, Copy, Debug)]
struct Rank {
    is_near: bool,
    hash: u64,
}

impl SubsetConfig {
    /// The ranking of `all`, made out of `old`, which is that of the endpoints before, by the same client and with the
    /// same ones near.
    pub(super) fn rank(
        &self,
        all: Snapshot,
        old: &Ranking,
        is_near: impl Fn(&Endpoint) -> bool,
    ) -> Ranking {
        let client = match &self.client {
            Some(name) => HashKey::of(name.as_bytes()).0,
            None => process(),
        };
        let rank = |(endpoint, place): (&Arc<Endpoint>, Option<usize>)| {
            let is_same = |place: &usize| Arc::ptr_eq(endpoint, &old.all[*place]);
            match place.filter(is_same) {
                Some(place) => old.ranks[place],
                None => Rank {
                    is_near: is_near(endpoint),
                    hash: mix(client ^ HashKey::of(endpoint.id.as_str().as_bytes()).0),
                },
            }
        };
        let ranks = all.beside(&old.all).map(rank).collect();
        Ranking { all, ranks }
    }

    /// Those that this client talks to.
    pub(super) fn of(&self, ranking: &Ranking) -> Snapshot {
        let Ranking { all, ranks } = ranking;
        let size = self.size.get();
        if all.len() <= size {
            return all.clone();
        }
        // By which side they are on.
        let mut sides = [Least::new(size), Least::new(size)];
        for (index, Rank { is_near, hash }) in ranks.iter().enumerate() {
            sides[usize::from(!is_near)].add((*hash, index));
        }
        let taken = sides.into_iter().flat_map(Least::into_items);
        let mut taken: Vec<_> = taken.map(|(_, index)| index).collect();
        taken.sort_unstable();
        all.at(&taken)
    }
}

/// The least so many items of all that are added.
struct Least<T> {
    size: usize,
    /// Those that may be among them, and no more than twice as many.
    items: Vec<T>,
    /// The greatest of the least so many of those that were added first.
    limit: Option<T>,
}

impl<T: Ord + Copy> Least<T> {
    fn new(size: usize) -> Self {
        Self {
            size,
            items: Vec::new(),
            limit: None,
        }
    }

    fn add(&mut self, item: T) {
        if self.limit.is_none_or(|limit| item < limit) {
            self.items.push(item);
            if self.items.len() >= 2 * self.size {
                self.cut();
            }
        }
    }

    fn cut(&mut self) {
        if self.items.len() > self.size {
            let (_, limit, _) = self.items.select_nth_unstable(self.size - 1);
            self.limit = Some(*limit);
            self.items.truncate(self.size);
        }
    }

    fn into_items(mut self) -> Vec<T> {
        self.cut();
        self.items
    }
}

/// The name of this process, as a hash.
fn process() -> u64 {
    static NAME: OnceLock<u64> = OnceLock::new();
    *NAME.get_or_init(|| {
        let variable = |name: &str| env::var_os(name);
        name(host(), env::args_os(), variable).unwrap_or_else(rand::random)
    })
}

/// The name of this host, where the system tells it without being asked in C.
fn host() -> Option<OsString> {
    let kernel = fs::read_to_string("/proc/sys/kernel/hostname");
    let kernel = kernel.ok().map(|name| name.trim().into());
    let host = kernel.or_else(|| env::var_os("HOSTNAME"));
    host.filter(|name| !name.is_empty())
}

/// As what its server is registered, or else where it was started and as what; `None` if nobody knows.
fn name(
    host: Option<OsString>,
    arguments: impl Iterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Option<u64> {
    let parts = match variable("KIT_SERVER__REGISTRATION__ID") {
        Some(id) => vec![id],
        None => {
            // What differs between processes of one program on one host, if that is the same when they start again.
            let places = ["KIT_CONFIG", "KIT_SERVER__LISTEN", "KIT_SERVER__ADVERTISE"];
            let places = places.map(|place| variable(place).unwrap_or_default());
            [host?].into_iter().chain(places).chain(arguments).collect()
        }
    };
    let add = |name, part: &OsString| mix(name ^ HashKey::of(part.as_encoded_bytes()).0);
    Some(parts.iter().fold(0, add))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    /// From nothing.
    fn of(config: &SubsetConfig, all: &Snapshot, is_near: impl Fn(&Endpoint) -> bool) -> Snapshot {
        config.of(&config.rank(all.clone(), &Ranking::default(), is_near))
    }

    fn endpoints(ids: impl IntoIterator<Item = u32>) -> Snapshot {
        let endpoint = |id| {
            Endpoint::at(
                format!("10.0.{}.{}:80", id / 256, id % 256)
                    .parse()
                    .unwrap(),
            )
        };
        ids.into_iter().map(endpoint).collect()
    }

    fn subset(size: usize, client: u32, all: &Snapshot) -> BTreeSet<String> {
        let config = SubsetConfig {
            size: NonZeroUsize::new(size).unwrap(),
            client: Some(format!("bugs-{client}")),
        };
        let subset = of(&config, all, |_| false);
        assert!(subset.is_sorted_by(|a, b| a.id < b.id));
        subset.iter().map(|e| e.id.to_string()).collect()
    }

    proptest! {
        #[test]
        fn a_subset_is_as_large_as_wanted_and_a_change_moves_one_of_it_at_most(
            ids in prop::collection::btree_set(0_u32..400, 0..60),
            change in 0_u32..400,
            size in 1_usize..30,
            client: u32,
        ) {
            let before = subset(size, client, &endpoints(ids.iter().copied()));
            prop_assert_eq!(before.len(), size.min(ids.len()));
            let mut changed = ids.clone();
            if !changed.remove(&change) {
                changed.insert(change);
            }
            let after = subset(size, client, &endpoints(changed.iter().copied()));
            prop_assert_eq!(after.len(), size.min(changed.len()));
            prop_assert!(after.difference(&before).count() <= 1);
            prop_assert!(before.difference(&after).count() <= 1);
            // Whoever was not taken does not matter.
            let id = endpoints([change])[0].id.to_string();
            if !before.contains(&id) && !after.contains(&id) {
                prop_assert_eq!(before, after);
            }
        }
    }

    proptest! {
        /// Endpoints come, go and move, and a source shares those that stay between snapshots, or does not.
        #[test]
        fn it_does_not_matter_which_endpoints_were_ranked_before(
            snapshots in prop::collection::vec(
                (prop::collection::btree_map(0_u32..60, 0_u32..3, 0..50), any::<bool>()),
                1..8,
            ),
            size in 1_usize..20,
        ) {
            let config = SubsetConfig {
                size: NonZeroUsize::new(size).unwrap(),
                client: None,
            };
            let is_near = |endpoint: &Endpoint| endpoint.weight == 1;
            let mut ranking = Ranking::default();
            for (weights, shares) in snapshots {
                let mut all: Snapshot = endpoints(weights.keys().copied())
                    .iter()
                    .map(|endpoint| Endpoint::clone(endpoint))
                    .zip(weights.values())
                    .map(|(endpoint, weight)| Endpoint { weight: *weight, ..endpoint })
                    .collect();
                if shares {
                    all = all.sharing(&ranking.all);
                }
                ranking = config.rank(all.clone(), &ranking, is_near);
                prop_assert_eq!(config.of(&ranking), of(&config, &all, is_near));
            }
        }
    }

    #[test]
    fn clients_spread_evenly_over_the_endpoints() {
        let all = endpoints(0..100);
        for (clients, size) in [(100, 20), (1000, 20), (1000, 5)] {
            let mut counts = BTreeMap::<_, u32>::new();
            for client in 0..clients {
                for id in subset(size, client, &all) {
                    *counts.entry(id).or_default() += 1;
                }
            }
            let mean = clients as f64 * size as f64 / 100.0;
            // What chance alone would do: four standard deviations of a binomial distribution.
            let spread = 4.0 * (mean * (1.0 - size as f64 / 100.0)).sqrt();
            assert_eq!(counts.len(), 100);
            for count in counts.values() {
                assert!((f64::from(*count) - mean).abs() < spread, "{counts:?}");
            }
        }
    }

    #[test]
    fn a_process_has_the_same_name_when_it_is_started_again_and_another_one_elsewhere() {
        let of = |host: &str, arguments: &[&str], variables: &[(&str, &str)]| {
            let variable = |name: &str| {
                let found = variables.iter().find(|(other, _)| *other == name);
                found.map(|(_, value)| value.into())
            };
            name(
                Some(host.into()),
                arguments.iter().map(Into::into),
                variable,
            )
            .unwrap()
        };
        let listen = ("KIT_SERVER__LISTEN", "a:1");
        let users = of("h1", &["users"], &[listen]);
        assert_eq!(
            users,
            of("h1", &["users"], &[("KIT_LOG__FORMAT", "json"), listen])
        );
        for other in [
            of("h2", &["users"], &[listen]),
            of("h1", &["bugs"], &[listen]),
            of("h1", &["users", "--port=7"], &[listen]),
            of("h1", &["users"], &[("KIT_SERVER__LISTEN", "a:3")]),
        ] {
            assert_ne!(users, other);
        }
        // As what it is registered says more than where it is.
        let id = ("KIT_SERVER__REGISTRATION__ID", "users-1");
        assert_eq!(
            of("h1", &["users"], &[id]),
            of("h2", &["users", "-v"], &[id, listen])
        );
        assert_eq!(name(None, std::iter::empty(), |_| None), None);
        assert_eq!(process(), process());
    }

    #[test]
    fn near_ones_are_taken_first_and_others_remain() {
        let all = endpoints(0..100);
        let config = SubsetConfig {
            size: NonZeroUsize::new(4).unwrap(),
            client: None,
        };
        let near = ["10.0.0.7:80", "10.0.0.50:80"];
        let is_near = |endpoint: &Endpoint| near.contains(&endpoint.id.as_str());
        let subset = of(&config, &all, is_near);
        assert_eq!(subset.len(), 2 + 4);
        for near in near {
            assert!(subset.iter().any(|endpoint| endpoint.id.as_str() == near));
        }
        // The name that a process gives itself stays.
        assert_eq!(of(&config, &all, is_near), subset);
    }
}
