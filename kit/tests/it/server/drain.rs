//! Promise 11: not ready, deregister, wait for watchers, stop accepting, finish what is in flight, end.

use std::time::Duration;

use http::Uri;
use kit::{
    client::ClientConfig,
    discovery::{Consul, ConsulConfig},
    endpoint::{Discovery, Watch},
    name::ServiceName,
    server::instance,
};
use tower::ServiceExt;

use super::*;
use crate::support::consul::Agent;

/// Waits until `/readyz` says that it drains.
async fn draining(admin: SocketAddr) {
    let drains =
        async { while get(admin, "/readyz").await.0 != StatusCode::SERVICE_UNAVAILABLE {} };
    tokio::time::timeout(SOON, drains).await.unwrap();
}

/// Waits until nobody listens.
async fn refused(address: SocketAddr) {
    let refused = async { while TcpStream::connect(address).await.is_ok() {} };
    tokio::time::timeout(SOON, refused).await.unwrap();
}

#[tokio::test]
async fn it_is_not_ready_before_it_stops_accepting() {
    let mut config = config();
    config.drain.watchers = Duration::from_millis(500);
    let server = Running::start(config, "order", app());
    server.stop.send(()).unwrap();
    draining(server.admin).await;
    let (status, _) = get(server.address, "/echo").await;
    assert_eq!(
        status,
        StatusCode::OK,
        "those who have not noticed are served"
    );
    refused(server.address).await;
    server.server.await.unwrap().unwrap();
    refused(server.admin).await;
}

