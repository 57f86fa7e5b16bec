//! Makes one call of many that are the same: those who ask while an answer is on its way share it.
//!
//! Go's `singleflight`, as a layer. Which calls are the same is said by a function: those for which it gives equal
//! keys. A key must hold all that the answer depends on, who asks included where that matters, and there must be
//! none for a call that is to be made each time: see [`is_idempotent`](crate::classify::is_idempotent).
//!
//! Nobody leads. All who wait drive the one call, so whoever came first may go away, and the call goes on as long as
//! anybody waits for it; the last one to go away cancels it. It is made with the request that came first, and so
//! with the deadline and the trace of that one: a deadline of each caller's own stands outside of this layer.
//!
//! The call itself is boxed: the layer has one map for all services that it builds, whatever their futures are.
//! Nothing is kept once the answer is there: this is no cache. But who joins a call may get an answer that was on its way
//! before he asked.
//!
//! An answer has to be `Clone`, which one over HTTP is not while its body is still to come. A [`CollectLayer`] reads it to
//! its end, and [`CoalesceLayer::same`] knows which calls over HTTP are the same. Around the kit's client:
//!
//! ```
//! use kit::{
//!     BoxError, client::Client,
//!     coalesce::{CoalesceLayer, CollectLayer},
//!     deadline::DeadlineLayer,
//! };
//! use tower::ServiceBuilder;
//! # use std::{convert::Infallible, sync::atomic::{AtomicU32, Ordering::Relaxed}, time::Duration};
//! # use http::{Request, Response};
//! # use hyper_util::rt::{TokioExecutor, TokioIo};
//! # use kit::{Body, discovery::Fixed};
//! # use tower::ServiceExt;
//! # static ASKED: AtomicU32 = AtomicU32::new(0);
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! # let there = listener.local_addr()?.to_string().parse()?;
//! # tokio::spawn(async move {
//! #     while let Ok((stream, _)) = listener.accept().await {
//! #         let serve = hyper::service::service_fn(async |_| {
//! #             ASKED.fetch_add(1, Relaxed);
//! #             tokio::time::sleep(Duration::from_millis(100)).await;
//! #             Ok::<_, Infallible>(Response::new(Body::full("ann")))
//! #         });
//! #         let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
//! #         tokio::spawn(async move { builder.serve_connection(TokioIo::new(stream), serve).await.is_ok() });
//! #     }
//! # });
//! # let discovery = Fixed::new([("users".parse()?, vec![there])]);
//! # let client = Client::new(&discovery, "users".parse()?, Default::default(), kit::event::nobody());
//! let users = ServiceBuilder::new()
//!     // Each caller's own.
//!     .layer(DeadlineLayer::outbound(Default::default()))
//!     .layer(CoalesceLayer::same(Default::default()))
//!     .layer(CollectLayer::new(64 * 1024))
//!     .service(client);
//!
//! let calls = [(); 3].map(|()| users.clone().oneshot(Request::get("/users/7").body(Body::empty()).unwrap()));
//! for answer in futures_util::future::try_join_all(calls).await? {
//!     assert_eq!(answer.body().bytes(), "ann");
//! }
//! # assert_eq!(ASKED.load(Relaxed), 1);
//! # Ok(())
//! # }
//! ```
//!
//! Generated clients speak through that stack, too: `UsersClient::json(users)`.

mod collect;
mod same;
#[cfg(test)]
mod tests;

use std::{
    collections::{
        HashMap,
        hash_map::Entry::{Occupied, Vacant},
    },
    error::Error as StdError,
    fmt,
    hash::Hash,
    num::NonZeroUsize,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures_util::future::{FutureExt, Shared, WeakShared};
use pin_project_lite::pin_project;
use serde::{Deserialize, Serialize};
use tower_layer::Layer;
use tower_service::Service;

pub use self::{
    collect::{Collect, CollectFuture, CollectLayer},
    same::{CoalesceSameLayer, Same},
};
use crate::{BoxError, policy::Live};

/// How many calls are known at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CoalesceConfig {
    /// Different calls under way that others may join; a call above that is made alone. Default 1024.
    pub max_calls: NonZeroUsize,
}

impl Default for CoalesceConfig {
    fn default() -> Self {
        Self {
            max_calls: NonZeroUsize::new(1024).expect("not zero"),
        }
    }
}

/// What went wrong with a call that several made: the same error for all of them. What it is, is its source, where
/// [`Rejection::find`](crate::Rejection::find) and [`classify`](crate::classify) find it.
#[derive(Clone, Debug)]
pub struct SharedError(Arc<dyn StdError + Send + Sync>);

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the shared call failed")
    }
}

impl StdError for SharedError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}

/// One call, driven by whoever waits for it.
type Flight<T> = Pin<Box<dyn Future<Output = Result<T, SharedError>> + Send>>;

/// The calls under way. They are not held here: each lives as long as somebody waits for it.
struct Calls<K, T> {
    under_way: HashMap<K, (u64, WeakShared<Flight<T>>)>,
    /// Tells a call from an earlier one with the same key.
    next: u64,
}

struct Map<K, T> {
    calls: Mutex<Calls<K, T>>,
    config: Live<CoalesceConfig>,
}

