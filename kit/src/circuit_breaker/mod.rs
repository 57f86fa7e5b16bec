//! Stops asking a peer that fails, and lets a few probes through until it is back.
//!
//! Nygard, "Release It!" (2007): *closed*, calls pass; *open*, they are refused with [`Rejection::CircuitOpen`];
//! *half open*, as many probes as configured pass and decide. The rule for failures in a row is failsafe's; admission
//! is the kit's own: probes are counted, a cancelled one gives its place back, and a result that belongs to an
//! earlier state is ignored.
//!
//! An open circuit is not pending: it refuses when it is called, so that nobody queues up behind a peer that is away.
//!
//! [`Rejection::CircuitOpen`]: crate::Rejection::CircuitOpen
//!
//! What counts as a failure is [`classify`](crate::classify)'s to say. It sees the head of a response: a gRPC call
//! that fails after its first message is not noticed here. A call whose future is dropped teaches nothing, so where
//! this layer stands alone, a timeout belongs inside of it: one outside would only ever cancel.

mod circuit;
mod config;
mod fleet;
mod machine;
#[cfg(test)]
mod tests;

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    BoxError,
    classify::{Classify, HttpClassify},
    clock,
    policy::{Admit, Permit},
    rejection::ResponseFuture,
};

pub use circuit::{Circuit, CircuitPermit, CircuitState, Examination};
pub use config::{CircuitBreakerConfig, SuccessRate};
pub use fleet::Fleet;

/// Puts a circuit in front of all services that it, or a clone of it, builds.
#[derive(Clone, Debug)]
pub struct CircuitBreakerLayer<C = HttpClassify> {
    circuit: Circuit,
    classify: C,
}

impl CircuitBreakerLayer {
    /// Calls pass `circuit`, which learns from responses as [`HttpClassify`] judges them.
    pub fn new(circuit: Circuit) -> Self {
        Self {
            circuit,
            classify: HttpClassify,
        }
    }
}

impl<C> CircuitBreakerLayer<C> {
    /// The same circuit with another judge, for services that are not HTTP.
    pub fn with_classify<D>(self, classify: D) -> CircuitBreakerLayer<D> {
        CircuitBreakerLayer {
            circuit: self.circuit,
            classify,
        }
    }
}

impl<S, C: Clone> Layer<S> for CircuitBreakerLayer<C> {
    type Service = CircuitBreaker<S, C>;

    fn layer(&self, inner: S) -> CircuitBreaker<S, C> {
        CircuitBreaker {
            inner,
            circuit: self.circuit.clone(),
            classify: self.classify.clone(),
        }
    }
}

/// Fails with [`Rejection::CircuitOpen`](crate::Rejection::CircuitOpen) while the circuit is open. Clones share the
/// circuit.
#[derive(Clone, Debug)]
pub struct CircuitBreaker<S, C = HttpClassify> {
    inner: S,
    circuit: Circuit,
    classify: C,
}

impl<S, C, Req> Service<Req> for CircuitBreaker<S, C>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    C: Classify<S::Response>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = CircuitBreakerFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        // Asked here and not in `poll_ready`: a service that is only held ready must not keep a probe's place.
        let (inner, permit) = match self.circuit.admit(clock::now()) {
            Ok(permit) => (
                ResponseFuture::called(self.inner.call(request)),
                Some(permit),
            ),
            Err(reason) => (ResponseFuture::rejected(reason), None),
        };
        CircuitBreakerFuture {
            inner,
            permit,
            classify: self.classify.clone(),
        }
    }
}

pin_project! {
    /// Tells the circuit what became of the call; dropped before that, that it was cancelled.
    #[derive(Debug)]
    pub struct CircuitBreakerFuture<F, C> {
        #[pin]
        inner: ResponseFuture<F>,
        permit: Option<CircuitPermit>,
        classify: C,
    }
}

impl<F, T, E, C> Future for CircuitBreakerFuture<F, C>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
    C: Classify<T>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        if let Some(permit) = this.permit.take() {
            let verdict = this.classify.classify_result(&result);
            permit.finish(clock::now(), verdict.outcome);
        }
        Poll::Ready(result)
    }
}
