use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower_test::mock::{self, Handle, SendResponse};

use super::*;
use crate::{
    Body,
    event::{Observer, nobody},
    policy::BudgetConfig,
};

type Peer = Handle<Request<Body>, Response<()>>;
type Mock = mock::Mock<Request<Body>, Response<()>>;
type Spawned = mock::Spawn<Hedge<Mock>>;
type Call = task::Spawn<HedgeFuture<Mock, HttpClassify, Body>>;

const DELAY: Duration = Duration::from_millis(10);

fn fixed() -> HedgeConfig {
    HedgeConfig {
        delay: Some(DELAY),
        ..HedgeConfig::default()
    }
}

fn layer() -> HedgeLayer {
    HedgeLayer::new(fixed(), Budget::default(), nobody())
}

fn spawn(layer: HedgeLayer) -> (Spawned, Peer) {
    mock::spawn_layer(layer)
}

fn get() -> Request<Body> {
    Request::new(Body::full("hello"))
}

fn call(service: &mut Spawned, request: Request<Body>) -> Call {
    assert_ready_ok!(service.poll_ready());
    let mut call = task::spawn(service.call(request));
    assert_pending!(call.poll());
    call
}

/// The body of what the peer is asked, how often it was asked before, and how it answers.
async fn asked(peer: &mut Peer) -> (Bytes, u32, SendResponse<Response<()>>) {
    let (request, respond) = peer.next_request().await.unwrap();
    let previous = Context::of(request.extensions()).previous_attempts;
    let body = request.into_body().collect().await.unwrap().to_bytes();
    (body, previous, respond)
}

fn status(code: u16) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

/// A call whose first attempt is late, with both attempts under way.
async fn hedged() -> (Call, [SendResponse<Response<()>>; 2]) {
    let (mut service, mut peer) = spawn(layer());
    let mut call = call(&mut service, get());
    let (_, _, first) = asked(&mut peer).await;
    advance(DELAY).await;
    assert_pending!(call.poll());
    let (_, _, second) = asked(&mut peer).await;
    (call, [first, second])
}

#[tokio::test(start_paused = true)]
async fn a_hedge_may_be_made_never() {
    let config = HedgeConfig {
        delay: Some(Duration::MAX),
        ..fixed()
    };
    let (mut service, mut peer) = spawn(HedgeLayer::new(config, Budget::default(), nobody()));
    let mut call = call(&mut service, get());
    let (_, respond) = peer.next_request().await.unwrap();
    respond.send_response(status(200));
    assert_ready_ok!(call.poll());
}

#[tokio::test(start_paused = true)]
async fn a_late_call_is_made_a_second_time_and_says_so() {
    let (mut service, mut peer) = spawn(layer());
    let mut call = call(&mut service, get());
    let (body, previous, _first) = asked(&mut peer).await;
    assert_eq!((body, previous), ("hello".into(), 0));
    advance(DELAY - Duration::from_millis(1)).await;
    assert_pending!(call.poll());
    assert_pending!(peer.poll_request());
    advance(Duration::from_millis(1)).await;
    assert_pending!(call.poll());
    let (body, previous, second) = asked(&mut peer).await;
    assert_eq!((body, previous), ("hello".into(), 1));
    // Once, however late it is.
    advance(DELAY * 10).await;
    assert_pending!(call.poll());
    assert_pending!(peer.poll_request());
    second.send_response(status(200));
    assert_eq!(assert_ready_ok!(call.poll()).status(), 200);
}

/// An attempt that is answered when asked for, and counted while it is under way.
struct Attempt {
    answered: bool,
    under_way: Arc<AtomicUsize>,
}

impl Future for Attempt {
    type Output = Result<Response<()>, BoxError>;

