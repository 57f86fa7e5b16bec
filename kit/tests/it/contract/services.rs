//! The contract of what stands inside of the layers: the balancer, and the connections below it. They are ready at any
//! time, and wait in the future of a call.

use std::{
    convert::Infallible,
    net::SocketAddr,
    num::{NonZeroU16, NonZeroU32, NonZeroUsize},
};

use bytes::Bytes;
use http::{Version, uri::Authority};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use kit::{
    Rejection,
    balance::{Balance, BalanceConfig},
    circuit_breaker::{Circuit, CircuitBreakerConfig, CircuitState},
    classify::Outcome,
    client::{Client, ClientConfig, ConnectionConfig, Connector, Whole},
    discovery::Fixed,
    endpoint::{Endpoint, Snapshot, Watch},
    event::nobody,
    policy::{Admit, Live, Permit, Ratio},
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::Instant};
use tokio_test::{assert_pending, assert_ready_ok};
use tower::ServiceExt;

use super::*;

type Balanced = Balance<Inner, Circuit>;

fn snapshot() -> Option<Snapshot> {
    let endpoint = Endpoint::at(Authority::from_static("a:1"));
    Some([endpoint].into_iter().collect())
}

/// A balancer over one endpoint, whose circuit has one probe to give away; it is the sender who knows the endpoint.
fn half_open(inner: Inner, circuit: &Circuit) -> (Balanced, watch::Sender<Option<Snapshot>>) {
    let (sender, watch) = Watch::channel("users".parse().unwrap());
    let (connect, circuit) = (move |_: &Endpoint| inner.clone(), circuit.clone());
    let config = BalanceConfig {
        // Without it the circuit would be overruled.
        panic_threshold: Ratio::ZERO,
        ..BalanceConfig::default()
    };
    let balance = Balance::new(watch, Live::new(config), connect, move |_: &Endpoint| {
        circuit.clone()
    });
    (balance, sender)
}

async fn circuit_with_one_probe() -> Circuit {
    let config = CircuitBreakerConfig {
        consecutive_failures: NonZeroU32::MIN,
        probes: NonZeroU16::MIN,
        ..CircuitBreakerConfig::default()
    };
    let circuit = Circuit::new("a", config, nobody());
    let now = Instant::now();
    circuit.admit(now).unwrap().finish(now, Outcome::Failure);
    tokio::time::advance(config.max_open_for).await;
    circuit
}

#[tokio::test(start_paused = true)]
async fn a_balancer_calls_the_service_that_it_polled_ready() {
    let (inner, mut peer) = inner();
    let circuit = circuit_with_one_probe().await;
    let (balance, sender) = half_open(inner, &circuit);
    sender.send_replace(snapshot());
    let mut service = Spawn::new(balance);
    peer.allow(0);
    ready(&mut service);
    let mut call = task::spawn(service.call(request()));
    assert_pending!(call.poll());
    assert!(!call.is_woken(), "it wakes itself");
    peer.allow(1);
    assert!(call.is_woken());
    assert_pending!(call.poll());
    let (_, answer) = peer.next_request().await.unwrap();
    answer.send_response(Response::new(Body::empty()));
    assert_ready_ok!(call.poll());
}

#[tokio::test(start_paused = true)]
async fn a_balancer_releases_everything_when_dropped() {
    let (inner, mut peer) = inner();
    let under_way = Arc::clone(&inner.under_way);
    let circuit = circuit_with_one_probe().await;
    let (balance, sender) = half_open(inner, &circuit);
    let mut service = Spawn::new(balance);
    for _ in 0..3 {
        for point in 0..6 {
            ready(&mut service);
            let mut call = task::spawn(service.call(request()));
            if point > 0 {
                peer.allow(0);
                assert_pending!(call.poll());
            }
            if point > 1 {
                sender.send_replace(snapshot());
                assert_pending!(call.poll());
                assert!(!circuit.is_available(Instant::now()), "the probe is taken");
            }
            if point > 2 {
                peer.allow(u64::MAX);
                assert_pending!(call.poll());
                assert_eq!(under_way.load(Relaxed), 1);
            }
            let answer = match peer.poll_request() {
                Poll::Ready(Some(((), answer))) => Some(answer),
                _ => None,
            };
            if point > 3 {
                let answer = answer.expect("it was asked");
                answer.send_response(Response::new(Body::empty()));
            }
            drop(call);
            peer.allow(u64::MAX);
            assert_eq!(under_way.load(Relaxed), 0, "at point {point}");
            assert!(circuit.is_available(Instant::now()), "at point {point}");
            assert_ne!(circuit.state(), CircuitState::Closed, "at point {point}");
        }
    }
    assert!(call(&mut service, &mut peer, StatusCode::OK).await);
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_balancer_share_one_state_and_two_balancers_nothing() {
    let (inner, mut peer) = inner();
    let config = CircuitBreakerConfig {
        consecutive_failures: NonZeroU32::MIN,
        open_for: SECOND * 3600,
        max_open_for: SECOND * 3600,
        ..CircuitBreakerConfig::default()
    };
    let [(first, _first), (other, _other)] = [(); 2].map(|()| {
        let circuit = Circuit::new("a", config, nobody());
        let (balance, sender) = half_open(inner.clone(), &circuit);
        sender.send_replace(snapshot());
        (Spawn::new(balance), sender)
    });
    let (mut first, mut other) = (first, other);
    let mut clone = Spawn::new(first.get_ref().clone());
    assert!(!call(&mut first, &mut peer, StatusCode::SERVICE_UNAVAILABLE).await);
    for service in [&mut first, &mut clone] {
        assert!(!call(service, &mut peer, StatusCode::OK).await);
    }
    assert!(call(&mut other, &mut peer, StatusCode::OK).await);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_waited_for_whole_is_let_go_of_with_its_call() {
    let (inner, mut peer) = inner();
    let mut service = Spawn::new(Whole::new(inner, 64));
    ready(&mut service);
    let mut call = task::spawn(service.call(request()));
    assert_pending!(call.poll());
    let held = Arc::new(());
    let (_, answer) = peer.next_request().await.unwrap();
    answer.send_response(Response::new(Body::stream(Half::with(Arc::clone(&held)))));
    assert_pending!(call.poll());
    assert_eq!(Arc::strong_count(&held), 2);
    drop(call);
    assert_eq!(Arc::strong_count(&held), 1);
}

/// A body that says how long it is, and of which half comes and no more. It holds something.
struct Half<T> {
    came: bool,
    _held: T,
}

impl<T> Half<T> {
    fn with(held: T) -> Self {
        Self {
            came: false,
            _held: held,
        }
    }
}

impl<T: Unpin> http_body::Body for Half<T> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match std::mem::replace(&mut self.came, true) {
            false => Poll::Ready(Some(Ok(Frame::data("half".into())))),
            true => Poll::Pending,
        }
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(8)
    }
}

