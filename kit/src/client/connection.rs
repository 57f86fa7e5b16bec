//! Connections to one endpoint: a list of them for HTTP/1, one shared for HTTP/2.
//!
//! [`Connector::to`] is the [`Connect`](crate::balance::Connect) of the kit's client. This is the only place that
//! knows what stands behind a connection: hyper-util's client, one for each endpoint and version.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri, Version, header, uri};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::{
    Body, BoxError,
    endpoint::Endpoint,
    rejection::{NotSent, find_cause},
};

/// A connection without a request is closed after this time; a server of the kit keeps it for longer, so that no
/// request meets a connection that is just being closed.
const IDLE: Duration = Duration::from_secs(60);
/// A peer that is gone without a word, as behind a broken network, is found out after the sum of both.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes the connections to endpoints. Clones share nothing.
#[derive(Clone, Debug)]
pub struct Connector {
    /// How long making a connection may take. Default 1 s.
    pub connect_timeout: Duration,
}

impl Default for Connector {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
        }
    }
}

impl Connector {
    /// The connections to one endpoint, of which none is made before the first request.
    pub fn to<B>(&self, endpoint: &Endpoint) -> Connection<B>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(self.connect_timeout));
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .http2_keep_alive_interval(PING_EVERY)
            .http2_keep_alive_timeout(PING_TIMEOUT);
        let http1 = builder.build(connector.clone());
        let http2 = builder.http2_only(true).build(connector);
        Connection(Arc::new(Inner {
            address: endpoint.address.clone(),
            http1,
            http2,
        }))
    }
}

/// Sends requests to one endpoint: those of version HTTP/2 on one connection, in the clear and without asking
/// first ("prior knowledge"), all others on HTTP/1.1 connections that are used again. Clones share them.
///
/// The request needs a path only; where it goes is not its own choice. What provably never reached the endpoint
/// fails with [`NotSent`].
pub struct Connection<B>(Arc<Inner<B>>);

struct Inner<B> {
    address: uri::Authority,
    http1: legacy::Client<HttpConnector, B>,
    http2: legacy::Client<HttpConnector, B>,
}

impl<B> Clone for Connection<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B> fmt::Debug for Connection<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.0.address).finish()
    }
}

impl<B> Service<Request<B>> for Connection<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> ResponseFuture {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(uri::Scheme::HTTP);
        parts.authority = Some(self.0.address.clone());
        // `*`, which a request for the server as a whole has, is no path.
        parts.path_and_query = parts
            .path_and_query
            .filter(|path| path.as_str().starts_with('/'))
            .or_else(|| Some(uri::PathAndQuery::from_static("/")));
        *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path are there");
        let inner = if request.version() == Version::HTTP_2 {
            // HTTP/2 names the host in the URI.
            request.headers_mut().remove(header::HOST);
            self.0.http2.request(request)
        } else {
            *request.version_mut() = Version::HTTP_11;
            self.0.http1.request(request)
        };
        ResponseFuture { inner }
    }
}

pin_project! {
    /// The answer of the endpoint.
    #[derive(Debug)]
    pub struct ResponseFuture {
        #[pin]
        inner: legacy::ResponseFuture,
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(self.project().inner.poll(cx)) {
            Ok(response) => Ok(response.map(Body::from)),
            Err(error) if never_arrived(&error) => Err(NotSent(error.into()).into()),
            Err(error) => Err(error.into()),
        })
    }
}

/// Whether the endpoint provably did not look at the request. Where it cannot be told, it may have.
fn never_arrived(error: &legacy::Error) -> bool {
    // No connection could be made.
    error.is_connect()
        // hyper gave the request back unsent, because its connection was closed before its turn came.
        || find_cause::<hyper::Error>(error).is_some_and(hyper::Error::is_canceled)
        // The peer said so: RFC 9113, 8.7. A GOAWAY ends only streams beyond the last one that it looked at.
        || find_cause::<h2::Error>(error).is_some_and(|error| {
            let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
            error.is_remote() && (refused || error.is_go_away())
        })
}
