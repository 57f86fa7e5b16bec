//! What every layer promises, whatever it does: it drives the very service that it polled ready, never wakes
//! itself, releases everything when its future is dropped at any point, and shares its state with all that is
//! built from the same layer object and with nothing else.

use std::{
    fs,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, StatusCode};
use kit::{Body, BoxError};
use tokio_test::task;
use tower::{Layer, Service};
use tower_test::mock::{Handle, Mock, SendResponse, Spawn, pair};

use crate::architecture::rust_files;

const SECOND: Duration = Duration::from_secs(1);

type Peer = Handle<(), Response<Body>>;

/// The innermost service: tower's mock, which panics when it is called without having been polled ready. It takes
/// a request with any body, and counts the calls that are under way.
#[derive(Clone)]
struct Inner {
    mock: Mock<(), Response<Body>>,
    under_way: Arc<AtomicUsize>,
}

struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl<B> Service<Request<B>> for Inner {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.mock.poll_ready(cx)
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        self.under_way.fetch_add(1, Relaxed);
        let under_way = UnderWay(Arc::clone(&self.under_way));
        let answer = self.mock.call(());
        Box::pin(async move {
            let _under_way = under_way;
            answer.await
        })
    }
}

fn inner() -> (Inner, Peer) {
    let (mock, peer) = pair();
    let under_way = Arc::default();
    (Inner { mock, under_way }, peer)
}

/// A service under contract.
trait Subject:
    Service<Request<Body>, Response = Response<Body>, Error: Into<BoxError>> + Clone
{
}

impl<S> Subject for S where
    S: Service<Request<Body>, Response = Response<Body>, Error: Into<BoxError>> + Clone
{
}

fn request() -> Request<Body> {
    Request::get("/").body(Body::full("hello")).unwrap()
}

fn ready<S: Subject>(service: &mut Spawn<S>) {
    assert!(matches!(service.poll_ready(), Poll::Ready(Ok(()))));
}

/// Makes a whole call and says whether it went well: the peer answers with `status` as often as it is asked, and
/// time passes where nothing else does.
async fn call<S: Subject>(service: &mut Spawn<S>, peer: &mut Peer, status: StatusCode) -> bool {
    ready(service);
    let mut call = task::spawn(service.call(request()));
    loop {
        if let Poll::Ready(result) = call.poll() {
            return result.is_ok_and(|response| response.status() == StatusCode::OK);
        }
        if let Poll::Ready(Some(((), answer))) = peer.poll_request() {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = status;
            answer.send_response(response);
        } else {
            tokio::time::advance(SECOND / 10).await;
        }
    }
}

/// The inner service that became ready is the one that is called; nobody else may be, as the mock sees to.
async fn drives_the_service_that_it_polled_ready<L>(layer: L)
where
    L: Layer<Inner, Service: Subject>,
{
    let (inner, mut peer) = inner();
    let mut service = Spawn::new(layer.layer(inner));
    peer.allow(0);
    assert!(service.poll_ready().is_pending());
    assert!(!service.is_woken(), "it wakes itself");
    peer.allow(3);
    assert!(service.is_woken());
    ready(&mut service);
    // A clone is not ready because the other one is.
    let mut clone = Spawn::new(service.get_ref().clone());
    assert!(call(&mut service, &mut peer, StatusCode::OK).await);
    assert!(call(&mut clone, &mut peer, StatusCode::OK).await);
    assert!(call(&mut service, &mut peer, StatusCode::OK).await);
    assert!(service.poll_ready().is_pending());
    assert!(!service.is_woken(), "it wakes itself");
    peer.send_error("closed");
    assert!(matches!(service.poll_ready(), Poll::Ready(Err(_))));
}

/// Drops a call's future at each point of its life, many times, and looks whether anything is kept: a call that is
/// under way further in, or a place that the next one would need.
async fn releases_everything_when_dropped<L>(layer: L)
where
    L: Layer<Inner, Service: Subject>,
{
    let (inner, mut peer) = inner();
    let under_way = Arc::clone(&inner.under_way);
    let mut service = Spawn::new(layer.layer(inner));
    for _ in 0..3 {
        for point in 0..5 {
            ready(&mut service);
            let mut call = task::spawn(service.call(request()));
            let mut answer = None;
            if point > 0 {
                assert!(call.poll().is_pending());
            }
            if point > 1 {
                tokio::time::advance(SECOND / 10).await;
                assert!(call.poll().is_pending());
            }
            if let Poll::Ready(Some(((), asked))) = peer.poll_request() {
                answer = Some(asked);
            }
            if point > 2
                && let Some(answer) = answer.take()
            {
                answer.send_response(Response::new(Body::empty()));
            }
            if point > 3 {
                let _ = call.poll();
            }
            drop(call);
            assert_eq!(under_way.load(Relaxed), 0, "at point {point}");
        }
    }
    assert!(call(&mut service, &mut peer, StatusCode::OK).await);
}

/// What happens on the way of a call, one after the other.
#[derive(Clone, Copy, Debug)]
enum Step {
    Poll,
    /// The inner service is not ready for another call, or is again.
    Ready(bool),
    /// So much time passes.
    Wait(Duration),
    /// The peer answers whatever it was asked, with this status.
    Answer(StatusCode),
}

