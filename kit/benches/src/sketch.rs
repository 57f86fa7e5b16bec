//! What the full stack does for a call that goes well, written into one function by hand: no layers, nothing that can be
//! replaced or observed, nothing for a call that goes otherwise. The rest of what the stack costs is the price of layers
//! of which each can be used alone.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed},
        },
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::HeaderValue;
use kit::{
    BoxError,
    context::Deadline,
    wire::{GRPC_STATUS, REQUEST_TIMEOUT, TRACEPARENT},
};
use metrics::Histogram;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::Service;

use crate::{Answer, Bare, Inner, Reply, Request, Subject, TRACE, floors, shared};

const TIMEOUT: Duration = Duration::from_secs(2);
const LIMIT: usize = 1024;
/// In nanoseconds.
const INTERVAL: u64 = 1;
const BURST: u64 = 1 << 32;

/// One endpoint: whether its circuit is closed, what is in flight, its latency with the millisecond of that, and how
/// often it succeeded in this second.
#[derive(Default)]
struct Node {
    open: AtomicU64,
    pending: AtomicU64,
    latency: AtomicU64,
    successes: AtomicU64,
}

impl Node {
    fn latency(&self, millis: u32) -> f32 {
        let word = self.latency.load(Relaxed);
        let age = millis.wrapping_sub(word as u32) as f32;
        f32::from_bits((word >> 32) as u32) * (age * -1e-4).exp()
    }

    fn load(&self, millis: u32) -> f32 {
        self.latency(millis) * (self.pending.load(Relaxed) + 1) as f32
    }
}

struct Shared {
    epoch: Instant,
    in_flight: AtomicUsize,
    full_at: AtomicU64,
    calls: AtomicU64,
    nodes: Vec<Node>,
    duration: Histogram,
    trace: HeaderValue,
    timeout: HeaderValue,
}

#[derive(Clone)]
struct Sketch {
    inner: Bare,
    shared: Arc<Shared>,
}

thread_local! {
    static RANDOM: Cell<u64> = const { Cell::new(0x9e37_79b9_7f4a_7c15) };
}

/// Marsaglia's xorshift, 2003.
fn random() -> u64 {
    let mut word = RANDOM.get();
    word ^= word << 13;
    word ^= word >> 7;
    word ^= word << 17;
    RANDOM.set(word);
    word
}

/// Counts one more of this second, in a word of the second and its count.
fn count(word: &AtomicU64, nanos: u64) {
    let second = nanos >> 30 << 32;
    let _ = word.fetch_update(Relaxed, Relaxed, |word| {
        Some((word & !u64::from(u32::MAX)).max(second) | (word as u32).wrapping_add(1) as u64)
    });
}

impl Shared {
    fn nanos(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_nanos() as u64
    }

    fn admits(&self, nanos: u64) -> bool {
        let take = |full_at: u64| {
            let taken = full_at.max(nanos) + INTERVAL;
            (taken <= nanos + INTERVAL * BURST).then_some(taken)
        };
        self.in_flight.fetch_add(1, Acquire) < LIMIT
            && self.full_at.fetch_update(Relaxed, Relaxed, take).is_ok()
    }

    fn pick(&self, millis: u32) -> usize {
        let (word, len) = (random(), self.nodes.len() as u64);
        let first = (((word >> 32) * len) >> 32) as usize;
        let second = (((word & u64::from(u32::MAX)) * (len - 1)) >> 32) as usize;
        let second = second + usize::from(second >= first);
        let [a, b] = [first, second].map(|index| &self.nodes[index]);
        let usable = [a, b].map(|node| node.open.load(Acquire) == 0);
        match usable == [true, true] && a.load(millis) <= b.load(millis) {
            true => first,
            false => second,
        }
    }
}

impl Service<Request> for Sketch {
    type Response = Reply;
    type Error = BoxError;
    type Future = Sketched;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Sketched {
        let shared = &self.shared;
        let now = Instant::now();
        let nanos = shared.nanos(now);
        assert!(shared.admits(nanos), "the bench stays below all limits");
        count(&shared.calls, nanos);
        let context: &mut kit::Context = request.extensions_mut().get_or_insert_default();
        let ends = now + TIMEOUT;
        let deadline = context.deadline.map_or(ends, |by| by.instant().min(ends));
        context.deadline = Some(Deadline::at(deadline));
        context.trace = context.trace.map(|trace| trace.child());
        let headers = request.headers_mut();
        headers.insert(TRACEPARENT, shared.trace.clone());
        headers.insert(REQUEST_TIMEOUT, shared.timeout.clone());
        let node = shared.pick((nanos / 1_000_000) as u32);
        shared.nodes[node].pending.fetch_add(1, Relaxed);
        Sketched {
            place: Place {
                shared: Arc::clone(shared),
                node,
            },
            since: nanos,
            deadline,
            timer: None,
            inner: self.inner.call(request),
        }
    }
}

/// Given back when it is dropped.
struct Place {
    shared: Arc<Shared>,
    node: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.in_flight.fetch_sub(1, Relaxed);
        self.shared.nodes[self.node].pending.fetch_sub(1, Relaxed);
    }
}

struct Sketched {
    inner: Answer,
    place: Place,
    since: u64,
    deadline: Instant,
    /// Boxed, unlike that of the stack, so that this future may be moved.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Future for Sketched {
    type Output = Result<Reply, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(result) = Pin::new(&mut self.inner).poll(cx) else {
            let deadline = self.deadline;
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            ready!(timer.as_mut().poll(cx));
            return Poll::Ready(Err("too late".into()));
        };
        let Place { shared, node } = &self.place;
        let node = &shared.nodes[*node];
        let nanos = shared.nanos(Instant::now());
        let took = nanos.saturating_sub(self.since) as f32 / 1e9;
        let good = result.as_ref().is_ok_and(|reply| {
            reply.status().as_u16() < 500 && !reply.headers().contains_key(GRPC_STATUS)
        });
        if good {
            let millis = (nanos / 1_000_000) as u32;
            let learnt = |_| {
                let latency = node.latency(millis).max(took);
                Some(u64::from(latency.to_bits()) << 32 | u64::from(millis))
            };
            let _ = node.latency.fetch_update(Relaxed, Relaxed, learnt);
            count(&node.successes, nanos);
        }
        shared.duration.record(f64::from(took));
        Poll::Ready(result)
    }
}

/// All of it over ten endpoints, but for what a retry is made from.
pub(crate) fn all_in_one(inner: Inner) -> Box<dyn Subject> {
    shared(Sketch {
        inner: Bare(inner),
        shared: Arc::new(Shared {
            epoch: Instant::now(),
            in_flight: AtomicUsize::new(0),
            full_at: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            nodes: (0..10).map(|_| Node::default()).collect(),
            duration: floors::duration(),
            trace: HeaderValue::from_static(TRACE),
            timeout: HeaderValue::from_static("2000000u"),
        }),
    })
}
