//! The signals that end a process.

use std::{future::Future, time::Duration};

use tokio::time::sleep;

/// Waits for SIGTERM or Ctrl-C (SIGINT).
///
/// From the first poll on these signals no longer end the process by themselves. [`run`](super::run) looks out for
/// a second one.
pub fn shutdown_signal() -> impl Future<Output = ()> + Send {
    any()
}

/// Waits for a second signal. One that comes within half a second of the first says the same thing again: a
/// terminal signals all processes of a group, and one of them passes it on to another.
pub(super) async fn second() {
    sleep(Duration::from_millis(500)).await;
    any().await;
}

#[cfg(unix)]
async fn any() {
    use tokio::signal::unix::{SignalKind, signal};

    let listen = |kind| signal(kind).expect("a runtime with signals enabled");
    let mut terminate = listen(SignalKind::terminate());
    let mut interrupt = listen(SignalKind::interrupt());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

#[cfg(not(unix))]
async fn any() {
    if tokio::signal::ctrl_c().await.is_err() {
        // Without signals nothing ends it from outside but force.
        std::future::pending().await
    }
}
