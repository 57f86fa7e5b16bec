//! The endpoints that a balancer knows at one moment, and what it has learnt about each.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use rand::{Rng, RngExt};
use tokio::time::Instant;

use super::{
    BalanceConfig, Connect, Pick, Tried,
    load::{Cost, Load},
    pick::Candidate,
    picker::Source,
    ring::{Point, ring},
};
use crate::{
    Rejection,
    endpoint::{Endpoint, Watch},
    policy::Admit,
};

/// The part of its share that an endpoint gets from its first moment.
const LEAST_RAMP: f32 = 0.1;

/// All endpoints of one snapshot, in its order.
pub(super) struct Set<S, G> {
    pub(super) nodes: Box<[Node<S, G>]>,
    /// Has seen the snapshot that the nodes were made from, so it tells by itself when they are outdated.
    pub(super) watch: Watch,
    /// Whether there has been a snapshot at all.
    pub(super) known: bool,
    /// When it was made.
    since: Instant,
    /// How many gates are open.
    available: Tally,
    /// How many requests are in flight.
    in_flight: Tally,
    // Made for the picker that needs them, by whoever makes the set; after a change of pickers by the first
    // request, or by a few that come at once.
    cumulative_weights: OnceLock<Box<[u64]>>,
    ring: OnceLock<Box<[Point]>>,
}

/// A number that takes a look at all endpoints to know. In a large set it is counted at most once in 10 ms, by one
/// request, while the others go on with the last one.
struct Tally(AtomicU64);

impl Tally {
    /// In a set of at most so many endpoints it is always counted.
    const SMALL: usize = 64;
    const FRESH_MILLIS: u32 = 10;
    const NEVER: u64 = u64::MAX;

    fn new() -> Self {
        Self(AtomicU64::new(Self::NEVER))
    }

    fn get(&self, endpoints: usize, now: u32, count: impl Fn() -> usize) -> usize {
        if endpoints <= Self::SMALL {
            return count();
        }
        let word = self.0.load(Relaxed);
        let stamped = |count: usize| u64::from(now) << 32 | count as u64;
        let (stamp, last) = ((word >> 32) as u32, word as u32 as usize);
        if word != Self::NEVER {
            let fresh = now.wrapping_sub(stamp) < Self::FRESH_MILLIS;
            let claim = || {
                self.0
                    .compare_exchange(word, stamped(last), Relaxed, Relaxed)
            };
            if fresh || claim().is_err() {
                return last;
            }
        }
        let count = count();
        self.0.store(stamped(count), Relaxed);
        count
    }
}

/// One endpoint.
pub(super) struct Node<S, G> {
    endpoint: Endpoint,
    pub(super) service: S,
    pub(super) state: Arc<State<G>>,
}

/// What is learnt about an endpoint: kept from snapshot to snapshot, and until the last request to it has ended.
pub(super) struct State<G> {
    pub(super) gate: G,
    pub(super) load: Load,
    /// Whether others were there before it, who can go on with most of the requests while it starts.
    newcomer: bool,
    /// Tells it from all endpoints of all balancers in this process; never 0.
    pub(super) serial: u32,
}

impl<S: Clone, G> Set<S, G> {
    /// No endpoints yet, or those that `watch` has.
    pub(super) fn first(
        watch: Watch,
        connect: &(impl Connect<Service = S> + ?Sized),
        gate: &(impl Fn(&Endpoint) -> G + ?Sized),
        config: &BalanceConfig,
        now: Instant,
    ) -> Self {
        let empty = Self::of(Box::default(), watch, false, now);
        empty.next(connect, gate, config, now)
    }

