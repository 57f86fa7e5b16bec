//! One absolute deadline per request, that covers all attempts and all hops, and a timeout for each attempt.
//!
//! On the wire it travels as what is left of it, in the way of gRPC over HTTP/2: up to eight digits and a unit,
//! in `grpc-timeout`, or for JSON in `request-timeout`. Clocks of two machines are never compared.
//!
//! A timer is armed only when the inner service did not answer at once. The deadline bounds the time to the
//! response's head; a body that streams on is not cut off. So of a [stream](crate::name::Method::streaming) a timeout
//! of the stack bounds the wait for its beginning, and only what the caller asked for travels on.

use std::{
    cell::RefCell,
    pin::Pin,
    task::{Context as Task, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, HeaderValue};
use pin_project_lite::pin_project;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    BoxError,
    clock::{self, Timer},
    context::{CallersDeadline, Context, Deadline},
    policy::{Live, Reader},
    rejection::Rejection,
    wire::{Wire, common, short_value},
};

/// How long a request may take in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeadlineConfig {
    /// The longest that a request may take; a caller that waits for less gets less. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Default for DeadlineConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
        }
    }
}

/// Gives each request a deadline and fails it with [`Rejection::DeadlineExceeded`] when that has passed.
///
/// The deadline is the earliest of the one in the request's [`Context`], the configured one and, inbound, the one
/// that the caller sent; the inner service finds it in the context. A request whose deadline has passed already
/// is not started. Clones share the configuration.
#[derive(Clone, Debug)]
pub struct DeadlineLayer {
    config: Live<DeadlineConfig>,
    reads_header: bool,
}

impl DeadlineLayer {
    /// For a server: reads what the caller sent. A header that is not a timeout is as if it were not there.
    pub fn inbound(config: DeadlineConfig) -> Self {
        Self {
            config: Live::new(config),
            reads_header: true,
        }
    }

    /// For a client, outside of retries, so that it covers all attempts.
    pub fn outbound(config: DeadlineConfig) -> Self {
        Self {
            config: Live::new(config),
            reads_header: false,
        }
    }

    /// The handle that replaces the timeout; requests in flight keep the deadline that they have.
    pub fn config(&self) -> &Live<DeadlineConfig> {
        &self.config
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = DeadlineService<S>;

    fn layer(&self, inner: S) -> DeadlineService<S> {
        DeadlineService {
            inner,
            config: self.config.reader(),
            reads_header: self.reads_header,
        }
    }
}

/// What [`DeadlineLayer`] builds; not called `Deadline`, which is the moment itself.
#[derive(Clone, Debug)]
pub struct DeadlineService<S> {
    inner: S,
    config: Reader<DeadlineConfig>,
    reads_header: bool,
}

impl<S, B> Service<http::Request<B>> for DeadlineService<S>
where
    S: Service<http::Request<B>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let now = clock::now();
        let timeout = self.config.get().timeout;
        if self.reads_header {
            let sent = timeout_in(request.headers());
            let context = Context::of_mut(request.extensions_mut());
            if let Some(sent) = sent {
                context.deadline = Some(earliest(context.deadline, now, sent));
            }
            let callers = context.deadline;
            // Mostly a caller waits for less than it may, and nothing is added.
            if callers != Some(earliest(callers, now, timeout)) {
                let callers = CallersDeadline(callers);
                request.extensions_mut().insert(callers);
            }
        }
        let context = Context::of_mut(request.extensions_mut());
        let deadline = earliest(context.deadline, now, timeout);
        if is_stream(context) {
            context.answer_by = Some(deadline);
        } else {
            context.deadline = Some(deadline);
        }
        if deadline.has_passed(now) {
            return DeadlineFuture::refused(None);
        }
        DeadlineFuture {
            inner: Some(self.inner.call(request)),
            ends: deadline.instant(),
            timer: Timer::default(),
            timeout: None,
        }
    }
}

/// Bounds each attempt, inside of retries: fails with [`Rejection::TimedOut`] after the timeout, or with
/// [`Rejection::DeadlineExceeded`] when the request's deadline comes first.
///
/// Tells the peer how long this attempt waits, in the timeout header of the request's [`Wire`], and the layers inside
/// in [`Context::deadline`] and [`Context::answer_by`]: when this future drops theirs, they can tell that the time was
/// up from that the caller went away. Clones share the timeout.
#[derive(Clone, Debug)]
pub struct AttemptTimeoutLayer {
    timeout: Live<Duration>,
}

impl AttemptTimeoutLayer {
    /// Gives each attempt `timeout`.
    pub fn new(timeout: Duration) -> Self {
        Self {
            timeout: Live::new(timeout),
        }
    }

