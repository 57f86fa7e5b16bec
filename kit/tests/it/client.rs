//! The assembled client against real servers on the loopback interface: the outbound stack in its order.

mod health;

use std::{
    convert::Infallible,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Version, uri::Authority};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use kit::{
    Body, BoxError, Context, Rejection,
    balance::{Call, Candidates, Picker},
    circuit_breaker::CircuitBreakerConfig,
    classify::{Retry, classify_error},
    client::{Client, ClientConfig, Connector},
    context::Deadline,
    discovery::Fixed,
    endpoint::Endpoint,
    event,
    hedge::HedgeConfig,
    name::Method,
    policy::Ratio,
    rejection::{NotSent, find_cause},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tower::ServiceExt;

/// A server that ends with its handle.
struct Peer {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Peer {
    /// Does with each connection what `serve` does.
    async fn raw<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), serve)
    }

    fn on<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut served = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, SeqCst);
                served.spawn(serve(stream));
            }
        });
        Self {
            address,
            connections,
            _tasks: tasks,
        }
    }

    /// Takes connections, and says nothing on them.
    async fn silent() -> Self {
        Self::raw(|stream| async move {
            std::future::pending::<()>().await;
            drop(stream);
        })
        .await
    }

    /// How many connections were made to it.
    fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    /// Answers requests on both versions.
    async fn http(
        answer: impl Fn(Request<Incoming>) -> Response<Full<Bytes>> + Clone + Send + Sync + 'static,
    ) -> Self {
        Self::raw(move |stream| {
            let answer = answer.clone();
            let service = hyper::service::service_fn(move |request| {
                let response = answer(request);
                async move { Ok::<_, Infallible>(response) }
            });
            async move {
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            }
        })
        .await
    }

    fn authority(&self) -> Authority {
        self.address.to_string().parse().unwrap()
    }
}

/// An address where nobody listens.
async fn nobody() -> Authority {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string().parse().unwrap()
}

fn client(addresses: impl IntoIterator<Item = Authority>) -> Client {
    client_with(addresses, ClientConfig::default())
}

/// A client that makes one attempt only.
fn once(addresses: impl IntoIterator<Item = Authority>) -> Client {
    let mut config = ClientConfig::default();
    config.retry.attempts = NonZeroU32::MIN;
    client_with(addresses, config)
}

fn client_with(addresses: impl IntoIterator<Item = Authority>, config: ClientConfig) -> Client {
    let service: kit::name::ServiceName = "users".parse().unwrap();
    let discovery = Fixed::new([(service.clone(), addresses.into_iter().collect())]);
    Client::new(&discovery, service, config, event::nobody())
}

fn request(version: Version) -> Request<Body> {
    let mut request = Request::new(Body::full("ping"));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = "/echo?x=1".parse().unwrap();
    *request.version_mut() = version;
    request
}

async fn ask(client: &Client, version: Version) -> Result<Response<Body>, BoxError> {
    client.clone().oneshot(request(version)).await
}

#[tokio::test]
async fn the_version_of_a_request_says_how_it_travels() {
    let peer = Peer::http(|request| {
        let host = request
            .uri()
            .authority()
            .map(ToString::to_string)
            .or_else(|| Some(request.headers().get("host")?.to_str().unwrap().to_owned()));
        let seen = format!(
            "{:?} {} {}",
            request.version(),
            host.unwrap(),
            request.uri().path()
        );
        Response::new(seen.into())
    })
    .await;
    let client = client([peer.authority()]);
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let response = ask(&client, version).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, format!("{version:?} {} /echo", peer.address));
    }
}

#[tokio::test]
async fn connections_are_used_again_by_all_clones() {
    let peer = Peer::http(|_| Response::new(Full::default())).await;
    let client = client([peer.authority()]);
    for version in [Version::HTTP_11, Version::HTTP_2] {
        for _ in 0..5 {
            let response = ask(&client, version).await.unwrap();
            response.into_body().collect().await.unwrap();
        }
    }
    assert_eq!(peer.connections(), 2);
}

