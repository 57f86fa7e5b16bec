//! Limits how many requests are in flight at once; what is above the limit is refused at once, never queued.
//!
//! A queue in front of a service that is too slow only makes every caller wait for an answer that comes too late:
//! by Little's law, requests in flight are the arrival rate times the latency, so a bound on them is a bound on
//! the wait. A limit that adapts itself is to come.

use std::{
    num::NonZeroUsize,
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use serde::{Deserialize, Serialize};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    BoxError,
    policy::Live,
    rejection::{Rejection, ResponseFuture},
};

/// How many requests may be in flight at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConcurrencyConfig {
    /// The limit. Default 1024.
    pub limit: NonZeroUsize,
}

impl Default for ConcurrencyConfig {
    fn default() -> Self {
        Self {
            limit: NonZeroUsize::new(1024).expect("not zero"),
        }
    }
}

/// The policy: counts what is in flight against the limit. Clones share one count.
#[derive(Clone, Debug)]
pub struct ConcurrencyLimiter {
    config: Live<ConcurrencyConfig>,
    in_flight: Arc<AtomicUsize>,
}

impl ConcurrencyLimiter {
    /// Nothing is in flight.
    pub fn new(config: ConcurrencyConfig) -> Self {
        Self {
            config: Live::new(config),
            in_flight: Arc::default(),
        }
    }

    /// The handle that replaces the limit. What is in flight stays in flight, also above a lower limit.
    pub fn config(&self) -> &Live<ConcurrencyConfig> {
        &self.config
    }

    /// How many are in flight at this moment.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// Counts one more in, until the permit is dropped; or refuses with [`Rejection::Overloaded`].
    pub fn enter(&self) -> Result<InFlight, Rejection> {
        let limit = self.config.get().limit.get();
        // Counted first, so that two can never both take the last place.
        let entered = InFlight(Arc::clone(&self.in_flight));
        if self.in_flight.fetch_add(1, Acquire) < limit {
            Ok(entered)
        } else {
            Err(Rejection::Overloaded { limit })
        }
    }
}

/// One request in flight; dropping it counts it out.
#[derive(Debug)]
pub struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        // Pairs with the acquiring count in: what was done in this place is over when the next one takes it.
        self.0.fetch_sub(1, Release);
    }
}

/// Limits what is in flight in all services that it, or a clone of it, builds: they share one count.
#[derive(Clone, Debug)]
pub struct ConcurrencyLimitLayer {
    limiter: ConcurrencyLimiter,
}

impl ConcurrencyLimitLayer {
    /// Nothing is in flight.
    pub fn new(config: ConcurrencyConfig) -> Self {
        Self {
            limiter: ConcurrencyLimiter::new(config),
        }
    }

    /// The count, and the handle that replaces the limit.
    pub fn limiter(&self) -> &ConcurrencyLimiter {
        &self.limiter
    }
}

impl Default for ConcurrencyLimitLayer {
    fn default() -> Self {
        Self::new(ConcurrencyConfig::default())
    }
}

impl<S> Layer<S> for ConcurrencyLimitLayer {
    type Service = ConcurrencyLimit<S>;

    fn layer(&self, inner: S) -> ConcurrencyLimit<S> {
        ConcurrencyLimit {
            inner,
            limiter: self.limiter.clone(),
        }
    }
}

/// Fails with [`Rejection::Overloaded`] above the limit. Clones share one count.
#[derive(Clone, Debug)]
pub struct ConcurrencyLimit<S> {
    inner: S,
    limiter: ConcurrencyLimiter,
}

impl<S, Req> Service<Req> for ConcurrencyLimit<S>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ConcurrencyFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        // Counted here and not in `poll_ready`: nobody waits for a place, and a connection that only holds its
        // service ready while it idles must not take one.
        match self.limiter.enter() {
            Ok(entered) => ConcurrencyFuture {
                inner: ResponseFuture::called(self.inner.call(request)),
                entered: Some(entered),
            },
            Err(reason) => ConcurrencyFuture {
                inner: ResponseFuture::rejected(reason),
                entered: None,
            },
        }
    }
}

pin_project! {
    /// Counts as in flight until it is ready or dropped.
    #[derive(Debug)]
    pub struct ConcurrencyFuture<F> {
        #[pin]
        inner: ResponseFuture<F>,
        entered: Option<InFlight>,
    }
}

impl<F, T, E> Future for ConcurrencyFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        // Whoever sees the answer may call again at once.
        this.entered.take();
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
    use tower_test::{assert_request_eq, mock};

    use super::*;

    fn layer(limit: usize) -> ConcurrencyLimitLayer {
        ConcurrencyLimitLayer::new(ConcurrencyConfig {
            limit: NonZeroUsize::new(limit).unwrap(),
        })
    }

    #[tokio::test]
    async fn a_request_above_the_limit_is_refused_at_once() {
        let layer = layer(1);
        let (mut limited, mut peer) = mock::spawn_layer::<&str, &str, _>(layer.clone());
        assert_ready_ok!(limited.poll_ready());
        let mut first = task::spawn(limited.call("a"));
        assert_pending!(first.poll());
        assert_eq!(layer.limiter().in_flight(), 1);

        assert_ready_ok!(limited.poll_ready());
        let error = assert_ready_err!(task::spawn(limited.call("b")).poll());
        let overloaded = Rejection::Overloaded { limit: 1 };
        assert_eq!(Rejection::find(&*error), Some(&overloaded));

        assert_request_eq!(peer, "a").send_response("ok");
        assert_ready_ok!(first.poll());
        assert_eq!(layer.limiter().in_flight(), 0);
    }

    #[tokio::test]
    async fn a_dropped_future_gives_its_place_back() {
        let layer = layer(1);
        let (mut limited, _peer) = mock::spawn_layer::<&str, &str, _>(layer.clone());
        assert_ready_ok!(limited.poll_ready());
        drop(limited.call("a"));
        assert_eq!(layer.limiter().in_flight(), 0);
    }

    #[test]
    fn a_lower_limit_holds_for_those_who_come_later() {
        let limiter = ConcurrencyLimiter::new(ConcurrencyConfig::default());
        let held: Vec<_> = (0..3).map(|_| limiter.enter().unwrap()).collect();
        limiter.config().set(ConcurrencyConfig {
            limit: NonZeroUsize::new(2).unwrap(),
        });
        assert_eq!(
            limiter.enter().unwrap_err(),
            Rejection::Overloaded { limit: 2 }
        );
        drop(held);
        assert!(limiter.enter().is_ok());
    }

    #[test]
    fn threads_never_exceed_the_limit() {
        let limiter = ConcurrencyLimiter::new(ConcurrencyConfig {
            limit: NonZeroUsize::new(3).unwrap(),
        });
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        if let Ok(_entered) = limiter.enter() {
                            assert!(inside.fetch_add(1, Relaxed) < 3);
                            inside.fetch_sub(1, Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(limiter.in_flight(), 0);
    }
}
