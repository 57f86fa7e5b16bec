//! What one call costs in each layer, and in whole stacks, beside their counterparts elsewhere.
//!
//! All cases stand around the same bare service and get the same request: what a generated client sends. It brings
//! allocations of its own (headers, extensions, body), which the case `bare` has too, so they cancel.
//!
//! Nothing here measures: [`cases`] says what there is to measure, [`Subject`] makes the calls, and the programs in
//! `src/bin` count time and allocations around them.

mod floors;
mod kit_layers;
mod one_word;
mod peer_layers;
mod sketch;
mod stacks;
mod updates;

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Response, Uri, header};
use http_body_util::{Empty, Full};
use kit::{BoxError, context::Deadline, name};
use tower::Service;

pub use updates::{ENDPOINTS, Update};

/// The body that all requests have; peers that retry must be able to clone it.
pub type Payload = Full<Bytes>;

/// The place in a trace that all calls have, as a `traceparent`.
pub const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// The request that all cases get.
pub type Request = http::Request<Payload>;

/// The answer that all cases give.
pub type Reply = Response<Empty<Bytes>>;

static CREATE: name::Method = name::Method {
    service: "users.Users",
    name: "Create",
    grpc_path: "/users.Users/Create",
    http_method: Method::POST,
    http_path: "/create",
    idempotent: true,
    streaming: false,
    transport: name::Transport::Both,
    access: name::Access::Anyone,
    priority: name::Priority::Normal,
    timeout: None,
};

/// What a handler's call to another service looks like: part of a trace, with a deadline and a small body.
fn request(context: &kit::Context) -> Request {
    let mut request = Request::new(Full::new(Bytes::from_static(br#"{"name":"x"}"#)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static("/create");
    let json = HeaderValue::from_static("application/json");
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, json.clone());
    headers.insert(header::ACCEPT, json);
    request.extensions_mut().insert(context.clone());
    request
}

fn context() -> kit::Context {
    kit::Context {
        deadline: Some(Deadline::after(Duration::from_secs(3600))),
        trace: Some(TRACE.parse().expect("it is a traceparent")),
        method: Some(&CREATE),
        ..kit::Context::default()
    }
}

/// One of 10,000 keys after the other, for whoever counts or hashes by key.
fn next_key() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Relaxed) % 10_000
}

/// The service that all cases stand around.
#[derive(Clone, Copy, Debug)]
pub struct Bare(pub Inner);

/// When the bare service answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// In the first poll.
    AtOnce,
    /// In the second, as one that does real input and output: that is when timers are armed.
    PendingOnce,
}

/// The answer of [`Bare`].
#[derive(Debug)]
pub struct Answer {
    pending: bool,
}

impl<B> Service<http::Request<B>> for Bare {
    type Response = Reply;
    type Error = BoxError;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<B>) -> Answer {
        Answer {
            pending: self.0 == Inner::PendingOnce,
        }
    }
}

impl Future for Answer {
    type Output = Result<Reply, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if std::mem::take(&mut self.pending) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(Response::new(Empty::new())))
    }
}

/// A service under measurement.
pub trait Subject: Send {
    /// Makes so many calls, one after the other.
    fn run(&mut self, calls: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// The same service for another thread, if it is one that can be shared without a queue.
    fn clone_for_thread(&self) -> Option<Box<dyn Subject>>;
}

struct Of<S> {
    service: S,
    context: kit::Context,
    clone: Option<fn(&S) -> S>,
}

impl<S> Subject for Of<S>
where
    S: Service<Request, Error: Into<BoxError>, Future: Send> + Send + 'static,
    S::Response: Send,
{
    fn run(&mut self, calls: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            for _ in 0..calls {
                let service = &mut self.service;
                if poll_fn(|cx| service.poll_ready(cx)).await.is_err() {
                    panic!("not ready: {}", error(service).await);
                }
                if let Err(error) = service.call(request(&self.context)).await {
                    panic!("the call failed: {}", error.into());
                }
            }
        })
    }

    fn clone_for_thread(&self) -> Option<Box<dyn Subject>> {
        Some(Box::new(Self {
            service: self.clone?(&self.service),
            context: self.context.clone(),
            clone: self.clone,
        }))
    }
}

async fn error<S: Service<Request, Error: Into<BoxError>>>(service: &mut S) -> BoxError {
    match poll_fn(|cx| service.poll_ready(cx)).await {
        Ok(()) => "it is ready after all".into(),
        Err(error) => error.into(),
    }
}