impl<K, T> Map<K, T> {
    /// Held for one look-up; no call is made, polled or dropped meanwhile. What a key's own code panics in leaves the map
    /// as it was, or without that key.
    fn lock(&self) -> MutexGuard<'_, Calls<K, T>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a call out of the map when it is answered or cancelled.
struct Entry<K: Hash + Eq, T> {
    map: Arc<Map<K, T>>,
    key: K,
    serial: u64,
}

impl<K: Hash + Eq, T> Drop for Entry<K, T> {
    fn drop(&mut self) {
        let mut calls = self.map.lock();
        // Between the last one going away and this, another call with the same key may have begun.
        let is_mine = |(serial, _): &(u64, _)| *serial == self.serial;
        if calls.under_way.get(&self.key).is_some_and(is_mine) {
            calls.under_way.remove(&self.key);
        }
    }
}

/// Makes one call of those with equal keys `K`, answered by a `T`, in all services that it, or a clone of it, builds.
pub struct CoalesceLayer<K, T, F> {
    map: Arc<Map<K, T>>,
    key: F,
}

impl<K, T, F> CoalesceLayer<K, T, F> {
    /// Calls for which `key`, a function of the request, gives equal keys are one call; one without a key is made
    /// alone.
    pub fn new<Req>(config: CoalesceConfig, key: F) -> Self
    where
        F: Fn(&Req) -> Option<K>,
        T: Clone,
    {
        let calls = Calls {
            under_way: HashMap::new(),
            next: 0,
        };
        Self {
            map: Arc::new(Map {
                calls: Mutex::new(calls),
                config: Live::new(config),
            }),
            key,
        }
    }

    /// The handle that replaces the configuration. Calls that are under way stay so.
    pub fn config(&self) -> &Live<CoalesceConfig> {
        &self.map.config
    }

    /// How many different calls are under way at this moment that others could join.
    pub fn under_way(&self) -> usize {
        self.map.lock().under_way.len()
    }
}

impl<K, T, F: Clone> Clone for CoalesceLayer<K, T, F> {
    fn clone(&self) -> Self {
        Self {
            map: Arc::clone(&self.map),
            key: self.key.clone(),
        }
    }
}

impl<K, T, F> fmt::Debug for CoalesceLayer<K, T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoalesceLayer")
            .field("config", &self.map.config)
            .finish_non_exhaustive()
    }
}

impl<S, K, T, F: Clone> Layer<S> for CoalesceLayer<K, T, F> {
    type Service = Coalesce<S, K, T, F>;

    fn layer(&self, inner: S) -> Self::Service {
        Coalesce {
            inner,
            layer: self.clone(),
        }
    }
}

/// Makes one call of those with equal keys. Clones share the calls that are under way.
///
/// Fails with a [`SharedError`] where a call may have been shared. Who joins a call leaves the inner service ready.
pub struct Coalesce<S, K, T, F> {
    inner: S,
    layer: CoalesceLayer<K, T, F>,
}

impl<S: Clone, K, T, F: Clone> Clone for Coalesce<S, K, T, F> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            layer: self.layer.clone(),
        }
    }
}

impl<S: fmt::Debug, K, T, F> fmt::Debug for Coalesce<S, K, T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coalesce")
            .field("inner", &self.inner)
            .field("layer", &self.layer)
            .finish()
    }
}

impl<S, K, T, F, Req> Service<Req> for Coalesce<S, K, T, F>
where
    S: Service<Req, Response = T> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    F: Fn(&Req) -> Option<K>,
    K: Hash + Eq + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
    Req: Send + 'static,
{
    type Response = T;
    type Error = BoxError;
    type Future = CoalesceFuture<S::Future, T>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let Some(key) = (self.layer.key)(&request) else {
            return CoalesceFuture::alone(self.inner.call(request));
        };
        let map = &self.layer.map;
        let mut calls = map.lock();
        let Calls { under_way, next } = &mut *calls;
        let known = under_way.len();
        let place = under_way.entry(key.clone());
        match &place {
            // A call that was cancelled this very moment is still there, and makes way.
            Occupied(call) => {
                if let Some(call) = call.get().1.upgrade() {
                    return CoalesceFuture::shared(call);
                }
            }
            Vacant(_) if known >= map.config.get().max_calls.get() => {
                drop(calls);
                return CoalesceFuture::alone(self.inner.call(request));
            }
            Vacant(_) => {}
        }
        // The one that is ready goes along.
        let unready = self.inner.clone();
        let mut service = std::mem::replace(&mut self.inner, unready);
        let serial = *next;
        *next += 1;
        // From here on nobody else's code runs until the lock is free: the entry takes it when it is dropped.
        let entry = Entry {
            map: Arc::clone(map),
            key,
            serial,
        };
        let flight: Flight<T> = Box::pin(async move {
            let _entry = entry;
            let answer = service.call(request).await;
            answer.map_err(|error| SharedError(Arc::from(error.into())))
        });
        let call = flight.shared();
        let weak = call.downgrade().expect("not polled yet");
        place.insert_entry((serial, weak));
        CoalesceFuture::shared(call)
    }
}

pin_project! {
    /// Waits for an answer, perhaps with others.
    pub struct CoalesceFuture<F, T> {
        #[pin]
        state: State<F, T>,
    }
}

pin_project! {
    #[project = Project]
    enum State<F, T> {
        Alone {
            #[pin]
            future: F,
        },
        Shared {
            #[pin]
            call: Shared<Flight<T>>,
        },
    }
}

impl<F, T> CoalesceFuture<F, T> {
    fn alone(future: F) -> Self {
        let state = State::Alone { future };
        Self { state }
    }

    fn shared(call: Shared<Flight<T>>) -> Self {
        let state = State::Shared { call };
        Self { state }
    }
}

impl<F, T> fmt::Debug for CoalesceFuture<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = matches!(self.state, State::Shared { .. });
        f.debug_struct("CoalesceFuture")
            .field("shared", &shared)
            .finish_non_exhaustive()
    }
}

impl<F, T, E> Future for CoalesceFuture<F, T>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
    T: Clone,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            Project::Alone { future } => future.poll(cx).map_err(Into::into),
            Project::Shared { call } => call.poll(cx).map_err(Into::into),
        }
    }
}
