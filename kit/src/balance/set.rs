//! What a balancer works from at one moment: the latest snapshot, and the groups that were made from it.

use std::{fmt, sync::Arc};

use rand::{Rng, RngExt};
use tokio::time::Instant;

use super::{
    BalanceConfig, Connect, Gate, Tried,
    group::{Group, Making, Tally, View},
    load::{Terms, millis},
    pick::Candidate,
    subset::Ranking,
};
use crate::{
    clock,
    endpoint::{Endpoint, Watch},
    policy::Admit,
};

/// The endpoints of one snapshot, as one configuration wants them.
pub(super) struct Set<S, G> {
    /// All that calls may go to.
    pub(super) all: Arc<Group<S, G>>,
    /// Those of them that are near, where that tells them from others.
    near: Option<Arc<Near<S, G>>>,
    pub(super) config: Arc<BalanceConfig>,
    /// What loads are reckoned with, as it says.
    pub(super) terms: Terms,
    /// Which version of it that is.
    version: u64,
    /// How the endpoints of the snapshot were ranked, where a subset of them is used.
    ranking: Ranking,
    /// Has seen the snapshot that the nodes were made from, so it tells by itself when they are outdated.
    pub(super) watch: Watch,
    /// Whether there has been a snapshot at all.
    pub(super) known: bool,
}

struct Near<S, G> {
    group: Group<S, G>,
    /// The bits of the chance that a call stays near; at most 10 ms old.
    chance: Tally,
}

impl<S: 'static, G> Set<S, G> {
    /// No endpoints yet, or those that `watch` has.
    pub(super) fn first(
        watch: Watch,
        connect: &dyn Connect<Service = S>,
        gate: &Gate<G>,
        config: Arc<BalanceConfig>,
        now: Instant,
    ) -> Self {
        let empty = Self {
            all: Arc::new(Group::empty(now)),
            near: None,
            terms: Terms::of(&config),
            config: Arc::clone(&config),
            version: 0,
            ranking: Ranking::default(),
            watch,
            known: false,
        };
        empty.next(connect, gate, config, now)
    }

    /// The same, made from this version of the configuration.
    pub(super) fn of_version(self, version: u64) -> Self {
        Self { version, ..self }
    }

    /// Whether there is another snapshot, or this is another version of the configuration.
    pub(super) fn is_outdated(&self, version: u64) -> bool {
        self.watch.has_changed() || self.version != version
    }

    /// The set after the latest snapshot, as `config` wants it.
    pub(super) fn next(
        &self,
        connect: &dyn Connect<Service = S>,
        gate: &Gate<G>,
        config: Arc<BalanceConfig>,
        now: Instant,
    ) -> Self {
        let mut watch = self.watch.clone();
        let latest = watch.see();
        let known = latest.is_some();
        let mut endpoints = latest.unwrap_or_default();
        let locality = config.locality.as_ref();
        let moved = config.locality != self.config.locality;
        let mut ranking = Ranking::default();
        if let Some(subset) = &config.subset {
            let is_near = |endpoint: &Endpoint| locality.is_some_and(|here| here.is_near(endpoint));
            let is_as_before = !moved && config.subset == self.config.subset;
            let before = if is_as_before {
                &self.ranking
            } else {
                &ranking
            };
            ranking = subset.rank(endpoints, before, is_near);
            endpoints = subset.of(&ranking);
        }
        let making = Making {
            connect,
            gate,
            locality,
            moved,
            beside_others: !self.all.members.is_empty(),
            now,
        };
        let (all, near) = match self.all.next(&endpoints, &making) {
            None => (Arc::clone(&self.all), self.near.clone()),
            Some(all) => {
                all.prepare(&self.all, config.pick);
                let near =
                    locality.and_then(|_| Near::after(self.near.as_deref(), &all, &config, now));
                (Arc::new(all), near.map(Arc::new))
            }
        };
        Self {
            all,
            near,
            terms: Terms::of(&config),
            config,
            version: self.version,
            ranking,
            watch,
            known,
        }
    }
}

impl<S, G> Near<S, G> {
    /// Those of `all` that are near, where that tells them from others.
    fn after(
        old: Option<&Self>,
        all: &Group<S, G>,
        config: &BalanceConfig,
        now: Instant,
    ) -> Option<Self> {
        let none = Group::empty(now);
        let old = old.map_or(&none, |near| &near.group);
        let group = old.next_near(all, now)?;
        group.prepare(old, config.pick);
        Some(Self {
            group,
            chance: Tally::new(),
        })
    }
}

impl<S, G> Set<S, G> {
    /// How its endpoints look at this moment to a call that was tried at some of them.
    pub(super) fn view<'a>(&'a self, now: Instant, tried: Option<&'a Tried>) -> View<'a> {
        let nanos = clock::nanos(now);
        View {
            now,
            nanos,
            millis: millis(nanos),
            config: &self.config,
            terms: &self.terms,
            tried,
        }
    }
}

