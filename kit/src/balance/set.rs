//! The endpoints that a balancer knows at one moment, and what it has learnt about each.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use tokio::time::Instant;

use super::{BalanceConfig, Connect, Tried, load::Load, pick::Candidate};
use crate::{
    Rejection,
    endpoint::{Endpoint, Watch},
    policy::Admit,
};

/// All endpoints of one snapshot, in its order.
pub(super) struct Set<S, G> {
    pub(super) nodes: Box<[Node<S, G>]>,
    /// Has seen the snapshot that the nodes were made from, so it tells by itself when they are outdated.
    pub(super) watch: Watch,
    /// Whether there has been a snapshot at all.
    pub(super) known: bool,
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
        let empty = Self {
            nodes: Box::default(),
            watch,
            known: false,
        };
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
                    load: Load::new(config, now),
                    serial: serial(),
                }),
            },
        };
        Self {
            known: snapshot.is_some(),
            nodes: snapshot.iter().flat_map(|s| s.iter()).map(node).collect(),
            watch,
        }
    }
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

impl<S, G: Admit> Candidate<View<'_>> for Node<S, G> {
    type Permit = G::Permit;

    fn is_available(&self, view: &View<'_>) -> bool {
        self.state.gate.is_available(view.now)
    }

    fn score(&self, view: &View<'_>) -> f32 {
        self.state.load.score(view.now, view.config) / self.endpoint.weight.max(1) as f32
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
