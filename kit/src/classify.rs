//! The one place that says what a result tells about the peer, and whether the call may be made again.
//!
//! Breakers, balancers, retries and metrics all ask here, so that they agree on what a failure is.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

use crate::{
    BoxError,
    context::Context,
    error::{Code, Error},
    name::Priority,
    rejection::{NotSent, Rejection, RetriesSpent, find_cause},
    wire::{self, GRPC_STATUS, IDEMPOTENCY_KEY},
};

/// What a result tells about the one who gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The peer did what it should.
    Success,
    /// The peer failed: its own fault, a broken connection, or no answer in time.
    Failure,
    /// The peer is well and has too much to do (429, RESOURCE_EXHAUSTED).
    Overload,
    /// The request was wrong. The peer is well.
    CallerFault,
    /// The kit answered before a peer was asked: nothing was learnt about anybody.
    Rejected,
}

impl Outcome {
    /// The name in logs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Overload => "overload",
            Self::CallerFault => "caller_fault",
            Self::Rejected => "rejected",
        }
    }
}

/// Whether a call may be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// It would not help.
    No,
    /// Only if making it twice is the same as making it once: the peer may have acted.
    IfIdempotent,
    /// Whatever it does: it provably never reached the peer.
    Always,
}

/// Whether making this call twice is the same as making it once: its [`Method`](crate::name::Method) says so, or it
/// has an idempotency key, or, where no generated client made it, its HTTP method is idempotent (RFC 9110, section
/// 9.2.2).
pub fn is_idempotent<B>(request: &http::Request<B>) -> bool {
    let context = request.extensions().get::<Context>();
    // What a trait says of its method weighs more than the POST that it travels as.
    let idempotent = match context.and_then(|context| context.method) {
        Some(method) => method.idempotent,
        None => request.method().is_idempotent(),
    };
    idempotent
        || context.is_some_and(|context| context.idempotency_key.is_some())
        || wire::rare(request.headers(), &IDEMPOTENCY_KEY).is_some()
}

/// All that is to be said about one result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What it tells about the peer.
    pub outcome: Outcome,
    /// Whether the call may be made again.
    pub retry: Retry,
    /// How long the peer asked to be left alone, by whomever (`Retry-After`).
    pub retry_after: Option<Duration>,
    /// After what time, exactly, the peer wants this call again (`grpc-retry-pushback-ms`, gRFC A6, on both wires). Where it wants
    /// it never again, `retry` says so.
    pub pushback: Option<Duration>,
}

impl Verdict {
    const fn new(outcome: Outcome, retry: Retry) -> Self {
        Self {
            outcome,
            retry,
            retry_after: None,
            pushback: None,
        }
    }
}

/// Judges results of type `T`. Cloned with the layer that holds it, so it should be cheap to clone.
pub trait Classify<T>: Clone {
    /// Judges an answer.
    fn classify(&self, answer: &T) -> Verdict;

    /// Judges an error. Only replace this for errors that the kit cannot know.
    fn classify_error(&self, error: &BoxError) -> Verdict {
        classify_error(error)
    }

    /// Judges whichever of the two it is.
    fn classify_result(&self, result: &Result<T, BoxError>) -> Verdict {
        match result {
            Ok(answer) => self.classify(answer),
            Err(error) => self.classify_error(error),
        }
    }
}

/// Says how long requests of type `R` are still served when there is too much to do.
pub trait Prioritize<R> {
    /// What the request says of itself.
    fn priority(&self, _: &R) -> Priority {
        Priority::Normal
    }
}

impl<R> Prioritize<R> for AnySuccess {}

impl<B> Prioritize<http::Request<B>> for HttpClassify {
    fn priority(&self, request: &http::Request<B>) -> Priority {
        wire::priority(request.headers()).unwrap_or_default()
    }
}

/// Every answer is a success and every error is judged by what it is: for services that are not HTTP.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnySuccess;

impl<T> Classify<T> for AnySuccess {
    fn classify(&self, _: &T) -> Verdict {
        Verdict::new(Outcome::Success, Retry::No)
    }
}

/// Judges HTTP responses by status, and gRPC ones by `grpc-status` where the headers have it, as they do in a
/// response that failed before its first message ("trailers-only").
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpClassify;

