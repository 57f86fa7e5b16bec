//! The error that handlers return and clients receive, with one code for HTTP and gRPC alike.

use std::{borrow::Cow, error::Error as StdError, fmt, sync::Arc, time::Duration};

use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::{
    BoxError,
    rejection::{Rejection, RetriesSpent, find_cause},
};

/// The canonical codes of gRPC, and what they are in HTTP (the mapping of `google/rpc/code.proto`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The caller went away.
    Cancelled,
    /// Nobody knows what it was.
    Unknown,
    /// The request is wrong whatever the state of the system is.
    InvalidArgument,
    /// The time was up. The peer may have acted.
    DeadlineExceeded,
    /// What was asked for does not exist.
    NotFound,
    /// What should be made exists.
    AlreadyExists,
    /// The caller is known and may not.
    PermissionDenied,
    /// A quota or rate is used up.
    ResourceExhausted,
    /// The request is right, but not in the present state.
    FailedPrecondition,
    /// A conflict with another request; may be tried again from the start.
    Aborted,
    /// Past the valid range.
    OutOfRange,
    /// There is no such method.
    Unimplemented,
    /// The server broke its own rules.
    Internal,
    /// Not now; may be tried again.
    Unavailable,
    /// Data is lost.
    DataLoss,
    /// The caller is not known.
    Unauthenticated,
}

impl Code {
    /// The HTTP status.
    pub fn http_status(self) -> StatusCode {
        match self {
            // nginx's "client closed request", as the mapping has it; no registered status says this.
            Self::Cancelled => StatusCode::from_u16(499).expect("499 is in the range of statuses"),
            Self::InvalidArgument | Self::FailedPrecondition | Self::OutOfRange => {
                StatusCode::BAD_REQUEST
            }
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::AlreadyExists | Self::Aborted => StatusCode::CONFLICT,
            Self::PermissionDenied => StatusCode::FORBIDDEN,
            Self::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Self::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Self::Unknown | Self::Internal | Self::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
        }
    }

    /// The best guess at the code behind an HTTP status that came without one (gRPC's
    /// `http-grpc-status-mapping`, widened for plain HTTP).
    pub fn from_http(status: StatusCode) -> Self {
        match status.as_u16() {
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::NotFound,
            405 | 501 => Self::Unimplemented,
            408 | 504 => Self::DeadlineExceeded,
            409 => Self::Aborted,
            429 => Self::ResourceExhausted,
            499 => Self::Cancelled,
            502 | 503 => Self::Unavailable,
            400..=499 => Self::InvalidArgument,
            500 => Self::Internal,
            _ => Self::Unknown,
        }
    }

    /// The name in problem documents, logs and labels, such as `invalid_argument`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
            Self::InvalidArgument => "invalid_argument",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::PermissionDenied => "permission_denied",
            Self::ResourceExhausted => "resource_exhausted",
            Self::FailedPrecondition => "failed_precondition",
            Self::Aborted => "aborted",
            Self::OutOfRange => "out_of_range",
            Self::Unimplemented => "unimplemented",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::DataLoss => "data_loss",
            Self::Unauthenticated => "unauthenticated",
        }
    }
}

impl From<Code> for tonic::Code {
    fn from(code: Code) -> Self {
        match code {
            Code::Cancelled => Self::Cancelled,
            Code::Unknown => Self::Unknown,
            Code::InvalidArgument => Self::InvalidArgument,
            Code::DeadlineExceeded => Self::DeadlineExceeded,
            Code::NotFound => Self::NotFound,
            Code::AlreadyExists => Self::AlreadyExists,
            Code::PermissionDenied => Self::PermissionDenied,
            Code::ResourceExhausted => Self::ResourceExhausted,
            Code::FailedPrecondition => Self::FailedPrecondition,
            Code::Aborted => Self::Aborted,
            Code::OutOfRange => Self::OutOfRange,
            Code::Unimplemented => Self::Unimplemented,
            Code::Internal => Self::Internal,
            Code::Unavailable => Self::Unavailable,
            Code::DataLoss => Self::DataLoss,
            Code::Unauthenticated => Self::Unauthenticated,
        }
    }
}

/// Not for [`tonic::Code::Ok`], which is no error: it becomes [`Code::Unknown`].
impl From<tonic::Code> for Code {
    fn from(code: tonic::Code) -> Self {
        match code {
            tonic::Code::Cancelled => Self::Cancelled,
            tonic::Code::Ok | tonic::Code::Unknown => Self::Unknown,
            tonic::Code::InvalidArgument => Self::InvalidArgument,
            tonic::Code::DeadlineExceeded => Self::DeadlineExceeded,
            tonic::Code::NotFound => Self::NotFound,
            tonic::Code::AlreadyExists => Self::AlreadyExists,
            tonic::Code::PermissionDenied => Self::PermissionDenied,
            tonic::Code::ResourceExhausted => Self::ResourceExhausted,
            tonic::Code::FailedPrecondition => Self::FailedPrecondition,
            tonic::Code::Aborted => Self::Aborted,
            tonic::Code::OutOfRange => Self::OutOfRange,
            tonic::Code::Unimplemented => Self::Unimplemented,
            tonic::Code::Internal => Self::Internal,
            tonic::Code::Unavailable => Self::Unavailable,
            tonic::Code::DataLoss => Self::DataLoss,
            tonic::Code::Unauthenticated => Self::Unauthenticated,
        }
    }
}

