//! HTTP/1.1 connections to one endpoint: those that are idle, and a bound on how many there are.
//!
//! A connection has no task. Whoever waits for an answer drives the connection that it comes on: the future of the
//! response, then the body. So no word goes from task to task and from thread to thread on the way of a request,
//! and what is dropped is over. A keeper, one task for each endpoint, looks after those that are idle.

#[cfg(test)]
mod tests;

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{Instant, timeout_at},
};
use tokio_util::sync::ReusableBoxFuture;

use super::{Outgoing, alarm::Alarm, target::Target};
use crate::{
    Body, BoxError,
    body::Lent,
    clock,
    deadline::tell_again,
    rejection::{NotSent, Rejection},
};

/// A connection without a request is closed at the latest after this time; a server of the kit keeps it for longer,
/// so that no request meets a connection that is just being closed.
const IDLE: Duration = Duration::from_secs(60);
/// The keeper counts rounds, so that no request reads the clock for it.
const ROUNDS: u8 = 4;
/// How often a connection is polled again in a row before others have their turn.
const TURNS: usize = 4;

type Idle<B> = Vec<Box<Link<B>>>;

/// All connections to one endpoint.
pub(super) struct Pool<B> {
    target: Arc<Target>,
    /// The one that was used last is used next, so that those that are not needed grow old.
    idle: Mutex<Idle<B>>,
    places: Places,
    keeper: Mutex<Option<AbortHandle>>,
    /// Wakes the keeper.
    stirred: Arc<Notify>,
}

/// Where a request is on its way to an HTTP/1.1 response.
pub(super) enum Exchange<B> {
    /// It waits for a connection that is being made.
    Connecting(Box<Connecting<B>>),
    /// It is on this connection.
    Sent(Box<Link<B>>),
    /// It is over.
    Ended(Option<BoxError>),
}

pub(super) struct Connecting<B> {
    making: Making<B>,
    request: Option<Request<B>>,
}

type Making<B> = Pin<Box<dyn Future<Output = Result<Box<Link<B>>, BoxError>> + Send>>;

impl<B: Outgoing> Pool<B> {
    /// Without connections.
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self {
            target,
            idle: Mutex::default(),
            places: Places::default(),
            keeper: Mutex::default(),
            stirred: Arc::default(),
        }
    }

    /// Sends a request, in origin form and with a `Host`, on an idle connection or on a new one.
    pub(super) fn send(self: &Arc<Self>, request: Request<B>) -> Exchange<B> {
        let idle = self.idle().pop();
        if let Some(mut link) = idle {
            link.alarm.take();
            link.send(request);
            return Exchange::Sent(link);
        }
        let limit = self.target.config.get().max_connections.get();
        match self.places.take(limit) {
            Some(place) => Exchange::Connecting(Box::new(Connecting {
                making: Box::pin(Arc::clone(self).connect(place)),
                request: Some(request),
            })),
            None => {
                let refused = Rejection::Overloaded { limit };
                Exchange::Ended(Some(NotSent(refused.into()).into()))
            }
        }
    }

    async fn connect(self: Arc<Self>, place: Place) -> Result<Box<Link<B>>, BoxError> {
        let stream = self.target.connect().await?;
        let handshake = http1::Builder::new().handshake(stream);
        let (sender, connection) = handshake.await.map_err(|error| NotSent(error.into()))?;
        self.keep();
        let alarm = Arc::new(Alarm::new(Arc::clone(&self.stirred)));
        Ok(Box::new(Link {
            sender,
            connection: Some(Box::pin(connection)),
            waker: Arc::clone(&alarm).into(),
            alarm,
            response: None,
            body: None,
            used: false,
            rounds: 0,
            pool: Arc::downgrade(&self),
            _place: place,
        }))
    }

    /// Sees to it that somebody looks after idle connections for as long as there are connections.
    fn keep(self: &Arc<Self>) {
        let mut keeper = self.keeper();
        if keeper.is_none() {
            let (pool, stirred) = (Arc::downgrade(self), Arc::clone(&self.stirred));
            *keeper = Some(tokio::spawn(look_after(pool, stirred)).abort_handle());
        }
    }

    /// Whether no connection is left, so that the keeper may end.
    fn rest(&self) -> bool {
        let mut keeper = self.keeper();
        // A connection that is being made has its place before it asks for a keeper.
        let rests = self.places.taken() == 0;
        if rests {
            *keeper = None;
        }
        rests
    }

    /// Drops those that have ended and, if a round is over, those that were idle for too long.
    fn sweep(&self, round: bool) {
        let ended: Vec<_> = self
            .idle()
            .extract_if(.., |link| {
                link.rounds += u8::from(round);
                link.rounds >= ROUNDS || link.alarm.take_stirred() && link.has_ended()
            })
            .collect();
        // Closed here, outside of the lock.
        drop(ended);
    }
}