impl<S, G: Admit> Set<S, G> {
    /// The endpoints nearby, if this call is one of those that stay there.
    pub(super) fn near(&self, view: &View<'_>, rng: &mut impl Rng) -> Option<&Group<S, G>> {
        let Near { group, chance } = &**self.near.as_ref()?;
        let locality = self.config.locality.as_ref()?;
        // No more are remembered; and one that is far is better than one that was tried.
        if group.members.len() <= 2 && group.members.iter().all(|member| member.was_tried(view)) {
            return None;
        }
        let chance = chance.recent(group.millis(view.now), || {
            let (near, all) = (group.capacity(view), self.all.capacity(view));
            locality.chance(near, all).to_bits()
        });
        let chance = f32::from_bits(chance);
        (chance >= 1.0 || rng.random::<f32>() < chance).then_some(group)
    }
}

impl<S, G> fmt::Debug for Set<S, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.all.endpoints().map(|endpoint| &endpoint.id);
        f.debug_list().entries(ids).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use http::uri::Authority;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        balance::{LocalityConfig, Pick, group::Member},
        endpoint::Snapshot,
    };

    fn endpoint((id, port, weight, zone): (u8, u16, u32, char)) -> Endpoint {
        Endpoint {
            id: format!("i{id}").parse().unwrap(),
            weight,
            metadata: BTreeMap::from([("zone".to_owned(), zone.to_string())]),
            ..Endpoint::at(Authority::try_from(format!("h:{port}")).unwrap())
        }
    }

    /// Whether both have the same weights and the same ring, and all of their endpoints there.
    fn is_prepared_as<S, G>(group: &Group<S, G>, other: &Group<S, G>) -> bool {
        let members = || group.members.iter().enumerate();
        let owners = members().flat_map(|(index, member)| {
            let weight = member.endpoint.weight.max(1);
            (0..weight).map(move |_| index)
        });
        let total = group.weights().total();
        owners.eq((0..total).map(|at| group.weights().index(at)))
            && total == other.weights().total()
            && group.ring() == other.ring()
    }

    proptest! {
        /// Against a model that is a map from id to address and serial, for sources that share endpoints between
        /// snapshots and for those that do not. What pickers need is held against what it is when made from nothing.
        #[test]
        fn an_endpoint_that_stays_keeps_what_was_learnt_about_it(
            snapshots in prop::collection::vec(
                prop::collection::vec(
                    (0u8..12, 1u16..3, 0u32..3, prop::char::range('a', 'b')),
                    0..12,
                ),
                1..12,
            ),
            shares: bool,
        ) {
            let connect = |endpoint: &Endpoint| endpoint.address.clone();
            let gate = |_: &Endpoint| ();
            let config = Arc::new(BalanceConfig {
                pick: Pick::ConsistentHash,
                locality: Some(LocalityConfig::zone("a")),
                ..BalanceConfig::default()
            });
            let now = Instant::now();
            let (sender, watch) = Watch::channel("users".parse().unwrap());
            let mut set = Set::first(watch, &connect, &gate, Arc::clone(&config), now);
            prop_assert!(!set.known);
            let mut model: BTreeMap<String, (Authority, u32)> = BTreeMap::new();
            let (mut serials, mut last) = (0, Snapshot::default());
            for snapshot in snapshots {
                let mut snapshot: Snapshot =
                    snapshot.into_iter().map(endpoint).collect();
                if shares {
                    snapshot = snapshot.sharing(&last);
                }
                sender.send_replace(Some(snapshot.clone()));
                prop_assert!(set.watch.has_changed());
                let unchanged = snapshot == last;
                last = snapshot.clone();
                let before = Arc::clone(&set.all);
                set = set.next(&connect, &gate, Arc::clone(&config), now);
                prop_assert!(set.known && !set.watch.has_changed());
                prop_assert_eq!(Arc::ptr_eq(&before, &set.all), unchanged);
                prop_assert!(set.all.endpoints().eq(snapshot.iter()));
                let anew = Watch::fixed("users".parse().unwrap(), snapshot.clone());
                let anew = Set::first(anew, &connect, &gate, Arc::clone(&config), now);
                prop_assert!(is_prepared_as(&set.all, &anew.all));
                let is_near = |endpoint: &&Arc<Endpoint>| endpoint.metadata["zone"] == "a";
                let near = snapshot.iter().filter(is_near).count();
                prop_assert_eq!(set.near.is_some(), (1..snapshot.len()).contains(&near));
                if let (Some(near), Some(anew)) = (&set.near, &anew.near) {
                    let in_all = set.all.members.iter().filter(|m| is_near(&&m.endpoint));
                    let pairs = near.group.members.iter().zip(in_all);
                    prop_assert_eq!(near.group.members.len(), pairs.clone().count());
                    prop_assert!(pairs.into_iter().all(|(a, b)| Arc::ptr_eq(&a.node, &b.node)));
                    prop_assert!(is_prepared_as(&near.group, &anew.group));
                }
                let mut next = BTreeMap::new();
                for Member { node, endpoint, .. } in set.all.members.iter() {
                    prop_assert_eq!(&node.service, &endpoint.address);
                    match model.get(endpoint.id.as_str()) {
                        Some((address, kept)) if *address == endpoint.address => {
                            prop_assert_eq!(node.serial, *kept);
                        }
                        _ => {
                            prop_assert!(node.serial > serials);
                        }
                    }
                    let kept = (endpoint.address.clone(), node.serial);
                    next.insert(endpoint.id.to_string(), kept);
                }
                serials = next.values().map(|(_, serial)| *serial).max().unwrap_or(0).max(serials);
                model = next;
            }
        }
    }
}
