//! A request body that can be sent again.
//!
//! One that is known whole is cloned, which copies a pointer. Of another one the first attempt streams what comes, and
//! what has passed is kept on a tape up to a limit. It can be sent again if all of it is on the tape, or if nobody has
//! read any of it, as when the connection was refused. A body that is too long, that was left half read, or that
//! failed itself, cannot.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::body::TryClone;

/// The body of one attempt.
pub struct Replay<B> {
    kind: Kind<B>,
}

enum Kind<B> {
    /// There will be no other attempt.
    Once(B),
    /// Streams, and keeps what has passed. `None` only while it is dropped.
    Taping {
        body: Option<B>,
        touched: bool,
        tape: Tape<B>,
    },
    /// Sends what is on the tape, from this frame on.
    Playing { next: usize, tape: Tape<B> },
}

impl<B> Replay<B> {
    /// A body that is sent once.
    pub(super) fn once(body: B) -> Self {
        Self {
            kind: Kind::Once(body),
        }
    }

    fn taping(body: B, tape: Tape<B>) -> Self {
        Self {
            kind: Kind::Taping {
                body: Some(body),
                touched: false,
                tape,
            },
        }
    }
}

/// While nobody has read of it; what is kept for another attempt is then what the first one of the two sends.
impl<B: TryClone> TryClone for Replay<B> {
    fn try_clone(&self) -> Option<Self> {
        match &self.kind {
            Kind::Once(body)
            | Kind::Taping {
                body: Some(body),
                touched: false,
                ..
            } => body.try_clone().map(Self::once),
            Kind::Taping { .. } => None,
            Kind::Playing { next, tape } => Some(Self {
                kind: Kind::Playing {
                    next: *next,
                    tape: tape.handle(),
                },
            }),
        }
    }
}

impl<B> fmt::Debug for Replay<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.kind {
            Kind::Once(_) => "Replay::Once",
            Kind::Taping { .. } => "Replay::Taping",
            Kind::Playing { .. } => "Replay::Playing",
        })
    }
}

/// What the body of another attempt is made from.
pub(super) enum Spare<B> {
    /// All of it was there from the beginning.
    Whole(B),
    /// What has passed.
    Tape(Tape<B>),
}

impl<B: Body + TryClone> Spare<B> {
    /// The body of the first attempt, and what is kept of it: up to `limit` bytes.
    pub(super) fn of(body: B, limit: usize) -> (Replay<B>, Self) {
        let length = body.size_hint().exact();
        if length.is_some_and(|length| length <= limit as u64)
            && let Some(whole) = body.try_clone()
        {
            return (Replay::once(body), Self::Whole(whole));
        }
        let (body, tape) = Tape::record(body, limit);
        (body, Self::Tape(tape))
    }

    /// The body of another attempt, if there can be one.
    pub(super) fn rewind(&self) -> Option<Replay<B>> {
        match self {
            Self::Whole(body) => body.try_clone().map(Replay::once),
            Self::Tape(tape) => tape.rewind(),
        }
    }
}

/// What is kept of a body for another attempt.
pub(super) struct Tape<B> {
    shared: Arc<Mutex<Kept<B>>>,
}

struct Kept<B> {
    state: State<B>,
    frames: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    /// How many bytes more may be kept.
    room: usize,
}

enum State<B> {
    /// An attempt has the body and reads it.
    Lent,
    /// It came back, and nobody has read any of it.
    Unread(B),
    /// All of it is kept.
    Complete,
    /// It cannot be sent again.
    Lost,
}

impl<B> Tape<B> {
    /// The body of the first attempt, and the tape that keeps up to `limit` bytes of it.
    pub(super) fn record(body: B, limit: usize) -> (Replay<B>, Self) {
        let kept = Kept {
            state: State::Lent,
            frames: Vec::new(),
            trailers: None,
            room: limit,
        };
        let tape = Self {
            shared: Arc::new(Mutex::new(kept)),
        };
        (Replay::taping(body, tape.handle()), tape)
    }

