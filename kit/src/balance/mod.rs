//! Picks an endpoint for each request: P2C over Peak-EWMA or another [`Picker`], failures penalised, one gate per
//! endpoint.
//!
//! [`Balance`] works from the snapshot of a [`Watch`] without a queue, a worker task or a lock on the path of a
//! request: whoever first sees that the snapshot was replaced makes the next set of endpoints, while the others go
//! on with the present one. That is why it is `Clone`, needs no buffer, and is always ready.
//!
//! - [`Connect`] makes the service that talks to one endpoint, once per endpoint and not per request.
//! - A gate, anything that is [`Admit`], is asked before a request goes to its endpoint and told what became of
//!   it: a circuit breaker, in the kit's client.
//! - The load of an endpoint is the latency of its answers times what is in flight there. A failure counts as a
//!   slow answer, so a fast error never attracts traffic; so does a request that was given up because its
//!   deadline ([`Context::deadline`](crate::Context)) had passed.
//! - A [`Picker`] proposes the endpoint; gates, panic threshold and [`Tried`] hold whoever it is.
//! - [`Tried`], in the extensions of a request, keeps its next attempt away from endpoints that it failed at.

mod future;
mod load;
mod pick;
mod picker;
mod ring;
mod set;

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tower::util::{Oneshot, ServiceExt};
use tower_service::Service;

use self::{
    future::InFlight,
    pick::Crowd,
    ring::Keyed,
    set::{Seen, Set, View},
};
pub use self::{
    future::ResponseFuture,
    picker::{Call, Candidates, PeakEwma, Pick, Picker, Random, RoundRobin, Weighted},
    ring::{ConsistentHash, HashKey},
};
use crate::{
    BoxError, Rejection,
    classify::{Classify, HttpClassify},
    endpoint::{Endpoint, Watch},
    name::ServiceName,
    policy::{Admit, Live, Ratio},
};

/// How a balancer compares endpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BalanceConfig {
    /// The time in which a latency loses 63 % of its weight. Shorter follows changes sooner, and noise too.
    /// Default 10 s.
    #[serde(with = "humantime_serde")]
    pub decay: Duration,
    /// The most that is assumed of an endpoint that has not answered yet; it is not taken to be slower than the one
    /// that it is compared with. Default 30 ms.
    #[serde(with = "humantime_serde")]
    pub initial_latency: Duration,
    /// As what latency a failure counts. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub penalty: Duration,
    /// The time in which a penalty loses 63 % of its weight. With the default of 2 s an endpoint that failed once
    /// is tried again after about 15 s, or sooner if the others are slow.
    #[serde(with = "humantime_serde")]
    pub forgiveness: Duration,
    /// The share of endpoints with open gates below which all endpoints are used, whatever their gates say.
    /// 0: never. Default 0.5.
    pub panic_threshold: Ratio,
    /// How long a request waits for the endpoints to be known for the first time. Later an empty set is an answer,
    /// and nobody waits. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub discovery_wait: Duration,
    /// Who picks the endpoint, where [`Balance::with_picker`] does not say. Default [`Pick::PeakEwma`].
    pub pick: Pick,
    /// What an endpoint may have in flight above its share before [`Pick::ConsistentHash`] sends requests that belong
    /// there to another. Default 0.25.
    pub hash_slack: Ratio,
    /// The time in which the share of an endpoint that joins others rises from a tenth to all of it, whoever picks; a
    /// picker that proposes it again and again when it was passed over gives it more. 0: it has all of it at once.
    /// Default 10 s.
    #[serde(with = "humantime_serde")]
    pub slow_start: Duration,
}

impl Default for BalanceConfig {
    fn default() -> Self {
        Self {
            decay: Duration::from_secs(10),
            initial_latency: Duration::from_millis(30),
            penalty: Duration::from_secs(5),
            forgiveness: Duration::from_secs(2),
            panic_threshold: Ratio::new(0.5).expect("it is from 0 to 1"),
            discovery_wait: Duration::from_secs(1),
            pick: Pick::PeakEwma,
            hash_slack: Ratio::new(0.25).expect("it is from 0 to 1"),
            slow_start: Duration::from_secs(10),
        }
    }
}