impl<B> Classify<http::Response<B>> for HttpClassify {
    fn classify(&self, response: &http::Response<B>) -> Verdict {
        let headers = response.headers();
        let verdict = match grpc_code(headers) {
            Some(None) => return Verdict::new(Outcome::Success, Retry::No),
            Some(Some(code)) => classify_code(code),
            None if response.status().as_u16() < 400 => {
                return Verdict::new(Outcome::Success, Retry::No);
            }
            None => classify_status(response.status()),
        };
        let pushback = wire::retry_pushback(headers);
        Verdict {
            retry: match pushback {
                Some(None) => Retry::No,
                _ => verdict.retry,
            },
            retry_after: wire::retry_after(headers),
            pushback: pushback.flatten(),
            ..verdict
        }
    }
}

/// The code in `grpc-status`: `None` without the header, `Some(None)` for OK.
pub fn grpc_code(headers: &HeaderMap) -> Option<Option<Code>> {
    wire::rare(headers, &GRPC_STATUS).map(|value| match tonic::Code::from_bytes(value.as_bytes()) {
        tonic::Code::Ok => None,
        code => Some(code.into()),
    })
}

fn classify_status(status: StatusCode) -> Verdict {
    match status.as_u16() {
        429 => Verdict::new(Outcome::Overload, Retry::IfIdempotent),
        // The peer does not know the method; asking again, or asking its twin, would not teach it.
        501 => Verdict::new(Outcome::CallerFault, Retry::No),
        502..=504 => Verdict::new(Outcome::Failure, Retry::IfIdempotent),
        500.. => Verdict::new(Outcome::Failure, Retry::No),
        400..=499 => Verdict::new(Outcome::CallerFault, Retry::No),
        _ => Verdict::new(Outcome::Success, Retry::No),
    }
}

/// What a canonical code tells about the peer that answered with it.
pub fn classify_code(code: Code) -> Verdict {
    match code {
        Code::ResourceExhausted => Verdict::new(Outcome::Overload, Retry::IfIdempotent),
        Code::Unavailable | Code::DeadlineExceeded => {
            Verdict::new(Outcome::Failure, Retry::IfIdempotent)
        }
        Code::Unknown | Code::Internal | Code::DataLoss => {
            Verdict::new(Outcome::Failure, Retry::No)
        }
        Code::Cancelled
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unauthenticated => Verdict::new(Outcome::CallerFault, Retry::No),
    }
}

/// Judges an error by the first word in its chain that the kit knows. An unknown one, such as a connection that
/// broke while the answer was awaited, is a failure after which the peer may have acted.
pub fn classify_error(error: &BoxError) -> Verdict {
    let verdict = classify_cause(error);
    match find_cause::<RetriesSpent>(&**error) {
        None => verdict,
        Some(_) => Verdict {
            retry: Retry::No,
            ..verdict
        },
    }
}

fn classify_cause(error: &BoxError) -> Verdict {
    let rejection = Rejection::find(&**error).map(classify_rejection);
    if find_cause::<NotSent>(&**error).is_some() {
        // Where the kit had no place for it, the peer is not to blame; another one may have.
        let outcome = rejection.map_or(Outcome::Failure, |verdict| verdict.outcome);
        return Verdict::new(outcome, Retry::Always);
    }
    if let Some(verdict) = rejection {
        return verdict;
    }
    if let Some(error) = find_cause::<Error>(&**error) {
        let verdict = classify_code(error.code());
        return Verdict {
            retry: match error.retries_spent() {
                true => Retry::No,
                false => verdict.retry,
            },
            retry_after: error.retry_after(),
            ..verdict
        };
    }
    Verdict::new(Outcome::Failure, Retry::IfIdempotent)
}

