//! The time, read once for a whole stack, and one timer for all that a stack waits for.
//!
//! Reading the clock costs more than most layers do, and setting a timer more than all of them. Inside of a
//! [`SharedClock`] the first layer that asks reads the clock, and the others get the same moment, once for each call and
//! once for each poll: so the layers of an assembled stack read it twice a call together, while each of them stays
//! usable alone, where [`now`] just reads it. Likewise a [`Timer`] sets a timer of its own only where it is alone; the
//! shared clock sets one for the earliest of those inside.
//!
//! The moment is kept for the thread and only while `call` or `poll` runs, never across an await. A shared clock inside
//! of another one has a moment of its own, so what a caller did before it called does not count as the call's time.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    sync::OnceLock,
    task::{Context, Poll, RawWakerVTable},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

thread_local! {
    static MOMENT: Cell<Moment> = const { Cell::new(Moment::Passing) };
    static ALARM: Cell<Alarm> = const { Cell::new(Alarm::NONE) };
}

/// What is waited for inside of a shared clock in this poll.
#[derive(Clone, Copy)]
struct Alarm {
    /// Whom the shared clock wakes. A timer that somebody else is to be woken by, because what is around it polls only
    /// what was woken, is on its own.
    waker: (usize, usize),
    earliest: Option<Instant>,
}

impl Alarm {
    /// Nobody is woken: no waker has a vtable there.
    const NONE: Self = Self {
        waker: (0, 0),
        earliest: None,
    };

    fn of(cx: &Context<'_>) -> Self {
        let waker = cx.waker();
        let vtable: *const RawWakerVTable = waker.vtable();
        Self {
            waker: (waker.data().addr(), vtable.addr()),
            earliest: None,
        }
    }
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
        Moment::Passing => read(),
        Moment::Unread => {
            let now = read();
            moment.set(Moment::Read(now));
            now
        }
        Moment::Read(now) => now,
    })
}

/// So much later than `now`; a century at most, for a configuration may have any duration in it.
pub(crate) fn after(now: Instant, duration: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    now + duration.min(CENTURY)
}

fn read() -> Instant {
    #[cfg(test)]
    READS.set(READS.get() + 1);
    Instant::now()
}

#[cfg(test)]
thread_local! {
    static READS: Cell<usize> = const { Cell::new(0) };
}

/// A moment in nanoseconds since an epoch of this process, so that policies reckon with words: to subtract two
/// [`Instant`]s costs more than what most policies do. All policies ask for the same few moments, so the last one is
/// remembered for the thread. What is decades older than the first moment that was asked for is all one.
pub(crate) fn nanos(at: Instant) -> u64 {
    const DECADES: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    thread_local! {
        static LAST: Cell<Option<(Instant, u64)>> = const { Cell::new(None) };
    }
    LAST.with(|last| match last.get() {
        Some((same, nanos)) if same == at => nanos,
        _ => {
            let epoch = EPOCH.get_or_init(|| at.checked_sub(DECADES).unwrap_or(at));
            let since = at.saturating_duration_since(*epoch);
            // Five centuries are as good as for ever.
            let nanos = since.as_secs().saturating_mul(1_000_000_000);
            let nanos = nanos.saturating_add(since.subsec_nanos().into());
            last.set(Some((at, nanos)));
            nanos
        }
    })
}

/// How often this thread has read the clock.
#[cfg(test)]
pub(crate) fn reads() -> usize {
    READS.get()
}

/// While it lives, [`now`] is one moment on this thread. It is never kept across an await.
struct Scope {
    outer: (Moment, Alarm),
}

impl Scope {
    fn open(alarm: Alarm) -> Self {
        Self {
            outer: (MOMENT.replace(Moment::Unread), ALARM.replace(alarm)),
        }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        let (moment, alarm) = self.outer;
        MOMENT.set(moment);
        ALARM.set(alarm);
    }
}

/// Waits for a moment, for layers: in the future that waits. What is dropped waits no longer.
#[derive(Debug, Default)]
pub struct Timer {
    // Boxed, because inside of a shared clock there is none: a stack's future is moved about, and would carry the room
    // for one in each of its layers.
    own: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Whether `moment` has come; if it has not, whoever polls is woken then. The moment of the last poll counts.
    pub fn poll_until(&mut self, moment: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let shared = ALARM.get();
        if shared.waker != Alarm::of(cx).waker {
            let sleep = || Box::pin(sleep_until(moment));
            let mut own = self.own.get_or_insert_with(sleep).as_mut();
            if own.deadline() != moment {
                own.as_mut().reset(moment);
            }
            return own.poll(cx);
        }
        if now() >= moment {
            return Poll::Ready(());
        }
        let earliest = shared.earliest.map_or(moment, |alarm| alarm.min(moment));
        ALARM.set(Alarm {
            earliest: Some(earliest),
            ..shared
        });
        Poll::Pending
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
        let _scope = Scope::open(Alarm::NONE);
        SharedClockFuture {
            inner: self.inner.call(request),
            timer: None,
        }
    }
}

