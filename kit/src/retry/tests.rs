use std::{num::NonZeroU32, sync::Mutex, time::Duration};

use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::time::Instant;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower_test::mock::{self, Handle};

use super::*;
use crate::context::Context;
use crate::{
    Body as KitBody,
    event::{Observer, nobody},
    policy::Ratio,
    rejection::NotSent,
};

type Peer = Handle<Request<Replay<KitBody>>, Response<()>>;
type Mock = mock::Mock<Request<Replay<KitBody>>, Response<()>>;
type Spawned = mock::Spawn<Retry<Mock>>;
type Call = task::Spawn<RetryFuture<Mock, HttpClassify, KitBody>>;

fn layer() -> RetryLayer {
    RetryLayer::new(RetryConfig::default(), Budget::default(), nobody())
}

fn spawn(layer: RetryLayer) -> (Spawned, Peer) {
    mock::spawn_layer(layer)
}

fn get() -> Request<KitBody> {
    Request::new(KitBody::empty())
}

fn post(body: &'static str) -> Request<KitBody> {
    Request::post("/").body(KitBody::full(body)).unwrap()
}

fn status(code: u16) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

fn call(service: &mut Spawned, request: Request<KitBody>) -> Call {
    assert_ready_ok!(service.poll_ready());
    task::spawn(service.call(request))
}

/// Takes the next request, reads it and answers it; returns its body and how often it was tried before.
async fn answer(peer: &mut Peer, response: Response<()>) -> (Bytes, u32) {
    let (request, respond) = peer.next_request().await.unwrap();
    let previous = Context::of(request.extensions()).previous_attempts;
    let body = request.into_body().collect().await.unwrap().to_bytes();
    respond.send_response(response);
    (body, previous)
}

