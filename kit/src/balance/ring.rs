//! Consistent hashing with bounded load: the same key goes to the same endpoint, unless that one has too much to do.
//!
//! Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016 (arXiv:1608.01350): whoever has
//! its share of what is in flight, and some slack, already, passes a key on to the next on the ring. Each endpoint
//! has one point there, and a key looks from several places: Appleton, O'Reilly, "Multi-probe consistent hashing",
//! 2015 (arXiv:1505.00062), which is as even as many points for each endpoint and needs no large table.

use std::fmt;

use super::{
    chunked::Chunked,
    picker::{Call, Candidates, Picker},
};
use crate::{name::EndpointId, policy::Ratio};

/// From how many places a key looks for the nearest endpoint.
const PROBES: u64 = 21;
/// How many endpoints a key is passed on to at most; the paper expects 2 / slack² at worst.
const STEPS: usize = 256;

/// The endpoints by their places on the ring, which depend on the ids only, so all processes agree.
pub(super) type Ring = Chunked<Point>;

/// Where an endpoint stands on the ring.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Point {
    place: u64,
    id: EndpointId,
}

impl Point {
    fn of(id: &EndpointId) -> Self {
        Self {
            place: HashKey::of(id.as_str().as_bytes()).0,
            id: id.clone(),
        }
    }
}

/// The ring after these endpoints have gone and those have come.
pub(super) fn after<'a>(
    ring: &Ring,
    gone: impl Iterator<Item = &'a EndpointId>,
    came: impl Iterator<Item = &'a EndpointId>,
) -> Ring {
    let (mut gone, mut came): (Vec<_>, Vec<_>) =
        (gone.map(Point::of).collect(), came.map(Point::of).collect());
    gone.sort_unstable();
    came.sort_unstable();
    ring.changed(&gone, came)
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
    let start = nearest(ring, key);
    let at = |step: usize| source.find(&ring.get((start + step) % ring.len()).id);
    let weights = source.weights().total() as f64;
    let requests = (candidates.total_in_flight() + 1) as f64 * (1.0 + slack.get());
    let has_room = |index: &usize| {
        let weight = f64::from(candidates.endpoint(*index).weight.max(1));
        let room = (requests * weight / weights).ceil();
        f64::from(candidates.in_flight(*index)) < room
    };
    let onward = (0..ring.len().min(STEPS)).map(at);
    onward
        .filter(has_room)
        .nth(turn)
        // All that have room were proposed, so room does not matter any more.
        .unwrap_or_else(|| at(turn))
}

/// Where on the ring the point is that follows one of the places of `key` most closely.
fn nearest(ring: &Ring, key: HashKey) -> usize {
    let probe = |n: u64| {
        let place = mix(key.0 ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let next = ring.partition_point(|point| point.place < place) % ring.len();
        (ring.get(next).place.wrapping_sub(place), next)
    };
    let (_, index) = (1..=PROBES).map(probe).min().expect("there are some");
    index
}
