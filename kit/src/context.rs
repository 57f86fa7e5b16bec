//! What travels with a call, from hop to hop: its deadline, its place in a trace, how often it was tried.

use std::{
    fmt,
    num::{NonZeroU64, NonZeroU128},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use http::Extensions;
use tokio::time::Instant;

use crate::{
    name::{Method, Priority},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// What is known about one call beside its arguments.
///
/// The inbound layers fill it in, a handler receives it, and hands it on to the clients that it calls; so a
/// deadline is kept and a trace goes on without anybody thinking of it. Between layers it travels in the
/// extensions of the request. Cloning is cheap, and clones share nothing but [`tried`](Self::tried).
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// When the caller stops waiting.
    pub deadline: Option<Deadline>,
    /// When this side gives up an attempt that nobody has begun to answer, whatever the caller would wait for. Filled
    /// in by whoever bounds attempts; who is too late then has had all the time that anybody gets.
    pub answer_by: Option<Deadline>,
    /// The span that is the parent of what happens next.
    pub trace: Option<TraceContext>,
    /// How many attempts at this call were made before this one, here or at an earlier hop.
    pub previous_attempts: u32,
    /// Says that calls with the same key are one call.
    pub idempotency_key: Option<IdempotencyKey>,
    /// The method whose call this is the context of. Generated code fills it in, on both sides; a context without
    /// it is that of a call still to be made.
    pub method: Option<&'static Method>,
    /// Who calls, as a server found out: for handlers to read. It goes no further than to them.
    pub caller: Caller,
    /// What a server sheds first when it has too much to do. It goes along to the calls that are made while this one is
    /// handled. `None`: as the method that is called says.
    pub priority: Option<Priority>,
    /// Which endpoints this call was tried at, filled in by whoever may try it again.
    pub tried: Option<Tried>,
}

/// At which endpoints a call has been tried: the last two of them. Clones are the same list, so all attempts at a call
/// share one; a balancer that finds it avoids these endpoints, where there are others, and adds the one that it picks.
#[derive(Clone, Debug, Default)]
pub struct Tried(Arc<AtomicU64>);

impl Tried {
    /// Whether it was tried at the endpoint with this number, which is not 0.
    pub(crate) fn contains(&self, serial: u32) -> bool {
        let both = self.0.load(Relaxed);
        both as u32 == serial || (both >> 32) as u32 == serial
    }

    /// It is tried there.
    pub(crate) fn add(&self, serial: u32) {
        let last = self.0.load(Relaxed) << 32;
        // Attempts follow each other; where hedges do not, one of them is lost, which is no harm.
        self.0.store(last | u64::from(serial), Relaxed);
    }

    /// Makes it the empty list of another call; in the same place, if nobody has that any more.
    pub(crate) fn renew(&mut self) {
        match Arc::get_mut(&mut self.0) {
            Some(list) => *list = AtomicU64::new(0),
            None => *self = Self::default(),
        }
    }
}

impl Context {
    /// The context of a call that begins here: no deadline, a new trace, the first attempt.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, for a caller that waits no longer than `timeout` from now.
    pub fn with_timeout(timeout: Duration) -> Self {
        Self {
            deadline: Some(Deadline::after(timeout)),
            ..Self::default()
        }
    }

    /// The context in a request's extensions, or an empty one.
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_default()
    }

    /// The context in a request's extensions, put there if there is none, to be changed in place.
    pub fn of_mut(extensions: &mut Extensions) -> &mut Self {
        extensions.get_or_insert_default()
    }

    /// What a call made while handling this one starts with: the same deadline and trace. The idempotency key
    /// stays behind, for it names this call and not that one, and so does who made this one. The attempt count goes along, so that a deeper
    /// hop does not multiply retries.
    pub fn child(&self) -> Self {
        Self {
            deadline: self.deadline,
            answer_by: None,
            trace: self.trace,
            previous_attempts: self.previous_attempts,
            idempotency_key: None,
            method: None,
            caller: Caller::NotAsked,
            priority: self.priority,
            tried: None,
        }
    }

    /// Who calls, if that is known.
    pub fn identity(&self) -> Option<&Identity> {
        match &self.caller {
            Caller::Known(identity) => Some(identity),
            Caller::NotAsked | Caller::Anonymous => None,
        }
    }

    /// The context of a call, still to be made, that has this key.
    #[must_use]
    pub fn with_idempotency_key(mut self, key: IdempotencyKey) -> Self {
        self.idempotency_key = Some(key);
        self.answer_by = None;
        self.method = None;
        self.tried = None;
        self
    }
}

