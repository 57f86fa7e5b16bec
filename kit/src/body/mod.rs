//! The one body type of the assembled stacks, and what is left of a body that was read.

mod collected;

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};

pub use self::collected::{Collected, Collecting};
use crate::BoxError;

/// A body that can say whether all of it is known, and then be had a second time, to be sent side by side.
pub trait TryClone: Sized {
    /// A body with the same content, or `None` where that is a stream still to come. Asked before anybody has read
    /// of it.
    fn try_clone(&self) -> Option<Self>;
}

impl TryClone for Body {
    fn try_clone(&self) -> Option<Self> {
        let kind = match &self.kind {
            Kind::Full(bytes) => Kind::Full(bytes.clone()),
            Kind::Incoming { .. } | Kind::Lent(_) | Kind::Stream(_) => return None,
        };
        let limit = self.limit;
        Some(Self { kind, limit })
    }
}

impl TryClone for () {
    fn try_clone(&self) -> Option<Self> {
        Some(())
    }
}

impl TryClone for http_body_util::Full<Bytes> {
    fn try_clone(&self) -> Option<Self> {
        Some(self.clone())
    }
}

/// A request or response body: nothing, bytes that are all here, or a stream of unknown type.
///
/// Only the stream is allocated; JSON answers, unary requests and what hyper receives are not.
pub struct Body {
    kind: Kind,
    limit: Option<Limit>,
}

enum Kind {
    Full(Option<Bytes>),
    Incoming {
        body: hyper::body::Incoming,
        _held: Option<Arc<dyn Send + Sync>>,
    },
    Lent(Lease),
    Stream(UnsyncBoxBody<Bytes, BoxError>),
}

/// What a body is read from, and who wants it back: a connection that is used again. It is boxed already, so that
/// lending it allocates nothing.
pub(crate) trait Lent:
    http_body::Body<Data = Bytes, Error = BoxError> + Send + Unpin
{
    /// Nobody reads on, after the end or before.
    fn give_back(self: Box<Self>);
}

/// `None` once it was given back.
struct Lease(Option<Box<dyn Lent>>);

impl Lease {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(body) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(&mut **body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) || body.is_end_stream() {
            // Not later, when the reader drops it: a request may wait for what it was read from.
            self.give_back();
        }
        Poll::Ready(frame)
    }

    fn give_back(&mut self) {
        if let Some(body) = self.0.take() {
            body.give_back();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// How much more of a body is read before it is too large.
#[derive(Clone, Copy)]
struct Limit {
    bytes: usize,
    left: usize,
}

/// How many bytes of a request's body are read at most. It travels in the extensions of the request, from the
/// layer that limits to the generated server, which reads bodies of any type. Default 1 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimit(pub usize);

impl Default for BodyLimit {
    fn default() -> Self {
        Self(1024 * 1024)
    }
}

/// What reading a body fails with when it is longer than its limit. It is found along the chain of sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is longer than {limit} bytes")]
pub struct TooLarge {
    /// How many bytes it may have.
    pub limit: usize,
}

impl Body {
    /// No bytes.
    pub const fn empty() -> Self {
        Self::of(Kind::Full(None))
    }

    /// All bytes at once.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::of(Kind::Full((!bytes.is_empty()).then_some(bytes)))
    }

    /// Whatever `body` streams, boxed.
    pub fn stream<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self::of(Kind::Stream(body.map_err(Into::into).boxed_unsync()))
    }

    /// The same, of which at most `bytes` are read: more than that is an error, [`TooLarge`].
    #[must_use]
    pub fn limited(mut self, bytes: usize) -> Self {
        self.limit = Some(Limit { bytes, left: bytes });
        self
    }

    /// What is read from `body`, which is given back after that.
    pub(crate) fn lent(body: Box<dyn Lent>) -> Self {
        Self::of(Kind::Lent(Lease(Some(body))))
    }

    /// What is read from `body`, as long as `held` is there: what it comes from.
    pub(crate) fn held(body: hyper::body::Incoming, held: Arc<dyn Send + Sync>) -> Self {
        Self::of(Kind::Incoming {
            body,
            _held: Some(held),
        })
    }

    /// All of it, unless it is a stream still to come. Asked before anybody has read of it.
    pub(crate) fn known(&self) -> Option<Bytes> {
        match &self.kind {
            Kind::Full(bytes) => Some(bytes.clone().unwrap_or_default()),
            Kind::Incoming { .. } | Kind::Lent(_) | Kind::Stream(_) => None,
        }
    }

    const fn of(kind: Kind) -> Self {
        Self { kind, limit: None }
    }
}

/// What hyper receives, on a server or a client.
impl From<hyper::body::Incoming> for Body {
    fn from(body: hyper::body::Incoming) -> Self {
        Self::of(Kind::Incoming { body, _held: None })
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("size", &self.size_hint())
            .finish()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let body = self.get_mut();
        let frame = ready!(match &mut body.kind {
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Incoming { body, .. } => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Kind::Lent(lease) => lease.poll_frame(cx),
            Kind::Stream(body) => Pin::new(body).poll_frame(cx),
        });
        if let (Some(limit), Some(Ok(frame))) = (&mut body.limit, &frame)
            && let Some(data) = frame.data_ref()
        {
            match limit.left.checked_sub(data.len()) {
                Some(left) => limit.left = left,
                None => {
                    let limit = limit.bytes;
                    // What is behind the limit is not read.
                    body.kind = Kind::Full(None);
                    return Poll::Ready(Some(Err(TooLarge { limit }.into())));
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(bytes) => bytes.is_none(),
            Kind::Incoming { body, .. } => body.is_end_stream(),
            Kind::Lent(lease) => lease.0.as_ref().is_none_or(|body| body.is_end_stream()),
            Kind::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Incoming { body, .. } => body.size_hint(),
            Kind::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Kind::Lent(lease) => match &lease.0 {
                Some(body) => body.size_hint(),
                None => SizeHint::with_exact(0),
            },
            Kind::Stream(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_kind_gives_its_bytes_once() {
        let stream = Body::stream(http_body_util::Full::new(Bytes::from_static(b"abc")));
        for (body, bytes) in [
            (Body::empty(), &b""[..]),
            (Body::full("abc"), b"abc"),
            (stream, b"abc"),
        ] {
            assert_eq!(body.size_hint().exact(), Some(bytes.len() as u64));
            assert_eq!(body.collect().await.unwrap().to_bytes(), bytes);
        }
    }
    #[tokio::test]
    async fn what_is_longer_than_its_limit_is_not_read() {
        let within = Body::full("abc").limited(3);
        assert_eq!(within.collect().await.unwrap().to_bytes(), "abc");
        let error = Body::full("abcd").limited(3).collect().await.unwrap_err();
        assert_eq!(
            crate::rejection::find_cause(&*error),
            Some(&TooLarge { limit: 3 })
        );
    }
}
