//! A program of its own, for the allocator that counts is that of a whole program.

use kit_benches::{BARE, Case, Inner, cases};

/// What `calls` calls allocate, those that the request itself makes with them.
async fn allocated(case: Case, inner: Inner, calls: u64) -> u64 {
    let mut subject = case.build(inner);
    subject.run(calls).await;
    let mut run = Some(subject.run(calls));
    let mut counted = 0;
    std::future::poll_fn(|cx| {
        let mut polled = std::task::Poll::Pending;
        let future = run.as_mut().expect("polled until it is ready");
        let info = allocation_counter::measure(|| polled = future.as_mut().poll(cx));
        counted += info.count_total;
        polled
    })
    .await;
    counted
}

#[tokio::test]
async fn the_full_stack_allocates_nothing_for_a_call() {
    let _recorder = kit::metrics::install();
    let stack = cases()
        .into_iter()
        .find(|case| case.group.starts_with("full stack") && case.name == "kit")
        .expect("there is one");
    for inner in [Inner::AtOnce, Inner::PendingOnce] {
        let calls = 1_000;
        let bare = allocated(BARE, inner, calls).await;
        let all = allocated(stack, inner, calls).await;
        // A histogram keeps what it is told in blocks of many.
        assert!(
            all <= bare + calls / 20,
            "{all} instead of {bare}, {inner:?}"
        );
    }
}
