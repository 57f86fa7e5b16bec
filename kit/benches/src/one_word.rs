//! The layers that take any request, with one that is a single word: what a layer costs without the moving about of
//! requests and answers, which is how costs of layers are mostly measured elsewhere. A balancer wants HTTP; its request
//! here has nothing in it.
//!
//! Each of these calls is made beside the usual one to the bare service, which is taken off, and is answered at once.

use std::{
    future::{Future, Ready, poll_fn, ready},
    pin::Pin,
    task::{Context, Poll},
};

use http::Request;
use kit::{
    BoxError, circuit_breaker::CircuitBreakerLayer, classify::AnySuccess,
    concurrency::ConcurrencyLimitLayer, endpoint::Endpoint, event::nobody,
    rate_limit::RateLimitLayer,
};
use tower::{Layer, Service, limit::ConcurrencyLimit};

use crate::{
    Bare, Inner, Subject, context,
    kit_layers::{self, CONCURRENCY, RATE},
    peer_layers::{self, Governed, failsafe_around},
    request,
};

/// Answers with the word that it gets.
#[derive(Clone, Copy, Debug)]
struct Echo;

impl Service<u64> for Echo {
    type Response = u64;
    type Error = BoxError;
    type Future = Ready<Result<u64, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, word: u64) -> Self::Future {
        ready(Ok(word))
    }
}

/// A service that takes something small.
struct Small<S, Q> {
    bare: Bare,
    context: kit::Context,
    service: S,
    request: fn() -> Q,
    clone: Option<fn(&S) -> S>,
}

impl<S, Q> Subject for Small<S, Q>
where
    S: Service<Q, Error: Into<BoxError>, Future: Send> + Send + 'static,
    S::Response: Send,
    Q: Send + 'static,
{
    fn run(&mut self, calls: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            for _ in 0..calls {
                if let Err(error) = self.bare.call(request(&self.context)).await {
                    panic!("the bare call failed: {error}");
                }
                let service = &mut self.service;
                if poll_fn(|cx| service.poll_ready(cx)).await.is_err() {
                    panic!("not ready");
                }
                let request = std::hint::black_box((self.request)());
                match service.call(request).await {
                    Ok(answer) => drop(std::hint::black_box(answer)),
                    Err(error) => panic!("the call failed: {}", error.into()),
                }
            }
        })
    }

    fn clone_for_thread(&self) -> Option<Box<dyn Subject>> {
        Some(Box::new(Self {
            bare: self.bare,
            context: self.context.clone(),
            service: self.clone?(&self.service),
            request: self.request,
            clone: self.clone,
        }))
    }
}

fn word<S>(inner: Inner, service: S) -> Box<dyn Subject>
where
    S: Service<u64, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
    S::Response: Send,
{
    Box::new(Small {
        bare: Bare(inner),
        context: context(),
        service,
        request: || 7,
        clone: Some(S::clone),
    })
}

pub(crate) fn nothing(inner: Inner) -> Box<dyn Subject> {
    word(inner, Echo)
}

pub(crate) fn circuit_breaker(inner: Inner) -> Box<dyn Subject> {
    let layer = CircuitBreakerLayer::new(kit_layers::circuit()).with_classify(AnySuccess);
    word(inner, layer.layer(Echo))
}

pub(crate) fn failsafe(inner: Inner) -> Box<dyn Subject> {
    word(inner, failsafe_around(Echo))
}

pub(crate) fn rate_limit(inner: Inner) -> Box<dyn Subject> {
    word(inner, RateLimitLayer::new(RATE).layer(Echo))
}

pub(crate) fn governor(inner: Inner) -> Box<dyn Subject> {
    word(inner, Governed::new(Echo))
}

pub(crate) fn concurrency(inner: Inner) -> Box<dyn Subject> {
    let layer = ConcurrencyLimitLayer::new("bench", CONCURRENCY, nobody());
    word(inner, layer.with_classify(AnySuccess).layer(Echo))
}

pub(crate) fn tower_concurrency(inner: Inner) -> Box<dyn Subject> {
    word(inner, ConcurrencyLimit::new(Echo, 1024))
}

fn empty() -> Request<()> {
    Request::new(())
}

pub(crate) fn balance<const N: usize>(inner: Inner) -> Box<dyn Subject> {
    let balance = kit_layers::balancer(N, Inner::AtOnce, |_: &Endpoint| ());
    let service = balance.with_classify(AnySuccess);
    Box::new(Small {
        bare: Bare(inner),
        context: context(),
        clone: Some(Clone::clone),
        service,
        request: empty,
    })
}

pub(crate) fn tower_p2c<const N: usize>(inner: Inner) -> Box<dyn Subject> {
    Box::new(Small {
        bare: Bare(inner),
        context: context(),
        clone: None,
        service: peer_layers::p2c_over(N, Inner::AtOnce),
        request: empty,
    })
}
