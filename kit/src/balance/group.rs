//! The endpoints that one picks from, and what is learnt about each.

use std::{
    cmp::Ordering,
    iter,
    sync::{Arc, OnceLock},
    time::Duration,
};

use rand::{Rng, RngExt};
use tokio::time::Instant;

use super::{
    BalanceConfig, Connect, LocalityConfig, Pick, Tried,
    chunked::{Chunked, Keys},
    load::{Cost, Load, Terms},
    locality::Capacity,
    pick::Candidate,
    picker::Source,
    ring::Ring,
    weights::Weights,
};
use crate::{
    Rejection, clock,
    endpoint::Endpoint,
    policy::Admit,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// The part of its share that an endpoint gets from its first moment.
const LEAST_RAMP: f32 = 0.1;

/// Endpoints, ordered by id.
pub(super) struct Group<S, G> {
    pub(super) members: Chunked<Member<S, G>>,
    /// When it was made.
    since: Instant,
    /// How many gates are open.
    available: Tally,
    /// How many requests are in flight.
    in_flight: Tally,
    // Made for the picker that needs them: by the first request that has such a picker, or by a few that come at once;
    // from then on, out of what the group before had, by whoever makes the group.
    weights: OnceLock<Weights>,
    ring: OnceLock<Ring>,
}

/// A number that takes a look at all endpoints to know. In a large group it is counted at most once in 10 ms, by one
/// request, while the others go on with the last one.
pub(super) struct Tally(AtomicU64);

impl Tally {
    /// In a group of at most so many endpoints it is always counted.
    const SMALL: usize = 64;
    const FRESH_MILLIS: u32 = 10;
    const NEVER: u64 = u64::MAX;

    pub(super) fn new() -> Self {
        Self(AtomicU64::new(Self::NEVER))
    }

    fn get(&self, endpoints: usize, now: u32, count: impl Fn() -> usize) -> usize {
        if endpoints <= Self::SMALL {
            return count();
        }
        self.recent(now, || count() as u32) as usize
    }

    /// However few there are to look at.
    pub(super) fn recent(&self, now: u32, count: impl Fn() -> u32) -> u32 {
        let word = self.0.load(Relaxed);
        let stamped = |count: u32| u64::from(now) << 32 | u64::from(count);
        let (stamp, last) = ((word >> 32) as u32, word as u32);
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

/// An endpoint as the latest snapshot says it, and what is known of it.
pub(super) struct Member<S, G> {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) node: Arc<Node<S, G>>,
    weight: u32,
    is_near: bool,
}

impl<S, G> Clone for Member<S, G> {
    fn clone(&self) -> Self {
        Self {
            endpoint: Arc::clone(&self.endpoint),
            node: Arc::clone(&self.node),
            ..*self
        }
    }
}

impl<S, G> Member<S, G> {
    /// Which of the two has its id first.
    fn compare(&self, endpoint: &Arc<Endpoint>) -> Ordering {
        if Arc::ptr_eq(&self.endpoint, endpoint) {
            return Ordering::Equal;
        }
        self.endpoint.id.cmp(&endpoint.id)
    }
}

/// What is known of one endpoint: kept from snapshot to snapshot, and until the last request to it has ended.
pub(super) struct Node<S, G> {
    pub(super) service: S,
    pub(super) gate: G,
    pub(super) load: Load,
    /// When it was made, in nanoseconds of [`clock::nanos`].
    made: u64,
    /// Whether others were there before it, who can go on with most of the requests while it starts.
    newcomer: bool,
    /// Tells it from all endpoints of all balancers in this process; never 0.
    pub(super) serial: u32,
}

impl<S, G> Node<S, G> {
    /// How much of its share it gets by now, from 0 to 1, if it need not have all of it.
    fn ramp(&self, view: &View<'_>) -> f32 {
        if !self.newcomer || view.config.slow_start.is_zero() {
            return 1.0;
        }
        let age = Duration::from_nanos(view.nanos.saturating_sub(self.made));
        let ramp = age.as_secs_f32() / view.config.slow_start.as_secs_f32();
        ramp.clamp(LEAST_RAMP, 1.0)
    }
}

/// How members are made from endpoints.
pub(super) struct Making<'a, S, G> {
    pub(super) connect: &'a dyn Connect<Service = S>,
    pub(super) gate: &'a (dyn Fn(&Endpoint) -> G + Send + Sync),
    pub(super) locality: Option<&'a LocalityConfig>,
    /// Whether who is near has to be found out anew.
    pub(super) moved: bool,
    /// Whether others are there already.
    pub(super) beside_others: bool,
    pub(super) now: Instant,
}

impl<S: 'static, G> Keys<Member<S, G>> for Making<'_, S, G> {
    type Key = Arc<Endpoint>;

    fn is_same(&self, member: &Member<S, G>, endpoint: &Arc<Endpoint>) -> bool {
        // Compares by pointer first.
        !self.moved && member.endpoint == *endpoint
    }

    fn compare(&self, member: &Member<S, G>, endpoint: &Arc<Endpoint>) -> Ordering {
        member.compare(endpoint)
    }

    /// An endpoint that stays, at the same address, keeps its connections and all that was learnt about it; what
    /// another process may have taken the place of begins anew.
    fn make(&self, endpoint: &Arc<Endpoint>, old: Option<&Member<S, G>>) -> Member<S, G> {
        let is_here = |old: &&Member<S, G>| {
            Arc::ptr_eq(&old.endpoint, endpoint) || old.endpoint.address == endpoint.address
        };
        let node = match old.filter(is_here) {
            Some(old) => Arc::clone(&old.node),
            None => Arc::new(Node {
                service: self.connect.connect(endpoint),
                gate: (self.gate)(endpoint),
                load: Load::default(),
                made: clock::nanos(self.now),
                newcomer: self.beside_others,
                serial: serial(),
            }),
        };
        Member {
            endpoint: Arc::clone(endpoint),
            node,
            weight: endpoint.weight.max(1),
            is_near: self.locality.is_some_and(|here| here.is_near(endpoint)),
        }
    }
}

/// Members of another group, as they are there.
struct Taken;

impl<S, G> Keys<Member<S, G>> for Taken {
    type Key = Member<S, G>;

    fn is_same(&self, member: &Member<S, G>, key: &Member<S, G>) -> bool {
        Arc::ptr_eq(&member.endpoint, &key.endpoint) && Arc::ptr_eq(&member.node, &key.node)
    }

    fn compare(&self, member: &Member<S, G>, key: &Member<S, G>) -> Ordering {
        by_id(member, key)
    }

    fn make(&self, key: &Member<S, G>, _: Option<&Member<S, G>>) -> Member<S, G> {
        key.clone()
    }
}

impl<S, G> Group<S, G> {
    pub(super) fn empty(now: Instant) -> Self {
        Self::of(Chunked::empty(), now)
    }

    fn of(members: Chunked<Member<S, G>>, now: Instant) -> Self {
        Self {
            members,
            since: now,
            available: Tally::new(),
            in_flight: Tally::new(),
            weights: OnceLock::new(),
            ring: OnceLock::new(),
        }
    }

    /// The group of `endpoints`, which follows this one; `None` if it is the same.
    pub(super) fn next(
        &self,
        endpoints: &[Arc<Endpoint>],
        making: &Making<'_, S, G>,
    ) -> Option<Self>
    where
        S: 'static,
    {
        let members = self.members.next(endpoints, making);
        (!members.is(&self.members)).then(|| Self::of(members, making.now))
    }

    /// Those of `all` that are near, in a group which follows this one; `None` if nobody is, or everybody.
    pub(super) fn next_near(&self, all: &Self, now: Instant) -> Option<Self> {
        let near = all.members.iter().filter(|member| member.is_near);
        let near: Vec<_> = near.cloned().collect();
        if near.is_empty() || near.len() == all.members.len() {
            return None;
        }
        Some(Self::of(self.members.next(&near, &Taken), now))
    }

    /// Makes what `pick` needs, and what was needed of the group before, out of what that has of it: the work is that of
    /// the chunks that changed.
    pub(super) fn prepare(&self, old: &Self, pick: Pick) {
        // Nobody else has seen this group yet, so nothing is there already.
        if let Some(weights) = old.weights.get() {
            let old = Some((weights, &old.members));
            let _ = self
                .weights
                .set(Weights::after(old, &self.members, |member| member.weight));
        }
        if let Some(ring) = old.ring.get() {
            let (new, old) = (&self.members, &old.members);
            let gone = old.not_in(new, by_id).map(|(index, _)| index);
            let came = new
                .not_in(old, by_id)
                .map(|(index, member)| (index, &member.endpoint.id));
            let _ = self.ring.set(ring.next(gone, came));
        }
        match pick {
            Pick::PeakEwma | Pick::RoundRobin | Pick::Random => {}
            Pick::Weighted => {
                self.weights();
            }
            Pick::ConsistentHash => {
                self.weights();
                self.ring();
            }
        }
    }

    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.members.iter().map(|member| &member.endpoint)
    }

    pub(super) fn millis(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.since).as_millis() as u32
    }

    pub(super) fn weights(&self) -> &Weights {
        made(&self.weights, || {
            Weights::after(None, &self.members, |member| member.weight)
        })
    }

    pub(super) fn ring(&self) -> &Ring {
        made(&self.ring, || {
            let all = self.endpoints().map(|endpoint| &endpoint.id).enumerate();
            Ring::default().next(iter::empty(), all)
        })
    }
}

