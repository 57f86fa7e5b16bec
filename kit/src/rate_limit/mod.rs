//! Rejects requests above a rate; never queues them.
//!
//! GCRA, the generic cell rate algorithm: the token bucket that is one moment in time (ITU-T I.371, annex A).
//! That moment is one atomic word, so a limit that all clones of a layer share costs one exchange per request.
//!
//! [`RateLimitLayer`] has one bucket for all requests, [`KeyedRateLimitLayer`] one for each caller, or for whatever
//! else they are told apart by.

mod keyed;
mod rate;

use std::task::{Context, Poll};

use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    BoxError, clock,
    policy::{Live, Reader},
    rejection::{Rejection, ResponseFuture},
};

pub use keyed::{
    ByHeader, KeyedRate, KeyedRateLimit, KeyedRateLimitLayer, KeyedRateLimiter, RateKey,
};
pub use rate::{Rate, RateLimiter};

/// Limits the rate of requests through all services that it, or a clone of it, builds: they share one bucket.
#[derive(Clone, Debug)]
pub struct RateLimitLayer {
    limiter: RateLimiter,
}

impl RateLimitLayer {
    /// Admits requests at `rate`, beginning with a full burst; all of them where there is none.
    pub fn new(rate: impl Into<Option<Rate>>) -> Self {
        Self {
            limiter: RateLimiter::new(rate, Instant::now()),
        }
    }

    /// The handle that replaces the rate while requests pass; `None` limits nothing. What was admitted at a rate until
    /// then stays counted.
    pub fn rate(&self) -> &Live<Option<Rate>> {
        self.limiter.rate()
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> RateLimit<S> {
        RateLimit {
            inner,
            rate: self.limiter.rate().reader(),
            limiter: self.limiter.clone(),
        }
    }
}

/// Fails with [`Rejection::RateLimited`] above the rate. Clones share one bucket.
#[derive(Clone, Debug)]
pub struct RateLimit<S> {
    inner: S,
    rate: Reader<Option<Rate>>,
    limiter: RateLimiter,
}

impl<S, Req> Service<Req> for RateLimit<S>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        // Taken here and not in `poll_ready`: a service that is only held ready has used nothing.
        let taken = match *self.rate.get() {
            Some(rate) => self.limiter.take_at(rate, clock::now()),
            None => Ok(()),
        };
        match taken {
            Ok(()) => ResponseFuture::called(self.inner.call(request)),
            // `inner` stays ready for the next call.
            Err(retry_after) => ResponseFuture::rejected(Rejection::RateLimited { retry_after }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, time::Duration};

    use tokio_test::{assert_ready_err, assert_ready_ok, task};
    use tower_test::{assert_request_eq, mock};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_above_the_rate_is_rejected_and_told_when_to_come_back() {
        let layer = RateLimitLayer::new(Rate {
            burst: NonZeroU32::MIN,
            interval: Duration::from_secs(2),
        });
        let (mut limited, mut peer) = mock::spawn_layer::<&str, &str, _>(layer);
        assert_ready_ok!(limited.poll_ready());
        let mut first = task::spawn(limited.call("a"));
        assert_request_eq!(peer, "a").send_response("ok");
        assert_ready_ok!(first.poll());

        tokio::time::advance(Duration::from_millis(500)).await;
        assert_ready_ok!(limited.poll_ready());
        let error = assert_ready_err!(task::spawn(limited.call("b")).poll());
        assert_eq!(
            Rejection::find(&*error),
            Some(&Rejection::RateLimited {
                retry_after: Duration::from_millis(1_500)
            })
        );

        tokio::time::advance(Duration::from_millis(1_500)).await;
        assert_ready_ok!(limited.poll_ready());
        let mut third = task::spawn(limited.call("c"));
        assert_request_eq!(peer, "c").send_response("ok");
        assert_ready_ok!(third.poll());
    }
}