    fn poll(self: Pin<&mut Self>, _: &mut Task<'_>) -> Poll<Self::Output> {
        match self.answered && self.under_way.load(Relaxed) == 2 {
            true => Poll::Ready(Ok(Response::default())),
            false => Poll::Pending,
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.under_way.fetch_sub(1, Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_good_answer_wins_and_the_other_attempt_is_dropped() {
    for winner in [0, 1] {
        let under_way = Arc::new(AtomicUsize::new(0));
        let inner = tower::service_fn(|request: Request<Body>| {
            under_way.fetch_add(1, Relaxed);
            Attempt {
                answered: Context::of(request.extensions()).previous_attempts == winner,
                under_way: Arc::clone(&under_way),
            }
        });
        let mut call = task::spawn(layer().layer(inner).call(get()));
        assert_pending!(call.poll());
        advance(DELAY).await;
        if winner == 0 {
            assert_pending!(call.poll());
            assert_eq!(under_way.load(Relaxed), 2);
        }
        assert_ready_ok!(call.poll());
        // The future that is done is still there, and no attempt is.
        assert_eq!(under_way.load(Relaxed), 0, "{winner}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_gives_way_to_the_attempt_that_is_under_way() {
    let (mut call, [first, second]) = hedged().await;
    first.send_response(status(503));
    assert_pending!(call.poll());
    second.send_response(status(404));
    assert_eq!(assert_ready_ok!(call.poll()).status(), 404);

    let (mut call, [first, second]) = hedged().await;
    second.send_error("reset");
    assert_pending!(call.poll());
    first.send_response(status(200));
    assert_eq!(assert_ready_ok!(call.poll()).status(), 200);
}

#[tokio::test(start_paused = true)]
async fn when_both_fail_the_failure_is_that_of_the_first_attempt() {
    let (mut call, [first, second]) = hedged().await;
    first.send_error("first");
    assert_pending!(call.poll());
    second.send_error("second");
    assert_eq!(assert_ready_err!(call.poll()).to_string(), "first");

    let (mut call, [first, second]) = hedged().await;
    second.send_error("second");
    assert_pending!(call.poll());
    first.send_error("first");
    assert_eq!(assert_ready_err!(call.poll()).to_string(), "first");
}

#[tokio::test(start_paused = true)]
async fn a_failure_before_the_delay_is_no_matter_of_hedging() {
    let (mut service, mut peer) = spawn(layer());
    let mut call = call(&mut service, get());
    asked(&mut peer).await.2.send_response(status(503));
    assert_eq!(assert_ready_ok!(call.poll()).status(), 503);
}

#[tokio::test(start_paused = true)]
async fn what_must_not_be_done_twice_or_is_a_retry_or_a_stream_is_not_hedged() {
    let (mut service, mut peer) = spawn(layer());
    let post = Request::post("/").body(Body::full("pay")).unwrap();
    let mut retry = get();
    Context::of_mut(retry.extensions_mut()).previous_attempts = 1;
    let stream = Request::new(Body::stream(Body::full("of unknown length")));
    for request in [post, retry, stream] {
        let mut call = call(&mut service, request);
        let (_, _, first) = asked(&mut peer).await;
        advance(DELAY * 10).await;
        assert_pending!(call.poll());
        assert_pending!(peer.poll_request());
        first.send_response(status(200));
        assert_ready_ok!(call.poll());
    }
}

#[tokio::test(start_paused = true)]
async fn the_service_is_made_ready_for_a_hedge_and_the_first_attempt_does_not_wait_for_it() {
    let (mut service, mut peer) = spawn(layer());
    peer.allow(1);
    let mut call = call(&mut service, get());
    let (_, _, first) = asked(&mut peer).await;
    advance(DELAY).await;
    assert_pending!(call.poll());
    assert_pending!(peer.poll_request());
    first.send_response(status(200));
    assert_ready_ok!(call.poll());
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_cannot_be_made_leaves_the_first_attempt_alone() {
    let (mut service, mut peer) = spawn(layer());
    peer.allow(1);
    let mut call = call(&mut service, get());
    let (_, _, first) = asked(&mut peer).await;
    peer.send_error("closed");
    advance(DELAY).await;
    assert_pending!(call.poll());
    first.send_response(status(200));
    assert_ready_ok!(call.poll());
}

/// Hears of hedges.
#[derive(Default)]
struct Log(Mutex<Vec<&'static str>>);

impl Observer for Arc<Log> {
    fn observe(&self, event: Event<'_>) {
        self.0.lock().unwrap().push(match event {
            Event::Hedged { after } if after == DELAY => "hedged",
            Event::HedgeWon => "won",
            Event::RetryBudgetExhausted => "exhausted",
            _ => "another",
        });
    }
}

fn budget(ratio: Ratio) -> Budget {
    Budget::new(BudgetConfig {
        ratio,
        floor: 0,
        ..BudgetConfig::default()
    })
}

#[tokio::test(start_paused = true)]
async fn hedges_come_out_of_the_budget_and_are_told_of() {
    let log = Arc::new(Log::default());
    let half = budget(Ratio::new(0.5).unwrap());
    let (mut service, mut peer) = spawn(HedgeLayer::new(fixed(), half, Arc::new(Arc::clone(&log))));
    for hedged in [false, true, false, true] {
        let mut call = call(&mut service, get());
        let (_, _, first) = asked(&mut peer).await;
        advance(DELAY).await;
        assert_pending!(call.poll());
        if hedged {
            asked(&mut peer).await.2.send_response(status(200));
        } else {
            assert_pending!(peer.poll_request());
            first.send_response(status(200));
        }
        assert_ready_ok!(call.poll());
    }
    let told = log.0.lock().unwrap().clone();
    let twice = ["exhausted", "hedged", "won", "exhausted", "hedged", "won"];
    assert_eq!(told, twice);
}

#[tokio::test(start_paused = true)]
async fn inside_of_another_layer_it_counts_no_call_a_second_time() {
    let whole = budget(Ratio::ONE);
    let layer = HedgeLayer::inside(fixed(), whole.clone(), nobody());
    let (mut service, mut peer) = spawn(layer);
    let mut call = call(&mut service, get());
    let _first = asked(&mut peer).await;
    advance(DELAY).await;
    assert_pending!(call.poll());
    assert_pending!(peer.poll_request());
    assert!(whole.withdraw(Instant::now()).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_was_not_made_is_not_paid() {
    let whole = budget(Ratio::ONE);
    let layer = HedgeLayer::new(fixed(), whole.clone(), nobody());
    let (mut service, mut peer) = spawn(layer);
    peer.allow(1);
    let mut call = call(&mut service, get());
    advance(DELAY).await;
    assert_pending!(call.poll());
    assert!(whole.withdraw(Instant::now()).is_none());
    drop(call);
    assert!(whole.withdraw(Instant::now()).is_some());
}

#[tokio::test(start_paused = true)]
async fn without_a_fixed_delay_it_waits_for_the_latency_that_it_saw() {
    let config = HedgeConfig {
        min_samples: NonZeroU32::new(20).unwrap(),
        ..HedgeConfig::default()
    };
    let layer = HedgeLayer::new(config, Budget::default(), nobody());
    let (mut service, mut peer) = spawn(layer.clone());
    for _ in 0..20 {
        let mut call = call(&mut service, get());
        let (_, _, first) = asked(&mut peer).await;
        advance(Duration::from_millis(40)).await;
        assert_pending!(call.poll());
        assert_pending!(peer.poll_request(), "too few answers were seen");
        first.send_response(status(200));
        assert_ready_ok!(call.poll());
    }
    // Taken away and back again, it knows what it knew.
    layer.config().set(None);
    let mut unhedged = call(&mut service, get());
    let (_, _, first) = asked(&mut peer).await;
    advance(Duration::from_secs(1)).await;
    assert_pending!(unhedged.poll());
    assert_pending!(peer.poll_request());
    first.send_response(status(200));
    assert_ready_ok!(unhedged.poll());
    layer.config().set(Some(config));
    let mut call = call(&mut service, get());
    let _first = asked(&mut peer).await;
    advance(Duration::from_millis(39)).await;
    assert_pending!(call.poll());
    assert_pending!(peer.poll_request());
    advance(Duration::from_millis(7)).await;
    assert_pending!(call.poll());
    let (_, previous, _second) = asked(&mut peer).await;
    assert_eq!(previous, 1);
}

#[tokio::test(start_paused = true)]
async fn a_fast_failure_does_not_count_as_a_latency() {
    let config = HedgeConfig {
        min_samples: NonZeroU32::MIN,
        ..HedgeConfig::default()
    };
    let layer = HedgeLayer::new(config, Budget::default(), nobody());
    let (mut service, mut peer) = spawn(layer.clone());
    for (code, known) in [(503, false), (404, true)] {
        let mut call = call(&mut service, get());
        asked(&mut peer).await.2.send_response(status(code));
        assert_ready_ok!(call.poll());
        advance(Duration::from_millis(200)).await;
        assert_eq!(layer.shared.delay(&config, Instant::now()).is_some(), known);
    }
}
