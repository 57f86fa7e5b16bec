//! What a request over HTTP/1.1 to a real server costs its client, whatever answers: `http` prints what all clients
//! cost in time as JSON, `http run NAME CALLS` makes requests and prints nothing, for those who count instructions.
//!
//! The server is another process, so that only the client is counted: a bare one of hyper, on one thread. Callers
//! make their requests side by side, as those of a busy service do, so that a turn of the event loop serves several.

use std::{
    env,
    future::Future,
    io::{BufRead, BufReader},
    net::SocketAddr,
    pin::Pin,
    process::{Child, Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::{client::conn, server::conn::http1, service::service_fn};
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioIo},
};
use kit::{
    BoxError,
    client::{Client, Connection, Connector},
    discovery::Fixed,
    endpoint::Endpoint,
    wire::{REQUEST_TIMEOUT, TRACEPARENT},
};
use kit_benches::TRACE;
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    task::JoinSet,
};
use tower::{Service, ServiceExt, timeout::Timeout};

/// How many requests there are at a time.
const CALLERS: u64 = 64;
/// Requests of one round, and rounds.
const CALLS: u64 = 16_000;
const ROUNDS: usize = 15;
const NAMES: [&str; 7] = [
    "raw hyper connections",
    "hyper-util pooled client",
    "the same, a clone for each call",
    "the same, with the kit's headers and tower's Timeout",
    "kit connections",
    "kit full client",
    "the same, a clone for each call, as generated clients make them",
];

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => println!("{}", measure()),
        ["run", name, calls] => {
            let _recorder = kit::metrics::install();
            let server = Server::start();
            let runtime = runtime();
            let callers = runtime.block_on(callers(name, server.address));
            let callers = batch(&runtime, callers, 10 * CALLERS);
            counted_calls(&runtime, callers, calls.parse().expect("a number"));
        }
        ["serve"] => runtime().block_on(serve()),
        _ => panic!("http | http run NAME CALLS"),
    }
}

fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime")
}

/// The server's process; killed when it is dropped.
struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    fn start() -> Self {
        let program = env::current_exe().expect("this program is a file");
        let mut process = Command::new(program)
            .arg("serve")
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("it is piped"))
            .read_line(&mut line)
            .expect("it says where it listens");
        let address = line.trim().parse().expect("an address");
        Self { process, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn serve() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("{}", listener.local_addr().expect("it is bound"));
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("a TCP socket");
        let answer = service_fn(|request: Request<hyper::body::Incoming>| async {
            request.into_body().collect().await?;
            let mut response = Response::new(Full::new(Bytes::from_static(b"{}")));
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            Ok::<_, hyper::Error>(response)
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
    }
}

/// What a generated client sends.
fn request<B>(uri: Uri, body: impl FnOnce(Bytes) -> B) -> Request<B> {
    let mut request = Request::new(body(Bytes::from_static(br#"{"name":"x"}"#)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    let json = HeaderValue::from_static("application/json");
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, json.clone());
    headers.insert(header::ACCEPT, json);
    request
}

async fn read<B>(response: Response<B>)
where
    B: http_body::Body<Error: Into<BoxError>>,
{
    assert!(response.status().is_success());
    let body = response.into_body().collect().await;
    let body = body.map_err(Into::into).expect("it is whole").to_bytes();
    assert_eq!(&*body, b"{}");
}

/// Makes requests one after the other, as many as it is told.
trait Caller: Send {
    fn call(&mut self, calls: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// A service, and how its requests are made.
struct Of<S, F> {
    service: S,
    request: F,
}

impl<S, Q, B, F> Caller for Of<S, F>
where
    S: Service<Q, Response = Response<B>, Error: Into<BoxError>, Future: Send> + Send,
    B: http_body::Body<Data: Send, Error: Into<BoxError>> + Send,
    Q: Send,
    F: Fn() -> Q + Send,
{
    fn call(&mut self, calls: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            for _ in 0..calls {
                let ready = self.service.ready().await.map_err(Into::into);
                let response = ready.expect("it is ready").call((self.request)()).await;
                read(response.map_err(Into::into).expect("an answer")).await;
            }
        })
    }
}

/// The same, which gives each request to a clone of the service.
struct Cloned<S, F>(Of<S, F>);

impl<S, Q, B, F> Caller for Cloned<S, F>
where
    S: Service<Q, Response = Response<B>, Error: Into<BoxError>, Future: Send> + Clone + Send,
    B: http_body::Body<Data: Send, Error: Into<BoxError>> + Send,
    Q: Send,
    F: Fn() -> Q + Send,
{
    fn call(&mut self, calls: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let Of { service, request } = &mut self.0;
            for _ in 0..calls {
                let response = service.clone().oneshot(request()).await;
                read(response.map_err(Into::into).expect("an answer")).await;
            }
        })
    }
}

/// A connection of hyper with nothing around it.
struct Raw(conn::http1::SendRequest<Full<Bytes>>);

impl Caller for Raw {
    fn call(&mut self, calls: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            for _ in 0..calls {
                self.0.ready().await.expect("it is open");
                let mut request = request(Uri::from_static("/create"), Full::new);
                let host = HeaderValue::from_static("127.0.0.1");
                request.headers_mut().insert(header::HOST, host);
                read(self.0.send_request(request).await.expect("an answer")).await;
            }
        })
    }
}

