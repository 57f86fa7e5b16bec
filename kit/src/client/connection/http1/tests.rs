//! Connections to real servers on the loopback interface, most of which misbehave.

use std::{convert::Infallible, future::pending, num::NonZeroUsize};

use http_body_util::BodyExt;
use hyper::{server::conn::http1 as server, service::service_fn};
use hyper_util::rt::TokioIo;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    runtime::Handle,
    task::JoinSet,
    time::{sleep, timeout},
};
use tower_service::Service;

use super::{
    super::tests::{Peer, get, read, until},
    *,
};
use crate::{
    client::{Connection, ConnectionConfig, Connector},
    endpoint::Endpoint,
    rejection::find_cause,
};

impl Connection<Body> {
    fn http1(&self) -> &Pool<Body> {
        &self.0.http1
    }
}

impl<B> Pool<B> {
    fn counts(&self) -> (usize, usize) {
        let open = self.places.taken();
        (open, self.idle().len())
    }
}

#[tokio::test]
async fn a_connection_is_used_again_whether_its_body_was_read_or_not() {
    for body in ["", "something"] {
        let peer = Peer::http(body).await;
        let connection = peer.connection();
        for _ in 0..10 {
            let response = connection.ask(get()).await.unwrap();
            assert_eq!(read(response).await.unwrap(), body);
            drop(connection.ask(get()).await.unwrap());
        }
        assert_eq!(peer.accepted(), 1, "{body}");
        assert_eq!(connection.http1().counts(), (1, 1));
    }
}

#[tokio::test]
async fn it_is_free_with_the_last_byte_and_not_only_when_the_body_is_dropped() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ] {
        let peer = Peer::raw(answer, true).await;
        let connection = peer.connection();
        let mut body = connection.ask(get()).await.unwrap().into_body();
        assert_eq!(connection.http1().counts(), (1, 0));
        while !http_body::Body::is_end_stream(&body) {
            body.frame().await;
        }
        assert_eq!(connection.http1().counts(), (1, 1));
    }
}

#[tokio::test]
async fn a_body_that_is_dropped_half_way_closes_its_connection() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
    let peer = Peer::raw(answer, true).await;
    let connection = peer.connection();
    let mut body = connection.ask(get()).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    assert_eq!(connection.http1().counts(), (0, 0));
    until(|| peer.ended() == 1).await;
}

#[tokio::test]
async fn a_connection_that_the_peer_means_to_close_is_not_used_again() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
    let peer = Peer::raw(answer, true).await;
    let connection = peer.connection();
    for requests in 1..5 {
        assert_eq!(
            read(connection.ask(get()).await.unwrap()).await.unwrap(),
            "{}"
        );
        assert_eq!(connection.http1().counts(), (0, 0));
        assert_eq!(peer.accepted(), requests);
    }
}

#[tokio::test]
async fn half_an_answer_is_an_error_after_which_the_peer_may_have_acted() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ncont",
    ] {
        let peer = Peer::raw(answer, false).await;
        let connection = peer.connection();
        let error = match connection.ask(get()).await {
            Ok(response) => read(response).await.unwrap_err(),
            Err(error) => error,
        };
        assert!(find_cause::<NotSent>(&*error).is_none(), "{error:?}");
        assert_eq!(connection.http1().counts(), (0, 0));
    }
}

#[tokio::test]
async fn a_connection_that_the_peer_closes_is_not_kept() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
    let peer = Peer::raw(answer, false).await;
    let connection = peer.connection();
    for _ in 0..5 {
        assert_eq!(
            read(connection.ask(get()).await.unwrap()).await.unwrap(),
            "{}"
        );
        until(|| connection.http1().counts() == (0, 0)).await;
    }
}

