//! The outbound stack in its one right order: what a service calls other services through.
//!
//! [`Client`] finds the instances of one service through a [`Discovery`], picks one per attempt and keeps its
//! connections. It is a tower service from `http::Request<Body>` to `http::Response<Body>`, and so what generated
//! clients, tonic's clients and people with a request of their own can all call through.

mod connection;

use std::{
    fmt,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use serde::{Deserialize, Serialize};
use tower_service::Service;

pub use self::connection::{Connection, Connector};
use crate::{
    Body, BoxError,
    balance::{Balance, BalanceConfig, Tried},
    endpoint::{Discovery, Endpoint},
    event::SharedObserver,
    name::ServiceName,
    policy::Live,
};

/// How a client calls one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientConfig {
    /// How long making a connection may take. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How an endpoint is picked.
    pub balance: BalanceConfig,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            balance: BalanceConfig::default(),
        }
    }
}

/// Calls one service. Clones share everything: endpoints, connections, and what was learnt about them.
///
/// The request's version says how it travels: HTTP/2 (without TLS, by prior knowledge) or HTTP/1.1. Its URI needs
/// a path only.
#[derive(Clone)]
pub struct Client {
    stack: Stack,
}

type Stack = Balance<Connection<Body>, ()>;

impl Client {
    /// A client of `service`, whose instances `discovery` finds.
    pub fn new(
        discovery: &impl Discovery,
        service: ServiceName,
        config: ClientConfig,
        _observer: SharedObserver,
    ) -> Self {
        let connector = Connector {
            connect_timeout: config.connect_timeout,
        };
        Self {
            stack: Balance::new(
                discovery.watch(&service),
                Live::new(config.balance),
                move |endpoint: &Endpoint| connector.to(endpoint),
                |_: &Endpoint| (),
            ),
        }
    }
}

impl Service<Request<Body>> for Client {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = <Stack as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.stack.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.extensions_mut().insert(Tried::default());
        self.stack.call(request)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.stack).finish()
    }
}
