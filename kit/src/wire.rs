//! The two ways in which a call travels, and what an error looks like on each.

use std::{
    cell::RefCell,
    time::{Duration, SystemTime},
};

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::{
    Body,
    error::{Error, Problem},
    name::Priority,
};

/// How often a call was tried before this attempt, on both wires (the name is gRPC's, gRFC A6).
pub const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");
/// In how many milliseconds the peer wants another attempt; not at all, if that is no number or below zero (gRFC A6).
pub const RETRY_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
/// How long the caller still waits: digits and a unit out of `H`, `M`, `S`, `m`, `u`, `n` (gRPC over HTTP/2).
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The same for JSON over HTTP, written in the same way.
pub const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("request-timeout");
/// The place in a distributed trace (W3C Trace Context).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Names a call, so that making it twice does it once (draft-ietf-httpapi-idempotency-key-header).
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What a server sheds first when it has too much to do: `sheddable`, `normal` or `critical`, see
/// [`Priority`]. Absent is `normal`.
pub const REQUEST_PRIORITY: HeaderName = HeaderName::from_static("request-priority");

/// How a gRPC call ended; in the head of a response only where it ended before the first message.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The value of a header that few messages have: to see that it is not there by looking at all names takes less time
/// than to hash the one, for messages have few.
pub(crate) fn rare<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    if headers.keys().any(|other| other == name) {
        return headers.get(name);
    }
    None
}

/// The value of a header that most messages have. While there are few, it is found by looking at them: to hash a name
/// takes as long as to look at ten.
// Where the name is known, so is what it has to be compared with.
#[inline(always)]
pub(crate) fn common<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    if headers.len() > 8 {
        return headers.get(name);
    }
    let mut headers = headers.iter();
    headers.find_map(|(other, value)| (other == name).then_some(value))
}

/// How a call travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wire {
    /// JSON over HTTP: errors are problem documents (RFC 9457).
    Json,
    /// gRPC over HTTP/2: errors are a status in the trailers.
    Grpc,
}

impl Wire {
    /// The wire of a request, by its content type: gRPC's is `application/grpc` with an optional suffix such as
    /// `+proto`, and all else is JSON.
    pub fn of(headers: &HeaderMap) -> Self {
        let grpc = common(headers, &header::CONTENT_TYPE)
            .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')));
        if grpc { Self::Grpc } else { Self::Json }
    }

    /// The header that carries the timeout on this wire.
    pub fn timeout_header(self) -> HeaderName {
        match self {
            Self::Json => REQUEST_TIMEOUT,
            Self::Grpc => GRPC_TIMEOUT,
        }
    }

    /// The name in logs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Grpc => "grpc",
        }
    }

    /// `error` as a response on this wire. The error goes along in the response's extensions, so that the layers
    /// outside can log its source.
    pub fn error(self, error: Error) -> Response<Body> {
        let status = error.code().http_status();
        self.error_as(error, status)
    }

    /// The same, where HTTP has a status that says more than the error's code does, such as 405.
    pub fn error_as(self, error: Error, status: StatusCode) -> Response<Body> {
        let mut response = match self {
            Self::Json => problem(&Problem {
                code: Some(error.code()),
                errors: error.violations().to_vec(),
                ..Problem::new(status, error.message().to_owned())
            }),
            Self::Grpc => self::status(&error).into_http(),
        };
        if let Some(after) = error.retry_after() {
            // Rounded up: a caller that comes back in time is not turned away again.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if error.retries_spent() {
            push_back(response.headers_mut());
        }
        if self == Self::Json && status == StatusCode::UNAUTHORIZED {
            // What this status always comes with (RFC 9110, section 11.6.1).
            let bearer = HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, bearer);
        }
        response.extensions_mut().insert(error);
        response
    }

    /// The answer to a body of more than `limit` bytes: status 413, or OUT_OF_RANGE.
    pub fn too_large(self, limit: usize) -> Response<Body> {
        self.error_as(Error::too_large(limit), StatusCode::PAYLOAD_TOO_LARGE)
    }
}

/// A problem document as a response.
pub fn problem(problem: &Problem) -> Response<Body> {
    let body = serde_json::to_vec(problem).expect("a problem has only texts and numbers");
    let mut response = Response::new(Body::full(body));
    *response.status_mut() =
        StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(Problem::CONTENT_TYPE),
    );
    response
}

/// An error as a gRPC status, with the fields that broke rules as `google.rpc.BadRequest` in its details.
pub fn status(error: &Error) -> tonic::Status {
    use tonic_types::{ErrorDetails, StatusExt};

    let mut details = ErrorDetails::new();
    for violation in error.violations() {
        details.add_bad_request_violation(&violation.field, &violation.rule);
    }
    if let Some(after) = error.retry_after() {
        details.set_retry_info(Some(after));
    }
    if details.bad_request().is_none() && details.retry_info().is_none() {
        return tonic::Status::new(error.code().into(), error.message());
    }
    tonic::Status::with_error_details(error.code().into(), error.message(), details)
}

/// A gRPC status that a peer answered with, as an error.
pub fn from_status(status: &tonic::Status) -> Error {
    use tonic_types::StatusExt;

    let details = status.get_error_details();
    let mut error = Error::new(status.code().into(), status.message().to_owned());
    for violation in details
        .bad_request()
        .iter()
        .flat_map(|bad| &bad.field_violations)
    {
        error = error.with_violation(&*violation.field, &*violation.description);
    }
    match details.retry_info().and_then(|info| info.retry_delay) {
        Some(after) => error.with_retry_after(after),
        None => error,
    }
}

