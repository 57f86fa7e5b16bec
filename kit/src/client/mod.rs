//! The outbound stack in its one right order: what a service calls other services through.
//!
//! [`Client`] finds the instances of one service through a [`Discovery`], picks one per attempt and keeps its
//! connections. It is a tower service from `http::Request<Body>` to `http::Response<Body>`, and so what generated
//! clients, tonic's clients and people with a request of their own can all call through.

mod connection;
mod health;
mod live;
mod outbound;
mod whole;

use std::{
    cell::RefCell,
    fmt,
    future::Future,
    num::NonZeroUsize,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use serde::{Deserialize, Serialize};
use thread_local::ThreadLocal;
use tower_layer::Layer;
use tower_service::Service;

use self::health::HealthChecks;
pub use self::{
    connection::{Connection, ConnectionConfig, Connector},
    health::HealthCheckConfig,
    outbound::{Outbound, OutboundService},
    whole::{Whole, WholeFuture},
};
use crate::{
    Body, BoxError,
    balance::{Balance, BalanceConfig, Picker},
    circuit_breaker::{Circuit, CircuitBreakerConfig, Fleet},
    concurrency::ConcurrencyConfig,
    endpoint::{Discovery, Endpoint},
    event::SharedObserver,
    hedge::HedgeConfig,
    name::ServiceName,
    policy::Live,
    rate_limit::Rate,
    retry::{Replay, RetryConfig},
};

/// How a client calls one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientConfig {
    /// How long a call may take, all attempts and the waits between them; a caller that waits for less gets less.
    /// Default 5 s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How long one attempt may take. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub attempt_timeout: Duration,
    /// How long making a connection may take. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// An answer that says that it has at most so many bytes is waited for whole: if it breaks off, its attempt has
    /// failed, and may be made again. A longer one, or a stream of unknown length, counts as answered when its head is
    /// there. 0: so do all. Default 64 KiB.
    pub whole_answer: usize,
    /// How many HTTP/1.1 connections to one endpoint there may be; a call that would need another one is refused at
    /// once. Default 1024.
    pub max_connections: NonZeroUsize,
    /// How many calls may be in flight, waits between attempts included. Default `None`: any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<ConcurrencyConfig>,
    /// How many calls there may be over time, attempts after the first one not counted. Default `None`: any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<Rate>,
    /// Which calls are made again, and when.
    pub retry: RetryConfig,
    /// When a late call is made a second time, beside the first one, out of the budget of the retries. Default
    /// `None`: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedge: Option<HedgeConfig>,
    /// When an endpoint is left alone: one circuit breaker for each.
    pub circuit_breaker: CircuitBreakerConfig,
    /// How endpoints whose circuit breaker is open are asked whether they are well, beside the calls that probe
    /// them. Default `None`: they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheckConfig>,
    /// How an endpoint is picked.
    pub balance: BalanceConfig,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            attempt_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(1),
            whole_answer: 64 * 1024,
            max_connections: NonZeroUsize::new(1024).expect("not zero"),
            concurrency: None,
            rate_limit: None,
            retry: RetryConfig::default(),
            hedge: None,
            circuit_breaker: CircuitBreakerConfig::default(),
            health_check: None,
            balance: BalanceConfig::default(),
        }
    }
}

impl ClientConfig {
    fn connections(&self) -> ConnectionConfig {
        ConnectionConfig {
            connect_timeout: self.connect_timeout,
            max_connections: self.max_connections,
        }
    }
}

/// Calls one service. Clones share everything: endpoints, connections, and what was learnt about them.
///
/// The request's version says how it travels: HTTP/2 (without TLS, by prior knowledge) or HTTP/1.1. Its URI needs
/// a path only. Its [`Context`](crate::Context), in its extensions, says until when an answer is wanted, what it is
/// a part of, and whether it may be made twice.
///
/// It is one pointer, made to be cloned for each call, and always ready: what refuses a call does so in its future.
///
/// # Errors
/// A [`Rejection`](crate::Rejection) where the kit answered and not the peer, in the chain of sources; anything
/// else says that the peer could not be asked, or did not answer. An answer that reports a failure is an answer.
#[derive(Clone)]
pub struct Client {
    stacks: Arc<Stacks>,
}

