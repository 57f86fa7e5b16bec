//! A body that was read to its end.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use pin_project_lite::pin_project;

use super::{Body, TooLarge};
use crate::BoxError;

/// All that there was in a body: bytes, and trailers. Clones share the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    bytes: Bytes,
    trailers: Option<HeaderMap>,
}

impl Collected {
    /// The bytes, in one piece.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The trailers, if there were some: where gRPC says how a call ended.
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }
}

impl http_body::Body for Collected {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Self { bytes, trailers } = self.get_mut();
        let frame = match bytes.is_empty() {
            false => Some(Frame::data(std::mem::take(bytes))),
            true => trailers.take().map(Frame::trailers),
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

impl From<Collected> for Body {
    fn from(Collected { bytes, trailers }: Collected) -> Self {
        match trailers {
            None => Self::full(bytes),
            Some(trailers) => {
                let trailers = async { Some(Ok(trailers)) };
                Self::stream(Full::new(bytes).with_trailers(trailers))
            }
        }
    }
}

pin_project! {
    /// Reads a body to its end. Dropping it drops the body.
    pub struct Collecting<B> {
        #[pin]
        body: B,
        // How long it is, as far as it says so.
        length: usize,
        limit: usize,
        read: Read,
    }
}

impl<B: http_body::Body<Data = Bytes>> Collecting<B> {
    /// Reads `body` if it has at most `limit` bytes; else it fails with [`TooLarge`], at once where the body says how
    /// long it is.
    pub fn new(body: B, limit: usize) -> Self {
        Self {
            length: usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX),
            body,
            limit,
            read: Read::default(),
        }
    }
}

impl<B> Future for Collecting<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Collected, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let limit = *this.limit;
        while this.read.len().max(*this.length) <= limit {
            if this.body.is_end_stream() {
                return Poll::Ready(Ok(std::mem::take(this.read).end()));
            }
            let Some(frame) = ready!(this.body.as_mut().poll_frame(cx)) else {
                return Poll::Ready(Ok(std::mem::take(this.read).end()));
            };
            match frame.map_err(Into::into)?.into_data() {
                Ok(data) => this.read.push(data, *this.length),
                Err(frame) => this.read.trailers = frame.into_trailers().ok(),
            }
        }
        Poll::Ready(Err(TooLarge { limit }.into()))
    }
}

impl<B> fmt::Debug for Collecting<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collecting")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// What was read of a body.
#[derive(Default)]
struct Read {
    /// Most bodies come in one piece, which is not copied.
    first: Bytes,
    /// All of it, where there is more than one piece.
    all: BytesMut,
    trailers: Option<HeaderMap>,
}

impl Read {
    fn len(&self) -> usize {
        self.first.len().max(self.all.len())
    }

    /// `length` is how long all of it will be, at least.
    fn push(&mut self, data: Bytes, length: usize) {
        if self.first.is_empty() {
            self.first = data;
            return;
        }
        if self.all.is_empty() {
            self.all.reserve(length);
            self.all.extend_from_slice(&self.first);
        }
        self.all.extend_from_slice(&data);
    }

    fn end(self) -> Collected {
        let bytes = if self.all.is_empty() {
            self.first
        } else {
            self.all.freeze()
        };
        Collected {
            bytes,
            trailers: self.trailers,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, stream};
    use http_body_util::StreamBody;

    use super::*;
    use crate::rejection::find_cause;

    fn trailers() -> HeaderMap {
        HeaderMap::from_iter([(http::header::AGE, 7.into())])
    }

    fn pieces(pieces: &[&'static str]) -> Body {
        let data = pieces
            .iter()
            .map(|text| Ok(Frame::data(Bytes::from_static(text.as_bytes()))));
        let frames: Vec<Result<_, Infallible>> =
            data.chain([Ok(Frame::trailers(trailers()))]).collect();
        Body::stream(StreamBody::new(stream::iter(frames)))
    }

    fn collect(body: Body, limit: usize) -> Result<Collected, BoxError> {
        Collecting::new(body, limit)
            .now_or_never()
            .expect("all is there")
    }

    #[test]
    fn each_clone_is_the_whole_body_with_its_trailers() {
        for parts in [&["abc", "", "def"][..], &["abcdef"], &["", "abcdef"]] {
            let collected = collect(pieces(parts), 6).unwrap();
            assert_eq!(collected.bytes(), "abcdef");
            for body in [collected.clone().into(), Body::stream(collected)] {
                let again = collect(body, 6).unwrap();
                assert_eq!(again.bytes(), "abcdef");
                assert_eq!(again.trailers(), Some(&trailers()));
            }
        }
        let empty = collect(Body::empty(), 0).unwrap();
        assert_eq!(empty, Collected::default());
        assert!(Body::from(empty).is_end_stream());
    }

    #[test]
    fn what_is_longer_than_the_limit_is_not_kept() {
        let said = [
            Body::full("abcdef"),
            pieces(&["abc", "def"]),
            pieces(&["abcdef"]),
        ];
        for body in said {
            let error = collect(body, 5).unwrap_err();
            assert_eq!(find_cause(&*error), Some(&TooLarge { limit: 5 }));
        }
    }
}