#[tokio::test]
async fn a_request_that_meets_closed_connections_is_sent_on_a_new_one() {
    let close = Arc::new(Notify::new());
    let told = Arc::clone(&close);
    let peer = Peer::new(move |mut stream| {
        let close = Arc::clone(&told);
        async move {
            assert!(stream.read(&mut [0; 1024]).await.is_ok_and(|n| n > 0));
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
            stream.write_all(answer).await.unwrap();
            close.notified().await;
        }
    })
    .await;
    let connection = peer.connection();
    for _ in 0..5 {
        let (a, b, c) = tokio::join!(
            connection.ask(get()),
            connection.ask(get()),
            connection.ask(get())
        );
        for response in [a, b, c] {
            read(response.unwrap()).await.unwrap();
        }
        assert_eq!(connection.http1().counts(), (3, 3));
        // Without a keeper they stay.
        connection.http1().keeper().as_ref().unwrap().abort();
        tokio::task::yield_now().await;
        for link in connection.http1().idle().iter() {
            link.alarm.take_stirred();
        }
        close.notify_waiters();
        until(|| peer.ended() == peer.accepted()).await;
        // That all of this has been heard of here too.
        until(|| {
            connection
                .http1()
                .idle()
                .iter()
                .all(|link| link.alarm.take_stirred())
        })
        .await;
        let before = peer.accepted();
        let response = connection.ask(get()).await.unwrap();
        assert_eq!(peer.accepted(), before + 1);
        assert_eq!(read(response).await.unwrap(), "{}");
        assert_eq!(connection.http1().counts(), (1, 1));
        close.notify_waiters();
        connection.http1().idle().clear();
        *connection.http1().keeper() = None;
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_time_and_its_keeper_ends() {
    let peer = Peer::http("something").await;
    let connection = peer.connection();
    let tasks = Handle::current().metrics().num_alive_tasks();
    read(connection.ask(get()).await.unwrap()).await.unwrap();
    tokio::time::pause();
    // The server's side of it, and the keeper.
    assert_eq!(Handle::current().metrics().num_alive_tasks(), tasks + 2);
    sleep(Duration::from_secs(40)).await;
    assert_eq!(connection.http1().counts(), (1, 1));
    // One that is used does not grow old.
    read(connection.ask(get()).await.unwrap()).await.unwrap();
    sleep(Duration::from_secs(40)).await;
    assert_eq!(connection.http1().counts(), (1, 1));
    sleep(Duration::from_secs(21)).await;
    assert_eq!(connection.http1().counts(), (0, 0));
    until(|| peer.ended() == 1).await;
    until(|| Handle::current().metrics().num_alive_tasks() == tasks).await;
    // And the next one gets a new one.
    read(connection.ask(get()).await.unwrap()).await.unwrap();
    assert!(connection.http1().keeper().is_some());
}

#[tokio::test]
async fn a_request_above_the_bound_is_refused_at_once_and_a_place_is_free_when_one_ends() {
    let peer = Peer::new(|stream| async move {
        pending::<()>().await;
        drop(stream);
    })
    .await;
    let at_most = |connections| ConnectionConfig {
        max_connections: NonZeroUsize::new(connections).unwrap(),
        ..ConnectionConfig::default()
    };
    let connector = Connector::new(at_most(2));
    let connection: Connection<Body> = connector.to(&peer.endpoint);
    let mut first = tokio_test::task::spawn(connection.clone().call(get()));
    let mut second = tokio_test::task::spawn(connection.clone().call(get()));
    assert!(first.poll().is_pending() && second.poll().is_pending());
    let error = connection.ask(get()).await.unwrap_err();
    let refused = Some(&Rejection::Overloaded { limit: 2 });
    assert_eq!(Rejection::find(&*error), refused);
    drop(first);
    let mut third = tokio_test::task::spawn(connection.clone().call(get()));
    assert!(third.poll().is_pending());
    assert_eq!(connection.http1().counts(), (2, 0));

    // Those that are there count for a limit that is replaced.
    connector.config().set(at_most(3));
    let mut fourth = tokio_test::task::spawn(connection.clone().call(get()));
    assert!(fourth.poll().is_pending());
    connector.config().set(at_most(2));
    drop(second);
    let error = connection.ask(get()).await.unwrap_err();
    assert_eq!(Rejection::find(&*error), refused);
    assert_eq!(connection.http1().counts(), (2, 0));
}

#[tokio::test]
async fn a_connection_that_is_not_made_in_time_says_that_the_request_never_arrived() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    // Nobody accepts, and the kernel answers no more once its queue is full.
    let mut queue = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(500), TcpStream::connect(address)).await {
        queue.push(stream.unwrap());
    }
    let connector = Connector::new(ConnectionConfig {
        connect_timeout: Duration::from_millis(20),
        ..ConnectionConfig::default()
    });
    let endpoint = Endpoint::at(address.to_string().parse().unwrap());
    let connection: Connection<Body> = connector.to(&endpoint);
    let error = connection.ask(get()).await.unwrap_err();
    assert!(find_cause::<NotSent>(&*error).is_some(), "{error:?}");
    assert_eq!(connection.http1().counts(), (0, 0));
    // A caller who does not wait for so long leaves nothing behind.
    let mut call = tokio_test::task::spawn(connection.clone().call(get()));
    assert!(call.poll().is_pending());
    assert_eq!(connection.http1().counts(), (1, 0));
    drop(call);
    assert_eq!(connection.http1().counts(), (0, 0));
}

