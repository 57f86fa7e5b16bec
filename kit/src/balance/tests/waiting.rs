//! What becomes of calls while nobody is known.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_empty_set_is_refused_at_once() {
    let mut world = World::new(&[], answer);
    let mut call = task::spawn(world.call(Request::new(())));
    let error = assert_ready_err!(call.poll());
    let service = "users".parse().unwrap();
    assert_eq!(
        Rejection::find(&*error),
        Some(&Rejection::NoEndpoints { service })
    );
}

#[tokio::test(start_paused = true)]
async fn the_first_requests_wait_until_the_endpoints_are_known() {
    let mut world = World::unknown(answer);
    let mut call = task::spawn(world.call(Request::new(())));
    assert_pending!(call.poll());
    world.endpoints(&["a:1"]);
    assert!(call.is_woken());
    assert_eq!(assert_ready_ok!(call.poll()).into_body(), "a:1");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_ever_for_the_endpoints_to_be_known() {
    let mut world = World::unknown(answer);
    let start = Instant::now();
    let error = world.ask().await.unwrap_err();
    assert!(matches!(
        Rejection::find(&*error),
        Some(Rejection::NoEndpoints { .. })
    ));
    assert_eq!(start.elapsed().as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_would_wait_for_ever_waits_as_long_as_there_is_time() {
    let mut world = World::unknown(answer);
    world.balance.shared.config.set(BalanceConfig {
        discovery_wait: Duration::MAX,
        ..BalanceConfig::default()
    });
    let mut call = task::spawn(world.call(Request::new(())));
    assert_pending!(call.poll());
    world.endpoints(&["a:1"]);
    assert_eq!(assert_ready_ok!(call.poll()).into_body(), "a:1");
}

#[tokio::test(start_paused = true)]
async fn where_it_is_wanted_a_request_waits_for_an_endpoint_and_not_for_ever() {
    let mut world = World::new(&[], answer);
    world.balance.shared.config.set(BalanceConfig {
        empty_wait: Duration::from_secs(3),
        ..BalanceConfig::default()
    });
    let mut call = task::spawn(world.call(Request::new(())));
    assert_pending!(call.poll());
    // Another answer that nobody is there does not end the wait, nor make it longer.
    advance(Duration::from_secs(2)).await;
    world.endpoints(&[]);
    assert_pending!(call.poll());
    world.endpoints(&["a:1"]);
    assert!(call.is_woken());
    assert_eq!(assert_ready_ok!(call.poll()).into_body(), "a:1");

    world.endpoints(&[]);
    let start = Instant::now();
    let call = world.call(Request::new(()));
    let mut request = Request::new(());
    *context::Context::of_mut(request.extensions_mut()) =
        context::Context::with_timeout(Duration::from_secs(1));
    let hurried = world.call(request);
    for (call, seconds) in [(hurried, 1), (call, 3)] {
        let error = call.await.unwrap_err();
        assert!(matches!(
            Rejection::find(&*error),
            Some(Rejection::NoEndpoints { .. })
        ));
        assert_eq!(start.elapsed().as_secs(), seconds);
    }
}

#[test]
fn where_nobody_is_known_whoever_makes_the_first_set_is_waited_for() {
    let (begun, begins) = std::sync::mpsc::channel();
    let (go, goes) = std::sync::mpsc::channel();
    let goes = Mutex::new(goes);
    let mut world = World::unknown(move |endpoint: &Endpoint| {
        begun.send(()).unwrap();
        goes.lock().unwrap().recv().unwrap();
        answer(endpoint)
    });
    world.endpoints(&["a:1"]);
    let balance = world.balance.clone();
    let maker = std::thread::spawn(move || {
        let shared = &balance.shared;
        shared.latest(Instant::now());
    });
    begins.recv().unwrap();
    // It is let go by a third, since this thread waits.
    let third = std::thread::spawn(move || go.send(()).unwrap());
    let mut call = task::spawn(world.call(Request::new(())));
    assert_eq!(assert_ready_ok!(call.poll()).into_body(), "a:1");
    for thread in [maker, third] {
        thread.join().unwrap();
    }
}