    /// The set after the latest snapshot. An endpoint that stays, at the same address, keeps its connections and
    /// all that was learnt about it; what another process may have taken the place of begins anew.
    pub(super) fn next(
        &self,
        connect: &(impl Connect<Service = S> + ?Sized),
        gate: &(impl Fn(&Endpoint) -> G + ?Sized),
        config: &BalanceConfig,
        now: Instant,
    ) -> Self {
        let mut watch = self.watch.clone();
        let snapshot = watch.see();
        let old = |endpoint: &Endpoint| {
            let index = self
                .nodes
                .binary_search_by(|node| node.endpoint.id.cmp(&endpoint.id));
            index
                .ok()
                .map(|index| &self.nodes[index])
                .filter(|node| node.endpoint.address == endpoint.address)
        };
        let node = |endpoint: &Endpoint| match old(endpoint) {
            Some(node) => Node {
                endpoint: endpoint.clone(),
                service: node.service.clone(),
                state: Arc::clone(&node.state),
            },
            None => Node {
                endpoint: endpoint.clone(),
                service: connect.connect(endpoint),
                state: Arc::new(State {
                    gate: gate(endpoint),
                    load: Load::new(now),
                    newcomer: !self.nodes.is_empty(),
                    serial: serial(),
                }),
            },
        };
        let nodes = snapshot.iter().flat_map(|s| s.iter()).map(node).collect();
        let set = Self::of(nodes, watch, snapshot.is_some(), now);
        match config.pick {
            Pick::PeakEwma | Pick::RoundRobin | Pick::Random => {}
            Pick::Weighted => {
                set.cumulative_weights();
            }
            Pick::ConsistentHash => {
                set.cumulative_weights();
                set.ring();
            }
        }
        set
    }

    fn of(nodes: Box<[Node<S, G>]>, watch: Watch, known: bool, now: Instant) -> Self {
        Self {
            nodes,
            watch,
            known,
            since: now,
            available: Tally::new(),
            in_flight: Tally::new(),
            cumulative_weights: OnceLock::new(),
            ring: OnceLock::new(),
        }
    }
}

impl<S, G> Set<S, G> {
    fn millis(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.since).as_millis() as u32
    }

    fn cumulative_weights(&self) -> &[u64] {
        made(&self.cumulative_weights, || {
            let mut sum = 0;
            let add = |node: &Node<S, G>| {
                sum += u64::from(node.endpoint.weight.max(1));
                sum
            };
            self.nodes.iter().map(add).collect()
        })
    }

    fn ring(&self) -> &[Point] {
        made(&self.ring, || {
            ring(self.nodes.iter().map(|node| &node.endpoint))
        })
    }
}

impl<S, G: Admit> Set<S, G> {
    /// How many gates are open.
    pub(super) fn available(&self, now: Instant) -> usize {
        let open = |node: &&Node<S, G>| node.state.gate.is_available(now);
        self.available.get(self.nodes.len(), self.millis(now), || {
            self.nodes.iter().filter(open).count()
        })
    }
}

/// What is in `cell`, or what `make` makes. Nobody waits for another who is making it.
fn made<T>(cell: &OnceLock<Box<[T]>>, make: impl FnOnce() -> Box<[T]>) -> &[T] {
    if let Some(made) = cell.get() {
        return made;
    }
    let new = make();
    cell.get_or_init(|| new)
}

fn serial() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    loop {
        match NEXT.fetch_add(1, Relaxed) {
            0 => {}
            serial => return serial,
        }
    }
}

impl<S, G> fmt::Debug for Set<S, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.nodes.iter().map(|node| &node.endpoint.id);
        f.debug_list().entries(ids).finish()
    }
}

/// For which call an endpoint is wanted, and when.
pub(super) struct View<'a> {
    pub(super) now: Instant,
    pub(super) config: &'a BalanceConfig,
    pub(super) tried: Option<&'a Tried>,
}

/// A set as a picker sees it.
pub(super) struct Seen<'a, S, G> {
    pub(super) set: &'a Set<S, G>,
    pub(super) view: &'a View<'a>,
}

impl<S, G: Admit> Source for Seen<'_, S, G> {
    fn len(&self) -> usize {
        self.set.nodes.len()
    }

    fn endpoint(&self, index: usize) -> &Endpoint {
        &self.set.nodes[index].endpoint
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.set.nodes[index].state.load.in_flight()
    }

    fn total_in_flight(&self) -> usize {
        let set = self.set;
        set.in_flight
            .get(set.nodes.len(), set.millis(self.view.now), || {
                let nodes = set.nodes.iter();
                nodes.map(|n| n.state.load.in_flight() as usize).sum()
            })
    }

    fn cost(&self, index: usize) -> Cost {
        self.set.nodes[index].cost(self.view)
    }

    fn is_usable(&self, index: usize) -> bool {
        let node = &self.set.nodes[index];
        node.is_available(self.view) && !node.was_tried(self.view)
    }

    fn cumulative_weights(&self) -> &[u64] {
        self.set.cumulative_weights()
    }

    fn ring(&self) -> &[Point] {
        self.set.ring()
    }
}

