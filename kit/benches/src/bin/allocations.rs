//! Counts allocations: prints what one call of each case allocates as JSON.
//!
//! A program of its own, because the allocator that counts is that of the whole program, and would slow down what
//! is timed.

use allocation_counter::AllocationInfo;
use kit_benches::{BARE, Case, Inner, all};
use serde_json::json;

/// Enough to have what is allocated now and then in the average.
const CALLS: u64 = 2_000;

fn main() {
    let _recorder = kit::metrics::install();
    let inners = [
        (Inner::AtOnce, "at_once"),
        (Inner::PendingOnce, "pending_once"),
    ];
    let mut rows = Vec::new();
    for (inner, word) in inners {
        let bare = per_call(&BARE, inner);
        for case in all() {
            let [count, bytes] = per_call(&case, inner);
            rows.push(json!({
                "group": case.group,
                "name": case.name,
                "inner": word,
                "allocations": count - bare[0],
                "bytes": bytes - bare[1],
            }));
        }
    }
    println!("{}", json!({ "rows": rows }));
}

/// Allocations and bytes of one call, the making of the request with them.
fn per_call(case: &Case, inner: Inner) -> [f64; 2] {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let mut subject = runtime.block_on(async { case.build(inner) });
    let mut run = |calls| {
        let AllocationInfo {
            count_total,
            bytes_total,
            ..
        } = allocation_counter::measure(|| runtime.block_on(subject.run(calls)));
        [count_total, bytes_total]
    };
    run(CALLS);
    // What a run allocates itself is in both.
    let (short, long) = (run(CALLS), run(2 * CALLS));
    [0, 1].map(|n| long[n].saturating_sub(short[n]) as f64 / CALLS as f64)
}