/// Lets any back-off pass.
async fn wait() {
    tokio::time::advance(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_attempt_is_followed_by_others_with_the_same_body() {
    let (mut service, mut peer) = spawn(layer());
    let mut request = post("hello");
    let key = HeaderValue::from_static("k");
    request.headers_mut().insert("idempotency-key", key);
    let mut call = call(&mut service, request);
    for attempt in 0..2 {
        assert_eq!(
            answer(&mut peer, status(503)).await,
            ("hello".into(), attempt)
        );
        assert_pending!(call.poll());
        wait().await;
        assert_pending!(call.poll());
    }
    assert_eq!(answer(&mut peer, status(200)).await, ("hello".into(), 2));
    assert_eq!(assert_ready_ok!(call.poll()).status(), 200);
}

/// Whether a response says that there were attempts enough.
fn says_enough(response: &Response<()>) -> bool {
    wire::retry_pushback(response.headers()) == Some(None)
}

#[tokio::test(start_paused = true)]
async fn after_the_last_attempt_the_failure_is_handed_on_and_says_that_it_was_the_last() {
    let (mut service, mut peer) = spawn(layer());
    let mut call = call(&mut service, get());
    for _ in 0..2 {
        answer(&mut peer, status(503)).await;
        assert_pending!(call.poll());
        wait().await;
        assert_pending!(call.poll());
    }
    answer(&mut peer, status(502)).await;
    let response = assert_ready_ok!(call.poll());
    assert_eq!(response.status(), 502);
    assert!(says_enough(&response));
}

#[tokio::test(start_paused = true)]
async fn an_error_without_a_response_says_that_it_was_the_last_too() {
    let (mut service, mut peer) = spawn(layer());
    let mut call = call(&mut service, get());
    for _ in 0..2 {
        peer.next_request().await.unwrap().1.send_error("reset");
        assert_pending!(call.poll());
        wait().await;
        assert_pending!(call.poll());
    }
    peer.next_request().await.unwrap().1.send_error("reset");
    let error = crate::Error::from(assert_ready_err!(call.poll()));
    assert!(error.retries_spent());
    assert!(says_enough(&crate::wire::Wire::Json.error(error).map(drop)));
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_done_is_not_done_again() {
    let (mut service, mut peer) = spawn(layer());
    let mut call = call(&mut service, post("pay"));
    answer(&mut peer, status(503)).await;
    let response = assert_ready_ok!(call.poll());
    assert_eq!(response.status(), 503);
    // Whoever knows better may try.
    assert!(!says_enough(&response));
}

#[tokio::test(start_paused = true)]
async fn what_never_reached_the_peer_is_sent_again_whatever_it_does() {
    let (mut service, mut peer) = spawn(layer());
    let mut call = call(&mut service, post("pay"));
    let (request, respond) = peer.next_request().await.unwrap();
    drop(request);
    respond.send_error(NotSent("refused".into()));
    assert_pending!(call.poll());
    wait().await;
    assert_pending!(call.poll());
    assert_eq!(answer(&mut peer, status(200)).await, ("pay".into(), 1));
    assert_ready_ok!(call.poll());
}

/// Keeps its request until it is dropped, as a connection's future may; connects the second time only.
struct Keeps(Request<Replay<KitBody>>);

impl Future for Keeps {
    type Output = Result<Response<()>, NotSent>;

    fn poll(self: Pin<&mut Self>, _: &mut Task<'_>) -> Poll<Self::Output> {
        let context = Context::of(self.0.extensions());
        Poll::Ready(match context.previous_attempts {
            0 => Err(NotSent("refused".into())),
            _ => Ok(Response::default()),
        })
    }
}

#[tokio::test(start_paused = true)]
async fn an_unread_body_comes_back_from_a_future_that_keeps_it() {
    let mut service = layer().layer(tower::service_fn(Keeps));
    for body in [KitBody::full("pay"), stream("pay")] {
        let request = post("pay").map(|_| body);
        assert_eq!(service.call(request).await.unwrap().status(), 200);
    }
}

/// A body of which nobody knows beforehand what comes.
fn stream(text: &'static str) -> KitBody {
    KitBody::stream(Full::new(Bytes::from_static(text.as_bytes())))
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_still_being_sent_is_not_sent_again() {
    let (mut service, mut peer) = spawn(layer());
    let mut call = call(&mut service, get().map(|_| stream("half read")));
    let (_request, respond) = peer.next_request().await.unwrap();
    respond.send_response(status(503));
    assert_eq!(assert_ready_ok!(call.poll()).status(), 503);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_known_whole_is_sent_again_while_the_first_one_is_still_being_sent() {
    let (mut service, mut peer) = spawn(layer());
    let mut call = call(&mut service, get().map(|_| KitBody::full("whole")));
    let (_request, respond) = peer.next_request().await.unwrap();
    respond.send_response(status(503));
    assert_pending!(call.poll());
    wait().await;
    assert_pending!(call.poll());
    assert_eq!(answer(&mut peer, status(200)).await, ("whole".into(), 1));
    assert_ready_ok!(call.poll());
}

#[tokio::test(start_paused = true)]
async fn a_body_over_the_limit_is_not_sent_again() {
    let layer = layer();
    layer.config().set(RetryConfig {
        replay_limit: 4,
        ..RetryConfig::default()
    });
    let (mut service, mut peer) = spawn(layer);
    let mut request = get();
    *request.body_mut() = KitBody::full("hello");
    let mut call = call(&mut service, request);
    answer(&mut peer, status(503)).await;
    assert_eq!(assert_ready_ok!(call.poll()).status(), 503);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_a_retry_already_is_not_multiplied() {
    let layer = layer();
    let (mut service, mut peer) = spawn(layer.clone());
    let mut request = get();
    Context::of_mut(request.extensions_mut()).previous_attempts = 1;
    let mut call = call(&mut service, request);
    assert_eq!(answer(&mut peer, status(503)).await, (Bytes::new(), 1));
    assert_eq!(assert_ready_ok!(call.poll()).status(), 503);
}

#[tokio::test(start_paused = true)]
async fn it_waits_as_long_as_the_peer_asks() {
    let (mut service, mut peer) = spawn(layer());
    let mut call = call(&mut service, get());
    let mut busy = status(429);
    let seconds = HeaderValue::from_static("3");
    busy.headers_mut().insert("retry-after", seconds);
    answer(&mut peer, busy).await;
    assert_pending!(call.poll());
    tokio::time::advance(Duration::from_millis(2_999)).await;
    assert_pending!(call.poll());
    assert_pending!(peer.poll_request());
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_pending!(call.poll());
    answer(&mut peer, status(200)).await;
    assert_ready_ok!(call.poll());
}

/// A gRPC error before the first message, which is told in the headers ("trailers-only").
fn unavailable(pushback: &'static str) -> Response<()> {
    let mut response = status(200);
    let headers = response.headers_mut();
    headers.insert("grpc-status", HeaderValue::from_static("14"));
    let pushback = HeaderValue::from_static(pushback);
    headers.insert("grpc-retry-pushback-ms", pushback);
    response
}

#[tokio::test(start_paused = true)]
async fn a_grpc_peer_says_in_what_time_it_wants_the_call_again_and_whether() {
    let (mut service, mut peer) = spawn(layer());
    let mut call = call(&mut service, get());
    answer(&mut peer, unavailable("1500")).await;
    assert_pending!(call.poll());
    tokio::time::advance(Duration::from_millis(1_499)).await;
    assert_pending!(call.poll());
    assert_pending!(peer.poll_request());
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_pending!(call.poll());
    answer(&mut peer, unavailable("-1")).await;
    let answer = assert_ready_ok!(call.poll());
    assert_eq!(answer.headers()["grpc-status"], "14");
}

/// Hears events as text.
struct Log(Mutex<Vec<String>>);

impl Observer for Arc<Log> {
    fn observe(&self, event: Event<'_>) {
        let name = match event {
            Event::Retried {
                previous_attempts, ..
            } => format!("retried after {previous_attempts}"),
            Event::RetryBudgetExhausted => "exhausted".to_owned(),
            _ => "another".to_owned(),
        };
        self.0.lock().unwrap().push(name);
    }
}

#[tokio::test(start_paused = true)]
async fn without_budget_the_failure_is_handed_on() {
    let log = Arc::new(Log(Mutex::default()));
    let budget = Budget::new(BudgetConfig {
        ratio: Ratio::new(0.5).unwrap(),
        floor: 0,
        ..BudgetConfig::default()
    });
    let config = RetryConfig::default();
    let layer = RetryLayer::new(config, budget, Arc::new(Arc::clone(&log)));
    let (mut service, mut peer) = spawn(layer);
    let mut first = call(&mut service, get());
    answer(&mut peer, status(503)).await;
    assert_eq!(assert_ready_ok!(first.poll()).status(), 503);
    let mut second = call(&mut service, get());
    answer(&mut peer, status(503)).await;
    assert_pending!(second.poll());
    wait().await;
    assert_pending!(second.poll());
    answer(&mut peer, status(503)).await;
    assert_eq!(assert_ready_ok!(second.poll()).status(), 503);
    let told = log.0.lock().unwrap().clone();
    assert_eq!(told, ["exhausted", "retried after 1", "exhausted"]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_nobody_waits_for_is_not_paid() {
    let budget = Budget::new(BudgetConfig {
        ratio: Ratio::ONE,
        floor: 0,
        ..BudgetConfig::default()
    });
    let layer = RetryLayer::new(RetryConfig::default(), budget.clone(), nobody());
    let (mut service, mut peer) = spawn(layer);
    let mut call = call(&mut service, get());
    answer(&mut peer, status(503)).await;
    assert_pending!(call.poll());
    assert!(budget.withdraw(Instant::now()).is_none());
    drop(call);
    assert!(budget.withdraw(Instant::now()).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_until_the_service_is_ready() {
    let (mut service, mut peer) = spawn(layer());
    let mut call = call(&mut service, get());
    answer(&mut peer, status(503)).await;
    peer.allow(0);
    assert_pending!(call.poll());
    wait().await;
    assert_pending!(call.poll());
    assert_pending!(peer.poll_request());
    peer.send_error("gone");
    // That is the last word on a call that was tried before.
    let error = assert_ready_err!(call.poll());
    assert_eq!(error.source().unwrap().to_string(), "gone");
    assert!(crate::Error::from(error).retries_spent());
}

#[tokio::test(start_paused = true)]
async fn one_attempt_in_all_is_no_retry() {
    let layer = layer();
    layer.config().set(RetryConfig {
        attempts: NonZeroU32::MIN,
        ..RetryConfig::default()
    });
    let (mut service, mut peer) = spawn(layer);
    let mut call = call(&mut service, get());
    answer(&mut peer, status(503)).await;
    assert_eq!(assert_ready!(call.poll()).unwrap().status(), 503);
}