/// Drops a call's future wherever it may wait on the way from one attempt to the next: for the second one to be due, for
/// the service to be ready for it, for its answer.
async fn releases_everything_when_dropped_between_attempts<L>(layer: L)
where
    L: Layer<Inner, Service: Subject>,
{
    use Step::{Answer, Poll, Ready, Wait};
    let failed = Answer(StatusCode::SERVICE_UNAVAILABLE);
    let hedged = [
        Poll,
        Ready(false),
        Wait(SECOND / 10),
        Poll,
        Ready(true),
        Poll,
        failed,
    ];
    let retried = [
        Poll,
        Ready(false),
        Wait(SECOND),
        Poll,
        Ready(true),
        Poll,
        failed,
    ];
    let steps: Vec<_> = [&hedged[..], &[failed], &retried[..], &retried[..]].concat();

    let (inner, mut peer) = inner();
    let under_way = Arc::clone(&inner.under_way);
    let mut service = Spawn::new(layer.layer(inner));
    let mut waited = Vec::new();
    for dropped_at in 0..=steps.len() {
        ready(&mut service);
        let mut call = task::spawn(service.call(request()));
        let mut asked = Vec::new();
        for step in &steps[..dropped_at] {
            match step {
                Poll => {
                    if call.poll().is_ready() {
                        break;
                    }
                    waited.push(under_way.load(Relaxed));
                }
                Ready(ready) => peer.allow(if *ready { u64::MAX } else { 0 }),
                Wait(time) => tokio::time::advance(*time).await,
                Answer(status) => {
                    for answer in asked.drain(..) {
                        let answer: SendResponse<Response<Body>> = answer;
                        let mut response = Response::new(Body::empty());
                        *response.status_mut() = *status;
                        answer.send_response(response);
                    }
                }
            }
            while let std::task::Poll::Ready(Some(((), answer))) = peer.poll_request() {
                asked.push(answer);
            }
        }
        drop(call);
        assert_eq!(under_way.load(Relaxed), 0, "after {dropped_at} steps");
        peer.allow(u64::MAX);
    }
    // It did wait between two attempts, with none under way.
    assert!(waited.contains(&0), "{waited:?}");
    assert!(call(&mut service, &mut peer, StatusCode::OK).await);
}

/// How the state of a layer is brought to where it refuses.
enum Spoil<L> {
    /// By its handle.
    By(fn(&L)),
    /// By a call that succeeds.
    Succeed,
    /// By a call that fails.
    Fail,
    /// By a call that is still under way.
    Hold,
}

/// Once spoilt, everything that was built from the layer refuses, and nothing that was built from another one.
async fn clones_share_one_state_and_two_layers_nothing<L>(make: impl Fn() -> L, spoil: Spoil<L>)
where
    L: Layer<Inner, Service: Subject> + Clone,
{
    let (layer, other) = (make(), make());
    let (inner, mut peer) = inner();
    let mut first = Spawn::new(layer.layer(inner.clone()));
    let siblings = [
        first.get_ref().clone(),
        layer.layer(inner.clone()),
        layer.clone().layer(inner.clone()),
    ];
    let mut other = Spawn::new(other.layer(inner));
    let mut held = None;
    match spoil {
        Spoil::By(spoil) => spoil(&layer),
        Spoil::Succeed => assert!(call(&mut first, &mut peer, StatusCode::OK).await),
        Spoil::Fail => {
            call(&mut first, &mut peer, StatusCode::SERVICE_UNAVAILABLE).await;
        }
        Spoil::Hold => {
            ready(&mut first);
            let mut call = task::spawn(first.call(request()));
            assert!(call.poll().is_pending());
            held = Some((call, peer.next_request().await));
        }
    }
    assert!(!call(&mut first, &mut peer, StatusCode::OK).await);
    for sibling in siblings {
        assert!(!call(&mut Spawn::new(sibling), &mut peer, StatusCode::OK).await);
    }
    assert!(call(&mut other, &mut peer, StatusCode::OK).await);
    drop(held);
}

/// The contract of one layer, as tests; the last one for those that have a state.
macro_rules! contract {
    ($layer:ident $(, $spoil:expr)?) => {
        mod $layer {
            #[tokio::test(start_paused = true)]
            async fn drives_the_service_that_it_polled_ready() {
                super::drives_the_service_that_it_polled_ready(super::$layer()).await;
            }

            #[tokio::test(start_paused = true)]
            async fn releases_everything_when_dropped() {
                super::releases_everything_when_dropped(super::$layer()).await;
            }

            $(#[tokio::test(start_paused = true)]
            async fn clones_share_one_state_and_two_layers_nothing() {
                use super::*;
                super::clones_share_one_state_and_two_layers_nothing(super::$layer, $spoil).await;
            })?
        }
    };
}

mod layers;
mod services;

/// Whoever writes a layer adds it to the table.
#[test]
fn every_layer_is_under_contract() {
    let table = include_str!("layers.rs");
    let (_imports, table) = table.split_once("\n\nconst ").unwrap();
    let mut missing = Vec::new();
    for path in rust_files("kit/src") {
        let source = fs::read_to_string(&path).unwrap();
        for (_, rest) in source
            .lines()
            .filter_map(|line| line.split_once(" Layer<S> for "))
        {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
            // That one is a layer of tracing's.
            if name != "Lines" && !table.contains(&name) {
                missing.push(name);
            }
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}
