//! Who proposes an endpoint for a request: the trait, what it is shown, and the simple ones.

use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use http::{Extensions, HeaderMap, Method, Uri};
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::{load::Cost, ring::Ring, weights::Weights};
use crate::endpoint::Endpoint;

/// Proposes which endpoint takes a request.
///
/// It need not know of gates, of the panic threshold, of new endpoints or of [`Tried`](super::Tried): the balancer looks at what was
/// proposed, and asks again, up to 16 times, where it will not do. After that it takes the better of two usable
/// ones by itself.
///
/// Runs on the path of each request: it should neither lock nor allocate.
pub trait Picker: Send + Sync + 'static {
    /// The index of the proposed endpoint among `candidates`, of which there is at least one; counted from the
    /// start again if it is too large. `turn` is how often it was asked for this request before.
    fn pick(&self, candidates: &mut Candidates<'_>, call: &Call<'_>, turn: usize) -> usize;
}

/// Which of the pickers that need no code a balancer has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pick {
    /// The less loaded of two chosen at random: [`PeakEwma`]. The default, and the best where nothing speaks for
    /// another: the others are blind to how slow an endpoint is.
    #[default]
    PeakEwma,
    /// One after the other: [`RoundRobin`].
    RoundRobin,
    /// Any: [`Random`].
    Random,
    /// Any, in proportion to [`Endpoint::weight`]: [`Weighted`].
    Weighted,
    /// The same for the same [`HashKey`](super::HashKey), unless it is overloaded:
    /// [`ConsistentHash`](super::ConsistentHash).
    ConsistentHash,
}

/// What a [`Picker`] may know of a request.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Call<'a> {
    /// The HTTP method.
    pub method: &'a Method,
    /// Where to.
    pub uri: &'a Uri,
    /// The headers as they are so far.
    pub headers: &'a HeaderMap,
    /// With the [`Context`](crate::Context), and whatever the caller added.
    pub extensions: &'a Extensions,
}

impl<'a> Call<'a> {
    pub(super) fn of<B>(request: &'a http::Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }
}

/// What stands behind [`Candidates`].
pub(super) trait Source {
    fn len(&self) -> usize;
    fn endpoint(&self, index: usize) -> &Endpoint;
    fn in_flight(&self, index: usize) -> u32;
    /// With its weight, for the price of one look.
    fn in_flight_and_weight(&self, index: usize) -> (u32, u32);
    fn total_in_flight(&self) -> usize;
    fn cost(&self, index: usize) -> Cost;
    fn is_usable(&self, index: usize) -> bool;
    fn weights(&self) -> &Weights;
    fn ring(&self) -> &Ring;
}

/// The endpoints that a [`Picker`] chooses from, ordered by id, with closed gates or not. There is at least one.
pub struct Candidates<'a> {
    source: &'a dyn Source,
    rng: &'a mut dyn Rng,
}

#[allow(clippy::len_without_is_empty, reason = "it never is")]
impl<'a> Candidates<'a> {
    pub(super) fn new(source: &'a dyn Source, rng: &'a mut dyn Rng) -> Self {
        Self { source, rng }
    }

    /// How many there are; never 0.
    pub fn len(&self) -> usize {
        self.source.len()
    }

    /// One of them. Panics, as all that follow, if `index` is not below [`len`](Self::len).
    pub fn endpoint(&self, index: usize) -> &'a Endpoint {
        self.source.endpoint(index)
    }

    /// How many requests of this balancer it has not answered yet.
    pub fn in_flight(&self, index: usize) -> u32 {
        self.source.in_flight(index)
    }

    /// How many requests of this balancer nobody has answered yet; up to 10 ms old where there are more than 64
    /// endpoints.
    pub fn total_in_flight(&self) -> usize {
        self.source.total_in_flight()
    }

    /// What one more request would have to wait there, in seconds, by Peak-EWMA, over its weight; good for comparing.
    pub fn load(&self, index: usize) -> f32 {
        self.source.cost(index).alone()
    }

    /// Whether its gate is open and this call was not tried there.
    pub fn is_usable(&self, index: usize) -> bool {
        self.source.is_usable(index)
    }

    /// A number from 0 up to, not including, `below`; each is equally likely. Panics if `below` is 0.
    pub fn random(&mut self, below: usize) -> usize {
        self.rng.random_range(0..below)
    }

    /// Of two chosen at random, the less loaded one of those that are usable.
    pub fn better_of_two(&mut self) -> usize {
        let Some(others) = self.len().checked_sub(1).filter(|n| *n > 0) else {
            return 0;
        };
        let first = self.random(others + 1);
        let mut second = self.random(others);
        second += usize::from(second >= first);
        match (self.is_usable(first), self.is_usable(second)) {
            (true, false) => first,
            (false, true) => second,
            _ if self.source.cost(second).is_below(&self.source.cost(first)) => second,
            _ => first,
        }
    }

    pub(super) fn source(&self) -> &'a dyn Source {
        self.source
    }
}

impl fmt::Debug for Candidates<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = (0..self.len()).map(|index| &self.endpoint(index).id);
        f.debug_list().entries(ids).finish()
    }
}

/// The less loaded of two chosen at random.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeakEwma;

impl Picker for PeakEwma {
    fn pick(&self, candidates: &mut Candidates<'_>, _: &Call<'_>, _: usize) -> usize {
        candidates.better_of_two()
    }
}

/// One after the other, whoever calls.
#[derive(Debug, Default)]
pub struct RoundRobin(AtomicUsize);

impl Picker for RoundRobin {
    fn pick(&self, candidates: &mut Candidates<'_>, _: &Call<'_>, _: usize) -> usize {
        // One that will not do is passed over for all: its neighbour shall not get the requests of both.
        self.0.fetch_add(1, Relaxed) % candidates.len()
    }
}

/// Any, each equally likely.
#[derive(Clone, Copy, Debug, Default)]
pub struct Random;

impl Picker for Random {
    fn pick(&self, candidates: &mut Candidates<'_>, _: &Call<'_>, _: usize) -> usize {
        candidates.random(candidates.len())
    }
}

/// Any, in proportion to [`Endpoint::weight`]. A pick costs the logarithm of how many there are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weighted;

impl Picker for Weighted {
    fn pick(&self, candidates: &mut Candidates<'_>, _: &Call<'_>, _: usize) -> usize {
        let weights = candidates.source().weights();
        weights.index(candidates.rng.random_range(0..weights.total()))
    }
}
