//! The answer of a method that streams, from the side that asked for it.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, BytesMut};
use futures_core::Stream;
use http_body::Body as _;
use tokio::time::{Sleep, sleep_until};

use super::{
    client::{ANSWER_LIMIT, unreadable},
    codec::Answer,
    grpc,
};
use crate::{Body, Error, Rejection, context::Deadline, wire::Wire};

/// What a method that streams answers with, item by item. Nothing is read ahead of whoever asks for it, and dropping it
/// cancels the call.
///
/// The first error is the last item: the one that the peer broke off with; [`Rejection::DeadlineExceeded`] when the
/// caller's deadline has passed; [`Code::Unavailable`](crate::Code::Unavailable) where the answer broke off;
/// [`Code::Internal`](crate::Code::Internal) where it is something else than it should be, or one item is longer than
/// 4 MiB.
pub struct Items<P> {
    wire: Wire,
    body: Body,
    /// What has arrived and was not read yet.
    bytes: BytesMut,
    /// How much of that is known to have no end of a line.
    searched: usize,
    deadline: Option<Pin<Box<Sleep>>>,
    /// How it ended, where trailers have said that.
    ending: Option<Result<(), Error>>,
    is_over: bool,
    codec: Answer<P>,
}

impl<P> Items<P> {
    pub(super) fn new(
        wire: Wire,
        codec: Answer<P>,
        body: Body,
        deadline: Option<Deadline>,
    ) -> Self {
        Self {
            wire,
            body,
            bytes: BytesMut::new(),
            searched: 0,
            deadline: deadline.map(|deadline| Box::pin(sleep_until(deadline.instant()))),
            ending: None,
            is_over: false,
            codec,
        }
    }

    /// One that has ended already.
    pub(super) fn none(codec: Answer<P>) -> Self {
        Self {
            is_over: true,
            ..Self::new(Wire::Grpc, codec, Body::empty(), None)
        }
    }

    /// The first item of what has arrived, if all of it is there.
    fn take(&mut self) -> Result<Option<P>, Error> {
        match self.wire {
            Wire::Grpc => {
                let first = grpc::first(self.codec.grpc()?, &self.bytes, ANSWER_LIMIT)
                    .map_err(unreadable)?;
                Ok(first.map(|(item, len)| {
                    self.bytes.advance(len);
                    item
                }))
            }
            Wire::Json => loop {
                let end = self.bytes[self.searched..].iter().position(|b| *b == b'\n');
                let len =
                    self.searched + end.map_or(self.bytes.len() - self.searched, |end| end + 1);
                if len > ANSWER_LIMIT {
                    return Err(unreadable(Error::too_large(ANSWER_LIMIT)));
                }
                if end.is_none() {
                    self.searched = len;
                    return Ok(None);
                }
                let line = self.bytes.split_to(len);
                self.searched = 0;
                if !line.trim_ascii().is_empty() {
                    let read = self.codec.json()?.read_line;
                    let item = read(&line).map_err(unreadable)??;
                    self.codec.hold_json(&item).map_err(unreadable)?;
                    return Ok(Some(item));
                }
            },
        }
    }

    /// What is told when no more bytes come.
    fn end(&mut self) -> Option<Error> {
        match (self.wire, self.ending.take()) {
            _ if !self.bytes.is_empty() => Some(unreadable("the answer ends within an item")),
            (_, Some(ending)) => ending.err(),
            (Wire::Json, None) => None,
            (Wire::Grpc, None) => Some(unreadable("the answer has no gRPC status")),
        }
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<P, Error>>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(Rejection::DeadlineExceeded.into())));
        }
        loop {
            if let Some(item) = self.take().transpose() {
                return Poll::Ready(Some(item));
            }
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.bytes.extend_from_slice(&data),
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        self.ending = grpc::ending(&trailers);
                    }
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(self.end().map(Err)),
            }
        }
    }
}

impl<P> Stream for Items<P> {
    type Item = Result<P, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.is_over {
            return Poll::Ready(None);
        }
        let item = std::task::ready!(this.poll_item(cx));
        if !matches!(item, Some(Ok(_))) {
            this.is_over = true;
            // Nobody waits for the rest.
            this.body = Body::empty();
        }
        Poll::Ready(item)
    }
}

impl<P> fmt::Debug for Items<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items")
            .field("wire", &self.wire)
            .field("is_over", &self.is_over)
            .finish_non_exhaustive()
    }
}