impl<S, G: Admit> Candidate<View<'_>> for Node<S, G> {
    type Permit = G::Permit;

    fn is_available(&self, view: &View<'_>) -> bool {
        self.state.gate.is_available(view.now)
    }

    fn cost(&self, view: &View<'_>) -> Cost {
        let mut cost = self.state.load.cost(view.now, view.config);
        cost.requests /= self.endpoint.weight.max(1) as f32;
        cost
    }

    fn hesitates(&self, view: &View<'_>, rng: &mut impl Rng) -> bool {
        if !self.state.newcomer || view.config.slow_start.is_zero() {
            return false;
        }
        let age = view.now.saturating_duration_since(self.state.load.since());
        let ramp = age.as_secs_f32() / view.config.slow_start.as_secs_f32();
        ramp < 1.0 && rng.random::<f32>() >= ramp.max(LEAST_RAMP)
    }

    fn was_tried(&self, view: &View<'_>) -> bool {
        view.tried
            .is_some_and(|tried| tried.contains(self.state.serial))
    }

    fn admit(&self, view: &View<'_>) -> Result<G::Permit, Rejection> {
        self.state.gate.admit(view.now)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use http::uri::Authority;
    use proptest::prelude::*;

    use super::*;
    use crate::endpoint::Snapshot;

    fn endpoint(id: u8, port: u16, weight: u32) -> Endpoint {
        Endpoint {
            id: format!("i{id}").parse().unwrap(),
            weight,
            ..Endpoint::at(Authority::try_from(format!("h:{port}")).unwrap())
        }
    }

    proptest! {
        /// Against a model that is a map from id to address and serial.
        #[test]
        fn an_endpoint_that_stays_keeps_what_was_learnt_about_it(
            snapshots in prop::collection::vec(
                prop::collection::vec((0u8..6, 1u16..3, 1u32..3), 0..8),
                1..12,
            ),
        ) {
            let connect = |endpoint: &Endpoint| endpoint.address.clone();
            let gate = |_: &Endpoint| ();
            let (config, now) = (BalanceConfig::default(), Instant::now());
            let (sender, watch) = Watch::channel("users".parse().unwrap());
            let mut set = Set::first(watch, &connect, &gate, &config, now);
            prop_assert!(!set.known);
            let mut model: BTreeMap<String, (Authority, u32)> = BTreeMap::new();
            let mut serials = 0;
            for snapshot in snapshots {
                let snapshot: Snapshot =
                    snapshot.into_iter().map(|(i, p, w)| endpoint(i, p, w)).collect();
                sender.send_replace(Some(snapshot.clone()));
                prop_assert!(set.watch.has_changed());
                set = set.next(&connect, &gate, &config, now);
                prop_assert!(set.known && !set.watch.has_changed());
                prop_assert_eq!(set.nodes.len(), snapshot.len());
                let mut next = BTreeMap::new();
                for (node, endpoint) in set.nodes.iter().zip(snapshot.iter()) {
                    prop_assert_eq!(&node.endpoint, endpoint);
                    prop_assert_eq!(&node.service, &endpoint.address);
                    let serial = node.state.serial;
                    match model.get(endpoint.id.as_str()) {
                        Some((address, kept)) if *address == endpoint.address => {
                            prop_assert_eq!(serial, *kept);
                        }
                        _ => {
                            prop_assert!(serial > serials);
                        }
                    }
                    next.insert(endpoint.id.to_string(), (endpoint.address.clone(), serial));
                }
                serials = next.values().map(|(_, serial)| *serial).max().unwrap_or(0).max(serials);
                model = next;
            }
        }
    }
}