/// Who calls, as far as a server has asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Caller {
    /// Nothing in the server asks.
    #[default]
    NotAsked,
    /// It was asked, and did not say.
    Anonymous,
    /// It has said so, and that was found to be true.
    Known(Identity),
}

/// Somebody who calls, and what it may do. Cloning copies two pointers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name, for logs and for whoever looks after what belongs to whom; no secret.
    pub name: Arc<str>,
    /// What it was given, in words such as `users:write`.
    pub scopes: Arc<[Box<str>]>,
}

impl Identity {
    /// Whether it was given `scope`.
    pub fn has(&self, scope: &str) -> bool {
        self.scopes.iter().any(|given| **given == *scope)
    }
}

/// The moment at which a caller stops waiting; absolute, so that it covers all attempts and all hops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The deadline at `instant`.
    pub fn at(instant: Instant) -> Self {
        Self(instant)
    }

    /// The deadline `timeout` from now. A timeout beyond a century counts as a century.
    pub fn after(timeout: Duration) -> Self {
        const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
        Self(Instant::now() + timeout.min(CENTURY))
    }

    /// The moment.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// What is left of it; zero when it has passed.
    pub fn remaining(self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
    }

    /// Whether it has passed.
    pub fn has_passed(self, now: Instant) -> bool {
        self.0 <= now
    }
}

/// Until when the caller itself waits, without what a server adds of its own. In the extensions of a request where a
/// server has added something: a stream outlives the time that a server takes for an answer to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallersDeadline(pub Option<Deadline>);

/// A place in a distributed trace: W3C Trace Context, level 1, the `traceparent` header.
///
/// Parsing follows the specification: a later version is read by what it has in common with version 00, and
/// what is all zero or not lower-case hexadecimal is not valid.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    sampled: bool,
}

impl TraceContext {
    /// The first span of a new trace.
    pub fn root() -> Self {
        Self {
            trace_id: rand::random::<NonZeroU128>().get().to_ne_bytes(),
            span_id: random_span(),
            sampled: true,
        }
    }

    /// A new span in the same trace.
    #[must_use]
    pub fn child(self) -> Self {
        Self {
            span_id: random_span(),
            ..self
        }
    }

    /// The trace, as 32 hexadecimal digits.
    pub fn trace_id(&self) -> impl fmt::Display + use<> {
        Hex(self.trace_id)
    }

    /// The span, as 16 hexadecimal digits.
    pub fn span_id(&self) -> impl fmt::Display + use<> {
        Hex(self.span_id)
    }

    /// As it stands in `traceparent`. Each call writes it, and formatting would cost more than all layers together.
    pub(crate) fn traceparent(&self) -> [u8; 55] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&mut text[3..35], &self.trace_id);
        write_hex(&mut text[36..52], &self.span_id);
        write_hex(&mut text[53..], &[u8::from(self.sampled)]);
        text
    }

    /// Reads it as it stands in `traceparent`.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, InvalidTraceparent> {
        let (text, more) = text.split_first_chunk::<55>().ok_or(InvalidTraceparent)?;
        let [version]: [u8; 1] = hex(&text[..2])?;
        let trace_id = hex(&text[3..35])?;
        let span_id = hex(&text[36..52])?;
        let [flags]: [u8; 1] = hex(&text[53..])?;
        let hyphens = [text[2], text[35], text[52]] == [b'-'; 3];
        let later = version > 0 && more.first() == Some(&b'-');
        if !hyphens || version == 0xff || !(more.is_empty() || later) {
            return Err(InvalidTraceparent);
        }
        if trace_id == [0; 16] || span_id == [0; 8] {
            return Err(InvalidTraceparent);
        }
        Ok(Self {
            trace_id,
            span_id,
            sampled: flags & 1 == 1,
        })
    }

    /// Whether somebody upstream decided to record this trace.
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }
}

/// Not all zero, by the specification.
fn random_span() -> [u8; 8] {
    rand::random::<NonZeroU64>().get().to_ne_bytes()
}

struct Hex<const N: usize>([u8; N]);

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Writes each of `bytes` as two hexadecimal digits; by reckoning, which is done for many at once.
fn write_hex(text: &mut [u8], bytes: &[u8]) {
    let digit = |number: u8| number + if number < 10 { b'0' } else { b'a' - 10 };
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
}

