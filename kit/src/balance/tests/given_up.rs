//! What calls hold while they are in flight, and who is blamed for those that nobody waits for any more.

use super::*;

#[tokio::test(start_paused = true)]
async fn dropping_a_future_at_any_point_gives_back_its_place_and_its_permit() {
    let mut world = World::new(&["a:1"], silence);
    for polls in 0..3 {
        let mut call = task::spawn(world.call(Request::new(())));
        for _ in 0..polls {
            assert_pending!(call.poll());
        }
        assert_eq!((world.in_flight(), world.permits()), (1, 1));
        drop(call);
        assert_eq!((world.in_flight(), world.permits()), (0, 0));
    }
    assert!(world.gate("a:1").0.outcomes.lock().unwrap().is_empty());

    let mut world = World::unknown(silence);
    let mut call = task::spawn(world.call(Request::new(())));
    assert_pending!(call.poll());
    drop(call);
    assert_eq!((world.in_flight(), world.permits()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_answer_gives_back_its_place_and_its_permit() {
    let mut world = World::new(&["a:1"], answer);
    let call = world.call(Request::new(()));
    assert_eq!((world.in_flight(), world.permits()), (1, 1));
    call.await.unwrap();
    assert_eq!((world.in_flight(), world.permits()), (0, 0));
    assert_eq!(
        *world.gate("a:1").0.outcomes.lock().unwrap(),
        [Outcome::Success]
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_given_up_after_its_deadline_is_a_failure_and_before_it_is_none() {
    let mut world = World::new(&["slow:1", "slow:2"], silence);
    let mut request = || {
        let mut request = Request::new(());
        *context::Context::of_mut(request.extensions_mut()) = context::Context {
            deadline: Some(Deadline::after(Duration::from_secs(2))),
            ..Default::default()
        };
        world.call(request)
    };
    let (early, late) = (request(), request());
    advance(Duration::from_secs(1)).await;
    drop(early);
    advance(Duration::from_secs(1)).await;
    drop(late);
    let outcomes: Vec<_> = ["slow:1", "slow:2"]
        .iter()
        .flat_map(|address| world.gate(address).0.outcomes.lock().unwrap().clone())
        .collect();
    assert_eq!(outcomes, [Outcome::Failure]);
    assert_eq!((world.in_flight(), world.permits()), (0, 0));
}

/// What an endpoint is told of, that has answered once after 100 ms and then hangs, when a call to it is given up after
/// `waited`, with so many milliseconds until its deadline and until its answer has to begin.
async fn told_of_a_call_given_up(
    waited: u64,
    deadline: Option<u64>,
    answer_by: Option<u64>,
) -> Vec<Outcome> {
    let asked = Arc::new(AtomicBool::new(false));
    let mut world = World::new(&["a:1"], move |_: &Endpoint| {
        let asked = Arc::clone(&asked);
        BoxCloneSyncService::new(service_fn(move |_| {
            let hangs = asked.swap(true, SeqCst);
            async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                match hangs {
                    true => pending().await,
                    false => Ok(Response::new(Authority::from_static("a:1"))),
                }
            }
        }))
    });
    world.ask().await.unwrap();
    let after = |millis| Deadline::after(Duration::from_millis(millis));
    let mut request = Request::new(());
    let context = context::Context::of_mut(request.extensions_mut());
    context.deadline = deadline.map(after);
    context.answer_by = answer_by.map(after);
    let call = world.call(request);
    let call = tokio::time::timeout(Duration::from_millis(waited), call).await;
    assert!(call.is_err());
    assert_eq!((world.in_flight(), world.permits()), (0, 0));
    world.gate("a:1").0.outcomes.lock().unwrap().split_off(1)
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_is_blamed_if_it_had_its_usual_time_or_all_that_anybody_gets() {
    let failed = [Outcome::Failure];
    for (waited, deadline, answer_by, told) in [
        // Its caller waited for less than an answer takes.
        (50, Some(50), None, &[][..]),
        (50, Some(50), Some(60), &[]),
        (100, Some(100), None, &failed),
        (300, Some(300), None, &failed),
        // No attempt gets more.
        (50, Some(60), Some(50), &failed),
        (50, None, Some(50), &failed),
        // Its caller went away.
        (300, Some(400), Some(400), &[]),
        (300, None, None, &[]),
    ] {
        let outcomes = told_of_a_call_given_up(waited, deadline, answer_by).await;
        assert_eq!(outcomes, told, "{waited} {deadline:?} {answer_by:?}");
    }
}

/// When a failure would have been forgotten, as after these 20 s.
#[tokio::test(start_paused = true)]
async fn one_that_let_the_time_run_out_counts_as_that_slow() {
    let mut world = World::new(&["hangs:1", "well:1"], |endpoint: &Endpoint| {
        let address = endpoint.address.clone();
        BoxCloneSyncService::new(service_fn(move |_| {
            let address = address.clone();
            async move {
                if address.host() == "hangs" {
                    pending::<()>().await;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok(Response::new(address))
            }
        }))
    });
    let gate = world.gate("well:1");
    gate.0.closed.store(true, SeqCst);
    let mut request = Request::new(());
    let context = context::Context::of_mut(request.extensions_mut());
    context.deadline = Some(Deadline::after(Duration::from_secs(2)));
    let late = tokio::time::timeout(Duration::from_secs(2), world.call(request));
    assert!(late.await.is_err());
    gate.0.closed.store(false, SeqCst);
    advance(Duration::from_secs(20)).await;
    for _ in 0..20 {
        let answer = tokio::time::timeout(Duration::from_secs(1), world.ask());
        assert!(answer.await.is_ok_and(|answer| answer.is_ok()));
    }
}
