//! What happens on a connection, and until when something has to.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// How HTTP/2 with prior knowledge begins (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// What has happened on one connection. Times are in milliseconds since it was opened.
///
/// The task of the connection writes most of it; the requests of HTTP/2 run in tasks of their own and count
/// themselves in and out. Each value stands for itself, so relaxed order is enough.
#[derive(Debug)]
pub(super) struct Progress {
    opened: Instant,
    /// When a byte went over the wire last.
    moved: AtomicU64,
    /// When the last request was over.
    over: AtomicU64,
    /// When the head began that has not been read to its end; `NONE` where none has begun.
    head: AtomicU64,
    /// Requests that are being handled.
    handled: AtomicUsize,
    /// Requests that are being handled, and answers that are being sent.
    open: AtomicUsize,
    /// Whether it speaks HTTP/2. The head of its requests is not seen from here.
    http2: AtomicBool,
}

const NONE: u64 = u64::MAX;

impl Progress {
    pub(super) fn new(opened: Instant) -> Self {
        Self {
            opened,
            moved: AtomicU64::new(0),
            over: AtomicU64::new(0),
            // Whoever opens a connection has something to say.
            head: AtomicU64::new(0),
            handled: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            http2: AtomicBool::new(false),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(NONE - 1)
    }

    /// No request, and nothing of one.
    pub(super) fn is_idle(&self) -> bool {
        self.open.load(Relaxed) == 0 && self.head.load(Relaxed) == NONE
    }

    /// When it has waited too long for the peer:
    /// - `head` after the first byte of a request's head, if the head is not complete (HTTP/1), or after it was
    ///   opened, if nothing useful came;
    /// - `idle` after its last request was over, whatever else came in between;
    /// - `idle` after a byte moved last, while an answer is being sent.
    ///
    /// While a request is being handled nothing is waited for: how long that takes is bounded by its deadline.
    pub(super) fn due(&self, head: Duration, idle: Duration) -> Instant {
        let (since, bound) = if self.handled.load(Relaxed) > 0 {
            (self.now(), idle)
        } else if self.open.load(Relaxed) > 0 {
            (self.moved.load(Relaxed), idle)
        } else {
            match self.head.load(Relaxed) {
                NONE => (self.over.load(Relaxed), idle),
                since => (since, head),
            }
        };
        // Bounded, for a sum that overflows would be a panic.
        const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
        self.opened + Duration::from_millis(since) + bound.min(YEAR)
    }

    /// A request begins.
    pub(super) fn begin(progress: &Arc<Self>, version: http::Version) -> Begun {
        // The preface is missed where it comes in pieces.
        progress
            .http2
            .store(version == http::Version::HTTP_2, Relaxed);
        progress.head.store(NONE, Relaxed);
        progress.handled.fetch_add(1, Relaxed);
        progress.open.fetch_add(1, Relaxed);
        Begun {
            progress: Arc::clone(progress),
            answered: false,
        }
    }

    fn read(&self, bytes: &[u8]) {
        let now = self.now();
        self.moved.store(now, Relaxed);
        if self.http2.load(Relaxed) {
            return;
        }
        if self.open.load(Relaxed) == 0 {
            if bytes.starts_with(PREFACE) {
                self.http2.store(true, Relaxed);
                self.head.store(NONE, Relaxed);
            } else if self.head.load(Relaxed) == NONE {
                self.head.store(now, Relaxed);
            }
        }
    }

    fn wrote(&self) {
        self.moved.store(self.now(), Relaxed);
    }
}

/// One request that has begun; when it is dropped it is over.
#[derive(Debug)]
pub(super) struct Begun {
    progress: Arc<Progress>,
    answered: bool,
}

impl Begun {
    /// The answer is known and remains to be sent.
    pub(super) fn answer(&mut self) {
        if !self.answered {
            self.answered = true;
            self.progress.wrote();
            self.progress.handled.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.answer();
        self.progress.over.store(self.progress.now(), Relaxed);
        self.progress.open.fetch_sub(1, Relaxed);
    }
}

/// A stream of bytes that tells of each that moves.
#[derive(Debug)]
pub(super) struct Watched<T> {
    inner: T,
    progress: Arc<Progress>,
}

impl<T> Watched<T> {
    pub(super) fn new(inner: T, progress: Arc<Progress>) -> Self {
        Self { inner, progress }
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(1..)) = written {
            self.progress.wrote();
        }
        written
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let bytes = &buffer.filled()[before..];
        if !bytes.is_empty() {
            self.progress.read(bytes);
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use http::Version;
    use tokio::time::advance;

    use super::*;

    const HEAD: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(75);
    const SECOND: Duration = Duration::from_secs(1);

    fn opened() -> Arc<Progress> {
        Arc::new(Progress::new(Instant::now()))
    }

    /// How long it still waits.
    fn wait(progress: &Progress) -> Duration {
        progress.due(HEAD, IDLE) - Instant::now()
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_time_from_its_first_byte_however_many_follow() {
        let progress = opened();
        assert_eq!(wait(&progress), HEAD, "even if none comes");
        advance(SECOND).await;
        progress.read(b"P");
        advance(SECOND).await;
        progress.read(b"OST");
        assert_eq!(wait(&progress), HEAD - 2 * SECOND);
        assert!(!progress.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn while_a_request_is_handled_nobody_is_waited_for() {
        let progress = opened();
        progress.read(b"POST / HTTP/1.1");
        let _begun = Progress::begin(&progress, Version::HTTP_11);
        advance(1000 * SECOND).await;
        progress.read(b"a part of the body");
        assert_eq!(wait(&progress), IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn between_requests_it_is_kept_and_the_next_head_has_its_own_time() {
        let progress = opened();
        progress.read(b"POST / HTTP/1.1");
        drop(Progress::begin(&progress, Version::HTTP_11));
        assert!(progress.is_idle());
        assert_eq!(wait(&progress), IDLE);
        advance(30 * SECOND).await;
        assert_eq!(wait(&progress), IDLE - 30 * SECOND);
        progress.read(b"POST");
        assert_eq!(wait(&progress), HEAD);
    }

    #[tokio::test(start_paused = true)]
    async fn http2_frames_between_requests_neither_begin_a_head_nor_prove_use() {
        let progress = opened();
        progress.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        assert_eq!(wait(&progress), IDLE);
        drop(Progress::begin(&progress, Version::HTTP_2));
        advance(SECOND).await;
        progress.read(b"a ping");
        assert_eq!(wait(&progress), IDLE - SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_its_answer_is_waited_for_from_the_last_byte() {
        let progress = opened();
        let mut begun = Progress::begin(&progress, Version::HTTP_11);
        begun.answer();
        advance(SECOND).await;
        assert_eq!(wait(&progress), IDLE - SECOND);
        progress.wrote();
        assert_eq!(wait(&progress), IDLE);
        assert!(!progress.is_idle(), "it is not asked politely");
    }
}
