//! Where connections go, and how one is made.

use http::{HeaderValue, Request, Uri, header, uri};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tokio::{net::TcpStream, time::timeout};
use tower::ServiceExt;

use super::ConnectionConfig;
use crate::{BoxError, endpoint::Endpoint, policy::Live, rejection::NotSent};

/// An endpoint, in all the forms that a request needs it in.
pub(super) struct Target {
    pub(super) address: uri::Authority,
    /// What a request without a `Host` says.
    host: HeaderValue,
    uri: Uri,
    connector: HttpConnector,
    pub(super) config: Live<ConnectionConfig>,
}

impl Target {
    pub(super) fn new(endpoint: &Endpoint, config: Live<ConnectionConfig>) -> Self {
        let address = endpoint.address.clone();
        let host = HeaderValue::from_str(address.as_str()).expect("an authority is visible ASCII");
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let path = uri::PathAndQuery::from_static("/");
        Self {
            uri: absolute(address.clone(), path),
            address,
            host,
            connector,
            config,
        }
    }

    /// Makes a connection. Fails with [`NotSent`].
    pub(super) async fn connect(&self) -> Result<TokioIo<TcpStream>, BoxError> {
        let connect_timeout = self.config.get().connect_timeout;
        let mut connector = self.connector.clone();
        // Divides the time between the addresses of a host that has more than one.
        connector.set_connect_timeout(Some(connect_timeout));
        let connecting = connector.oneshot(self.uri.clone());
        // Looking up the name of the host takes time too.
        match timeout(connect_timeout, connecting).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(NotSent(error.into()).into()),
            Err(elapsed) => Err(NotSent(elapsed.into()).into()),
        }
    }

    /// The request as it is written on a connection to this endpoint only (RFC 9112, 3.2.1).
    pub(super) fn origin_form<B>(&self, request: &mut Request<B>) {
        let uri = request.uri();
        if uri.authority().is_some() || !uri.path().starts_with('/') {
            *request.uri_mut() = Uri::from(path(request));
        }
        if !request.headers().contains_key(header::HOST) {
            let host = self.host.clone();
            request.headers_mut().insert(header::HOST, host);
        }
    }

    /// The request with the endpoint in its URI, as HTTP/2 has it (RFC 9113, 8.3.1).
    pub(super) fn absolute_form<B>(&self, request: &mut Request<B>) {
        *request.uri_mut() = absolute(self.address.clone(), path(request));
        request.headers_mut().remove(header::HOST);
    }
}

/// `*`, which a request for the server as a whole has, is no path.
fn path<B>(request: &Request<B>) -> uri::PathAndQuery {
    let path = request.uri().path_and_query();
    path.filter(|path| path.as_str().starts_with('/'))
        .cloned()
        .unwrap_or_else(|| uri::PathAndQuery::from_static("/"))
}

fn absolute(authority: uri::Authority, path: uri::PathAndQuery) -> Uri {
    let mut parts = uri::Parts::default();
    parts.scheme = Some(uri::Scheme::HTTP);
    parts.authority = Some(authority);
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).expect("scheme, authority and path are there")
}
