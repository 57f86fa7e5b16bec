//! Consistent hashing with bounded load: the same key goes to the same endpoint, unless that one has too much to do.
//!
//! Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016 (arXiv:1608.01350): whoever has
//! its share of what is in flight, and some slack, already, passes a key on to the next on the ring. Each endpoint
//! has one point there, and a key looks from several places: Appleton, O'Reilly, "Multi-probe consistent hashing",
//! 2015 (arXiv:1505.00062), which is as even as many points for each endpoint and needs no large table.

use std::fmt;

use super::picker::{Call, Candidates, Picker};
use crate::{name::EndpointId, policy::Ratio};

/// From how many places a key looks for the nearest endpoint.
const PROBES: u64 = 21;
/// How many endpoints a key is passed on to at most; the paper expects 2 / slack² at worst.
const STEPS: usize = 256;

/// The members of a group by their places on the ring, which depend on the ids only, so all processes agree.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Ring {
    /// In order, and nothing between them, so that a search reads hardly more than one line of the cache.
    places: Vec<u64>,
    /// Who stands at each place, by its index in the group.
    members: Vec<u32>,
    /// Of as many equal parts of the ring as there are places, how many places there are before each. Places are as
    /// even as hashes, so a search that begins there ends after a step or two, however many there are.
    starts: Vec<u32>,
}

impl Ring {
    /// The ring of the next group: those that had the indices `gone` are not in it, and those that have the indices and
    /// ids `came` were not in the one before. Both are in order.
    pub(super) fn next<'a>(
        &self,
        gone: impl Iterator<Item = usize>,
        came: impl Iterator<Item = (usize, &'a EndpointId)>,
    ) -> Self {
        // For each newcomer, how many of those that stay are before it.
        let mut gaps = Vec::new();
        let mut points = Vec::new();
        for (index, id) in came {
            gaps.push(index - points.len());
            points.push((HashKey::of(id.as_str().as_bytes()).0, index as u32));
        }
        points.sort_unstable();
        let gone: Vec<_> = gone.collect();
        // Where one is now, if it stays: those that do are in the same order as before.
        let now = |member: usize| {
            let rank = member - gone.binary_search(&member).err()?;
            Some((rank + gaps.partition_point(|gap| *gap <= rank)) as u32)
        };
        let len = self.len() - gone.len() + points.len();
        let (mut places, mut members) = (Vec::with_capacity(len), Vec::with_capacity(len));
        let mut add = |(place, member)| {
            places.push(place);
            members.push(member);
        };
        let mut came = points.into_iter().peekable();
        for (place, member) in self.places.iter().zip(&self.members) {
            if let Some(member) = now(*member as usize) {
                // Those at the same place are in the order of their ids, too.
                let stays = (*place, member);
                while let Some(point) = came.next_if(|point| *point < stays) {
                    add(point);
                }
                add(stays);
            }
        }
        came.for_each(add);
        Self {
            starts: starts(&places),
            places,
            members,
        }
    }

    fn len(&self) -> usize {
        self.places.len()
    }

    /// The index of the first place that is not before `place`, or else of the first one.
    fn at_or_after(&self, place: u64) -> usize {
        let start = self.starts[part(place, self.len())] as usize;
        let steps = self.places[start..].iter().position(|at| *at >= place);
        steps.map_or(0, |steps| start + steps)
    }