/// One field that broke one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The field, as a path such as `email` or `items[3].name`; empty for the body as a whole.
    pub field: String,
    /// The rule, as a sentence part such as `must not be empty`.
    pub rule: String,
}

/// What a handler returns when it cannot do what was asked, and what a generated client returns.
///
/// The message is for the caller to read. What only the operator may read goes into the source, which is logged
/// and never sent.
pub struct Error(Box<Inner>);

struct Inner {
    code: Code,
    message: Cow<'static, str>,
    violations: Vec<Violation>,
    retry_after: Option<Duration>,
    retries_spent: bool,
    rejection: Option<Rejection>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// A constructor for each code that handlers use.
macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $code:ident;)*) => {
        $($(#[$doc])*
        pub fn $name(message: impl Into<Cow<'static, str>>) -> Self {
            Self::new(Code::$code, message)
        })*
    };
}

impl Error {
    /// An error with a message that the caller will read.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            code,
            message: message.into(),
            violations: Vec::new(),
            retry_after: None,
            retries_spent: false,
            rejection: None,
            source: None,
        }))
    }

    constructors! {
        /// [`Code::NotFound`].
        not_found => NotFound;
        /// [`Code::AlreadyExists`].
        already_exists => AlreadyExists;
        /// [`Code::FailedPrecondition`].
        failed_precondition => FailedPrecondition;
        /// [`Code::PermissionDenied`].
        permission_denied => PermissionDenied;
        /// [`Code::Unavailable`].
        unavailable => Unavailable;
    }

    /// [`Code::InvalidArgument`], for one field that broke one rule.
    pub fn invalid(field: impl Into<String>, rule: impl Into<String>) -> Self {
        let (field, rule) = (field.into(), rule.into());
        let message = if field.is_empty() {
            rule.clone()
        } else {
            format!("{field} {rule}")
        };
        Self::new(Code::InvalidArgument, message).with_violation(field, rule)
    }

    /// [`Code::OutOfRange`], for a body of more than `limit` bytes. Not [`Code::ResourceExhausted`], which others use
    /// here: that would say that the peer has too much to do, and a caller would try again.
    pub fn too_large(limit: usize) -> Self {
        let rule = format!("must not be longer than {limit} bytes");
        Self::new(Code::OutOfRange, format!("the body {rule}")).with_violation("", rule)
    }

    /// [`Code::Internal`], for what the caller can do nothing about: the source is logged, and the caller reads
    /// only that it was an internal error.
    pub fn internal(source: impl Into<BoxError>) -> Self {
        Self::new(Code::Internal, "internal error").with_source(source)
    }

    /// Adds a field that broke a rule.
    #[must_use]
    pub fn with_violation(mut self, field: impl Into<String>, rule: impl Into<String>) -> Self {
        self.0.violations.push(Violation {
            field: field.into(),
            rule: rule.into(),
        });
        self
    }

    /// Says when another try makes sense.
    #[must_use]
    pub fn with_retry_after(mut self, retry_after: Duration) -> Self {
        self.0.retry_after = Some(retry_after);
        self
    }

    /// Says that the call was made as often as it may be: whoever made the one of which it was a part shall not try
    /// again. A client of kit says it of what it gave up, and a handler that hands such an error on hands this on too.
    #[must_use]
    pub fn with_retries_spent(mut self) -> Self {
        self.0.retries_spent = true;
        self
    }

    /// Adds the cause, which is logged and never sent.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into().into());
        self
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What the caller reads.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The fields that broke rules.
    pub fn violations(&self) -> &[Violation] {
        &self.0.violations
    }

    /// How long to wait before another try makes sense, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether it was tried as often as it may be, see [`with_retries_spent`](Self::with_retries_spent).
    pub fn retries_spent(&self) -> bool {
        self.0.retries_spent
    }

    /// Why the kit refused the call, or `None` where the answer is the peer's own.
    pub fn rejection(&self) -> Option<&Rejection> {
        self.0.rejection.as_ref()
    }
}

impl From<Rejection> for Error {
    fn from(rejection: Rejection) -> Self {
        let mut error = Self::new(rejection.code(), rejection.to_string());
        error.0.retry_after = rejection.retry_after();
        error.0.rejection = Some(rejection);
        error
    }
}

/// An error that came up through a tower stack: an [`Error`] or a [`Rejection`] somewhere in its chain is taken
/// for what it is; anything else means that the peer could not be asked, [`Code::Unavailable`].
impl From<BoxError> for Error {
    fn from(error: BoxError) -> Self {
        let error = match error.downcast::<Self>() {
            Ok(error) => return *error,
            Err(error) => error,
        };
        let spent = find_cause::<RetriesSpent>(&*error).is_some();
        let mut this = match (find_cause::<Self>(&*error), Rejection::find(&*error)) {
            // It may have the rejection as its own source.
            (Some(error), _) => error.clone(),
            (None, Some(rejection)) => Self::from(rejection.clone()),
            (None, None) => Self::new(Code::Unavailable, "the service could not be reached"),
        };
        this.0.retries_spent |= spent;
        this.with_source(error)
    }
}