#[tokio::test]
async fn a_refused_connection_says_that_the_request_never_arrived() {
    let client = once([nobody().await]);
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let error = ask(&client, version).await.unwrap_err();
        assert!(find_cause::<NotSent>(&*error).is_some(), "{error:?}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_request_says_that_the_peer_may_have_acted() {
    let http1 = Peer::raw(|mut stream| async move {
        // Takes something of the request and hangs up.
        let _ = stream.read(&mut [0; 64]).await;
    })
    .await;
    let http2 = Peer::raw(|stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let _request = connection.accept().await;
    })
    .await;
    for (peer, version) in [(http1, Version::HTTP_11), (http2, Version::HTTP_2)] {
        let client = once([peer.authority()]);
        let error = ask(&client, version).await.unwrap_err();
        assert_eq!(
            classify_error(&error).retry,
            Retry::IfIdempotent,
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_stream_that_the_peer_refused_never_arrived() {
    let peer = Peer::raw(|stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
        }
    })
    .await;
    let error = ask(&once([peer.authority()]), Version::HTTP_2)
        .await
        .unwrap_err();
    assert_eq!(classify_error(&error).retry, Retry::Always, "{error:?}");
}

#[tokio::test]
async fn a_request_behind_the_last_one_that_the_peer_looked_at_never_arrived() {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // GOAWAY: the last stream is 0, and there is no error.
    const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let peer = Peer::raw(|mut stream| async move {
        stream.write_all(&SETTINGS).await.unwrap();
        // The preface, then frames: length, type, flags and stream; then what the length says.
        stream.read_exact(&mut [0; 24]).await.unwrap();
        let mut head = [0; 9];
        while stream.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut frame = vec![0; length as usize];
            stream.read_exact(&mut frame).await.unwrap();
            if head[3] == 1 {
                stream.write_all(&GOAWAY).await.unwrap();
            }
        }
    })
    .await;
    let error = ask(&once([peer.authority()]), Version::HTTP_2)
        .await
        .unwrap_err();
    assert_eq!(classify_error(&error).retry, Retry::Always, "{error:?}");
}

#[tokio::test]
async fn a_service_that_is_nowhere_is_refused_by_the_client_itself() {
    let error = ask(&client([]), Version::HTTP_11).await.unwrap_err();
    assert!(matches!(
        Rejection::find(&*error),
        Some(Rejection::NoEndpoints { .. })
    ));
}

/// A request that may be made twice.
fn get() -> Request<Body> {
    let mut request = request(Version::HTTP_11);
    *request.method_mut() = http::Method::GET;
    *request.body_mut() = Body::empty();
    request
}

async fn echo() -> Peer {
    Peer::http(|_| Response::new("here".into())).await
}