thread_local! {
    /// Where the values of headers are written, one behind the other.
    static VALUES: RefCell<BytesMut> = RefCell::new(BytesMut::with_capacity(4096));
}

/// The value of a header that is written for each call, and so not allocated for each: many share one buffer, which
/// is used again when all of them are gone. `text` has visible ASCII characters only.
// Where the length is known, so is how often the check goes round.
#[inline(always)]
pub(crate) fn short_value(text: &[u8]) -> HeaderValue {
    let bytes = VALUES.with_borrow_mut(|values| {
        values.extend_from_slice(text);
        values.split().freeze()
    });
    assert_eq!(bytes.len(), text.len(), "it was empty before");
    HeaderValue::from_maybe_shared(bytes).expect("visible ASCII")
}

/// How long the peer asks to be left alone: `Retry-After`, in seconds or as a date (RFC 9110, section 10.2.3).
///
/// A date is compared with the peer's own `Date`, and only where there is none with the clock of this machine. One
/// that has passed is no time at all.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let date = |text| httpdate::parse_http_date(text).ok();
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = date(text)?;
    let sent = headers
        .get(header::DATE)
        .and_then(|sent| date(sent.to_str().ok()?))
        .unwrap_or_else(SystemTime::now);
    Some(until.duration_since(sent).unwrap_or_default())
}

/// The priority that a request says it has. What is no such word is not there.
pub fn priority(headers: &HeaderMap) -> Option<Priority> {
    Priority::from_word(rare(headers, &REQUEST_PRIORITY)?.as_bytes())
}

/// Says that no other attempt is wanted.
pub fn push_back(headers: &mut HeaderMap) {
    headers.insert(RETRY_PUSHBACK, HeaderValue::from_static("-1"));
}

/// In what time, exactly, the peer wants another attempt: `None` where it does not say, `Some(None)` where it wants
/// none.
pub fn retry_pushback(headers: &HeaderMap) -> Option<Option<Duration>> {
    let value = rare(headers, &RETRY_PUSHBACK)?;
    let millis = value.to_str().ok().and_then(|text| text.parse().ok());
    Some(millis.map(Duration::from_millis))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Code, Rejection};

    fn wire(content_type: &'static str) -> Wire {
        Wire::of(&HeaderMap::from_iter([(
            header::CONTENT_TYPE,
            HeaderValue::from_static(content_type),
        )]))
    }

    #[test]
    fn the_content_type_tells_the_wire() {
        for grpc in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc;charset=utf-8",
        ] {
            assert_eq!(wire(grpc), Wire::Grpc);
        }
        for json in [
            "application/json",
            "application/x-www-form-urlencoded",
            "application/grpc-web",
        ] {
            assert_eq!(wire(json), Wire::Json);
        }
        assert_eq!(Wire::of(&HeaderMap::new()), Wire::Json);
    }

    fn headers<const N: usize>(headers: [(HeaderName, &'static str); N]) -> HeaderMap {
        HeaderMap::from_iter(headers.map(|(name, value)| (name, HeaderValue::from_static(value))))
    }

    #[test]
    fn the_time_to_be_left_alone_is_in_seconds_or_until_a_date() {
        let asked = |after, date| {
            retry_after(&headers([
                (header::RETRY_AFTER, after),
                (header::DATE, date),
            ]))
        };
        let sent = "Wed, 21 Oct 2015 07:28:00 GMT";
        assert_eq!(asked("7", sent), Some(Duration::from_secs(7)));
        let later = "Wed, 21 Oct 2015 07:28:30 GMT";
        assert_eq!(asked(later, sent), Some(Duration::from_secs(30)));
        assert_eq!(asked(sent, later), Some(Duration::ZERO), "it has passed");
        assert_eq!(asked("soon", sent), None);
        // Without a date to compare with, by the clock of this machine.
        let alone = |after| retry_after(&headers([(header::RETRY_AFTER, after)]));
        assert_eq!(alone(later), Some(Duration::ZERO));
        assert!(alone("Fri, 31 Dec 9999 23:59:59 GMT") > Some(Duration::from_secs(1)));
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn a_peer_pushes_back_for_some_milliseconds_or_for_good() {
        let pushback = |millis| retry_pushback(&headers([(RETRY_PUSHBACK, millis)]));
        assert_eq!(pushback("1500"), Some(Some(Duration::from_millis(1_500))));
        assert_eq!(pushback("0"), Some(Some(Duration::ZERO)));
        for never in ["-1", "", "soon", "99999999999999999999"] {
            assert_eq!(pushback(never), Some(None), "{never}");
        }
        assert_eq!(retry_pushback(&HeaderMap::new()), None);
    }

    #[test]
    fn an_error_survives_the_way_through_a_grpc_status() {
        let sent =
            Error::invalid("email", "must not be empty").with_retry_after(Duration::from_secs(3));
        let received = from_status(&status(&sent));
        assert_eq!(received.code(), Code::InvalidArgument);
        assert_eq!(received.message(), sent.message());
        assert_eq!(received.violations(), sent.violations());
        assert_eq!(received.retry_after(), sent.retry_after());
    }

    #[test]
    fn a_rejection_says_when_to_come_back() {
        let error = || {
            Rejection::RateLimited {
                retry_after: Duration::from_millis(1200),
            }
            .into()
        };
        let response = Wire::Json.error(error());
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        let response = Wire::Grpc.error(error());
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "8");
        assert_eq!(response.headers()["retry-after"], "2");
    }
}