    /// The body of another attempt, if there can be one. The one before must have been dropped, or have read all.
    pub(super) fn rewind(&self) -> Option<Replay<B>> {
        let mut kept = self.lock();
        match std::mem::replace(&mut kept.state, State::Lent) {
            State::Unread(body) => Some(Replay::taping(body, self.handle())),
            State::Complete => {
                kept.state = State::Complete;
                Some(Replay {
                    kind: Kind::Playing {
                        next: 0,
                        tape: self.handle(),
                    },
                })
            }
            state @ (State::Lent | State::Lost) => {
                kept.state = state;
                None
            }
        }
    }

    fn handle(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Only the one body that is being sent, and between attempts the retry, comes here: nobody ever waits.
    fn lock(&self) -> MutexGuard<'_, Kept<B>> {
        self.shared.lock().expect("no panic while locked")
    }

    /// Whether nobody is left who would rewind.
    fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }
}

impl<B> Kept<B> {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            match self.room.checked_sub(data.len()) {
                Some(room) => {
                    self.room = room;
                    self.frames.push(data.clone());
                }
                None => self.lose(),
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
    }

    fn lose(&mut self) {
        self.state = State::Lost;
        self.frames = Vec::new();
        self.trailers = None;
    }
}

impl<B> Body for Replay<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match &mut self.get_mut().kind {
            Kind::Once(body) => Pin::new(body).poll_frame(cx),
            Kind::Taping {
                body,
                touched,
                tape,
            } => {
                let body = body.as_mut().expect("taken only by drop");
                let polled = ready!(Pin::new(&mut *body).poll_frame(cx));
                *touched = true;
                if !tape.is_abandoned() {
                    let mut kept = tape.lock();
                    if let State::Lent = kept.state {
                        match &polled {
                            Some(Ok(frame)) => kept.keep(frame),
                            Some(Err(_)) => kept.lose(),
                            None => {}
                        }
                    }
                    // Who knows the length does not ask for the end.
                    if matches!(kept.state, State::Lent)
                        && (polled.is_none() || body.is_end_stream())
                    {
                        kept.state = State::Complete;
                    }
                }
                Poll::Ready(polled)
            }
            Kind::Playing { next, tape } => {
                let kept = tape.lock();
                let frame = match kept.frames.get(*next) {
                    Some(data) => Some(Frame::data(data.clone())),
                    None if *next == kept.frames.len() => {
                        kept.trailers.clone().map(Frame::trailers)
                    }
                    None => None,
                };
                *next += 1;
                Poll::Ready(frame.map(Ok))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Once(body) => body.is_end_stream(),
            Kind::Taping { body, .. } => body.as_ref().is_none_or(Body::is_end_stream),
            Kind::Playing { next, tape } => {
                let kept = tape.lock();
                *next >= kept.frames.len() + usize::from(kept.trailers.is_some())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Once(body) => body.size_hint(),
            Kind::Taping { body, .. } => body.as_ref().map(Body::size_hint).unwrap_or_default(),
            Kind::Playing { next, tape } => {
                let kept = tape.lock();
                let left = kept.frames.iter().skip(*next);
                SizeHint::with_exact(left.map(|data| data.len() as u64).sum())
            }
        }
    }
}