fn by_id<S, G>(a: &Member<S, G>, b: &Member<S, G>) -> Ordering {
    a.compare(&b.endpoint)
}

impl<S, G: Admit> Group<S, G> {
    /// How many gates are open.
    pub(super) fn available(&self, now: Instant) -> usize {
        let open = |member: &&Member<S, G>| member.node.gate.is_available(now);
        self.available
            .get(self.members.len(), self.millis(now), || {
                self.members.iter().filter(open).count()
            })
    }

    /// How much it can take: what is behind a closed gate can take nothing, what failed less until that is forgiven.
    pub(super) fn capacity(&self, view: &View<'_>) -> Capacity {
        let mut capacity = Capacity::default();
        for Member { node, weight, .. } in self.members.iter() {
            let weight = *weight as f32;
            capacity.nominal += weight;
            if node.gate.is_available(view.now) {
                let blame = match node.load.cost(view.millis, view.terms).penalty {
                    0.0 => 0.0,
                    blame => (blame / view.terms.penalty).min(1.0),
                };
                capacity.actual += weight * node.ramp(view) * (1.0 - blame);
            }
        }
        capacity
    }
}

/// What is in `cell`, or what `make` makes. Nobody waits for another who is making it.
fn made<T>(cell: &OnceLock<T>, make: impl FnOnce() -> T) -> &T {
    if let Some(made) = cell.get() {
        return made;
    }
    let new = make();
    cell.get_or_init(|| new)
}

