//! Limits how many requests are in flight at once; what is above the limit is refused at once, never queued.
//!
//! A queue in front of a service that is too slow only makes every caller wait for an answer that comes too late:
//! by Little's law, requests in flight are the arrival rate times the latency, so a bound on them is a bound on
//! the wait.
//!
//! The right bound is the number of workers behind it, whatever they are: cores, connections to a database. It is
//! seldom known and does not stay the same, so the limit can look for it: with [`Adaptive`], it rises while answers
//! come as fast as they do without a queue, and falls when they get slower. It is the same mechanism with a limit that
//! moves, before a server as before the calls of a client.
//!
//! Above the limit not all requests are alike. Each says its [`Priority`](crate::name::Priority) in the header
//! `request-priority`, which generated clients write: what is sheddable may use three quarters of the limit only, and
//! what is critical a tenth more than all of it, so that the others cannot keep it out. A caller that says nothing is
//! normal, and one that says too much of itself must be kept away by other means.

mod gradient;
mod limiter;
#[cfg(test)]
mod tests;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    BoxError,
    classify::{Classify, HttpClassify, Prioritize},
    clock,
    event::SharedObserver,
    policy::{Permit, Reader},
    rejection::ResponseFuture,
};

pub use gradient::Adaptive;
pub use limiter::{ConcurrencyConfig, ConcurrencyLimiter, InFlight};

/// Limits what is in flight in all services that it, or a clone of it, builds: they share one count.
#[derive(Clone, Debug)]
pub struct ConcurrencyLimitLayer<C = HttpClassify> {
    limiter: ConcurrencyLimiter,
    classify: C,
}

impl ConcurrencyLimitLayer {
    /// Nothing is in flight. Without a configuration nothing is limited. `name`, of the service that is limited, stands in the events by which `observer` hears
    /// how a limit that adapts itself moves.
    pub fn new(
        name: impl Into<Arc<str>>,
        config: impl Into<Option<ConcurrencyConfig>>,
        observer: SharedObserver,
    ) -> Self {
        Self {
            limiter: ConcurrencyLimiter::new(name, config, observer),
            classify: HttpClassify,
        }
    }
}

impl<C> ConcurrencyLimitLayer<C> {
    /// The same with another judge of results, for services that are not HTTP.
    pub fn with_classify<D>(self, classify: D) -> ConcurrencyLimitLayer<D> {
        ConcurrencyLimitLayer {
            limiter: self.limiter,
            classify,
        }
    }

    /// The count, the limit, and the handle that replaces the configuration.
    pub fn limiter(&self) -> &ConcurrencyLimiter {
        &self.limiter
    }
}

impl<S, C: Clone> Layer<S> for ConcurrencyLimitLayer<C> {
    type Service = ConcurrencyLimit<S, C>;

    fn layer(&self, inner: S) -> ConcurrencyLimit<S, C> {
        ConcurrencyLimit {
            inner,
            config: self.limiter.config().reader(),
            limiter: self.limiter.clone(),
            classify: self.classify.clone(),
        }
    }
}

/// Fails with [`Rejection::Overloaded`](crate::Rejection::Overloaded) above the limit. Clones share one count.
#[derive(Clone, Debug)]
pub struct ConcurrencyLimit<S, C = HttpClassify> {
    inner: S,
    config: Reader<Option<ConcurrencyConfig>>,
    limiter: ConcurrencyLimiter,
    classify: C,
}

impl<S, C, Req> Service<Req> for ConcurrencyLimit<S, C>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    C: Classify<S::Response> + Prioritize<Req>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ConcurrencyFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        // Counted here and not in `poll_ready`: nobody waits for a place, and a connection that only holds its
        // service ready while it idles must not take one.
        let admitted = self.limiter.admit_by(self.config.get(), || {
            (self.classify.priority(&request), clock::now())
        });
        let classify = self.classify.clone();
        match admitted {
            Ok(entered) => ConcurrencyFuture {
                inner: ResponseFuture::called(self.inner.call(request)),
                entered: Some(entered),
                classify,
            },
            Err(reason) => ConcurrencyFuture {
                inner: ResponseFuture::rejected(reason),
                entered: None,
                classify,
            },
        }
    }
}

pin_project! {
    /// Counts as in flight until it is ready or dropped.
    #[derive(Debug)]
    pub struct ConcurrencyFuture<F, C> {
        #[pin]
        inner: ResponseFuture<F>,
        entered: Option<InFlight>,
        classify: C,
    }
}

impl<F, T, E, C> Future for ConcurrencyFuture<F, C>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
    C: Classify<T>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        // Whoever sees the answer may call again at once.
        if let Some(entered) = this.entered.take()
            && entered.is_measured()
        {
            let verdict = this.classify.classify_result(&result);
            entered.finish(clock::now(), verdict.outcome);
        }
        Poll::Ready(result)
    }
}
