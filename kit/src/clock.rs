//! The time, read once for a whole stack.
//!
//! Reading the clock costs more than most layers do. Inside of a [`SharedClock`] the first layer that asks reads it,
//! and the others get the same moment, once for each call and once for each poll: so the layers of an assembled stack
//! read it twice a call together, while each of them stays usable alone, where [`now`] just reads it.
//!
//! The moment is kept for the thread and only while `call` or `poll` runs, never across an await. A shared clock inside
//! of another one has a moment of its own, so what a caller did before it called does not count as the call's time.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

thread_local! {
    static MOMENT: Cell<Moment> = const { Cell::new(Moment::Passing) };
}

#[derive(Clone, Copy)]
enum Moment {
    /// Nobody shares it.
    Passing,
    /// It is shared, and nobody has asked for it yet.
    Unread,
    Read(Instant),
}

/// What tokio's clock says; inside of a [`SharedClock`], what it said when it was first asked in this call or poll.
pub fn now() -> Instant {
    MOMENT.with(|moment| match moment.get() {
        Moment::Passing => Instant::now(),
        Moment::Unread => {
            let now = Instant::now();
            moment.set(Moment::Read(now));
            now
        }
        Moment::Read(now) => now,
    })
}

/// While it lives, [`now`] is one moment on this thread. It is never kept across an await.
struct Scope {
    outer: Moment,
}

impl Scope {
    fn open() -> Self {
        Self {
            outer: MOMENT.replace(Moment::Unread),
        }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        MOMENT.set(self.outer);
    }
}

/// Lets everything inside share the moment of each call and of each poll. Put it around a stack, not around services
/// that work for long in one poll: what they take would not be seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct SharedClockLayer;

impl<S> Layer<S> for SharedClockLayer {
    type Service = SharedClock<S>;

    fn layer(&self, inner: S) -> SharedClock<S> {
        SharedClock { inner }
    }
}

/// What [`SharedClockLayer`] builds. Fails only as the inner service fails.
#[derive(Clone, Debug)]
pub struct SharedClock<S> {
    inner: S,
}

impl<S, Req> Service<Req> for SharedClock<S>
where
    S: Service<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = SharedClockFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let _scope = Scope::open();
        SharedClockFuture {
            inner: self.inner.call(request),
        }
    }
}

pin_project! {
    /// The future of [`SharedClock`].
    #[derive(Debug)]
    pub struct SharedClockFuture<F> {
        #[pin]
        inner: F,
    }
}

impl<F: Future> Future for SharedClockFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let _scope = Scope::open();
        self.project().inner.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::ready, time::Duration};

    use tokio::time::advance;
    use tokio_test::task;
    use tower::service_fn;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Lets a second pass without an await.
    fn pass() {
        let _ = task::spawn(advance(SECOND)).poll();
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_and_a_poll_have_one_moment_each() {
        let start = now();
        let mut shared = SharedClockLayer.layer(service_fn(|()| {
            let called = now();
            pass();
            assert_eq!(now(), called);
            async move {
                let polled = now();
                assert_eq!(polled, called + SECOND);
                pass();
                assert_eq!(now(), polled);
                Ok::<_, ()>(())
            }
        }));
        shared.call(()).await.unwrap();
        assert_eq!(now(), start + SECOND * 2);
        pass();
        assert_eq!(now(), start + SECOND * 3, "outside of it time passes");
    }

    #[tokio::test(start_paused = true)]
    async fn one_inside_of_another_has_a_moment_of_its_own() {
        let mut inner = SharedClockLayer.layer(service_fn(|()| ready(Ok::<_, ()>(now()))));
        let mut outer = SharedClockLayer.layer(service_fn(move |()| {
            let before = now();
            pass();
            let answer = inner.call(());
            assert_eq!(now(), before);
            async move {
                assert_eq!(answer.await.unwrap(), before + SECOND);
                Ok::<_, ()>(())
            }
        }));
        outer.call(()).await.unwrap();
    }
}
