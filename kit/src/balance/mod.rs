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
//!   slow answer, so a fast error never attracts traffic; so does a request that was given up when its time was up
//!   ([`Context::answer_by`](crate::Context)), or its caller's, unless that was less than an answer usually takes.
//! - A [`Picker`] proposes the endpoint; gates, panic threshold and [`Tried`] hold whoever it is.
//! - [`Tried`], in the [`Context`](crate::Context) of a request, keeps its next attempt away from endpoints that it failed at.

mod chunked;
mod future;
mod group;
mod load;
mod locality;
mod pick;
mod picker;
mod ring;
mod set;
mod subset;
mod weights;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, TryLockError},
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use rand::rngs::ThreadRng;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tower_service::Service;

pub use self::{
    future::ResponseFuture,
    locality::LocalityConfig,
    picker::{Call, Candidates, PeakEwma, Pick, Picker, Random, RoundRobin, Weighted},
    ring::{ConsistentHash, HashKey},
    subset::SubsetConfig,
};
use self::{
    future::{InFlight, Patience, Stage},
    group::{Group, Member, Seen, View},
    pick::{Crowd, Picked},
    ring::Keyed,
    set::Set,
};
pub use crate::context::Tried;
use crate::{
    BoxError, Rejection,
    asked::Asked,
    classify::{Classify, HttpClassify},
    clock,
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
    /// is tried again after about 15 s, or sooner if the others are slow. One that let the time run out counts as that slow
    /// as well, which is forgotten as [`decay`](Self::decay) says.
    #[serde(with = "humantime_serde")]
    pub forgiveness: Duration,
    /// The share of endpoints with open gates below which all endpoints are used, whatever their gates say.
    /// 0: never. Default 0.5.
    pub panic_threshold: Ratio,
    /// How long a request waits for the endpoints to be known for the first time, within its deadline. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub discovery_wait: Duration,
    /// How long a request waits for an endpoint where it is known that there is none, within its deadline. 0: it is
    /// refused at once. Default 0.
    #[serde(with = "humantime_serde")]
    pub empty_wait: Duration,
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
    /// Which calls stay near the caller. The gates of near endpoints hold for these; the panic threshold is for calls
    /// that may go to any, among them all of those that nobody near can take. Default `None`: near and far are the
    /// same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locality: Option<LocalityConfig>,
    /// Which endpoints of a large set are used at all. Default `None`: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subset: Option<SubsetConfig>,
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
            empty_wait: Duration::ZERO,
            pick: Pick::PeakEwma,
            hash_slack: Ratio::new(0.25).expect("it is from 0 to 1"),
            slow_start: Duration::from_secs(10),
            locality: None,
            subset: None,
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

/// Sends each request to one of the endpoints of a service. Clones share all state.
///
/// Always ready: waiting, where it is wanted, belongs into the request's future. Fails with
/// [`Rejection::NoEndpoints`] when there is nobody to ask, at once or after the time that the configuration says, with
/// the reason of a closed gate when all are closed and the panic threshold is 0, and else as the endpoint's service does.
/// Dropping a response future gives back its place among the requests in flight and its permit.
pub struct Balance<S, G = (), K = HttpClassify> {
    shared: Arc<Shared<S, G>>,
    classify: K,
    /// Takes precedence over the one of the configuration.
    picker: Option<Arc<dyn Picker>>,
}

/// Makes the gate of an endpoint.
type Gate<G> = dyn Fn(&Endpoint) -> G + Send + Sync;

struct Shared<S, G> {
    service: ServiceName,
    connect: Box<dyn Connect<Service = S>>,
    gate: Box<Gate<G>>,
    config: Live<BalanceConfig>,
    set: ArcSwap<Set<S, G>>,
    round_robin: RoundRobin,
    /// Held by whoever makes the next set. No request waits for it that has an endpoint to go to.
    replacing: Mutex<()>,
}

impl<S: Clone + 'static, G> Balance<S, G> {
    /// A balancer over the endpoints that `watch` has, with the services that `connect` and the gates that `gate`
    /// makes for each. Without gates: `|_: &Endpoint| ()`.
    pub fn new(
        watch: Watch,
        config: Live<BalanceConfig>,
        connect: impl Connect<Service = S>,
        gate: impl Fn(&Endpoint) -> G + Send + Sync + 'static,
    ) -> Self {
        let service = watch.service().clone();
        let version = config.version();
        let set = Set::first(watch, &connect, &gate, config.get().clone(), Instant::now());
        let set = set.of_version(version);
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
    /// Calls `f` with each endpoint that is known now and its gate, so that its owner can replace its policy, or look
    /// after those that are closed. `f` must not do the same again.
    pub fn for_each_endpoint(&self, mut f: impl FnMut(&Arc<Endpoint>, &G))
    where
        S: Clone + 'static,
    {
        let shared = &*self.shared;
        // So that no set is made meanwhile from gates that `f` has not seen.
        let replacing = shared.replacing.lock();
        let replacing = replacing.unwrap_or_else(PoisonError::into_inner);
        // Where nobody calls, nobody else lets go of those that are gone.
        let old = shared.replace(clock::now());
        for Member { endpoint, node, .. } in shared.set.load().all.members.iter() {
            f(endpoint, &node.gate);
        }
        drop(replacing);
        drop(old);
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

impl<S: Clone + 'static, G: Admit, K> Balance<S, G, K> {
    /// Picks an endpoint for a request and calls it. If nobody is known, it waits until the endpoints change; one that
    /// has waited before does so until `until` and no longer.
    fn start<B>(&self, request: http::Request<B>, until: Option<Instant>) -> Stage<S, G, B>
    where
        S: Service<http::Request<B>>,
        S::Error: Into<BoxError>,
    {
        let shared = &*self.shared;
        let now = clock::now();
        let set = shared.latest(now);
        let config = &set.config;
        let context = request.extensions().get::<crate::Context>();
        let tried = context.and_then(|context| context.tried.as_ref());
        let patience = context.map(Patience::of).unwrap_or_default();
        if set.all.members.is_empty() {
            let wait = match set.known {
                true => config.empty_wait,
                false => config.discovery_wait.max(config.empty_wait),
            };
            let until = until.unwrap_or_else(|| {
                let ends = patience.ends;
                clock::after(now, ends.map_or(wait, |ends| wait.min(ends.remaining(now))))
            });
            if now < until && !wait.is_zero() {
                let again = Balance {
                    shared: Arc::clone(&self.shared),
                    classify: (),
                    picker: self.picker.clone(),
                };
                return Stage::waits(request, again, set.watch.clone(), until);
            }
        }
        let view = set.view(now, tried);
        let keyed = Keyed(config.hash_slack);
        let picker: Option<&dyn Picker> = self.picker.as_deref().or(match config.pick {
            // Known to the compiler, and so faster.
            Pick::PeakEwma => None,
            Pick::RoundRobin => Some(&shared.round_robin),
            Pick::Random => Some(&Random),
            Pick::Weighted => Some(&Weighted),
            Pick::ConsistentHash => Some(&keyed),
        });
        let mut rng = rand::rng();
        let call = Call::of(&request);
        let near = set.near(&view, &mut rng).and_then(|near| {
            // If nobody near takes it, it is for all.
            let picked = pick(near, Ratio::ZERO, &view, picker, &call, &mut rng);
            picked.filter(Result::is_ok)
        });
        let picked = near.or_else(|| {
            pick(
                &set.all,
                config.panic_threshold,
                &view,
                picker,
                &call,
                &mut rng,
            )
        });
        let (Member { node, .. }, permit) = match picked {
            Some(Ok(picked)) => picked,
            Some(Err(rejection)) => return Stage::rejected(rejection),
            None => {
                return Stage::rejected(Rejection::NoEndpoints {
                    service: shared.service.clone(),
                });
            }
        };
        if let Some(tried) = tried {
            tried.add(node.serial);
        }
        let in_flight = InFlight::new(Arc::clone(node), permit, &view, patience);
        Stage::called(Asked::of(&mut node.service.clone(), request), in_flight)
    }
}

impl<S: Clone + 'static, G> Shared<S, G> {
    /// The set to work from: the next one if the snapshot or the configuration was replaced.
    fn latest(&self, now: Instant) -> Guard<Arc<Set<S, G>>> {
        let set = self.set.load();
        if !set.is_outdated(self.config.version()) {
            return set;
        }
        drop(set);
        self.refresh(now);
        self.set.load()
    }

    /// Makes the next set, unless somebody else is doing it, who is waited for only where nobody is known.
    #[cold]
    fn refresh(&self, now: Instant) {
        let replacing = match self.replacing.try_lock() {
            Ok(replacing) => replacing,
            // Somebody's service or gate could not be made. The set is still the one from before.
            Err(TryLockError::Poisoned(replacing)) => replacing.into_inner(),
            Err(TryLockError::WouldBlock) if !self.set.load().all.members.is_empty() => return,
            // There is nobody to go on with.
            Err(TryLockError::WouldBlock) => self
                .replacing
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        };
        let old = self.replace(now);
        drop(replacing);
        drop(old);
    }

    /// Makes the next set if there is to be one, under the lock. The one before is for the caller to drop when that is
    /// free: with it go the services and gates of endpoints, which are not ours.
    fn replace(&self, now: Instant) -> Option<Arc<Set<S, G>>> {
        let (set, version) = (self.set.load_full(), self.config.version());
        set.is_outdated(version).then(|| {
            let config = Arc::clone(&self.config.get());
            let next = set.next(&*self.connect, &*self.gate, config, now);
            self.set.swap(Arc::new(next.of_version(version)))
        })
    }
}

/// Who takes a request, with the permit.
type Chosen<'a, 'v, S, G> = Picked<'a, Member<S, G>, View<'v>>;

/// Picks one of `group`, by `picker` or else the better of two.
fn pick<'a, 'v, S, G: Admit>(
    group: &'a Group<S, G>,
    panic_threshold: Ratio,
    view: &'a View<'v>,
    picker: Option<&dyn Picker>,
    call: &Call<'_>,
    rng: &mut ThreadRng,
) -> Option<Result<Chosen<'a, 'v, S, G>, Rejection>> {
    let crowd = Crowd {
        candidates: &group.members,
        view,
        panic_threshold,
        available: || group.available(view.now),
    };
    let Some(picker) = picker else {
        return crowd.pick(rng);
    };
    let seen = Seen { group, view };
    let mut chance = rng.clone();
    let mut candidates = Candidates::new(&seen, &mut chance);
    crowd.pick_proposed(|turn| picker.pick(&mut candidates, call, turn), rng)
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
        ResponseFuture::new(self, request)
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