/// A server on the loopback interface. Of what it is asked at `/hang` it never answers, at `/half` half; else all.
struct Server {
    address: SocketAddr,
    /// Who asked and was not answered to the end.
    under_way: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let under_way = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&under_way);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut served = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let count = Arc::clone(&count);
                served.spawn(async move {
                    let service = hyper::service::service_fn(move |request| {
                        answer(request, Arc::clone(&count))
                    });
                    let _ = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self {
            address,
            under_way,
            _tasks: tasks,
        }
    }

    fn authority(&self) -> Authority {
        self.address.to_string().parse().unwrap()
    }

    /// Waits until so many are under way; the machine may be slow.
    async fn comes_to(&self, under_way: usize) {
        for _ in 0..2_000 {
            if self.under_way.load(Relaxed) == under_way {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{} are under way", self.under_way.load(Relaxed));
    }
}

async fn answer(
    request: Request<hyper::body::Incoming>,
    count: Arc<AtomicUsize>,
) -> Result<Response<Body>, Infallible> {
    if request.uri().path() == "/all" {
        return Ok(Response::new(Body::full("all")));
    }
    count.fetch_add(1, Relaxed);
    let under_way = UnderWay(count);
    if request.uri().path() == "/hang" {
        std::future::pending::<()>().await;
    }
    Ok(Response::new(Body::stream(Half::with(under_way))))
}

/// What gives up its calls one after the other, wherever they wait, and has one place for them.
async fn gives_its_only_place_back<S>(service: S, server: &Server, version: Version)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Clone,
{
    let ask = |path: &str| {
        let request = Request::get(path).version(version);
        let answer = service
            .clone()
            .oneshot(request.body(Body::empty()).unwrap());
        async { answer.await?.into_body().collect().await }
    };
    for _ in 0..3 {
        drop(ask("/hang"));
        // While it connects, at first.
        let mut call = task::spawn(ask("/hang"));
        assert_pending!(call.poll());
        drop(call);
        server.comes_to(0).await;
        for path in ["/hang", "/half"] {
            let call = ask(path);
            tokio::select! {
                answer = call => panic!("{path} was answered: {answer:?}"),
                () = async {
                    server.comes_to(1).await;
                    // So that what there is of an answer is here.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                } => {}
            }
            server.comes_to(0).await;
            let answer = ask("/all").await.unwrap();
            assert_eq!(answer.to_bytes(), "all");
        }
    }
}

const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

#[tokio::test]
async fn connections_release_everything_when_dropped() {
    let server = Server::start().await;
    let connector = Connector::new(ConnectionConfig {
        max_connections: NonZeroUsize::MIN,
        ..ConnectionConfig::default()
    });
    for version in VERSIONS {
        let connection = connector.to::<Body>(&Endpoint::at(server.authority()));
        gives_its_only_place_back(connection, &server, version).await;
    }
}

fn client(server: &Server) -> Client {
    let mut config = ClientConfig {
        timeout: SECOND * 60,
        attempt_timeout: SECOND * 60,
        max_connections: NonZeroUsize::MIN,
        ..ClientConfig::default()
    };
    config.retry.attempts = NonZeroU32::MIN;
    let service: kit::name::ServiceName = "users".parse().unwrap();
    let discovery = Fixed::new([(service.clone(), [server.authority()].into_iter().collect())]);
    Client::new(&discovery, service, config, nobody())
}

#[tokio::test]
async fn a_client_releases_everything_when_dropped() {
    let server = Server::start().await;
    for version in VERSIONS {
        gives_its_only_place_back(client(&server), &server, version).await;
    }
}

#[tokio::test]
async fn clones_of_a_client_share_one_state_and_two_clients_nothing() {
    let server = Server::start().await;
    let (first, other) = (client(&server), client(&server));
    let ask = |client: &Client, path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        client.clone().oneshot(request)
    };
    let held = ask(&first, "/hang");
    tokio::select! {
        answer = held => panic!("it was answered: {answer:?}"),
        () = async {
            server.comes_to(1).await;
            for client in [&first, &first.clone()] {
                let error = ask(client, "/all").await.unwrap_err();
                let limit = 1;
                assert_eq!(Rejection::find(&*error), Some(&Rejection::Overloaded { limit }));
            }
            assert_eq!(ask(&other, "/all").await.unwrap().status(), StatusCode::OK);
        } => {}
    }
}