impl Clone for Error {
    fn clone(&self) -> Self {
        let Inner {
            code,
            message,
            violations,
            retry_after,
            retries_spent,
            rejection,
            source,
        } = &*self.0;
        Self(Box::new(Inner {
            code: *code,
            message: message.clone(),
            violations: violations.clone(),
            retry_after: *retry_after,
            retries_spent: *retries_spent,
            rejection: rejection.clone(),
            source: source.clone(),
        }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code.as_str(), self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("code", &self.0.code)
            .field("message", &self.0.message)
            .field("violations", &self.0.violations)
            .field("retry_after", &self.0.retry_after)
            .field("retries_spent", &self.0.retries_spent)
            .field("rejection", &self.0.rejection)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_ref()
            .map(|source| &**source as &(dyn StdError + 'static))
    }
}

/// An error with all its sources in one line, for logs.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(pub &'a (dyn StdError + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// The problem document (RFC 9457) in which an error travels over HTTP, as `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A URI for the kind of problem; `about:blank` says that the status says it all.
    #[serde(rename = "type", default = "about_blank")]
    pub kind: Cow<'static, str>,
    /// The status in words.
    #[serde(default)]
    pub title: Cow<'static, str>,
    /// The HTTP status.
    pub status: u16,
    /// What happened, for a person.
    #[serde(default)]
    pub detail: Cow<'static, str>,
    /// The code, which says more than the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// The fields that broke rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Violation>,
}

fn about_blank() -> Cow<'static, str> {
    Cow::Borrowed("about:blank")
}

impl Problem {
    /// The content type of a problem document.
    pub const CONTENT_TYPE: &str = "application/problem+json";

    /// A problem for which there is a status and no [`Error`], such as a wrong method.
    pub fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind: about_blank(),
            title: status.canonical_reason().unwrap_or("Error").into(),
            status: status.as_u16(),
            detail: detail.into(),
            code: None,
            errors: Vec::new(),
        }
    }
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        Self {
            code: Some(error.code()),
            errors: error.0.violations.clone(),
            ..Self::new(error.code().http_status(), error.0.message.clone())
        }
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        let code = problem.code.unwrap_or_else(|| {
            StatusCode::from_u16(problem.status).map_or(Code::Unknown, Code::from_http)
        });
        let mut error = Self::new(code, problem.detail);
        error.0.violations = problem.errors;
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_the_field_and_the_rule() {
        let problem = Problem::from(&Error::invalid("email", "must not be empty"));
        assert_eq!(
            serde_json::to_string(&problem).unwrap(),
            r#"{"type":"about:blank","title":"Bad Request","status":400,"detail":"email must not be empty","code":"invalid_argument","errors":[{"field":"email","rule":"must not be empty"}]}"#
        );
    }

    #[test]
    fn an_error_survives_the_way_through_a_problem() {
        let sent =
            Error::invalid("email", "must not be empty").with_violation("name", "is too long");
        let received = Error::from(Problem::from(&sent));
        assert_eq!(received.code(), sent.code());
        assert_eq!(received.message(), sent.message());
        assert_eq!(received.violations(), sent.violations());
    }

    #[test]
    fn what_the_kit_refused_is_told_apart_from_what_the_peer_said() {
        let refused = Error::from(BoxError::from(Rejection::Overloaded { limit: 1 }));
        assert_eq!(refused.code(), Code::Unavailable);
        assert_eq!(
            refused.rejection(),
            Some(&Rejection::Overloaded { limit: 1 })
        );
        let said = Error::from(BoxError::from(Error::unavailable("not now")));
        assert_eq!(said.code(), Code::Unavailable);
        assert_eq!(said.rejection(), None);
    }

    #[test]
    fn an_error_is_found_through_wrapping_errors() {
        let said = || BoxError::from(Error::invalid("email", "must not be empty"));
        for (wrapped, spent) in [
            (BoxError::from(RetriesSpent(said())), true),
            (BoxError::from(crate::rejection::NotSent(said())), false),
        ] {
            let error = Error::from(wrapped);
            assert_eq!(error.code(), Code::InvalidArgument);
            assert_eq!(error.violations()[0].field, "email");
            assert_eq!(error.retries_spent(), spent);
        }
        let spent = RetriesSpent(Box::new(Rejection::DeadlineExceeded));
        let error = Error::from(BoxError::from(spent));
        assert_eq!(error.rejection(), Some(&Rejection::DeadlineExceeded));
        assert!(error.retries_spent());
    }

    #[test]
    fn the_source_is_not_what_the_caller_reads() {
        let error = Error::internal(std::io::Error::other("password=hunter2"));
        assert!(
            !serde_json::to_string(&Problem::from(&error))
                .unwrap()
                .contains("hunter2")
        );
        assert!(!error.to_string().contains("hunter2"));
    }
}