type Util = legacy::Client<legacy::connect::HttpConnector, Full<Bytes>>;

/// hyper-util's client, and the URI that it needs.
fn util(server: SocketAddr) -> (Util, Uri) {
    let mut connector = legacy::connect::HttpConnector::new();
    connector.set_nodelay(true);
    let client = legacy::Client::builder(TokioExecutor::new()).build(connector);
    let uri = format!("http://{server}/create").parse();
    (client, uri.expect("a URI"))
}

async fn callers(name: &str, server: SocketAddr) -> Vec<Box<dyn Caller>> {
    let path = || request(Uri::from_static("/create"), kit::Body::full);
    let authority = server.to_string().parse().expect("host and port");
    let mut callers: Vec<Box<dyn Caller>> = Vec::new();
    match name {
        "raw hyper connections" => {
            for _ in 0..CALLERS {
                let stream = TcpStream::connect(server).await.expect("a connection");
                stream.set_nodelay(true).expect("a TCP socket");
                let (sender, connection) = conn::http1::handshake(TokioIo::new(stream))
                    .await
                    .expect("nothing is said yet");
                tokio::spawn(connection);
                callers.push(Box::new(Raw(sender)));
            }
        }
        "hyper-util pooled client" | "the same, a clone for each call" => {
            let (service, uri) = util(server);
            for _ in 0..CALLERS {
                let (service, uri) = (service.clone(), uri.clone());
                let request = move || request(uri.clone(), Full::new);
                let caller = Of { service, request };
                callers.push(match name {
                    "hyper-util pooled client" => Box::new(caller),
                    _ => Box::new(Cloned(caller)),
                });
            }
        }
        "the same, with the kit's headers and tower's Timeout" => {
            let (service, uri) = util(server);
            let service = Timeout::new(service, Duration::from_secs(2));
            for _ in 0..CALLERS {
                let (service, uri) = (service.clone(), uri.clone());
                let request = move || {
                    let mut request = request(uri.clone(), Full::new);
                    let headers = request.headers_mut();
                    headers.insert(TRACEPARENT, HeaderValue::from_static(TRACE));
                    headers.insert(REQUEST_TIMEOUT, HeaderValue::from_static("2000000u"));
                    request
                };
                callers.push(Box::new(Of { service, request }));
            }
        }
        "kit connections" => {
            let connection: Connection<kit::Body> =
                Connector::default().to(&Endpoint::at(authority));
            for _ in 0..CALLERS {
                callers.push(Box::new(Of {
                    service: connection.clone(),
                    request: path,
                }));
            }
        }
        "kit full client" | "the same, a clone for each call, as generated clients make them" => {
            let service: kit::name::ServiceName = "users".parse().expect("a name");
            let discovery = Fixed::new([(service.clone(), vec![authority])]);
            let observer = kit::metrics::observer();
            let client = Client::new(&discovery, service, Default::default(), observer);
            for _ in 0..CALLERS {
                let caller = Of {
                    service: client.clone(),
                    request: path,
                };
                callers.push(match name {
                    "kit full client" => Box::new(caller),
                    _ => Box::new(Cloned(caller)),
                });
            }
        }
        _ => panic!("one of {NAMES:?}"),
    }
    callers
}

/// Lets all callers make their share of the calls.
fn batch(runtime: &Runtime, callers: Vec<Box<dyn Caller>>, calls: u64) -> Vec<Box<dyn Caller>> {
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for mut caller in callers {
            tasks.spawn(async move {
                caller.call(calls / CALLERS).await;
                caller
            });
        }
        tasks.join_all().await
    })
}

/// The part whose instructions are counted, by this name.
#[inline(never)]
fn counted_calls(runtime: &Runtime, callers: Vec<Box<dyn Caller>>, calls: u64) {
    batch(runtime, callers, calls);
}

fn cpu() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("there is such a clock");
    time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64
}

/// The clients take turns in rounds. Time is that of the client's thread on a core, with what the kernel does for it.
fn measure() -> Value {
    let recorder = kit::metrics::install();
    let server = Server::start();
    let runtime = runtime();
    let mut clients: Vec<_> = NAMES
        .iter()
        .map(|name| {
            let callers = runtime.block_on(callers(name, server.address));
            let callers = batch(&runtime, callers, 10 * CALLERS);
            (*name, Some(callers), Vec::new())
        })
        .collect();
    for _ in 0..ROUNDS {
        for (_, callers, times) in &mut clients {
            let began = cpu();
            *callers = callers
                .take()
                .map(|callers| batch(&runtime, callers, CALLS));
            times.push((cpu() - began) / CALLS as f64);
        }
        drop(recorder.render());
    }
    let rows = clients.into_iter().map(|(name, _, mut times)| {
        times.sort_by(f64::total_cmp);
        json!({
            "name": name,
            "ns": { "min": times[0], "median": times[times.len() / 2], "max": times[times.len() - 1] },
        })
    });
    json!({ "rows": rows.collect::<Vec<_>>() })
}
