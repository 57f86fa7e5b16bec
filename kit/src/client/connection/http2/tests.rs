use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::Version;
use http_body_util::Full;
use hyper::{server::conn::http2 as server, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{runtime::Handle, sync::Notify};
use tower_service::Service;

use super::{
    super::tests::{Peer, read, until},
    *,
};

fn get() -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.version_mut() = Version::HTTP_2;
    request
}

#[tokio::test]
async fn one_connection_is_made_however_many_ask_for_it() {
    let peer = Peer::http("something").await;
    let connection = peer.connection();
    for response in join_all((0..50).map(|_| connection.ask(get()))).await {
        assert_eq!(read(response.unwrap()).await.unwrap(), "something");
    }
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test]
async fn whoever_gives_up_leaves_the_connection_in_the_making_to_the_next() {
    let peer = Peer::http("something").await;
    let connection = peer.connection();
    let first = connection.ask(get());
    assert!(tokio_test::task::spawn(first).poll().is_pending());
    until(|| peer.accepted() == 1).await;
    read(connection.ask(get()).await.unwrap()).await.unwrap();
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test]
async fn a_connection_that_goes_away_ends_what_it_began_and_another_takes_over() {
    let finish = Arc::new(Notify::new());
    let told = Arc::clone(&finish);
    let peer = Peer::new(move |stream| {
        let finish = Arc::clone(&told);
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            let mut body = respond.send_response(Response::default(), false).unwrap();
            connection.graceful_shutdown();
            let finish = async {
                finish.notified().await;
                body.send_data("something".into(), true).unwrap();
                std::future::pending::<()>().await;
            };
            let end = async { while connection.accept().await.is_some() {} };
            futures_util::future::select(Box::pin(end), Box::pin(finish)).await;
        }
    })
    .await;
    let connection = peer.connection();
    let mut answers = Vec::new();
    for accepted in 1..4 {
        answers.push(connection.ask(get()).await.unwrap());
        assert_eq!(peer.accepted(), accepted);
        // The GOAWAY comes with the answer, or right behind it.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    finish.notify_waiters();
    for answer in answers {
        assert_eq!(read(answer).await.unwrap(), "something");
    }
    until(|| peer.ended() == 3).await;
}

#[tokio::test]
async fn no_more_streams_are_open_than_the_peer_allows() {
    let [open, most] = [Arc::<AtomicUsize>::default(), Arc::default()];
    let counts = (open, Arc::clone(&most));
    let peer = Peer::new(move |stream| {
        let (open, most) = counts.clone();
        let service = service_fn(move |_| {
            let (open, most) = (Arc::clone(&open), Arc::clone(&most));
            async move {
                most.fetch_max(open.fetch_add(1, SeqCst) + 1, SeqCst);
                tokio::task::yield_now().await;
                open.fetch_sub(1, SeqCst);
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }
        });
        async move {
            let _ = server::Builder::new(TokioExecutor::new())
                .max_concurrent_streams(3)
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
    .await;
    let connection = peer.connection();
    // The peer has said how many.
    connection.ask(get()).await.unwrap();
    for response in join_all((0..50).map(|_| connection.ask(get()))).await {
        response.unwrap();
    }
    assert_eq!(most.load(SeqCst), 3);
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test]
async fn what_is_in_flight_keeps_its_task_and_nothing_else_does() {
    let peer = Peer::http("something").await;
    let tasks = Handle::current().metrics().num_alive_tasks();
    let connection = peer.connection();
    let first = connection.ask(get()).await.unwrap();
    let second = connection.clone().call(get());
    drop(connection);
    assert_eq!(read(first).await.unwrap(), "something");
    assert_eq!(read(second.await.unwrap()).await.unwrap(), "something");
    until(|| peer.ended() == 1).await;
    until(|| Handle::current().metrics().num_alive_tasks() == tasks).await;
    // A peer that says nothing holds nothing.
    let silent = Peer::new(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let tasks = Handle::current().metrics().num_alive_tasks();
    let connection = silent.connection();
    let mut call = tokio_test::task::spawn(connection.clone().call(get()));
    assert!(call.poll().is_pending());
    until(|| silent.accepted() == 1).await;
    assert!(call.poll().is_pending());
    // Its connection, at the server and here.
    assert_eq!(Handle::current().metrics().num_alive_tasks(), tasks + 2);
    drop((connection, call));
    until(|| Handle::current().metrics().num_alive_tasks() == tasks + 1).await;
}