fn classify_rejection(rejection: &Rejection) -> Verdict {
    match rejection {
        Rejection::TimedOut { .. } => Verdict::new(Outcome::Failure, Retry::IfIdempotent),
        Rejection::FaultInjected { code } => classify_code(*code),
        Rejection::RateLimited { .. }
        | Rejection::Overloaded { .. }
        | Rejection::CircuitOpen { .. }
        | Rejection::NoEndpoints { .. }
        | Rejection::DeadlineExceeded => Verdict::new(Outcome::Rejected, Retry::No),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, headers: &[(&'static str, &str)]) -> http::Response<()> {
        let mut response = http::Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        response.body(()).unwrap()
    }

    #[test]
    fn what_found_no_place_of_ours_blames_nobody_and_may_go_elsewhere() {
        let refused = NotSent(Box::new(Rejection::Overloaded { limit: 1 }));
        assert_eq!(
            classify_error(&refused.into()),
            Verdict::new(Outcome::Rejected, Retry::Always)
        );
    }

    #[test]
    fn the_callers_own_fault_is_no_failure_of_the_peer() {
        for status in [400, 401, 404, 405, 409, 413, 422, 501] {
            let verdict = HttpClassify.classify(&response(status, &[]));
            assert_eq!(
                verdict,
                Verdict::new(Outcome::CallerFault, Retry::No),
                "{status}"
            );
        }
        let verdict = HttpClassify.classify(&response(200, &[("grpc-status", "3")]));
        assert_eq!(verdict, Verdict::new(Outcome::CallerFault, Retry::No));
    }

    #[test]
    fn a_grpc_failure_hides_behind_status_200() {
        let verdict = HttpClassify.classify(&response(200, &[("grpc-status", "14")]));
        assert_eq!(verdict, Verdict::new(Outcome::Failure, Retry::IfIdempotent));
        let verdict = HttpClassify.classify(&response(200, &[("grpc-status", "0")]));
        assert_eq!(verdict.outcome, Outcome::Success);
    }

    #[test]
    fn the_peer_may_ask_to_be_left_alone() {
        let verdict = HttpClassify.classify(&response(503, &[("retry-after", "7")]));
        assert_eq!(verdict.retry_after, Some(Duration::from_secs(7)));
        let verdict = HttpClassify.classify(&response(
            200,
            &[("grpc-status", "14"), ("retry-after", "7")],
        ));
        assert_eq!(verdict.retry_after, Some(Duration::from_secs(7)));
    }

    #[test]
    fn a_grpc_peer_says_when_it_wants_the_call_again_and_whether() {
        let judge = |status, pushback| {
            let headers = [
                ("grpc-status", status),
                ("grpc-retry-pushback-ms", pushback),
            ];
            HttpClassify.classify(&response(200, &headers))
        };
        let unavailable = Verdict::new(Outcome::Failure, Retry::IfIdempotent);
        let pushback = Some(Duration::from_millis(40));
        let later = Verdict {
            pushback,
            ..unavailable
        };
        assert_eq!(judge("14", "40"), later);
        let never = Verdict {
            retry: Retry::No,
            ..unavailable
        };
        assert_eq!(judge("14", "-1"), never);
        // It says when, not that what must not be repeated may be.
        assert_eq!(judge("3", "40").retry, Retry::No);
    }

    #[test]
    fn only_what_never_reached_the_peer_may_always_be_retried() {
        let refused = BoxError::from(NotSent("refused".into()));
        assert_eq!(classify_error(&refused).retry, Retry::Always);
        let reset = BoxError::from("connection reset");
        assert_eq!(
            classify_error(&reset),
            Verdict::new(Outcome::Failure, Retry::IfIdempotent)
        );
    }

    #[test]
    fn what_was_tried_often_enough_is_not_tried_again() {
        let plain = response(503, &[("grpc-retry-pushback-ms", "-1")]);
        let refused = RetriesSpent(NotSent("refused".into()).into());
        let handed_on = Error::unavailable("not now").with_retries_spent();
        for verdict in [
            HttpClassify.classify(&plain),
            classify_error(&refused.into()),
            classify_error(&handed_on.into()),
        ] {
            assert_eq!(verdict, Verdict::new(Outcome::Failure, Retry::No));
        }
    }

    #[test]
    fn a_rejection_says_nothing_about_the_peer() {
        let open = BoxError::from(Rejection::CircuitOpen {
            retry_after: Duration::from_secs(1),
        });
        assert_eq!(
            classify_error(&open),
            Verdict::new(Outcome::Rejected, Retry::No)
        );
    }
}