/// A service whose clones share their state.
fn shared<S>(service: S) -> Box<dyn Subject>
where
    S: Service<Request, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
    S::Response: Send,
{
    Box::new(Of {
        service,
        context: context(),
        clone: Some(S::clone),
    })
}

/// A service that cannot be cloned, or not for a thread with a runtime of its own.
fn alone<S>(service: S) -> Box<dyn Subject>
where
    S: Service<Request, Error: Into<BoxError>, Future: Send> + Send + 'static,
    S::Response: Send,
{
    Box::new(Of {
        service,
        context: context(),
        clone: None,
    })
}

type Build = fn(Inner) -> Box<dyn Subject>;

/// Something to measure.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What it does; the cases of one group are compared with its first one, which is the kit's.
    pub group: &'static str,
    /// Whose it is.
    pub name: &'static str,
    build: Build,
}

impl Case {
    /// The service, built inside of a runtime with timers.
    pub fn build(&self, inner: Inner) -> Box<dyn Subject> {
        (self.build)(inner)
    }
}

/// The case that all others are compared with.
pub const BARE: Case = Case {
    group: "bare",
    name: "bare",
    build: |inner| shared(Bare(inner)),
};

/// All layers and stacks, the kit's first in each group, [`BARE`] left out.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut group = |group, members: &[(&'static str, Build)]| {
        cases.extend(members.iter().map(|(name, build)| Case {
            group,
            name,
            build: *build,
        }));
    };
    group(
        "deadline",
        &[
            ("kit", kit_layers::deadline),
            ("tower Timeout", peer_layers::tower_timeout),
            ("tr TimeLimiter", peer_layers::tr_time_limiter),
        ],
    );
    group(
        "attempt timeout",
        &[
            ("kit", kit_layers::attempt_timeout),
            ("tower Timeout", peer_layers::tower_timeout),
        ],
    );
    group(
        "retry + budget",
        &[
            ("kit", kit_layers::retry),
            ("tower Retry + TpsBudget", peer_layers::tower_retry),
            ("tr Retry + budget", peer_layers::tr_retry),
        ],
    );
    group(
        "rate limit",
        &[
            ("kit", kit_layers::rate_limit),
            ("governor", peer_layers::governor),
            ("tower RateLimit (not Clone)", peer_layers::tower_rate_limit),
            ("tr RateLimiter", peer_layers::tr_rate_limiter),
        ],
    );
    group(
        "rate limit, 10,000 keys",
        &[
            ("kit", kit_layers::keyed_rate_limit),
            ("governor", peer_layers::governor_keyed),
        ],
    );
    group(
        "concurrency limit",
        &[
            ("kit", kit_layers::concurrency),
            ("tower ConcurrencyLimit", peer_layers::tower_concurrency),
            ("tr Bulkhead", peer_layers::tr_bulkhead),
        ],
    );
    group(
        "adaptive concurrency limit",
        &[
            ("kit", kit_layers::adaptive_concurrency),
            ("tr Adaptive", peer_layers::tr_adaptive),
        ],
    );
    group(
        "circuit breaker",
        &[
            ("kit", kit_layers::circuit_breaker),
            ("failsafe", peer_layers::failsafe),
            ("tr CircuitBreaker", peer_layers::tr_circuit_breaker),
        ],
    );
    group(
        "ejection, one of a fleet",
        &[
            ("kit", kit_layers::circuit_in_fleet),
            ("tr Outlier", peer_layers::tr_outlier),
        ],
    );
    group(
        "coalesce, alone",
        &[
            ("kit", kit_layers::coalesce),
            ("tr Coalesce", peer_layers::tr_coalesce),
        ],
    );
    group(
        "fallback, not needed",
        &[
            ("kit", kit_layers::fallback),
            ("tr Fallback", peer_layers::tr_fallback),
        ],
    );
    group(
        "faults, none",
        &[
            ("kit", kit_layers::fault),
            ("tr Chaos", peer_layers::tr_chaos),
        ],
    );
    group(
        "hedge, not firing",
        &[
            ("kit", kit_layers::hedge),
            ("tr Hedge", peer_layers::tr_hedge),
        ],
    );
    group(
        "metrics",
        &[
            ("kit", kit_layers::metrics),
            ("macros of `metrics`", peer_layers::metrics_macros),
        ],
    );
    group(
        "trace, no subscriber",
        &[
            ("kit", kit_layers::trace),
            ("tower-http Trace", peer_layers::tower_http_trace),
        ],
    );
    group(
        "p2c, 10 endpoints",
        &[
            ("kit", kit_layers::balance::<10>),
            ("tower Buffer + p2c", stacks::tower_balance::<10>),
            ("tower p2c (not Clone)", peer_layers::tower_p2c::<10>),
        ],
    );
    group(
        "p2c, 10,000 endpoints",
        &[
            ("kit", kit_layers::balance::<10_000>),
            ("tower Buffer + p2c", stacks::tower_balance::<10_000>),
            ("tower p2c (not Clone)", peer_layers::tower_p2c::<10_000>),
        ],
    );
    let pickers: [(&'static str, Build); 8] = [
        ("round robin, 10 endpoints", kit_layers::round_robin::<10>),
        (
            "round robin, 10,000 endpoints",
            kit_layers::round_robin::<10_000>,
        ),
        ("random, 10 endpoints", kit_layers::random::<10>),
        ("random, 10,000 endpoints", kit_layers::random::<10_000>),
        ("weighted, 10 endpoints", kit_layers::weighted::<10>),
        ("weighted, 10,000 endpoints", kit_layers::weighted::<10_000>),
        (
            "consistent hash, 10 endpoints",
            kit_layers::consistent_hash::<10>,
        ),
        (
            "consistent hash, 10,000 endpoints",
            kit_layers::consistent_hash::<10_000>,
        ),
    ];
    for (name, build) in pickers {
        group(name, &[("kit", build)]);
    }
    group(
        "one word: circuit breaker",
        &[
            ("kit", one_word::circuit_breaker),
            ("failsafe", one_word::failsafe),
        ],
    );
    group(
        "one word: rate limit",
        &[
            ("kit", one_word::rate_limit),
            ("governor", one_word::governor),
        ],
    );
    group(
        "one word: concurrency limit",
        &[
            ("kit", one_word::concurrency),
            ("tower ConcurrencyLimit", one_word::tower_concurrency),
        ],
    );
    group(
        "empty request: p2c, 10 endpoints",
        &[
            ("kit", one_word::balance::<10>),
            ("tower p2c (not Clone)", one_word::tower_p2c::<10>),
        ],
    );
    group(
        "empty request: p2c, 10,000 endpoints",
        &[
            ("kit", one_word::balance::<10_000>),
            ("tower p2c (not Clone)", one_word::tower_p2c::<10_000>),
        ],
    );
    group(
        "inbound stack",
        &[
            ("kit", stacks::inbound),
            ("kit, a clone for each request", stacks::inbound_cloned),
        ],
    );
    group(
        "full stack, 10 endpoints",
        &[
            ("kit", stacks::kit::<10>),
            ("best5 + Buffer + p2c", stacks::best5::<10>),
            ("tr5 + Buffer + p2c", stacks::tr5::<10>),
        ],
    );
    group(
        "full stack, 10,000 endpoints",
        &[
            ("kit", stacks::kit::<10_000>),
            ("best5 + Buffer + p2c", stacks::best5::<10_000>),
            ("tr5 + Buffer + p2c", stacks::tr5::<10_000>),
        ],
    );
    cases
}

