//! `__name__`, around every request of __service__: it sees requests and responses, whatever the method.

use std::task::{Context, Poll};

use tower::{Layer, Service};

/// Puts [`__Middleware__`] around a service. Settings, and state that all its services share, become fields.
#[derive(Clone, Debug, Default)]
pub(crate) struct __Middleware__Layer;

impl<S> Layer<S> for __Middleware__Layer {
    type Service = __Middleware__<S>;

    fn layer(&self, inner: S) -> __Middleware__<S> {
        __Middleware__ { inner }
    }
}

/// Does its part, then passes the request on.
#[derive(Clone, Debug)]
pub(crate) struct __Middleware__<S> {
    inner: S,
}

impl<S, R> Service<R> for __Middleware__<S>
where
    S: Service<R>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        // Here goes what is done with a request.
        self.inner.call(request)
    }
}