impl<B> Pool<B> {
    fn idle(&self) -> MutexGuard<'_, Idle<B>> {
        self.idle.lock().expect("no panic while locked")
    }

    fn keeper(&self) -> MutexGuard<'_, Option<AbortHandle>> {
        self.keeper.lock().expect("no panic while locked")
    }
}

/// Counts the connections that are there: being made, idle or in use.
#[derive(Default)]
struct Places(Arc<AtomicUsize>);

/// That of one connection. Dropping it gives it back.
struct Place(Arc<AtomicUsize>);

impl Places {
    /// A place, if fewer than `limit` are taken.
    fn take(&self, limit: usize) -> Option<Place> {
        let one_more = |taken| (taken < limit).then_some(taken + 1);
        let taken = self.0.fetch_update(Relaxed, Relaxed, one_more);
        taken.is_ok().then(|| Place(Arc::clone(&self.0)))
    }

    fn taken(&self) -> usize {
        self.0.load(Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl<B> Drop for Pool<B> {
    fn drop(&mut self) {
        let keeper = self.keeper.get_mut();
        if let Some(keeper) = keeper.unwrap_or_else(PoisonError::into_inner).take() {
            keeper.abort();
        }
    }
}

async fn look_after<B: Outgoing>(pool: Weak<Pool<B>>, stirred: Arc<Notify>) {
    let mut round_ends = Instant::now() + IDLE / u32::from(ROUNDS);
    loop {
        let round = timeout_at(round_ends, stirred.notified()).await.is_err();
        if round {
            round_ends = Instant::now() + IDLE / u32::from(ROUNDS);
        }
        let Some(pool) = pool.upgrade() else { return };
        pool.sweep(round);
        if pool.rest() {
            return;
        }
    }
}

impl<B: Outgoing> Exchange<B> {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<Body>, BoxError>> {
        loop {
            *self = match std::mem::replace(self, Self::Ended(None)) {
                Self::Connecting(mut connecting) => match connecting.making.as_mut().poll(cx) {
                    Poll::Ready(Ok(mut link)) => {
                        let mut request = connecting.request.take().expect("sent once");
                        tell_again(&mut request, clock::now());
                        link.send(request);
                        Self::Sent(link)
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        *self = Self::Connecting(connecting);
                        return Poll::Pending;
                    }
                },
                Self::Sent(mut link) => match link.poll_response(cx) {
                    Poll::Ready(Ok(response)) => return Poll::Ready(Ok(link.answer(response))),
                    Poll::Ready(Err(error)) => match link.failed(error) {
                        Ok(exchange) => exchange,
                        Err(error) => return Poll::Ready(Err(error)),
                    },
                    Poll::Pending => {
                        *self = Self::Sent(link);
                        return Poll::Pending;
                    }
                },
                Self::Ended(error) => {
                    return Poll::Ready(Err(error.expect("not polled after it was ready")));
                }
            };
        }
    }
}

type Answer<B> = Result<Response<Incoming>, TrySendError<Request<B>>>;

/// One connection. In use, it is owned by the exchange that uses it.
pub(super) struct Link<B> {
    sender: http1::SendRequest<B>,
    /// `None` once it has ended.
    connection: Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>,
    /// hyper's future has no name; here its place is used again.
    response: Option<ReusableBoxFuture<'static, Answer<B>>>,
    body: Option<Incoming>,
    alarm: Arc<Alarm>,
    /// The alarm.
    waker: Waker,
    /// Whether it had an exchange before this one.
    used: bool,
    /// Rounds of the keeper since it is idle.
    rounds: u8,
    pool: Weak<Pool<B>>,
    _place: Place,
}

impl<B: Outgoing> Link<B> {
    fn send(&mut self, request: Request<B>) {
        let response = self.sender.try_send_request(request);
        match &mut self.response {
            Some(place) => place.set(response),
            place @ None => *place = Some(ReusableBoxFuture::new(response)),
        }
    }

    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Answer<B>> {
        if !self.alarm.poll(cx.waker()) {
            return Poll::Pending;
        }
        for _ in 0..TURNS {
            self.drive();
            let response = self.response.as_mut().expect("a request was sent");
            let answer = response.poll(&mut Context::from_waker(&self.waker));
            if answer.is_ready() || self.alarm.wait(cx.waker()) {
                return answer;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Does whatever is to be done on the connection now.
    fn drive(&mut self) {
        if let Some(connection) = &mut self.connection {
            let ended = connection
                .as_mut()
                .poll(&mut Context::from_waker(&self.waker));
            if ended.is_ready() {
                // What was not sent is given back by this.
                self.connection = None;
            }
        }
    }

    fn has_ended(&mut self) -> bool {
        self.drive();
        self.connection.is_none()
    }

    /// The response, whose body is read from the connection.
    fn answer(mut self: Box<Self>, response: Response<Incoming>) -> Response<Body> {
        self.used = true;
        let (head, body) = response.into_parts();
        let body = if body.is_end_stream() {
            self.give_back();
            Body::empty()
        } else {
            self.body = Some(body);
            Body::lent(self)
        };
        Response::from_parts(head, body)
    }

    /// No response came. A request that met a connection which the peer had closed while it was idle was not sent;
    /// it goes to the next one, as if this one had not been there. On a new connection that is a failure of the peer.
    fn failed(
        self: Box<Self>,
        mut error: TrySendError<Request<B>>,
    ) -> Result<Exchange<B>, BoxError> {
        let Some(request) = error.take_message() else {
            return Err(error.into_error().into());
        };
        match self.pool.upgrade() {
            Some(pool) if self.used => {
                drop(self);
                Ok(pool.send(request))
            }
            _ => Err(NotSent(error.into_error().into()).into()),
        }
    }
}

impl<B: Outgoing> http_body::Body for Link<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let link = self.get_mut();
        if !link.alarm.poll(cx.waker()) {
            return Poll::Pending;
        }
        for _ in 0..TURNS {
            // Asked before, so that the connection knows that somebody reads, and after it was driven.
            let mut frame = link.poll_body();
            if frame.is_pending() {
                link.drive();
                frame = link.poll_body();
            }
            if frame.is_ready() || link.alarm.wait(cx.waker()) {
                return frame;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let body = self.body.as_ref();
        body.map_or(SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl<B> Link<B> {
    fn poll_body(&mut self) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let body = self.body.as_mut().expect("read before it is given back");
        let mut cx = Context::from_waker(&self.waker);
        Pin::new(body).poll_frame(&mut cx).map_err(Into::into)
    }
}

impl<B: Outgoing> Lent for Link<B> {
    fn give_back(mut self: Box<Self>) {
        // hyper reads the rest of a body that nobody reads, if that is here already.
        self.body = None;
        if !self.sender.is_ready() {
            self.alarm.take();
            self.drive();
        }
        if self.connection.is_some()
            && self.sender.is_ready()
            && let Some(pool) = self.pool.upgrade()
        {
            self.rounds = 0;
            self.alarm.rest();
            pool.idle().push(self);
        }
    }
}

impl<B> fmt::Debug for Exchange<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting(_) => "Connecting",
            Self::Sent(_) => "Sent",
            Self::Ended(_) => "Ended",
        })
    }
}