#[tokio::test]
async fn requests_in_flight_are_answered_over_http1_and_the_connection_ends() {
    let (app, mut requests) = held();
    let server = Running::start(config(), "flight", app);
    let mut idle = connect(server.address, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    requests.recv().await.unwrap().send(()).unwrap();
    let mut busy = connect(server.address, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let answer = requests.recv().await.unwrap();
    server.stop.send(()).unwrap();
    refused(server.address).await;
    // A connection between two requests ends at once; the other is still waited for.
    let before = read_to_end(&mut idle).await;
    assert!(before.ends_with("done"), "{before}");
    assert_eq!(get(server.admin, "/livez").await.0, StatusCode::OK);
    answer.send(()).unwrap();
    let answer = read_to_end(&mut busy).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(answer.ends_with("done"), "{answer}");
    tokio::time::timeout(SOON, server.server)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn requests_in_flight_are_answered_over_http2_and_the_connection_ends() {
    let (app, mut requests) = held();
    let server = Running::start(config(), "flight2", app);
    let stream = TcpStream::connect(server.address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake::<_, _, Body>(TokioExecutor::new(), io)
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get(format!("http://{}/", server.address)).body(Body::empty());
    let asked = tokio::spawn(client.send_request(request.unwrap()));
    let answer = requests.recv().await.unwrap();
    server.stop.send(()).unwrap();
    refused(server.address).await;
    // GOAWAY: no new request is taken on the open connection.
    let more = async {
        loop {
            let request = Request::get(format!("http://{}/", server.address)).body(Body::empty());
            let asked = client.send_request(request.unwrap());
            let answer = tokio::time::timeout(Duration::from_millis(20), asked).await;
            if answer.is_ok_and(|answer| answer.is_err()) {
                break;
            }
        }
    };
    tokio::time::timeout(SOON, more).await.unwrap();
    answer.send(()).unwrap();
    let response = asked.await.unwrap().unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "done");
    drop(client);
    connection.await.unwrap().unwrap();
    tokio::time::timeout(SOON, server.server)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

/// Says when it is dropped.
struct Dropped(mpsc::UnboundedSender<()>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[tokio::test]
async fn a_client_that_never_finishes_does_not_hold_the_drain() {
    let mut config = config();
    config.drain.in_flight = Duration::from_millis(100);
    let (begun, mut requests) = mpsc::unbounded_channel();
    let (dropped, mut ends) = mpsc::unbounded_channel();
    let app = service_fn(move |_: Request<Body>| {
        let guard = Dropped(dropped.clone());
        begun.send(()).unwrap();
        async move {
            let _guard = guard;
            std::future::pending::<Result<Response<Body>, Infallible>>().await
        }
    });
    let server = Running::start(config, "held", app);
    let url = format!("http://{}/", server.address);
    // Half a head, half a body, a stream that waits.
    let mut head = connect(server.address, "POST / HTTP/1.1\r\n").await;
    let start = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n1";
    let mut body = connect(server.address, start).await;
    let stream = tokio::spawn(async move {
        let client: Client<HttpConnector, Body> = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http();
        let request = Request::post(url)
            .version(Version::HTTP_2)
            .body(Body::empty());
        client.request(request.unwrap()).await
    });
    for _ in 0..2 {
        requests.recv().await.unwrap();
    }
    server.ended().await;
    assert_eq!(read_to_end(&mut head).await, "");
    assert_eq!(read_to_end(&mut body).await, "");
    assert!(stream.await.unwrap().is_err());
    // Nothing of them is left behind, not even the task of the stream.
    for _ in 0..2 {
        tokio::time::timeout(SOON, ends.recv()).await.unwrap();
    }
}

#[tokio::test]
async fn those_who_follow_the_registry_lose_no_request_when_an_instance_drains() {
    let agent = Agent::start().await;
    let address: Uri = agent.address().parse().unwrap();
    let config = ConsulConfig {
        address: address.clone(),
        ..ConsulConfig::default()
    };
    let consul = Consul::new(config, kit::event::nobody()).unwrap();
    let service: ServiceName = "drained".parse().unwrap();
    let mut servers = Vec::new();
    for _ in 0..2 {
        let mut config = super::config();
        config.drain.watchers = Duration::from_secs(1);
        let listeners = Listeners::bind(&config).unwrap();
        let instance = instance(&service, &listeners, &config, &address)
            .await
            .unwrap();
        let own = listeners.address().to_string();
        assert_eq!(instance.address, own);
        let (stop, stopped) = oneshot::channel::<()>();
        let options = RunOptions {
            service: service.clone(),
            version: "1.2.3",
            config,
            registration: Some(consul.registration(instance)),
            readiness: Vec::new(),
        };
        let admin = listeners.admin_address();
        let server = tokio::spawn(run(listeners, app(), options, async {
            let _ = stopped.await;
        }));
        servers.push((own, admin, stop, server));
    }
    let mut watch = consul.watch(&service);
    let until = |mut watch: Watch, count: usize| async move {
        while watch.see().is_none_or(|set| set.len() != count) {
            watch.changed().await;
        }
    };
    let timeout = |future| tokio::time::timeout(SOON, future);
    timeout(until(watch.clone(), 2)).await.unwrap();

    let client = kit::client::Client::new(
        &consul,
        service.clone(),
        ClientConfig::default(),
        kit::event::nobody(),
    );
    let load = tokio::spawn(async move {
        let mut asked = 0;
        loop {
            let request = Request::post("/echo").body(Body::full("hi")).unwrap();
            let response = client.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            response.into_body().collect().await.unwrap();
            asked += 1;
            if asked % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
    });
    let (own, admin, stop, server) = servers.pop().unwrap();
    stop.send(()).unwrap();
    draining(admin).await;
    timeout(until(watch.clone(), 1)).await.unwrap();
    let left = watch.see().unwrap();
    assert_ne!(left[0].address, own, "it left the registry");
    let (status, _) = get(own.parse().unwrap(), "/echo").await;
    assert_eq!(
        status,
        StatusCode::OK,
        "and still serves those who do not know"
    );
    tokio::time::timeout(SOON, server)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    refused(own.parse().unwrap()).await;
    assert!(!load.is_finished(), "{:?}", load.await);
    load.abort();
    let (_, _, stop, server) = servers.pop().unwrap();
    stop.send(()).unwrap();
    tokio::time::timeout(SOON, server)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    timeout(until(watch, 0)).await.unwrap();
}

/// The server as a process of its own, for the tests below: signals go to processes.
#[tokio::test]
#[ignore = "run by other tests, in a process of its own"]
async fn as_a_process() {
    let Some(work) = process::work() else {
        return;
    };
    let (app, mut requests) = held();
    let mut config = config();
    config.drain.watchers = process::watchers();
    config.drain.in_flight = 2 * SOON;
    let listeners = Listeners::bind(&config).unwrap();
    println!("listens at {}", listeners.address());
    tokio::spawn(async move {
        while let Some(answer) = requests.recv().await {
            println!("request");
            tokio::spawn(async move {
                tokio::time::sleep(work).await;
                let _ = answer.send(());
            });
        }
    });
    let options = RunOptions {
        service: "process".parse().unwrap(),
        version: "1.2.3",
        config,
        registration: None,
        readiness: Vec::new(),
    };
    run(listeners, app, options, kit::server::shutdown_signal())
        .await
        .unwrap();
}

mod process {
    use std::process::Stdio;

    use tokio::{
        io::{AsyncBufReadExt, BufReader, Lines},
        process::{Child, ChildStdout, Command},
    };

    use super::*;

    const WORK: &str = "IT_WORK_MS";
    const WATCHERS: &str = "IT_WATCHERS_MS";

    /// How long this process takes to answer a request, if it is to be a server.
    pub(super) fn work() -> Option<Duration> {
        let work = std::env::var(WORK).ok()?;
        Some(Duration::from_millis(work.parse().unwrap()))
    }

    /// How long this process waits for those who watch it.
    pub(super) fn watchers() -> Duration {
        let millis = std::env::var(WATCHERS).ok();
        millis.map_or(Duration::ZERO, |millis| {
            Duration::from_millis(millis.parse().unwrap())
        })
    }

    /// A process that has just begun to handle a request, which takes it this long, the connection on which that
    /// came, and its output.
    async fn busy(
        work: Duration,
        watchers: Duration,
    ) -> (Child, TcpStream, Lines<BufReader<ChildStdout>>) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "server::drain::as_a_process",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env(WORK, work.as_millis().to_string())
            .env(WATCHERS, watchers.as_millis().to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = loop {
            let line = lines.next_line().await.unwrap().unwrap();
            if let Some((_, address)) = line.split_once("listens at ") {
                break address.parse().unwrap();
            }
        };
        let stream = connect(address, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        while !lines
            .next_line()
            .await
            .unwrap()
            .unwrap()
            .contains("request")
        {}
        (child, stream, lines)
    }

    async fn signal(child: &Child, signal: &str) {
        let pid = child.id().unwrap().to_string();
        let status = Command::new("kill").args([signal, &pid]).status().await;
        assert!(status.unwrap().success());
    }

    #[tokio::test]
    async fn a_signal_lets_requests_finish_and_the_process_exits_with_success() {
        for name in ["-TERM", "-INT"] {
            let (mut child, mut stream, _lines) =
                busy(Duration::from_millis(300), Duration::ZERO).await;
            signal(&child, name).await;
            let answer = read_to_end(&mut stream).await;
            assert!(answer.ends_with("done"), "{name}: {answer:?}");
            assert!(child.wait().await.unwrap().success(), "{name}");
        }
    }

    #[tokio::test]
    async fn a_second_signal_stops_it_at_once_and_it_exits_with_failure() {
        let (mut child, mut stream, _lines) = busy(2 * SOON, Duration::ZERO).await;
        let status = async {
            loop {
                signal(&child, "-TERM").await;
                let exit = tokio::time::timeout(Duration::from_millis(100), child.wait()).await;
                if let Ok(status) = exit {
                    break status.unwrap();
                }
            }
        };
        let status = tokio::time::timeout(SOON, status).await.unwrap();
        assert!(!status.success());
        assert_eq!(read_to_end(&mut stream).await, "");
    }

    #[tokio::test]
    async fn a_second_signal_is_heard_in_whichever_phase_of_the_drain_it_comes() {
        let watchers = Duration::from_secs(1);
        let (mut child, stream, _lines) = busy(2 * SOON, watchers).await;
        let address = stream.peer_addr().unwrap();
        signal(&child, "-TERM").await;
        // The wait for watchers is over, and that for requests in flight has just begun.
        refused(address).await;
        signal(&child, "-TERM").await;
        let status = tokio::time::timeout(SOON, child.wait()).await.unwrap();
        assert!(!status.unwrap().success());
    }
}
