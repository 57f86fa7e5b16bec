use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower_test::mock::{self, Handle, Mock};

use super::*;
use crate::Rejection;

type Key = fn(&&'static str) -> Option<char>;
type Shares = CoalesceLayer<char, u32, Key>;
type Spawned = mock::Spawn<Coalesce<Mock<&'static str, u32>, char, u32, Key>>;
type Call = task::Spawn<CoalesceFuture<mock::future::ResponseFuture<u32>, u32>>;

/// The first letter is the key; nothing has none.
fn layer(max_calls: usize) -> Shares {
    let config = CoalesceConfig {
        max_calls: NonZeroUsize::new(max_calls).unwrap(),
    };
    CoalesceLayer::new(config, |request: &&str| request.chars().next())
}

fn spawn(layer: &Shares) -> (Spawned, Handle<&'static str, u32>) {
    mock::spawn_layer(layer.clone())
}

fn call(service: &mut Spawned, request: &'static str) -> Call {
    assert_ready_ok!(service.poll_ready());
    let mut call = task::spawn(service.call(request));
    assert_pending!(call.poll());
    call
}

#[tokio::test]
async fn calls_with_equal_keys_are_one_while_it_is_under_way() {
    let layer = layer(9);
    let (mut service, mut peer) = spawn(&layer);
    let mut calls = ["a1", "a2", "a3"].map(|request| call(&mut service, request));
    let mut other = call(&mut service, "b");
    assert_eq!(layer.under_way(), 2);
    let (asked, respond) = peer.next_request().await.unwrap();
    assert_eq!(asked, "a1");
    respond.send_response(1);
    let (asked, respond) = peer.next_request().await.unwrap();
    assert_eq!(asked, "b");
    respond.send_response(2);
    assert_pending!(peer.poll_request());
    for call in &mut calls {
        assert!(call.is_woken());
        assert_eq!(assert_ready_ok!(call.poll()), 1);
    }
    assert_eq!(assert_ready_ok!(other.poll()), 2);
    // Nothing is kept, though those who asked are still there.
    assert_eq!(layer.under_way(), 0);
    let mut again = call(&mut service, "a4");
    peer.next_request().await.unwrap().1.send_response(3);
    assert_eq!(assert_ready_ok!(again.poll()), 3);
}

#[tokio::test]
async fn a_call_without_a_key_is_made_alone() {
    let layer = layer(9);
    let (mut service, mut peer) = spawn(&layer);
    let mut calls = ["", ""].map(|request| call(&mut service, request));
    for (answer, call) in calls.iter_mut().enumerate() {
        let (_, respond) = peer.next_request().await.unwrap();
        respond.send_response(answer as u32);
        assert_eq!(assert_ready_ok!(call.poll()), answer as u32);
    }
}

#[tokio::test]
async fn the_call_goes_on_when_the_one_who_came_first_goes_away() {
    let layer = layer(9);
    let (mut service, mut peer) = spawn(&layer);
    let [first, mut second, third] = ["a1", "a2", "a3"].map(|request| call(&mut service, request));
    let (_, respond) = peer.next_request().await.unwrap();
    drop(first);
    drop(third);
    assert_pending!(second.poll());
    let mut fourth = call(&mut service, "a4");
    respond.send_response(1);
    assert!(second.is_woken());
    assert_eq!(assert_ready_ok!(second.poll()), 1);
    assert_eq!(assert_ready_ok!(fourth.poll()), 1);
    assert_pending!(peer.poll_request());
}

#[tokio::test]
async fn one_who_joins_makes_the_call_that_the_first_one_never_made() {
    let (mut service, mut peer) = spawn(&layer(9));
    assert_ready_ok!(service.poll_ready());
    let first = service.call("a1");
    let mut second = call(&mut service, "a2");
    drop(first);
    let (asked, respond) = peer.next_request().await.unwrap();
    assert_eq!(asked, "a1");
    respond.send_response(1);
    assert_eq!(assert_ready_ok!(second.poll()), 1);
}

#[tokio::test]
async fn the_last_one_to_go_away_cancels_the_call_and_the_next_one_makes_another() {
    let layer = layer(9);
    let (mut service, mut peer) = spawn(&layer);
    let calls = ["a1", "a2"].map(|request| call(&mut service, request));
    let _first = peer.next_request().await.unwrap();
    drop(calls);
    assert_eq!(layer.under_way(), 0);
    let _again = call(&mut service, "a3");
    assert_eq!(peer.next_request().await.unwrap().0, "a3");
}

#[tokio::test]
async fn all_who_wait_get_the_error_and_find_what_it_is() {
    let layer = layer(9);
    let (mut service, mut peer) = spawn(&layer);
    let mut calls = ["a1", "a2"].map(|request| call(&mut service, request));
    let refused = Rejection::Overloaded { limit: 1 };
    peer.next_request()
        .await
        .unwrap()
        .1
        .send_error(refused.clone());
    for call in &mut calls {
        let error = assert_ready_err!(call.poll());
        assert_eq!(Rejection::find(&*error), Some(&refused));
        assert!(error.is::<SharedError>());
    }
    assert_eq!(layer.under_way(), 0);
}

#[tokio::test]
async fn a_call_above_the_bound_is_made_alone_and_one_that_is_known_is_joined() {
    let layer = layer(1);
    let (mut service, mut peer) = spawn(&layer);
    let _calls = ["a1", "b1", "b2", "a2"].map(|request| call(&mut service, request));
    for expected in ["a1", "b1", "b2"] {
        assert_eq!(peer.next_request().await.unwrap().0, expected);
    }
    assert_pending!(peer.poll_request());
    assert_eq!(layer.under_way(), 1);
}

#[tokio::test]
async fn one_who_joins_leaves_the_service_ready() {
    let (mut service, mut peer) = spawn(&layer(9));
    peer.allow(2);
    let _calls = ["a1", "a2", "a3", "b"].map(|request| call(&mut service, request));
    assert_eq!(peer.next_request().await.unwrap().0, "a1");
    assert_eq!(peer.next_request().await.unwrap().0, "b");
    assert_pending!(service.poll_ready());
}

/// A key whose own code panics, when it says so.
#[derive(Clone, PartialEq, Eq)]
struct Touchy(&'static str);

impl Hash for Touchy {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        assert_ne!(self.0, "panic", "on purpose");
        self.0.hash(state);
    }
}

#[tokio::test]
async fn a_key_that_panics_harms_no_other_call() {
    let layer = CoalesceLayer::new(CoalesceConfig::default(), |request: &&'static str| {
        Some(Touchy(request))
    });
    let (mut service, mut peer) = mock::spawn_layer::<_, u32, _>(layer.clone());
    assert_ready_ok!(service.poll_ready());
    let call = std::panic::AssertUnwindSafe(|| service.call("panic"));
    assert!(std::panic::catch_unwind(call).is_err());
    assert_ready_ok!(service.poll_ready());
    let mut call = task::spawn(service.call("well"));
    assert_pending!(call.poll());
    let (asked, respond) = peer.next_request().await.unwrap();
    assert_eq!(asked, "well");
    respond.send_response(1);
    assert_eq!(assert_ready_ok!(call.poll()), 1);
    assert_eq!(layer.under_way(), 0);
}

#[test]
fn threads_share_calls_and_leave_none_behind() {
    let layer = CoalesceLayer::new(CoalesceConfig::default(), |key: &u32| Some(*key));
    let inner = tower::service_fn(async |key: u32| {
        tokio::task::yield_now().await;
        Ok::<_, BoxError>(key)
    });
    std::thread::scope(|scope| {
        for seed in 0..4_u32 {
            let mut service = layer.layer(inner);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .build()
                    .unwrap();
                for i in 0..2_000_u32 {
                    let key = (i * 7 + seed) % 3;
                    let mut waiting = Box::pin(service.call(key));
                    if i % 5 == 0 {
                        // It goes away early, perhaps the last one, perhaps not.
                        let _ = waiting.as_mut().now_or_never();
                    } else {
                        assert_eq!(runtime.block_on(waiting).unwrap(), key);
                    }
                }
            });
        }
    });
    assert_eq!(layer.under_way(), 0);
}
