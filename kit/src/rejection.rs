//! The answers that the kit gives instead of the peer.
//!
//! A layer that refuses a request fails with a [`BoxError`] that carries a [`Rejection`]. It is found again with
//! [`Rejection::find`] through any number of wrapping errors, so that one place, [`Error`](crate::Error), turns
//! it into a status, and nobody takes the kit's word for the peer's.

use std::{
    error::Error as StdError,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;

use crate::{BoxError, error::Code, name::ServiceName};

/// Why the kit answered and not the peer.
///
/// Not `#[non_exhaustive]`: a new variant must break every `match` that decides by it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The caller is above its rate.
    #[error("rate limit exceeded; retry after {retry_after:?}")]
    RateLimited {
        /// Wait until one request would pass.
        retry_after: Duration,
    },
    /// As many requests are in flight as are allowed.
    #[error("overloaded: {limit} requests are in flight already")]
    Overloaded {
        /// How many may be in flight at once.
        limit: usize,
    },
    /// The circuit breaker is open.
    #[error("circuit open; retry after {retry_after:?}")]
    CircuitOpen {
        /// Wait until the breaker lets a probe through.
        retry_after: Duration,
    },
    /// No instance of the service is known.
    #[error("no endpoint of service {service} is known")]
    NoEndpoints {
        /// The service that was called.
        service: ServiceName,
    },
    /// The request's deadline has passed. If it passed after the request was sent, the peer may have acted.
    #[error("deadline exceeded")]
    DeadlineExceeded,
    /// One attempt took longer than its timeout. The peer may have acted.
    #[error("attempt timed out after {after:?}")]
    TimedOut {
        /// The timeout of one attempt.
        after: Duration,
    },
    /// A fault was injected on purpose, see [`crate::fault`].
    #[error("injected fault")]
    FaultInjected {
        /// The code it was configured to fail with.
        code: Code,
    },
}

impl Rejection {
    /// The rejection that `error` is or was caused by, if the kit made it.
    pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        find_cause(error)
    }

    /// The canonical code for this answer.
    pub fn code(&self) -> Code {
        match self {
            Self::RateLimited { .. } => Code::ResourceExhausted,
            Self::Overloaded { .. } | Self::CircuitOpen { .. } | Self::NoEndpoints { .. } => {
                Code::Unavailable
            }
            Self::DeadlineExceeded | Self::TimedOut { .. } => Code::DeadlineExceeded,
            Self::FaultInjected { code } => *code,
        }
    }

    /// How long to wait before another request makes sense, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after } | Self::CircuitOpen { retry_after } => {
                Some(*retry_after)
            }
            Self::Overloaded { .. }
            | Self::NoEndpoints { .. }
            | Self::DeadlineExceeded
            | Self::TimedOut { .. }
            | Self::FaultInjected { .. } => None,
        }
    }

    /// The name in logs and labels.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::RateLimited { .. } => "rate_limited",
            Self::Overloaded { .. } => "overloaded",
            Self::CircuitOpen { .. } => "circuit_open",
            Self::NoEndpoints { .. } => "no_endpoints",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::TimedOut { .. } => "timed_out",
            Self::FaultInjected { .. } => "fault_injected",
        }
    }
}

/// The request provably never reached the peer: the connection was refused, or broke before a byte was sent, or
/// the peer said that it did not look at it. Whoever knows that wraps the error in this, and the call may be
/// made again whatever it does.
#[derive(Debug, thiserror::Error)]
#[error("the request never reached the peer")]
pub struct NotSent(#[source] pub BoxError);

/// The call could have been made again, and has been made as often as it may: whoever tries again multiplies what was
/// tried already. Retries wrap the error of their last attempt in this.
#[derive(Debug, thiserror::Error)]
#[error("it has been tried often enough")]
pub struct RetriesSpent(#[source] pub BoxError);

/// The first error of type `E` in `error` and its chain of sources.
pub fn find_cause<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

pin_project! {
    /// The future of a layer that either calls its inner service or refuses at once.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = Project]
    enum State<F> {
        Called { #[pin] inner: F },
        Rejected { reason: Option<Rejection> },
    }
}

impl<F> ResponseFuture<F> {
    /// The inner service was called.
    pub fn called(inner: F) -> Self {
        Self {
            state: State::Called { inner },
        }
    }

    /// The request was refused; the inner service stays ready for the next one.
    #[cold]
    pub fn rejected(reason: Rejection) -> Self {
        Self {
            state: State::Rejected {
                reason: Some(reason),
            },
        }
    }
}

impl<F, T, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            Project::Called { inner } => inner.poll(cx).map_err(Into::into),
            Project::Rejected { reason } => Poll::Ready(Err(reason
                .take()
                .expect("not polled after it was ready")
                .into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_is_found_through_wrapping_errors() {
        let wrapped = NotSent(Box::new(NotSent(Box::new(Rejection::Overloaded {
            limit: 3,
        }))));
        assert_eq!(
            Rejection::find(&wrapped),
            Some(&Rejection::Overloaded { limit: 3 })
        );
        assert_eq!(Rejection::find(&std::io::Error::other("reset")), None);
    }
}