pin_project! {
    /// The future of [`SharedClock`].
    #[derive(Debug)]
    pub struct SharedClockFuture<F> {
        #[pin]
        inner: F,
        // For the earliest moment that anything inside waits for, or an earlier one that nobody waits for any more.
        #[pin]
        timer: Option<Sleep>,
    }
}

impl<F: Future> Future for SharedClockFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        loop {
            let alarm = {
                let _scope = Scope::open(Alarm::of(cx));
                if let Poll::Ready(output) = this.inner.as_mut().poll(cx) {
                    return Poll::Ready(output);
                }
                ALARM.get().earliest
            };
            let Some(alarm) = alarm else {
                return Poll::Pending;
            };
            match this.timer.as_mut().as_pin_mut() {
                // It goes off in time. To put it off each time would cost more than to wake once too often.
                Some(timer) if timer.deadline() <= alarm && !timer.is_elapsed() => {}
                Some(timer) => timer.reset(alarm),
                None => this.timer.set(Some(sleep_until(alarm))),
            }
            let timer = this.timer.as_mut().as_pin_mut().expect("set above");
            if timer.poll(cx).is_pending() {
                return Poll::Pending;
            }
            // The moment came while the inside was polled.
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::ready, time::Duration};

    use tokio::time::{advance, timeout};
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

    #[test]
    fn the_difference_of_two_moments_is_that_of_their_nanoseconds() {
        let first = now();
        let moments = [0, 1, 7, 1_000_000_007, u64::pow(10, 18)].map(Duration::from_nanos);
        for (earlier, later) in moments.iter().flat_map(|a| moments.map(|b| (*a, b))) {
            let (earlier, later) = (first + earlier, first + later);
            let apart = later.saturating_duration_since(earlier);
            let words = nanos(later).saturating_sub(nanos(earlier));
            assert_eq!(u128::from(words), apart.as_nanos());
        }
        // Before the first one, too.
        assert_eq!(nanos(first) - nanos(first - SECOND), 1_000_000_000);
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

    /// Answers when its own time has come.
    async fn ring(after: Duration) -> Result<(), ()> {
        let mut timer = Timer::default();
        let ends = now() + after;
        std::future::poll_fn(|cx| timer.poll_until(ends, cx)).await;
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_goes_off_in_time_alone_and_inside_of_a_shared_clock() {
        let start = now();
        ring(SECOND).await.unwrap();
        assert_eq!(now(), start + SECOND);
        // One after the other, both earlier and later than the one before.
        let mut shared = SharedClockLayer.layer(service_fn(|()| async {
            for seconds in [1, 3, 2] {
                ring(SECOND * seconds).await?;
            }
            Ok::<_, ()>(())
        }));
        shared.call(()).await.unwrap();
        assert_eq!(now(), start + SECOND * 7);
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_timers_the_earliest_wakes_and_then_the_next() {
        let start = now();
        let mut shared = SharedClockLayer.layer(service_fn(|()| async {
            tokio::select! {
                biased;
                _ = ring(SECOND * 9) => panic!("it is not the earliest"),
                _ = ring(SECOND) => (),
            }
            let (late, early) = tokio::join!(ring(SECOND * 2), ring(SECOND));
            late.and(early)
        }));
        shared.call(()).await.unwrap();
        assert_eq!(now(), start + SECOND * 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_woken_by_somebody_else_has_a_timer_of_its_own() {
        let start = now();
        let mut shared = SharedClockLayer.layer(service_fn(|()| {
            // Polls only those of its futures that it was told of.
            let all: futures_util::stream::FuturesUnordered<_> = [3, 1]
                .map(|seconds| ring(SECOND * seconds))
                .into_iter()
                .collect();
            async { futures_util::TryStreamExt::try_collect::<Vec<_>>(all).await }
        }));
        let all = timeout(SECOND * 9, shared.call(())).await;
        assert_eq!(all.expect("in time").unwrap().len(), 2);
        assert_eq!(now(), start + SECOND * 3);
    }
}