    /// Where the place is that follows one of the places of `key` most closely.
    fn nearest(&self, key: HashKey) -> usize {
        let probe = |n: u64| {
            let place = mix(key.0 ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let next = self.at_or_after(place);
            (self.places[next].wrapping_sub(place), next)
        };
        let (_, index) = (1..=PROBES).map(probe).min().expect("there are some");
        index
    }
}

/// How many of `places`, which are in order, are before each of as many parts of the ring.
fn starts(places: &[u64]) -> Vec<u32> {
    let mut starts = Vec::with_capacity(places.len());
    for (before, place) in (0..).zip(places) {
        while starts.len() <= part(*place, places.len()) {
            starts.push(before);
        }
    }
    starts.resize(places.len(), places.len() as u32);
    starts
}

/// In which of so many equal parts of the ring `place` is.
fn part(place: u64, parts: usize) -> usize {
    ((u128::from(place) * parts as u128) >> 64) as usize
}

/// Which requests belong together, in the extensions of a request: those with the same key go to the same endpoint
/// by [`ConsistentHash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HashKey(pub u64);

impl HashKey {
    /// The key of a name, such as that of a user: the same in all processes and releases.
    pub fn of(name: &[u8]) -> Self {
        // FNV-1a, and then mixed, because it hardly changes the upper bits of short names.
        let hash = name.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(mix(hash))
    }
}

/// The finalizer of SplitMix64: each bit of the input decides about each bit of the output.
pub(super) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// How a key is found in a request.
type KeyOf = dyn Fn(&Call<'_>) -> Option<HashKey> + Send + Sync;

/// The same endpoint for the same key, unless it has more than its share, and its slack, of what is in flight; then
/// the next on the ring. An endpoint that comes or goes moves its own keys only. A request without a key goes to
/// the better of two chosen at random.
///
/// Shares are in proportion to [`Endpoint::weight`](crate::endpoint::Endpoint::weight); where an idle key goes is not.
pub struct ConsistentHash {
    key: Box<KeyOf>,
    slack: Ratio,
}

impl ConsistentHash {
    /// By the [`HashKey`] in the extensions of a request. `slack` is what an endpoint may have in flight above its
    /// share: with 0.25, a quarter of it. Less is more even, more keeps more requests where they belong.
    pub fn new(slack: Ratio) -> Self {
        Self::by(slack, |call| call.extensions.get().copied())
    }

    /// By the key that `key` finds.
    pub fn by(
        slack: Ratio,
        key: impl Fn(&Call<'_>) -> Option<HashKey> + Send + Sync + 'static,
    ) -> Self {
        Self {
            key: Box::new(key),
            slack,
        }
    }
}

impl Picker for ConsistentHash {
    fn pick(&self, candidates: &mut Candidates<'_>, call: &Call<'_>, turn: usize) -> usize {
        match (self.key)(call) {
            Some(key) => walk(candidates, key, self.slack, turn),
            None => candidates.better_of_two(),
        }
    }
}

impl fmt::Debug for ConsistentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsistentHash")
            .field("slack", &self.slack)
            .finish_non_exhaustive()
    }
}

/// By the [`HashKey`] in the extensions, with the slack of the configuration.
pub(super) struct Keyed(pub(super) Ratio);

impl Picker for Keyed {
    fn pick(&self, candidates: &mut Candidates<'_>, call: &Call<'_>, turn: usize) -> usize {
        match call.extensions.get() {
            Some(key) => walk(candidates, *key, self.0, turn),
            None => candidates.better_of_two(),
        }
    }
}

/// The endpoint for `key`, after `turn` others that have room too.
fn walk(candidates: &Candidates<'_>, key: HashKey, slack: Ratio, turn: usize) -> usize {
    let source = candidates.source();
    let ring = source.ring();
    let start = ring.nearest(key);
    let at = |step: usize| ring.members[(start + step) % ring.len()] as usize;
    let weights = source.weights().total() as f64;
    let requests = (candidates.total_in_flight() + 1) as f64 * (1.0 + slack.get());
    let has_room = |index: &usize| {
        let (in_flight, weight) = source.in_flight_and_weight(*index);
        let room = (requests * f64::from(weight) / weights).ceil();
        f64::from(in_flight) < room
    };
    let onward = (0..ring.len().min(STEPS)).map(at);
    onward
        .filter(has_room)
        .nth(turn)
        // All that have room were proposed, so room does not matter any more.
        .unwrap_or_else(|| at(turn))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, iter};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Through any changes, whoever looks from anywhere finds the one that a look at all of them finds.
        #[test]
        fn a_search_finds_the_next_one_however_the_ring_was_made(
            steps in prop::collection::vec(prop::collection::btree_set(0_u16..600, 0..60), 1..8),
            first in 0_u16..400,
            looks in prop::collection::vec(any::<u64>(), 50),
        ) {
            let ids: Vec<EndpointId> = (0..600).map(|n| format!("h{n:03}:1").parse().unwrap()).collect();
            // Those of `these`, by their indices there, that are not among the others.
            let not_in = |these: &BTreeSet<u16>, others: &BTreeSet<u16>| -> Vec<_> {
                let others = others.clone();
                let these = these.iter().copied().enumerate();
                these.filter(|(_, id)| !others.contains(id)).collect()
            };
            let made = |ring: &Ring, before: &BTreeSet<u16>, after: &BTreeSet<u16>| {
                let gone = not_in(before, after).into_iter().map(|(index, _)| index);
                let came = not_in(after, before).into_iter();
                ring.next(gone, came.map(|(index, id)| (index, &ids[usize::from(id)])))
            };
            let none = BTreeSet::new();
            let mut present: BTreeSet<_> = (0..first).collect();
            let mut ring = made(&Ring::default(), &none, &present);
            for turned in steps {
                let after = present.symmetric_difference(&turned).copied().collect();
                ring = made(&ring, &present, &after);
                present = after;
                prop_assert_eq!(&ring, &made(&Ring::default(), &none, &present));

                let place = |id: &u16| HashKey::of(ids[usize::from(*id)].as_str().as_bytes()).0;
                let mut points: Vec<_> = present.iter().map(place).zip(0..).collect();
                points.sort_unstable();
                let on_ring = iter::zip(ring.places.iter().copied(), ring.members.iter().copied());
                prop_assert!(on_ring.eq(points.iter().copied()));
                let around = |(at, _): &(u64, u32)| [at.wrapping_sub(1), *at, at.wrapping_add(1)];
                let looks = looks.iter().copied().chain([0, u64::MAX]);
                for look in looks.chain(points.iter().flat_map(around)).filter(|_| !points.is_empty()) {
                    let next = points.iter().position(|(at, _)| *at >= look);
                    prop_assert_eq!(ring.at_or_after(look), next.unwrap_or(0));
                }
            }
        }
    }
}
