//! The answer of a method that streams, from the side that answers it.
//!
//! A handler's stream borrows the handler, so it cannot leave the future that owns both. That future therefore becomes
//! the body: whenever the body is asked for more it is driven on, until it waits or has left enough in the slot that it
//! shares with the body. So little runs ahead of the reader, and dropping the body drops the stream.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_core::Stream;
use http_body::Frame;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::Span;

use super::{codec::Answer, grpc, json};
use crate::{
    BoxError, Error, Rejection,
    context::Deadline,
    error::{Chain, Code},
    wire::Wire,
};

/// JSON, one answer to a line.
pub(super) const NDJSON: &str = "application/x-ndjson";
/// So often a stream of JSON says that it is still there: an empty line, less than half as long as a quiet connection
/// is kept. gRPC has the pings of HTTP/2 for that.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// As many bytes of items that are there at once go out together, and then the next ones wait for the reader. One frame
/// of HTTP/2 for each would be costly, and some peers take a flood of small frames for an attack.
const TOGETHER: usize = 8 * 1024;

/// Where the items of a handler's stream go. Generated code hands them over.
#[derive(Debug)]
pub struct Outgoing<P> {
    wire: Wire,
    slot: Arc<Mutex<Slot>>,
    codec: Answer<P>,
}

#[derive(Debug, Default)]
struct Slot {
    /// The handler has answered with a stream.
    begun: bool,
    /// Items that the body shall take next.
    bytes: Vec<u8>,
}

impl<P> Outgoing<P> {
    /// Sends what comes out of `stream`, as fast as it is read.
    ///
    /// # Errors
    /// The one that the stream ended with, or an item that cannot be written.
    pub async fn send<S>(self, stream: S) -> Result<(), Error>
    where
        S: Stream<Item = Result<P, Error>>,
    {
        let mut stream = pin!(stream);
        self.slot().begun = true;
        while let Some(item) = std::future::poll_fn(|cx| stream.as_mut().poll_next(cx)).await {
            // Written outside of the lock, for a type's own code may panic.
            let item = item?;
            let mut bytes = std::mem::take(&mut self.slot().bytes);
            let written = self.codec.write_item(self.wire, &item, &mut bytes);
            self.slot().bytes = bytes;
            written?;
            // Whoever takes them polls again for the next ones, so there is nobody to be woken.
            std::future::poll_fn(|_| match self.slot().bytes.len() {
                0..TOGETHER => Poll::Ready(()),
                _ => Poll::Pending,
            })
            .await;
        }
        Ok(())
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Slot> {
        self.slot.lock().expect("no panic while locked")
    }
}

pin_project! {
    /// The body that a handler's future becomes.
    pub(super) struct Sent<F> {
        #[pin]
        call: Option<F>,
        slot: Arc<Mutex<Slot>>,
        // How the stream ended, until that is told.
        ending: Option<Result<(), Error>>,
        wire: Wire,
        #[pin]
        deadline: Option<Sleep>,
        #[pin]
        heartbeat: Option<Sleep>,
        // What is logged when it breaks off belongs to the request.
        span: Span,
    }
}

impl<F: Future<Output = Result<(), Error>>> Sent<F> {
    /// The future that `call` makes, until `deadline`, as a body on `wire`.
    pub(super) fn new<P>(
        wire: Wire,
        codec: Answer<P>,
        deadline: Option<Deadline>,
        call: impl FnOnce(Outgoing<P>) -> F,
    ) -> Self {
        let slot = Arc::default();
        let outgoing = Outgoing {
            wire,
            slot: Arc::clone(&slot),
            codec,
        };
        Self {
            call: Some(call(outgoing)),
            slot,
            ending: None,
            wire,
            deadline: deadline.map(|deadline| sleep_until(deadline.instant())),
            heartbeat: None,
            span: Span::current(),
        }
    }

    /// Waits until there is a stream, with or without a first item.
    ///
    /// # Errors
    /// The call failed before that, so that its error is the whole answer.
    pub(super) async fn begun(mut self: Pin<&mut Self>) -> Result<(), Error> {
        std::future::poll_fn(|cx| {
            let mut this = self.as_mut().project();
            let call = this.call.as_mut().as_pin_mut().expect("not ended yet");
            let polled = poll_unwinding(call, cx);
            let slot = this.slot.lock().expect("no panic while locked");
            match polled {
                Poll::Ready(Err(error)) if slot.bytes.is_empty() => Poll::Ready(Err(error)),
                Poll::Ready(ending) => {
                    this.call.set(None);
                    *this.ending = Some(ending);
                    Poll::Ready(Ok(()))
                }
                Poll::Pending if slot.begun => Poll::Ready(Ok(())),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Drives the call until it has ended, `Some`, or there is something in the slot, `None`.
    fn poll_call(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<(), Error>>> {
        let mut this = self.project();
        if let Some(deadline) = this.deadline.as_pin_mut()
            && deadline.poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(Rejection::DeadlineExceeded.into())));
        }
        let call = this.call.as_pin_mut().expect("not ended yet");
        if let Poll::Ready(ending) = this.span.in_scope(|| poll_unwinding(call, cx)) {
            return Poll::Ready(Some(ending));
        }
        let bytes = &mut this.slot.lock().expect("no panic while locked").bytes;
        if bytes.is_empty() {
            if *this.wire == Wire::Grpc {
                return Poll::Pending;
            }
            if this.heartbeat.is_none() {
                let at = Instant::now() + HEARTBEAT;
                this.heartbeat.set(Some(sleep_until(at)));
            }
            let heartbeat = this.heartbeat.as_mut().as_pin_mut().expect("set above");
            ready!(heartbeat.poll(cx));
            bytes.push(b'\n');
        }
        this.heartbeat.set(None);
        Poll::Ready(None)
    }
}

impl<F: Future<Output = Result<(), Error>>> http_body::Body for Sent<F> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.call.is_some()
            && let Some(ending) = ready!(self.as_mut().poll_call(cx))
        {
            let mut this = self.as_mut().project();
            // What the stream holds is given back before its end is told.
            this.call.set(None);
            *this.ending = Some(ending);
        }
        let this = self.project();
        let bytes = std::mem::take(&mut this.slot.lock().expect("no panic while locked").bytes);
        if !bytes.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(bytes.into()))));
        }
        let Some(ending) = this.ending.take() else {
            return Poll::Ready(None);
        };
        if let Err(error) = &ending {
            this.span.in_scope(|| log(error));
        }
        Poll::Ready(match (this.wire, ending) {
            (Wire::Grpc, ending) => Some(Ok(Frame::trailers(grpc::trailers(ending)))),
            (Wire::Json, Ok(())) => None,
            (Wire::Json, Err(error)) => Some(Ok(Frame::data(json::last_line(&error).into()))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.call.is_none() && self.ending.is_none()
    }
}

/// The access log has the beginning of a stream; how it broke off is told here, for the operator.
fn log(error: &Error) {
    let code = error.code().as_str();
    match error.code() {
        Code::Unknown | Code::Internal | Code::DataLoss => {
            tracing::error!(code, error = %Chain(error), "the stream broke off");
        }
        _ => tracing::debug!(code, error = %Chain(error), "the stream broke off"),
    }
}

/// A stream that panics takes nobody with it, neither its reader nor the others on the same connection.
fn poll_unwinding<F>(call: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<Result<(), Error>>
where
    F: Future<Output = Result<(), Error>>,
{
    catch_unwind(AssertUnwindSafe(|| call.poll(cx))).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no text".to_owned());
        let panicked = format!("the handler panicked: {text}");
        Poll::Ready(Err(Error::internal(panicked)))
    })
}
