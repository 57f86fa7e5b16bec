//! Three ways to call a service of several instances, which differ in the client only.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, Uri, uri::Authority};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kit::{
    Body, BoxError,
    client::{Client, ClientConfig},
    discovery::Fixed,
    hedge::HedgeConfig,
};
use tokio::time::timeout;
use tower::{
    Service, ServiceExt,
    balance::p2c::Balance,
    buffer::Buffer,
    discover::ServiceList,
    load::{CompleteOnResponse, PeakEwma},
};

/// How long any of them waits in all: kit's default, for the others set by hand, as a careful user would.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long making a connection may take, likewise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `kit::client::Client`, as it comes.
    Kit,
    /// The same, with hedging switched on.
    KitHedging,
    /// tower's `Balance` (P2C) over `PeakEwma` over hyper-util's client, in a `Buffer`, since it is not `Clone`.
    Tower,
    /// hyper-util's client, one instance after the other.
    RoundRobin,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Kit, Self::KitHedging, Self::Tower, Self::RoundRobin];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Kit => "kit",
            Self::KitHedging => "kit, hedging",
            Self::Tower => "tower P2C + PeakEwma",
            Self::RoundRobin => "round robin",
        }
    }

    /// One of its kind, that knows these instances.
    pub(crate) fn caller(self, addresses: Vec<Authority>) -> Caller {
        match self {
            Self::Kit => Caller::new(kit(addresses, None)),
            Self::KitHedging => Caller::new(kit(addresses, Some(HedgeConfig::default()))),
            Self::Tower => Caller::new(tower(addresses)),
            Self::RoundRobin => Caller::new(RoundRobin::new(addresses)),
        }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// Calls, and reads the answer to its end.
pub(crate) struct Caller(Box<dyn Fn(Method) -> Answer + Send + Sync>);

impl Caller {
    fn new<S, B>(service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send,
    {
        Self(Box::new(move |method| {
            let service = service.clone();
            Box::pin(async move { timeout(TIMEOUT, ask(service, method)).await? })
        }))
    }

    /// Makes one call. Good is a status of success with a whole body.
    pub(crate) fn call(&self, method: Method) -> Answer {
        self.0(method)
    }
}

async fn ask<S, B>(service: S, method: Method) -> Result<(), BoxError>
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>>,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>>,
{
    let request = Request::builder()
        .method(method)
        .uri("/")
        .body(Body::empty())?;
    let answer = service.oneshot(request).await.map_err(Into::into)?;
    let status = answer.status();
    answer.into_body().collect().await.map_err(Into::into)?;
    if !status.is_success() {
        return Err(status.to_string().into());
    }
    Ok(())
}

fn kit(addresses: Vec<Authority>, hedge: Option<HedgeConfig>) -> Client {
    let service: kit::name::ServiceName = "peer".parse().expect("it is a name");
    let discovery = Fixed::new([(service.clone(), addresses)]);
    let config = ClientConfig {
        hedge,
        ..ClientConfig::default()
    };
    Client::new(&discovery, service, config, kit::event::nobody())
}

/// hyper-util's client for one instance.
fn connection(
    address: Authority,
) -> impl Service<
    Request<Body>,
    Response = Response<Incoming>,
    Error = legacy::Error,
    Future = legacy::ResponseFuture,
> + Clone
+ Send
+ Sync
+ 'static {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let client = legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .build::<_, Body>(connector);
    client.map_request(move |mut request: Request<Body>| {
        let uri = Uri::builder().scheme("http").authority(address.clone());
        *request.uri_mut() = uri.path_and_query("/").build().expect("it has all parts");
        request
    })
}

fn tower(
    addresses: Vec<Authority>,
) -> impl Service<Request<Body>, Response = Response<Incoming>, Error = BoxError, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    // What linkerd's proxy sets.
    let (default_rtt, decay) = (Duration::from_millis(30), Duration::from_secs(10));
    let endpoints = addresses.into_iter().map(move |address| {
        PeakEwma::new(
            connection(address),
            default_rtt,
            decay.as_nanos() as f64,
            CompleteOnResponse::default(),
        )
    });
    Buffer::new(Balance::new(ServiceList::new(endpoints)), 1024)
}

/// One instance after the other.
#[derive(Clone)]
struct RoundRobin<S> {
    endpoints: Arc<[S]>,
    next: Arc<AtomicUsize>,
}

impl RoundRobin<()> {
    #[expect(
        clippy::new_ret_no_self,
        reason = "the type of a connection has no name"
    )]
    fn new(
        addresses: Vec<Authority>,
    ) -> impl Service<
        Request<Body>,
        Response = Response<Incoming>,
        Error = legacy::Error,
        Future: Send,
    > + Clone
    + Send
    + Sync
    + 'static {
        RoundRobin {
            endpoints: addresses.into_iter().map(connection).collect(),
            next: Arc::default(),
        }
    }
}

impl<S: Service<Request<Body>> + Clone> Service<Request<Body>> for RoundRobin<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = tower::util::Oneshot<S, Request<Body>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.endpoints.len();
        self.endpoints[turn].clone().oneshot(request)
    }
}