/// As it stands in `traceparent`.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.traceparent();
        f.write_str(std::str::from_utf8(&text).expect("digits and hyphens"))
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A `traceparent` that is not one; by the specification it is then as if it were not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C traceparent")]
pub struct InvalidTraceparent;

impl FromStr for TraceContext {
    type Err = InvalidTraceparent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceparent> {
        Self::parse(text.as_bytes())
    }
}

/// Reads two hexadecimal digits for each byte. Whatever stands there is taken for some digit; it is one if it would be
/// written so.
fn hex<const N: usize>(text: &[u8]) -> Result<[u8; N], InvalidTraceparent> {
    // In ASCII letters stand above 64, and the last bits of `a` are 1.
    let number = |digit: u8| (digit & 15) + digit / 64 * 9;
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = number(pair[0]) << 4 | number(pair[1]);
    }
    let mut again = [0; 32];
    let again = &mut again[..2 * N];
    write_hex(again, &bytes);
    if again == text {
        Ok(bytes)
    } else {
        Err(InvalidTraceparent)
    }
}

/// Two requests with the same key are the same request, which is done once: the `idempotency-key` header
/// (draft-ietf-httpapi-idempotency-key-header), 1 to 255 visible ASCII characters.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Arc<str>);

impl IdempotencyKey {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is no idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key must have 1 to 255 visible ASCII characters")]
pub struct InvalidIdempotencyKey;

impl FromStr for IdempotencyKey {
    type Err = InvalidIdempotencyKey;

    fn from_str(text: &str) -> Result<Self, InvalidIdempotencyKey> {
        if text.is_empty() || text.len() > 255 || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(InvalidIdempotencyKey);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_and_written() {
        let trace: TraceContext = GOOD.parse().unwrap();
        assert_eq!(trace.to_string(), GOOD);
        assert_eq!(
            trace.trace_id().to_string(),
            "0af7651916cd43dd8448eb211c80319c"
        );
        assert!(trace.is_sampled());
        assert_ne!(trace.child(), trace);
        assert_eq!(trace.child().trace_id, trace.trace_id);
    }

    #[test]
    fn a_later_version_is_read_by_what_it_has_in_common() {
        let later = GOOD.replacen("00-", "cc-", 1) + "-what-the-future-will-be-like";
        assert_eq!(later.parse::<TraceContext>().unwrap().to_string(), GOOD);
    }

    #[test]
    fn what_is_no_traceparent_is_refused() {
        for bad in [
            "",
            "00",
            &GOOD.to_uppercase(),
            &GOOD.replacen("00-", "ff-", 1),
            &format!("{GOOD}-more"),
            &format!("{GOOD}x").replacen("00-", "cc-", 1),
            &GOOD[..GOOD.len() - 1],
            &GOOD.replace('-', "0"),
            &GOOD.replace('f', "g"),
            &GOOD.replace("0a", "\u{e9}"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        ] {
            assert_eq!(
                bad.parse::<TraceContext>(),
                Err(InvalidTraceparent),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn only_lower_case_hexadecimal_is_read() {
        for (at, other) in (0..GOOD.len()).flat_map(|at| (0..128).map(move |other| (at, other))) {
            let mut text = GOOD.as_bytes().to_vec();
            text[at] = other;
            let text = String::from_utf8(text).unwrap();
            let valid = match GOOD.as_bytes()[at] {
                b'-' => other == b'-',
                _ => matches!(other, b'0'..=b'9' | b'a'..=b'f'),
            };
            assert_eq!(text.parse::<TraceContext>().is_ok(), valid, "{text:?}");
        }
    }

    #[cfg(kit_loom)]
    #[test]
    fn in_every_order_one_of_two_attempts_side_by_side_is_remembered_at_least() {
        loom::model(|| {
            let tried = Tried::default();
            let theirs = tried.clone();
            let other = loom::thread::spawn(move || theirs.add(1));
            tried.add(2);
            other.join().unwrap();
            assert!(tried.contains(1) || tried.contains(2));
        });
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,80}") {
            if let Ok(trace) = text.parse::<TraceContext>() {
                prop_assert_eq!(trace.to_string().parse(), Ok(trace));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_absolute() {
        let deadline = Deadline::after(Duration::from_secs(2));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(deadline.remaining(Instant::now()), Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(deadline.has_passed(Instant::now()));
        assert!(!Deadline::after(Duration::MAX).has_passed(Instant::now()));
    }
}