#[tokio::test]
async fn a_response_that_is_over_before_its_request_closes_the_connection() {
    let peer = Peer::raw(
        "HTTP/1.1 413 Payload Too Large\r\ncontent-length: 0\r\n\r\n",
        true,
    )
    .await;
    let connection = peer.connection();
    let endless = http_body_util::StreamBody::new(futures_util::stream::pending::<
        Result<http_body::Frame<Bytes>, Infallible>,
    >());
    let mut request = Request::new(Body::stream(endless));
    *request.method_mut() = http::Method::POST;
    let response = connection.clone().call(request).await.unwrap();
    assert_eq!(response.status(), 413);
    assert_eq!(connection.http1().counts(), (0, 0));
    until(|| peer.ended() == 1).await;
}

#[tokio::test]
async fn what_is_in_flight_outlives_the_connection_and_nothing_else_does() {
    let peer = Peer::http("something").await;
    let tasks = Handle::current().metrics().num_alive_tasks();
    let connection = peer.connection();
    let (first, second) = tokio::join!(connection.ask(get()), connection.ask(get()));
    read(first.unwrap()).await.unwrap();
    let third = connection.clone().call(get());
    drop(connection);
    assert_eq!(read(second.unwrap()).await.unwrap(), "something");
    assert_eq!(read(third.await.unwrap()).await.unwrap(), "something");
    until(|| peer.ended() == peer.accepted()).await;
    until(|| Handle::current().metrics().num_alive_tasks() == tasks).await;
}

/// Callers that give up at any point, on two threads: while they connect, before the head, within a body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_given_up_the_bound_holds_and_nothing_is_left() {
    const LIMIT: usize = 8;
    let peer = Peer::new(|stream| async move {
        let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
            let waits = request.uri().path() == "/slow";
            let wait = async move || {
                if waits {
                    sleep(Duration::from_millis(1)).await;
                }
            };
            wait().await;
            let chunks = futures_util::stream::unfold(0, move |sent| async move {
                wait().await;
                let chunk = http_body::Frame::data(Bytes::from_static(b"chunk"));
                (sent < 3).then(|| (Ok::<_, Infallible>(chunk), sent + 1))
            });
            let body = http_body_util::StreamBody::new(Box::pin(chunks));
            Ok::<_, Infallible>(Response::new(body))
        });
        let _ = server::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
    })
    .await;
    let tasks = Handle::current().metrics().num_alive_tasks();
    let connector = Connector::new(ConnectionConfig {
        max_connections: NonZeroUsize::new(LIMIT).unwrap(),
        ..ConnectionConfig::default()
    });
    let connection: Connection<Body> = connector.to(&peer.endpoint);
    let mut callers = JoinSet::new();
    for seed in 0..2 * LIMIT as u64 {
        let connection = connection.clone();
        callers.spawn(async move {
            let mut random = StdRng::seed_from_u64(seed);
            let mut answered = 0;
            for _ in 0..80 {
                let mut request = get();
                if random.random() {
                    *request.uri_mut() = "/slow".parse().unwrap();
                }
                let call = async { read(connection.clone().call(request).await?).await };
                let patience = Duration::from_micros(random.random_range(0..10_000));
                match timeout(patience, call).await {
                    Ok(Ok(body)) => {
                        assert_eq!(body, "chunkchunkchunk");
                        answered += 1;
                    }
                    Ok(Err(error)) => {
                        let refused = Some(&Rejection::Overloaded { limit: LIMIT });
                        assert_eq!(Rejection::find(&*error), refused, "{error:?}");
                        tokio::task::yield_now().await;
                    }
                    Err(_) => {}
                }
                let (open, idle) = connection.http1().counts();
                assert!(idle <= open && open <= LIMIT, "{idle} {open}");
            }
            answered
        });
    }
    let answered: usize = callers.join_all().await.into_iter().sum();
    assert!(answered > 0);
    let (open, idle) = connection.http1().counts();
    assert_eq!(open, idle, "of {answered}");
    drop(connection);
    until(|| peer.ended() == peer.accepted()).await;
    until(|| Handle::current().metrics().num_alive_tasks() == tasks).await;
}