/// What the full stack has to do by any means, part by part, and in one piece.
pub fn floors() -> Vec<Case> {
    let parts: [(&'static str, Build); 6] = [
        ("two clock reads", floors::two_clock_reads),
        ("two headers set", floors::two_headers),
        ("head copied", floors::head_copied),
        ("histogram", floors::histogram),
        ("one word to a bare service", one_word::nothing),
        ("all in one function, 10 endpoints", sketch::all_in_one),
    ];
    let case = |(name, build)| Case {
        group: "floor",
        name,
        build,
    };
    parts.map(case).to_vec()
}

/// All there is to measure but [`BARE`].
pub fn all() -> Vec<Case> {
    [floors(), cases()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_case_makes_its_calls_and_can_be_shared_as_it_says() {
        let _recorder = kit::metrics::install();
        for case in [vec![BARE], all()].concat() {
            for inner in [Inner::AtOnce, Inner::PendingOnce] {
                let mut subject = case.build(inner);
                subject.run(3).await;
                if let Some(mut clone) = subject.clone_for_thread() {
                    clone.run(3).await;
                }
            }
        }
    }

    #[test]
    fn the_first_case_of_each_group_is_the_kits() {
        let mut groups = Vec::new();
        for case in cases() {
            assert_eq!(case.name == "kit", !groups.contains(&case.group));
            groups.push(case.group);
        }
    }
}