    /// The handle that replaces the timeout for the attempts to come.
    pub fn timeout(&self) -> &Live<Duration> {
        &self.timeout
    }
}

impl<S> Layer<S> for AttemptTimeoutLayer {
    type Service = AttemptTimeout<S>;

    fn layer(&self, inner: S) -> AttemptTimeout<S> {
        AttemptTimeout {
            inner,
            timeout: self.timeout.reader(),
        }
    }
}

/// What [`AttemptTimeoutLayer`] builds.
#[derive(Clone, Debug)]
pub struct AttemptTimeout<S> {
    inner: S,
    timeout: Reader<Duration>,
}

impl<S, B> Service<http::Request<B>> for AttemptTimeout<S>
where
    S: Service<http::Request<B>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let now = clock::now();
        let after = *self.timeout.get();
        let context = Context::of_mut(request.extensions_mut());
        let deadline = context.deadline;
        let ends = earliest(deadline, now, after);
        let timeout = if deadline == Some(ends) {
            None
        } else {
            context.answer_by = Some(context.answer_by.map_or(ends, |by| by.min(ends)));
            Some(after)
        };
        if ends.has_passed(now) {
            return DeadlineFuture::refused(timeout);
        }
        let told = if is_stream(context) {
            deadline
        } else {
            Some(ends)
        };
        context.deadline = told;
        if let Some(told) = told {
            let header = Wire::of(request.headers()).timeout_header();
            // Mostly known without reckoning: all of this attempt's time.
            let left = if deadline == Some(told) {
                told.remaining(now)
            } else {
                after.min(CENTURY)
            };
            let left = timeout_value_again(left);
            request.headers_mut().insert(header, left);
        }
        DeadlineFuture {
            inner: Some(self.inner.call(request)),
            ends: ends.instant(),
            timer: Timer::default(),
            timeout,
        }
    }
}

/// Tells the peer no more than what is left by `now` of the deadline that it was told of, for a request that had to wait
/// before it could leave.
pub(crate) fn tell_again<B>(request: &mut http::Request<B>, now: Instant) {
    let context = request.extensions().get::<Context>();
    let Some(deadline) = context.and_then(|context| context.deadline) else {
        return;
    };
    let (left, header) = (
        deadline.remaining(now),
        Wire::of(request.headers()).timeout_header(),
    );
    if timeout_in(request.headers()).is_some_and(|told| told > left) {
        request.headers_mut().insert(header, timeout_value(left));
    }
}

/// Of a stream only the beginning is waited for, so what is said about the whole of it is its caller's word alone.
fn is_stream(context: &Context) -> bool {
    context.method.is_some_and(|method| method.streaming)
}

const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The earlier of `deadline` and `timeout` from now, which counts as at most a century.
fn earliest(deadline: Option<Deadline>, now: Instant, timeout: Duration) -> Deadline {
    let own = Deadline::at(now + timeout.min(CENTURY));
    deadline.map_or(own, |deadline| deadline.min(own))
}

pin_project! {
    /// Fails when its time has come; what it waited for is dropped then, not later.
    #[derive(Debug)]
    pub struct DeadlineFuture<F> {
        // None when there is nothing to wait for.
        #[pin]
        inner: Option<F>,
        ends: Instant,
        timer: Timer,
        // Of the attempt; None where what ends is the time of the whole request. No rejection yet: a value that has to be
        // dropped would make the compiler move request and future once more.
        timeout: Option<Duration>,
    }
}

impl<F> DeadlineFuture<F> {
    #[cold]
    fn refused(timeout: Option<Duration>) -> Self {
        Self {
            inner: None,
            ends: clock::now(),
            timer: Timer::default(),
            timeout,
        }
    }
}

impl<F, T, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(inner) = this.inner.as_mut().as_pin_mut() {
            // Asked first: an answer that is there is an answer in time.
            if let Poll::Ready(result) = inner.poll(cx) {
                return Poll::Ready(result.map_err(Into::into));
            }
            ready!(this.timer.poll_until(*this.ends, cx));
            this.inner.set(None);
        }
        Poll::Ready(Err(late(*this.timeout)))
    }
}

#[cold]
fn late(timeout: Option<Duration>) -> BoxError {
    let late = match timeout {
        Some(after) => Rejection::TimedOut { after },
        None => Rejection::DeadlineExceeded,
    };
    late.into()
}

/// The timeout that a request's headers carry on its [`Wire`]; `None` without one, and where it is malformed.
pub fn timeout_in(headers: &HeaderMap) -> Option<Duration> {
    read_timeout(common(headers, &Wire::of(headers).timeout_header())?.as_bytes())
}