/// Makes the service that talks to one endpoint. Called once for each endpoint that appears; its clones share the
/// connections, which end when the endpoint is gone and its last request has ended.
///
/// Any `Fn(&Endpoint) -> S` is one.
pub trait Connect: Send + Sync + 'static {
    /// The service. Each request is sent through a clone.
    type Service;

    /// Makes the service. Does not connect yet, and does not fail.
    fn connect(&self, endpoint: &Endpoint) -> Self::Service;
}

impl<F, S> Connect for F
where
    F: Fn(&Endpoint) -> S + Send + Sync + 'static,
{
    type Service = S;

    fn connect(&self, endpoint: &Endpoint) -> S {
        self(endpoint)
    }
}

/// At which endpoints a call has been tried: the last two of them. In the extensions of a request, its clones are
/// the same list, so a retried request brings it along; a balancer that finds it avoids these endpoints, where there
/// are others, and adds the one that it picks.
#[derive(Clone, Debug, Default)]
pub struct Tried(Arc<AtomicU64>);

impl Tried {
    fn contains(&self, serial: u32) -> bool {
        let both = self.0.load(Relaxed);
        both as u32 == serial || (both >> 32) as u32 == serial
    }

    fn add(&self, serial: u32) {
        let last = self.0.load(Relaxed) << 32;
        // Attempts follow each other; where hedges do not, one of them is lost, which is no harm.
        self.0.store(last | u64::from(serial), Relaxed);
    }
}

/// Sends each request to one of the endpoints of a service. Clones share all state.
///
/// Always ready: waiting, where it is wanted, belongs into the request's future. Fails with
/// [`Rejection::NoEndpoints`] when there is nobody to ask, with the reason of a closed gate when all are closed and
/// the panic threshold is 0, and else as the endpoint's service does. Dropping a response future gives back its
/// place among the requests in flight and its permit.
pub struct Balance<S, G = (), K = HttpClassify> {
    shared: Arc<Shared<S, G>>,
    classify: K,
    /// Takes precedence over the one of the configuration.
    picker: Option<Arc<dyn Picker>>,
}

struct Shared<S, G> {
    service: ServiceName,
    connect: Box<dyn Connect<Service = S>>,
    gate: Box<dyn Fn(&Endpoint) -> G + Send + Sync>,
    config: Live<BalanceConfig>,
    set: ArcSwap<Set<S, G>>,
    round_robin: RoundRobin,
    /// Held by whoever makes the next set. No request waits for it.
    replacing: Mutex<()>,
}

impl<S: Clone, G> Balance<S, G> {
    /// A balancer over the endpoints that `watch` has, with the services that `connect` and the gates that `gate`
    /// makes for each. Without gates: `|_: &Endpoint| ()`.
    pub fn new(
        watch: Watch,
        config: Live<BalanceConfig>,
        connect: impl Connect<Service = S>,
        gate: impl Fn(&Endpoint) -> G + Send + Sync + 'static,
    ) -> Self {
        let service = watch.service().clone();
        let set = Set::first(watch, &connect, &gate, &config.get(), Instant::now());
        Self {
            shared: Arc::new(Shared {
                service,
                connect: Box::new(connect),
                gate: Box::new(gate),
                config,
                set: ArcSwap::from_pointee(set),
                round_robin: RoundRobin::default(),
                replacing: Mutex::new(()),
            }),
            classify: HttpClassify,
            picker: None,
        }
    }
}

impl<S, G, K> Balance<S, G, K> {
    /// Calls `f` with the gate of each endpoint that is known now, so that its owner can replace its policy.
    pub fn for_each_gate(&self, mut f: impl FnMut(&G)) {
        // So that no set is made meanwhile from gates that `f` has not seen.
        let _replacing = self
            .shared
            .replacing
            .lock()
            .expect("nothing panics under this lock");
        for node in &self.shared.set.load().nodes {
            f(&node.state.gate);
        }
    }

    /// The same endpoints, with answers judged by `classify`. Default: [`HttpClassify`].
    pub fn with_classify<L>(self, classify: L) -> Balance<S, G, L> {
        Balance {
            shared: self.shared,
            classify,
            picker: self.picker,
        }
    }