/// The stack, once for each thread that calls: a clone of all its layers counts a score of references, which threads
/// that count them for each call would take from each other.
struct Stacks {
    stack: Stack,
    of_threads: ThreadLocal<RefCell<Stack>>,
    handles: Arc<Handles>,
}

impl Stacks {
    fn new(stack: Stack, handles: Arc<Handles>) -> Arc<Self> {
        Arc::new(Self {
            stack,
            of_threads: ThreadLocal::new(),
            handles,
        })
    }
}

type Stack = OutboundService<Endpoints>;

type Endpoints = Balance<Whole<Connection<Replay<Body>>>, Circuit>;

/// What replaces the policies of a client while it runs.
struct Handles {
    service: ServiceName,
    /// What it was made with.
    config: ClientConfig,
    outbound: Outbound,
    endpoints: Endpoints,
    connector: Connector,
    whole_answer: Live<usize>,
    balance: Live<BalanceConfig>,
    circuit_breaker: Live<CircuitBreakerConfig>,
    health_checks: HealthChecks,
}

impl Client {
    /// A client of `service`, whose instances `discovery` finds. What happens in its layers is told to `observer`.
    ///
    /// With [`health_check`](ClientConfig::health_check) it starts a task, which its last clone stops, and so has to
    /// be made where tokio runs.
    pub fn new(
        discovery: &impl Discovery,
        service: ServiceName,
        config: ClientConfig,
        observer: SharedObserver,
    ) -> Self {
        let made_with = config.clone();
        let outbound = Outbound::from_config(&config, &service, Arc::clone(&observer));
        let fleet = Fleet::new(service.clone(), observer);
        let connector = Connector::new(config.connections());
        let whole_answer = Live::new(config.whole_answer);
        let circuit_breaker = Live::new(config.circuit_breaker);
        let balance = Live::new(config.balance);
        let circuit = {
            let (service, circuit_breaker) = (service.clone(), circuit_breaker.clone());
            move |endpoint: &Endpoint| {
                let name = format!("{service}/{}", endpoint.id);
                Circuit::in_fleet(name, **circuit_breaker.get(), &fleet)
            }
        };
        let endpoints = Balance::new(
            discovery.watch(&service),
            balance.clone(),
            {
                let (connector, whole_answer) = (connector.clone(), whole_answer.clone());
                move |endpoint: &Endpoint| Whole::new(connector.to(endpoint), whole_answer.clone())
            },
            circuit,
        );
        let health_checks = HealthChecks::default();
        health_checks.replace(config.health_check, &endpoints, &connector);
        let stack = outbound.layer(endpoints.clone());
        let handles = Handles {
            service,
            config: made_with,
            outbound,
            endpoints,
            connector,
            whole_answer,
            balance,
            circuit_breaker,
            health_checks,
        };
        Self {
            stacks: Stacks::new(stack, Arc::new(handles)),
        }
    }

    fn handles(&self) -> &Handles {
        &self.stacks.handles
    }

    /// The same client with endpoints picked by `picker`, whatever [`BalanceConfig::pick`] says; clones that were made
    /// before go on as they did.
    #[must_use]
    pub fn with_picker(self, picker: impl Picker) -> Self {
        let handles = Arc::clone(&self.stacks.handles);
        let endpoints = handles.endpoints.clone().with_picker(picker);
        let stack = handles.outbound.layer(endpoints);
        Self {
            stacks: Stacks::new(stack, handles),
        }
    }

    /// The layers around the balancer, with the handles that replace their policies.
    pub fn outbound(&self) -> &Outbound {
        &self.handles().outbound
    }

    /// The handle that replaces how an endpoint is picked.
    pub fn balance(&self) -> &Live<BalanceConfig> {
        &self.handles().balance
    }