fn serial() -> u32 {
    use std::sync::atomic::AtomicU32;

    static NEXT: AtomicU32 = AtomicU32::new(1);
    loop {
        match NEXT.fetch_add(1, Relaxed) {
            0 => {}
            serial => return serial,
        }
    }
}

/// For which call an endpoint is wanted, and when.
pub(super) struct View<'a> {
    pub(super) now: Instant,
    /// The same moment in nanoseconds of [`clock::nanos`], and in milliseconds, for loads.
    pub(super) nanos: u64,
    pub(super) millis: u32,
    pub(super) config: &'a BalanceConfig,
    pub(super) terms: &'a Terms,
    pub(super) tried: Option<&'a Tried>,
}

/// A group as a picker sees it.
pub(super) struct Seen<'a, S, G> {
    pub(super) group: &'a Group<S, G>,
    pub(super) view: &'a View<'a>,
}

impl<S, G: Admit> Source for Seen<'_, S, G> {
    fn len(&self) -> usize {
        self.group.members.len()
    }

    fn endpoint(&self, index: usize) -> &Endpoint {
        &self.group.members.get(index).endpoint
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.group.members.get(index).node.load.in_flight()
    }

    fn in_flight_and_weight(&self, index: usize) -> (u32, u32) {
        let member = self.group.members.get(index);
        (member.node.load.in_flight(), member.weight)
    }

    fn total_in_flight(&self) -> usize {
        let group = self.group;
        group
            .in_flight
            .get(group.members.len(), group.millis(self.view.now), || {
                let loads = group.members.iter().map(|member| &member.node.load);
                loads.map(|load| load.in_flight() as usize).sum()
            })
    }

    fn cost(&self, index: usize) -> Cost {
        self.group.members.get(index).cost(self.view)
    }

    fn is_usable(&self, index: usize) -> bool {
        let member = self.group.members.get(index);
        member.is_available(self.view) && !member.was_tried(self.view)
    }

    fn weights(&self) -> &Weights {
        self.group.weights()
    }

    fn ring(&self) -> &Ring {
        self.group.ring()
    }
}

impl<S, G: Admit> Candidate<View<'_>> for Member<S, G> {
    type Permit = G::Permit;

    fn is_available(&self, view: &View<'_>) -> bool {
        self.node.gate.is_available(view.now)
    }

    fn cost(&self, view: &View<'_>) -> Cost {
        let mut cost = self.node.load.cost(view.millis, view.terms);
        cost.requests /= self.weight as f32;
        cost
    }

    fn hesitates(&self, view: &View<'_>, rng: &mut impl Rng) -> bool {
        let ramp = self.node.ramp(view);
        ramp < 1.0 && rng.random::<f32>() >= ramp
    }

    fn was_tried(&self, view: &View<'_>) -> bool {
        view.tried
            .is_some_and(|tried| tried.contains(self.node.serial))
    }

    fn admit(&self, view: &View<'_>) -> Result<G::Permit, Rejection> {
        self.node.gate.admit(view.now)
    }
}

#[cfg(all(test, kit_loom))]
mod tests {
    use super::*;

    #[test]
    fn in_every_order_one_counts_and_the_other_goes_on_with_the_last_count() {
        loom::model(|| {
            let tally = Arc::new(Tally::new());
            assert_eq!(tally.recent(0, || 7), 7);
            let counted = Arc::new(AtomicU64::new(0));
            let count = |tally: &Tally, counted: &AtomicU64| {
                tally.recent(Tally::FRESH_MILLIS, || {
                    counted.fetch_add(1, Relaxed);
                    9
                })
            };
            let (theirs, seen) = (Arc::clone(&tally), Arc::clone(&counted));
            let other = loom::thread::spawn(move || count(&theirs, &seen));
            let mut found = [count(&tally, &counted), other.join().unwrap()];
            found.sort_unstable();
            assert!(matches!(found, [7 | 9, 9]), "{found:?}");
            assert_eq!(counted.load(Relaxed), 1);
            assert_eq!(tally.recent(Tally::FRESH_MILLIS, || 11), 9);
        });
    }
}