/// Reads a timeout as gRPC writes it: one to eight digits and a unit.
pub fn parse_timeout(text: &str) -> Option<Duration> {
    read_timeout(text.as_bytes())
}

fn read_timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if !matches!(digits.len(), 1..=8) {
        return None;
    }
    let number = digits.iter().try_fold(0, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| digit - b'0')?;
        Some(number * 10 + u64::from(digit))
    })?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 60 * 60),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// [`timeout_value`], which on one thread is mostly the same as before: that of an attempt.
fn timeout_value_again(timeout: Duration) -> HeaderValue {
    thread_local! {
        static LAST: RefCell<Option<(Duration, HeaderValue)>> = const { RefCell::new(None) };
    }
    LAST.with_borrow_mut(|last| match last {
        Some((same, value)) if *same == timeout => value.clone(),
        _ => last.insert((timeout, timeout_value(timeout))).1.clone(),
    })
}

/// Writes a timeout in the finest unit of which eight digits are enough, rounded down: the peer gives up no later
/// than the caller.
pub fn timeout_value(timeout: Duration) -> HeaderValue {
    const LIMIT: u64 = 100_000_000;
    let seconds = timeout.as_secs();
    let (number, unit) = match seconds {
        0 if u64::from(timeout.subsec_nanos()) < LIMIT => (timeout.subsec_nanos().into(), b'n'),
        0..100 => (timeout.as_micros() as u64, b'u'),
        100..100_000 => (timeout.as_millis() as u64, b'm'),
        100_000..LIMIT => (seconds, b'S'),
        _ if seconds / 60 < LIMIT => (seconds / 60, b'M'),
        // At most 11,000 years.
        _ => ((seconds / 60 / 60).min(LIMIT - 1), b'H'),
    };
    // By hand, because each call has one. It is below the limit, so half a word is enough.
    let mut number = number as u32;
    let mut text = [unit; 9];
    let mut first = text.len() - 1;
    loop {
        first -= 1;
        text[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return short_value(&text[first..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;
    use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
    use tower_test::mock;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn config(timeout: Duration) -> DeadlineConfig {
        DeadlineConfig { timeout }
    }

    fn rejection(error: &BoxError) -> Option<&Rejection> {
        Rejection::find(&**error)
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_of_caller_and_configuration_is_the_deadline() {
        let sent = [("300m", SECOND * 3 / 10), ("7S", SECOND), ("soon", SECOND)];
        let wires = [
            ("application/json", "request-timeout"),
            ("application/grpc", "grpc-timeout"),
        ];
        for ((sent, expected), (wire, name)) in sent
            .into_iter()
            .flat_map(|sent| wires.map(|wire| (sent, wire)))
        {
            let layer = DeadlineLayer::inbound(config(SECOND));
            let (mut service, mut peer) = mock::spawn_layer::<Request<()>, (), _>(layer);
            assert_ready_ok!(service.poll_ready());
            let request = Request::builder().header("content-type", wire);
            let request = request.header(name, sent);
            let mut call = task::spawn(service.call(request.body(()).unwrap()));
            assert_pending!(call.poll());
            let (request, _answer) = peer.next_request().await.unwrap();
            let deadline = Context::of(request.extensions()).deadline.unwrap();
            assert_eq!(deadline.remaining(Instant::now()), expected, "{sent}");
            let callers = request.extensions().get::<CallersDeadline>();
            let added = expected == SECOND;
            assert_eq!(callers.is_some(), added, "{sent}: it has added something");

            tokio::time::advance(expected - Duration::from_millis(1)).await;
            assert_pending!(call.poll());
            tokio::time::advance(Duration::from_millis(1)).await;
            let error = assert_ready_err!(call.poll());
            assert_eq!(rejection(&error), Some(&Rejection::DeadlineExceeded));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_keeps_the_deadline_of_the_call_it_serves() {
        let layer = DeadlineLayer::outbound(config(SECOND * 9));
        let (mut service, mut peer) = mock::spawn_layer::<Request<()>, (), _>(layer);
        assert_ready_ok!(service.poll_ready());
        let mut request = Request::new(());
        let context = Context::with_timeout(SECOND);
        request.extensions_mut().insert(context.clone());
        let _call = service.call(request);
        let (request, _answer) = peer.next_request().await.unwrap();
        assert_eq!(Context::of(request.extensions()).deadline, context.deadline);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_late_is_not_started() {
        let layer = DeadlineLayer::inbound(config(SECOND));
        let (mut service, mut peer) = mock::spawn_layer::<Request<()>, (), _>(layer);
        assert_ready_ok!(service.poll_ready());
        let request = Request::builder().header("request-timeout", "0n");
        let mut call = task::spawn(service.call(request.body(()).unwrap()));
        let error = assert_ready_err!(call.poll());
        assert_eq!(rejection(&error), Some(&Rejection::DeadlineExceeded));
        assert_pending!(peer.poll_request());
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_is_bounded_and_the_peer_is_told() {
        let layer = AttemptTimeoutLayer::new(SECOND);
        let (mut service, mut peer) = mock::spawn_layer::<Request<()>, (), _>(layer);
        assert_ready_ok!(service.poll_ready());
        let request = Request::builder().header("content-type", "application/grpc");
        let mut call = task::spawn(service.call(request.body(()).unwrap()));
        assert_pending!(call.poll());
        let (request, _answer) = peer.next_request().await.unwrap();
        assert_eq!(request.headers()["grpc-timeout"], "1000000u");
        let ends = Context::of(request.extensions()).deadline.unwrap();
        assert_eq!(ends.remaining(Instant::now()), SECOND);
        tokio::time::advance(SECOND).await;
        let error = assert_ready_err!(call.poll());
        let after = SECOND;
        assert_eq!(rejection(&error), Some(&Rejection::TimedOut { after }));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_attempt_has_what_is_left_of_the_deadline() {
        let layer = AttemptTimeoutLayer::new(SECOND);
        let (mut service, mut peer) = mock::spawn_layer::<Request<()>, (), _>(layer);
        assert_ready_ok!(service.poll_ready());
        let mut request = Request::new(());
        let context = Context::with_timeout(SECOND / 4);
        request.extensions_mut().insert(context);
        let mut call = task::spawn(service.call(request));
        assert_pending!(call.poll());
        let (request, _answer) = peer.next_request().await.unwrap();
        assert_eq!(request.headers()["request-timeout"], "250000u");
        tokio::time::advance(SECOND / 4).await;
        let error = assert_ready_err!(call.poll());
        assert_eq!(rejection(&error), Some(&Rejection::DeadlineExceeded));
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_hop_has_what_the_caller_gave_less_the_time_that_was_spent() {
        let (mut client, mut next) =
            mock::spawn_layer::<Request<()>, (), _>(AttemptTimeoutLayer::new(SECOND * 9));
        assert_ready_ok!(client.poll_ready());
        let mut client = Some(client.into_inner());
        let handler = tower::service_fn(move |request: Request<()>| {
            let mut client = client.take().expect("called once");
            async move {
                tokio::time::sleep(SECOND / 4).await;
                let mut onward = Request::new(());
                let context = Context::of(request.extensions()).clone();
                onward.extensions_mut().insert(context);
                client.call(onward).await
            }
        });
        let mut server = DeadlineLayer::inbound(config(SECOND * 9)).layer(handler);
        let request = Request::builder().header("request-timeout", "1S");
        let mut call = task::spawn(server.call(request.body(()).unwrap()));
        assert_pending!(call.poll());
        tokio::time::advance(SECOND / 4).await;
        assert_pending!(call.poll());
        let (onward, _answer) = next.next_request().await.unwrap();
        assert_eq!(onward.headers()["request-timeout"], "750000u");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_waited_for_is_dropped_when_its_time_has_come() {
        let layer = AttemptTimeoutLayer::new(SECOND);
        let held = std::sync::Arc::new(());
        let witness = std::sync::Arc::downgrade(&held);
        let inner = tower::service_fn(move |_: Request<()>| {
            let held = std::sync::Arc::clone(&held);
            async move {
                let _held = held;
                std::future::pending::<Result<(), BoxError>>().await
            }
        });
        let mut call = task::spawn(layer.layer(inner).call(Request::new(())));
        assert_pending!(call.poll());
        assert_eq!(witness.strong_count(), 1);
        tokio::time::advance(SECOND).await;
        assert_ready_err!(call.poll());
        assert_eq!(witness.strong_count(), 0);
    }

    #[test]
    fn what_is_no_timeout_is_not_read() {
        for bad in [
            "",
            "S",
            "1",
            "1s",
            "-1S",
            "+1S",
            "1.5S",
            "123456789S",
            " 1S",
            "1µ",
        ] {
            assert_eq!(parse_timeout(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_timeout_survives_the_wire_to_seven_digits_and_is_never_longened(nanos: u64) {
            let timeout = Duration::from_nanos(nanos);
            let value = timeout_value(timeout);
            prop_assert!(value.len() <= 9);
            let read = parse_timeout(value.to_str().unwrap()).unwrap();
            prop_assert!(read <= timeout);
            prop_assert!(timeout - read <= timeout / 1_000_000);
        }
    }
}