    /// Replaces when an endpoint is left alone, for the circuit breakers of all endpoints, those to come too. What
    /// they have counted stays.
    pub fn replace_circuit_breaker(&self, config: CircuitBreakerConfig) {
        // In this order: an endpoint that comes in between is made from the new one, or found below.
        let handles = self.handles();
        handles.circuit_breaker.set(config);
        let mut circuits = Vec::new();
        handles
            .endpoints
            .for_each_endpoint(|_, circuit| circuits.push(circuit.clone()));
        // Outside of that: one that closes is told to the observer, who may want to replace something, too.
        for circuit in circuits {
            circuit.replace(config);
        }
    }
}

impl Service<Request<Body>> for Client {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // As all layers are: whether a call may pass is asked when it is made.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        let Stacks {
            stack, of_threads, ..
        } = &*self.stacks;
        let mine = of_threads.get_or(|| RefCell::new(stack.clone()));
        match mine.try_borrow_mut() {
            Ok(mut mine) => ResponseFuture {
                inner: mine.call(request),
            },
            // Somebody who is asked by a layer, such as a picker, makes a call of its own.
            Err(_) => ResponseFuture {
                inner: stack.clone().call(request),
            },
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.stacks.stack).finish()
    }
}

pin_project! {
    /// The answer to a call.
    pub struct ResponseFuture {
        #[pin]
        inner: <Stack as Service<Request<Body>>>::Future,
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        num::NonZeroU32,
        sync::{
            OnceLock,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
    };

    use super::*;
    use crate::{
        Rejection,
        balance::{Call, Candidates},
        discovery::Fixed,
        event::nobody,
    };

    /// Makes a call of its own when it is asked for the first time.
    #[derive(Clone, Default)]
    struct Calls(Arc<(OnceLock<Client>, AtomicUsize)>);

    impl Picker for Calls {
        fn pick(&self, _: &mut Candidates<'_>, _: &Call<'_>, _: usize) -> usize {
            let (client, asked) = &*self.0;
            if asked.fetch_add(1, Relaxed) == 0 {
                let client = client.get().expect("set before the call");
                drop(client.clone().call(Request::new(Body::empty())));
            }
            0
        }
    }

    fn client(config: ClientConfig) -> Client {
        let service: ServiceName = "users".parse().unwrap();
        let at = ["127.0.0.1:1", "127.0.0.1:2"].map(|address| address.parse().unwrap());
        let discovery = Fixed::new([(service.clone(), at.to_vec())]);
        Client::new(&discovery, service, config, nobody())
    }

    #[tokio::test]
    async fn threads_have_a_stack_each_and_one_limit() {
        assert_eq!(size_of::<Client>(), size_of::<usize>());
        let client = client(ClientConfig {
            rate_limit: Some(Rate {
                burst: NonZeroU32::MIN,
                interval: Duration::from_secs(3600),
            }),
            ..ClientConfig::default()
        });
        let is_limited = |client: &Client| {
            let call = client.clone().call(Request::new(Body::empty()));
            let polled = tokio_test::task::spawn(call).poll();
            let rejection = |error: &BoxError| Rejection::find(&**error).cloned();
            matches!(polled, Poll::Ready(Err(error))
                if matches!(rejection(&error), Some(Rejection::RateLimited { .. })))
        };
        assert!(!is_limited(&client));
        let runtime = tokio::runtime::Handle::current();
        let other = std::thread::spawn(move || {
            let _context = runtime.enter();
            is_limited(&client)
        });
        assert!(other.join().unwrap());
    }

    #[tokio::test]
    async fn whoever_is_asked_within_a_call_may_call_the_same_service() {
        let picker = Calls::default();
        let client = client(ClientConfig::default());
        let client = client.with_picker(picker.clone());
        assert!(picker.0.0.set(client.clone()).is_ok());
        drop(client.clone().call(Request::new(Body::empty())));
        assert_eq!(picker.0.1.load(Relaxed), 2);
    }
}