    /// The same endpoints, picked by `picker`, whatever [`BalanceConfig::pick`] says.
    #[must_use]
    pub fn with_picker(self, picker: impl Picker) -> Self {
        Self {
            picker: Some(Arc::new(picker)),
            ..self
        }
    }
}

/// What became of a request that a balancer was called with.
enum Start<S, G: Admit, B>
where
    S: Service<http::Request<B>>,
{
    Called(Oneshot<S, http::Request<B>>, InFlight<G>),
    Rejected(Rejection),
    /// The endpoints have never been known, so the request has to wait.
    Unknown(http::Request<B>, Watch),
}

impl<S: Clone + 'static, G: Admit> Shared<S, G> {
    /// Picks an endpoint, by `picker` or else as it is configured, and calls it.
    fn start<B>(&self, request: http::Request<B>, picker: Option<&dyn Picker>) -> Start<S, G, B>
    where
        S: Service<http::Request<B>>,
    {
        let now = Instant::now();
        self.refresh(now);
        let set = self.set.load();
        if !set.known {
            return Start::Unknown(request, set.watch.clone());
        }
        let extensions = request.extensions();
        let tried = extensions.get::<Tried>();
        let deadline = extensions
            .get::<crate::Context>()
            .and_then(|context| context.deadline);
        let config = self.config.get();
        let view = View {
            now,
            config: &config,
            tried,
        };
        let keyed = Keyed(config.hash_slack);
        let picker: Option<&dyn Picker> = picker.or(match config.pick {
            // Known to the compiler, and so faster.
            Pick::PeakEwma => None,
            Pick::RoundRobin => Some(&self.round_robin),
            Pick::Random => Some(&Random),
            Pick::Weighted => Some(&Weighted),
            Pick::ConsistentHash => Some(&keyed),
        });
        let crowd = Crowd {
            candidates: &set.nodes,
            view: &view,
            panic_threshold: config.panic_threshold,
            available: || set.available(now),
        };
        let mut rng = rand::rng();
        let picked = match picker {
            None => crowd.pick(&mut rng),
            Some(picker) => {
                let seen = Seen {
                    set: &set,
                    view: &view,
                };
                let mut chance = rng.clone();
                let mut candidates = Candidates::new(&seen, &mut chance);
                let call = Call::of(&request);
                crowd.pick_proposed(|turn| picker.pick(&mut candidates, &call, turn), &mut rng)
            }
        };
        let (node, permit) = match picked {
            Some(Ok(picked)) => picked,
            Some(Err(rejection)) => return Start::Rejected(rejection),
            None => {
                return Start::Rejected(Rejection::NoEndpoints {
                    service: self.service.clone(),
                });
            }
        };
        if let Some(tried) = tried {
            tried.add(node.state.serial);
        }
        let state = Arc::clone(&node.state);
        let in_flight = InFlight::new(state, permit, now, deadline, self.config.clone());
        Start::Called(node.service.clone().oneshot(request), in_flight)
    }

    /// Makes the next set if the snapshot was replaced, unless somebody else is doing it.
    fn refresh(&self, now: Instant) {
        if !self.set.load().watch.has_changed() {
            return;
        }
        let Ok(_replacing) = self.replacing.try_lock() else {
            return;
        };
        let set = self.set.load();
        if set.watch.has_changed() {
            let next = set.next(&*self.connect, &*self.gate, &self.config.get(), now);
            self.set.store(Arc::new(next));
        }
    }
}

impl<S, G, K, B> Service<http::Request<B>> for Balance<S, G, K>
where
    S: Service<http::Request<B>> + Clone + 'static,
    S::Error: Into<BoxError>,
    G: Admit,
    K: Classify<S::Response>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S, G, K, B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        ResponseFuture::new(self.clone(), request)
    }
}

impl<S, G, K: Clone> Clone for Balance<S, G, K> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            classify: self.classify.clone(),
            picker: self.picker.clone(),
        }
    }
}

impl<S, G, K> fmt::Debug for Balance<S, G, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balance")
            .field("service", &self.shared.service)
            .field("set", &*self.shared.set.load())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod picker_tests;
#[cfg(test)]
mod tests;
