//! Connections to one endpoint: a list of them for HTTP/1, one shared for HTTP/2.
//!
//! [`Connector::to`] is the [`Connect`](crate::balance::Connect) of the kit's client.

mod alarm;
mod http1;
mod http2;
mod target;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::Future,
    num::NonZeroUsize,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Version};
use tower_service::Service;

use self::{
    http1::{Exchange, Pool},
    http2::Line,
    target::Target,
};
use crate::{Body, BoxError, endpoint::Endpoint, policy::Live};

/// The body of a request that can be sent: an abbreviation.
trait Outgoing: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static {}

impl<B> Outgoing for B where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static
{
}

/// How connections to one endpoint are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionConfig {
    /// How long making a connection may take. Default 1 s.
    pub connect_timeout: Duration,
    /// How many HTTP/1.1 connections to one endpoint there may be; a request that would need another one is refused
    /// with [`Rejection::Overloaded`](crate::Rejection::Overloaded) at once, and as one that was
    /// [never sent](crate::rejection::NotSent). Default 1024.
    pub max_connections: NonZeroUsize,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            max_connections: NonZeroUsize::new(1024).expect("not zero"),
        }
    }
}

/// Makes the connections to endpoints. Clones share the configuration.
#[derive(Clone, Debug, Default)]
pub struct Connector {
    config: Live<ConnectionConfig>,
}

impl Connector {
    /// Makes connections as `config` says.
    pub fn new(config: ConnectionConfig) -> Self {
        Self {
            config: Live::new(config),
        }
    }

    /// The handle that replaces the configuration, for the connections to come; those that are there stay, above a lower
    /// limit too.
    pub fn config(&self) -> &Live<ConnectionConfig> {
        &self.config
    }

    /// The connections to one endpoint, of which none is made before the first request.
    pub fn to<B>(&self, endpoint: &Endpoint) -> Connection<B>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let target = Arc::new(Target::new(endpoint, self.config.clone()));
        Connection(Arc::new(Inner {
            http1: Arc::new(Pool::new(Arc::clone(&target))),
            http2: Arc::new(Line::new(Arc::clone(&target))),
            target,
        }))
    }
}

/// Sends requests to one endpoint: those of version HTTP/2 on one connection, in the clear and without asking
/// first ("prior knowledge"), all others on HTTP/1.1 connections that are used again. Clones share them.
///
/// The request needs a path only; where it goes is not its own choice. What provably never reached the endpoint
/// fails with [`NotSent`](crate::rejection::NotSent). A connection is used again once the body of the response was read or dropped; one whose
/// body was dropped half way is closed, and so is one that still sends when its response is over. Upgrades are not
/// supported.
pub struct Connection<B>(Arc<Inner<B>>);

struct Inner<B> {
    target: Arc<Target>,
    http1: Arc<Pool<B>>,
    http2: Arc<Line<B>>,
}

impl<B> Clone for Connection<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B> fmt::Debug for Connection<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = &self.0.target.address;
        f.debug_tuple("Connection").field(address).finish()
    }
}

impl<B> Service<Request<B>> for Connection<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = ResponseFuture<B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> ResponseFuture<B> {
        let Inner {
            target,
            http1,
            http2,
        } = &*self.0;
        ResponseFuture(if request.version() == Version::HTTP_2 {
            target.absolute_form(&mut request);
            State::Http2(Box::pin(Arc::clone(http2).send(request)))
        } else {
            *request.version_mut() = Version::HTTP_11;
            target.origin_form(&mut request);
            State::Http1(http1.send(request))
        })
    }
}

/// The answer of the endpoint.
pub struct ResponseFuture<B>(State<B>);

enum State<B> {
    Http1(Exchange<B>),
    /// Boxed, beside what hyper itself allocates for a stream.
    Http2(Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>),
}

impl<B> Future for ResponseFuture<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().0 {
            State::Http1(exchange) => exchange.poll(cx),
            State::Http2(response) => response.as_mut().poll(cx),
        }
    }
}

impl<B> fmt::Debug for ResponseFuture<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