#[tokio::test]
async fn what_never_arrived_is_sent_to_another_endpoint_whatever_it_does() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let peer = echo().await;
        let client = client([nobody().await, peer.authority(), nobody().await]);
        for _ in 0..50 {
            ask(&client, version).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_may_have_been_done_is_not_done_twice() {
    let arrived = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&arrived);
    let peer = Peer::raw(move |mut stream| {
        let count = Arc::clone(&count);
        async move {
            if stream.read(&mut [0; 1024]).await.is_ok_and(|n| n > 0) {
                count.fetch_add(1, SeqCst);
            }
        }
    })
    .await;
    let client = client([peer.authority()]);
    ask(&client, Version::HTTP_11).await.unwrap_err();
    assert_eq!(arrived.load(SeqCst), 1);
    client.clone().oneshot(get()).await.unwrap_err();
    assert_eq!(arrived.load(SeqCst), 1 + 3);
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_in_time_is_left_alone() {
    let (silent, peer) = (Peer::silent().await, echo().await);
    let mut config = ClientConfig {
        attempt_timeout: Duration::from_millis(100),
        ..ClientConfig::default()
    };
    config.circuit_breaker.open_for = Duration::from_secs(60);
    config.balance.forgiveness = Duration::from_secs(60);
    // What is not known yet looks best, so each is asked once.
    config.balance.initial_latency = Duration::ZERO;
    let client = client_with([silent.authority(), peer.authority()], config);
    for _ in 0..100 {
        client.clone().oneshot(get()).await.unwrap();
    }
    // As long as its silence is remembered, which is for longer than this test.
    assert_eq!(silent.connections(), 1);
}

#[tokio::test]
async fn attempts_that_time_out_open_the_circuit_of_their_endpoint() {
    let silent = Peer::silent().await;
    let mut config = ClientConfig {
        attempt_timeout: Duration::from_millis(20),
        ..ClientConfig::default()
    };
    config.retry.attempts = NonZeroU32::MIN;
    config.balance.panic_threshold = Ratio::ZERO;
    let client = client_with([silent.authority()], config.clone());
    for attempt in 0..=config.circuit_breaker.consecutive_failures.get() {
        let error = client.clone().oneshot(get()).await.unwrap_err();
        let rejection = Rejection::find(&*error).unwrap();
        let open = attempt == config.circuit_breaker.consecutive_failures.get();
        assert_eq!(
            matches!(rejection, Rejection::CircuitOpen { .. }),
            open,
            "{rejection}"
        );
    }
}

#[tokio::test]
async fn streams_that_do_not_begin_in_time_open_the_circuit_of_their_endpoint() {
    static STREAM: Method = Method {
        service: "users.Users",
        name: "Follow",
        grpc_path: "/users.Users/Follow",
        http_method: http::Method::POST,
        http_path: "/follow",
        idempotent: true,
        streaming: true,
        transport: kit::name::Transport::Both,
        access: kit::name::Access::Anyone,
        priority: kit::name::Priority::Normal,
        timeout: None,
    };
    let silent = Peer::silent().await;
    let mut config = ClientConfig {
        attempt_timeout: Duration::from_millis(20),
        ..ClientConfig::default()
    };
    config.retry.attempts = NonZeroU32::MIN;
    config.balance.panic_threshold = Ratio::ZERO;
    let failures = config.circuit_breaker.consecutive_failures.get();
    // The one who bounds the wait is the one or the other.
    let hurried = ClientConfig {
        timeout: Duration::from_millis(20),
        attempt_timeout: Duration::from_secs(2),
        ..config.clone()
    };
    for config in [config, hurried] {
        let client = client_with([silent.authority()], config);
        for attempt in 0..=failures {
            let mut request = get();
            request.extensions_mut().insert(Context {
                // The stream may go on for longer.
                deadline: Some(Deadline::after(Duration::from_secs(60))),
                method: Some(&STREAM),
                ..Context::default()
            });
            let error = client.clone().oneshot(request).await.unwrap_err();
            let rejection = Rejection::find(&*error).unwrap();
            assert_eq!(
                matches!(rejection, Rejection::CircuitOpen { .. }),
                attempt == failures,
                "{rejection}"
            );
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_fails_again_and_again_is_not_asked_any_more() {
    let failing = Peer::http(|_| {
        let mut response = Response::new(Full::default());
        *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
    .await;
    let [first, second] = [echo().await, echo().await];
    let mut config = ClientConfig::default();
    config.circuit_breaker.open_for = Duration::from_secs(60);
    // So that only its circuit breaker speaks against it.
    config.balance.penalty = Duration::ZERO;
    config.balance.initial_latency = Duration::from_secs(1);
    let addresses = [&failing, &first, &second].map(Peer::authority);
    let client = client_with(addresses, config);
    let mut failures = 0;
    for _ in 0..200 {
        let response = ask(&client, Version::HTTP_11).await.unwrap();
        failures += u32::from(response.status().is_server_error());
    }
    assert!(failures <= 5, "{failures}");
}

/// An endpoint that counts what it is asked, and never does it.
async fn busy() -> (Peer, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let peer = Peer::http(move |_| {
        count.fetch_add(1, SeqCst);
        let mut response = Response::new(Full::default());
        *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        response
    });
    (peer.await, asked)
}

#[tokio::test]
async fn a_retry_does_not_wait_behind_an_open_circuit() {
    let mut config = ClientConfig {
        // Whoever waits until the circuit lets a probe through is not answered in time.
        timeout: Duration::from_secs(10),
        ..ClientConfig::default()
    };
    config.circuit_breaker.consecutive_failures = NonZeroU32::MIN;
    config.circuit_breaker.open_for = Duration::from_secs(60);
    config.balance.panic_threshold = Ratio::ZERO;
    config.balance.penalty = Duration::ZERO;
    let ((failing, asked), well) = (busy().await, echo().await);
    let client = client_with([failing.authority(), well.authority()], config.clone());
    // So that it is a retry that comes to the open circuit, with the one endpoint tried and the other one not.
    for _ in 0..50 {
        let answer = client.clone().oneshot(get()).await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(asked.load(SeqCst), 1);

    // There is no other one: it is refused at once.
    let client = client_with([failing.authority()], config);
    let error = client.clone().oneshot(get()).await.unwrap_err();
    assert!(matches!(
        Rejection::find(&*error),
        Some(Rejection::CircuitOpen { .. })
    ));
    assert_eq!(asked.load(SeqCst), 2);
}

#[tokio::test]
async fn a_hedge_goes_to_another_endpoint() {
    let (silent, peer) = (Peer::silent().await, echo().await);
    let mut config = ClientConfig {
        attempt_timeout: Duration::from_secs(5),
        hedge: Some(HedgeConfig {
            delay: Some(Duration::from_millis(20)),
            ..HedgeConfig::default()
        }),
        ..ClientConfig::default()
    };
    config.balance.initial_latency = Duration::ZERO;
    for _ in 0..10 {
        let client = client_with([silent.authority(), peer.authority()], config.clone());
        for _ in 0..3 {
            client.clone().oneshot(get()).await.unwrap();
        }
    }
    assert!(silent.connections() > 0, "it was never asked");
}

#[tokio::test]
async fn a_grpc_error_before_the_first_message_is_seen_and_the_call_made_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let peer = Peer::http(move |_| {
        let status = match count.fetch_add(1, SeqCst) {
            0 => "14",
            _ => "0",
        };
        let response = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", status);
        response.body(Full::default()).unwrap()
    })
    .await;
    let mut request = request(Version::HTTP_2);
    let grpc = http::HeaderValue::from_static("application/grpc");
    request.headers_mut().insert("content-type", grpc);
    let key = "k".parse().unwrap();
    Context::of_mut(request.extensions_mut()).idempotency_key = Some(key);
    let answer = client([peer.authority()]).oneshot(request).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "0");
    assert_eq!(asked.load(SeqCst), 2);
}

#[tokio::test]
async fn an_endpoint_that_comes_back_is_asked_again() {
    let answer = |stream| async move {
        let service = hyper::service::service_fn(|_| async {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        });
        let _ = auto::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    };
    let peer = echo().await;
    let address = nobody().await;
    let mut config = ClientConfig::default();
    config.circuit_breaker.open_for = Duration::from_millis(20);
    config.circuit_breaker.max_open_for = Duration::from_millis(50);
    config.balance.forgiveness = Duration::from_millis(20);
    let client = client_with([address.clone(), peer.authority()], config);
    for _ in 0..20 {
        client.clone().oneshot(get()).await.unwrap();
    }
    let back = Peer::on(TcpListener::bind(address.as_str()).await.unwrap(), answer);
    let asked = tokio::time::timeout(Duration::from_secs(20), async {
        while back.connections() == 0 {
            client.clone().oneshot(get()).await.unwrap();
        }
    });
    asked.await.unwrap();
}

#[tokio::test]
async fn one_deadline_covers_all_attempts() {
    let silent = Peer::silent().await;
    let config = ClientConfig {
        timeout: Duration::from_millis(150),
        attempt_timeout: Duration::from_millis(100),
        ..ClientConfig::default()
    };
    let client = client_with([silent.authority()], config);
    let error = client.clone().oneshot(get()).await.unwrap_err();
    assert_eq!(Rejection::find(&*error), Some(&Rejection::DeadlineExceeded));
    // A caller that waits for less gets less, and one that waits no longer is not answered late.
    let mut request = get();
    *Context::of_mut(request.extensions_mut()) = Context::with_timeout(Duration::ZERO);
    let error = client.clone().oneshot(request).await.unwrap_err();
    assert_eq!(Rejection::find(&*error), Some(&Rejection::DeadlineExceeded));
}

#[tokio::test]
async fn each_attempt_says_which_it_is_how_long_it_waits_and_where_in_the_trace_it_stands() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&seen);
    let peer = Peer::http(move |request| {
        heard.lock().unwrap().push(request.headers().clone());
        let mut response = Response::new(Full::default());
        *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        response
    })
    .await;
    let client = client([peer.authority()]);
    let mut request = get();
    let trace = kit::context::TraceContext::root();
    Context::of_mut(request.extensions_mut()).trace = Some(trace);
    let response = client.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 503);
    let seen = seen.lock().unwrap();
    let header = |attempt: usize, name: &str| {
        let value = seen[attempt].get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    assert_eq!(seen.len(), 3);
    let mut spans = Vec::new();
    for attempt in 0..3 {
        let previous = header(attempt, "grpc-previous-rpc-attempts");
        assert_eq!(previous, (attempt > 0).then(|| attempt.to_string()));
        let timeout = header(attempt, "request-timeout").unwrap();
        assert!(kit::deadline::parse_timeout(&timeout).unwrap() <= Duration::from_secs(2));
        let place = header(attempt, "traceparent").unwrap();
        assert!(place.contains(&trace.trace_id().to_string()));
        spans.push(place);
    }
    spans.dedup();
    assert_eq!(spans.len(), 3, "a span for each attempt");
}

#[tokio::test]
async fn what_waited_for_a_connection_says_how_much_time_is_left_when_it_leaves() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    let peer = Peer::http(move |request| {
        let timeout = request.headers()["request-timeout"].to_str().unwrap();
        let timeout = kit::deadline::parse_timeout(timeout).unwrap();
        heard.lock().unwrap().push(timeout);
        Response::new(Full::default())
    })
    .await;
    let (second, nine) = (Duration::from_secs(1), Duration::from_secs(9));
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let connection = Connector::default().to::<Body>(&Endpoint::at(peer.authority()));
        // On a new connection, and on the same one again; it was said before that there are so many seconds.
        for said in ["9S", "9S", "500m"] {
            let mut request = request(version);
            let timeout = said.parse().unwrap();
            request.headers_mut().insert("request-timeout", timeout);
            *Context::of_mut(request.extensions_mut()) = Context::with_timeout(second);
            let response = connection.clone().oneshot(request).await.unwrap();
            response.into_body().collect().await.unwrap();
        }
        let said = std::mem::take(&mut *told.lock().unwrap());
        assert!(said[0] <= second, "{said:?}");
        assert_eq!(said[1..], [nine, second / 2]);
        // It is never made longer.
        let connection = Connector::default().to::<Body>(&Endpoint::at(peer.authority()));
        let mut request = request(version);
        let timeout = "10m".parse().unwrap();
        request.headers_mut().insert("request-timeout", timeout);
        *Context::of_mut(request.extensions_mut()) = Context::with_timeout(second * 60);
        connection.oneshot(request).await.unwrap();
        assert_eq!(std::mem::take(&mut *told.lock().unwrap()), [second / 100]);
    }
}

/// Picks this one at first, and then one after the other.
struct Prefer(Authority);

impl Picker for Prefer {
    fn pick(&self, candidates: &mut Candidates<'_>, _: &Call<'_>, turn: usize) -> usize {
        let mut indices = 0..candidates.len();
        match turn {
            0 => indices.find(|index| candidates.endpoint(*index).address == self.0),
            _ => None,
        }
        .unwrap_or(turn)
    }
}

#[tokio::test]
async fn a_call_without_a_place_at_the_endpoint_that_was_picked_goes_to_another() {
    let (silent, peer) = (Peer::silent().await, echo().await);
    let config = ClientConfig {
        max_connections: NonZeroUsize::MIN,
        attempt_timeout: Duration::from_secs(60),
        timeout: Duration::from_secs(60),
        ..ClientConfig::default()
    };
    let addresses = [silent.authority(), peer.authority()];
    let client = client_with(addresses, config).with_picker(Prefer(silent.authority()));
    let mut holds = Box::pin(ask(&client, Version::HTTP_11));
    tokio::select! {
        answer = &mut holds => panic!("it was answered: {answer:?}"),
        answer = async {
            while silent.connections() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // Not one that may be made twice.
            ask(&client, Version::HTTP_11).await
        } => assert_eq!(answer.unwrap().status(), 200),
    }
    assert_eq!(silent.connections(), 1);
}

#[tokio::test]
async fn the_policies_of_a_client_are_replaced_while_it_runs() {
    let silent = Peer::silent().await;
    let mut config = ClientConfig::default();
    config.retry.attempts = NonZeroU32::MIN;
    config.balance.panic_threshold = Ratio::ZERO;
    let client = client_with([silent.authority()], config.clone());
    client
        .outbound()
        .attempt_timeout
        .timeout()
        .set(Duration::from_millis(20));
    client.replace_circuit_breaker(CircuitBreakerConfig {
        consecutive_failures: NonZeroU32::MIN,
        ..config.circuit_breaker
    });
    let ask = async || client.clone().oneshot(get()).await.unwrap_err();
    let error = ask().await;
    assert!(matches!(
        Rejection::find(&*error),
        Some(Rejection::TimedOut { .. })
    ));
    let error = ask().await;
    assert!(matches!(
        Rejection::find(&*error),
        Some(Rejection::CircuitOpen { .. })
    ));
}