/// Gives a body back that nobody has read.
impl<B> Drop for Replay<B> {
    fn drop(&mut self) {
        if let Kind::Taping {
            body,
            touched,
            tape,
        } = &mut self.kind
            && !tape.is_abandoned()
        {
            let mut kept = tape.lock();
            if let State::Lent = kept.state {
                match body.take() {
                    Some(body) if !*touched => kept.state = State::Unread(body),
                    _ => kept.lose(),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::HeaderValue;
    use http_body_util::{BodyExt, Empty, Full, StreamBody};

    use super::*;

    type Frames = Vec<Result<Frame<Bytes>, Infallible>>;

    fn stream(frames: Frames) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        StreamBody::new(futures_util::stream::iter(frames))
    }

    fn data(bytes: &'static str) -> Result<Frame<Bytes>, Infallible> {
        Ok(Frame::data(Bytes::from_static(bytes.as_bytes())))
    }

    async fn read<B>(body: Replay<B>) -> (Bytes, Option<HeaderMap>)
    where
        B: Body<Data = Bytes, Error = Infallible> + Unpin,
    {
        let all = body.collect().await.unwrap();
        let trailers = all.trailers().cloned();
        (all.to_bytes(), trailers)
    }

    #[tokio::test]
    async fn the_first_attempt_streams_and_the_next_one_sends_the_same() {
        let trailers = HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("1"))]);
        let end = Ok(Frame::trailers(trailers.clone()));
        let (mut first, tape) = Tape::record(stream(vec![data("ab"), data("c"), end]), 3);
        let frame = first.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "ab");
        assert_eq!(read(first).await.0, "c");
        for _ in 0..2 {
            let again = tape.rewind().unwrap();
            assert_eq!(again.size_hint().exact(), Some(3));
            assert_eq!(read(again).await, ("abc".into(), Some(trailers.clone())));
        }
    }

    #[tokio::test]
    async fn a_body_that_nobody_read_is_sent_whole_however_long_it_is() {
        let (first, tape) = Tape::record(stream(vec![data("abc"), data("def")]), 1);
        assert!(tape.rewind().is_none(), "the first attempt has it");
        drop(first);
        let second = tape.rewind().unwrap();
        drop(second);
        assert_eq!(read(tape.rewind().unwrap()).await.0, "abcdef");
        assert!(tape.rewind().is_none(), "longer than the tape");
    }

    #[tokio::test]
    async fn a_body_over_the_limit_goes_on_and_is_not_kept() {
        let (first, tape) = Tape::record(stream(vec![data("ab"), data("c"), data("d")]), 2);
        assert_eq!(read(first).await.0, "abcd");
        assert!(tape.rewind().is_none());
        assert!(tape.lock().frames.is_empty());
    }

    #[tokio::test]
    async fn a_body_that_was_left_half_read_is_not_sent_again() {
        let (mut first, tape) = Tape::record(stream(vec![data("ab"), data("c")]), 9);
        first.frame().await.unwrap().unwrap();
        assert!(tape.rewind().is_none(), "it is still being sent");
        drop(first);
        assert!(tape.rewind().is_none());
    }

    #[tokio::test]
    async fn the_last_frame_is_the_end_for_one_who_knows_the_length() {
        let (mut first, tape) = Tape::record(Full::new(Bytes::from_static(b"abc")), 9);
        first.frame().await.unwrap().unwrap();
        assert!(first.is_end_stream());
        assert_eq!(read(tape.rewind().unwrap()).await.0, "abc");
        let (first, tape) = Tape::record(Empty::new(), 0);
        assert!(first.is_end_stream());
        drop(first);
        assert!(tape.rewind().unwrap().is_end_stream());
    }

    #[tokio::test]
    async fn a_copy_is_had_of_what_is_known_and_not_read() {
        let (mut first, tape) = Tape::record(Full::new(Bytes::from_static(b"abc")), 9);
        assert_eq!(read(first.try_clone().unwrap()).await.0, "abc");
        first.frame().await.unwrap().unwrap();
        assert!(first.try_clone().is_none());
        // What the first attempt read is kept, copy or not.
        let again = tape.rewind().unwrap();
        assert_eq!(read(again.try_clone().unwrap()).await.0, "abc");
        assert_eq!(read(again).await.0, "abc");
    }

    #[tokio::test]
    async fn nothing_is_kept_for_nobody() {
        let (mut first, tape) = Tape::record(stream(vec![data("ab"), data("c")]), 9);
        drop(tape);
        first.frame().await.unwrap().unwrap();
        let Kind::Taping { tape, .. } = &first.kind else {
            panic!("the first attempt");
        };
        assert!(tape.lock().frames.is_empty());
        assert_eq!(read(first).await.0, "c");
    }
}
