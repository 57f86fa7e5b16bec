//! Finds out who calls.
//!
//! What a request says of its caller is looked at by an [`Authenticate`], and what that finds out travels in the
//! [`Context`]: to the generated server, which refuses whom a method is not for (`#[kit(auth)]`), and to the handler. A
//! caller whose credentials are not accepted is refused at once, whatever it asks for. One that shows none is let pass,
//! for a method may be for anyone.
//!
//! Methods that are not for anyone stay closed where nothing asks callers who they are: they fail with an internal error
//! that says so in the log.
//!
//! [`StaticTokens`] knows callers by secrets out of a file. What is signed elsewhere, such as a JWT, is one
//! implementation of the trait around the crate that checks it; and what must be asked for over the network is a tower
//! layer of one's own that fills in [`Context::caller`]:
//!
//! ```
//! use kit::{authenticate::{Authenticate, AuthenticateLayer, Refused}, context::Identity};
//!
//! /// Believes the proxy before it, which nobody passes by.
//! struct Proxy;
//!
//! impl Authenticate for Proxy {
//!     fn authenticate(&self, head: &http::request::Parts) -> Result<Option<Identity>, Refused> {
//!         let Some(user) = head.headers.get("x-forwarded-user") else { return Ok(None) };
//!         let name = user.to_str().map_err(|_| Refused::Malformed)?;
//!         Ok(Some(Identity { name: name.into(), scopes: [].into() }))
//!     }
//! }
//!
//! let layer = AuthenticateLayer::new(Proxy);
//! ```

mod tokens;

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
};

use http::{Request, request};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    BoxError, Context, Error,
    context::{Caller, Identity},
    error::Code,
};

pub use tokens::{InvalidTokens, StaticTokens};

/// Finds out from the head of a request who has made it. It runs on the way of every request, so it neither waits nor
/// takes long.
pub trait Authenticate: Send + Sync + 'static {
    /// Who has made the request; `None` if it shows no credentials.
    ///
    /// # Errors
    /// It shows some that are not accepted.
    fn authenticate(&self, head: &request::Parts) -> Result<Option<Identity>, Refused>;
}

/// Why credentials are not accepted. The caller reads this and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// They are not in the form that they should have.
    #[error("the credentials are malformed")]
    Malformed,
    /// Nobody has these.
    #[error("the credentials are not valid")]
    Invalid,
    /// They were valid once.
    #[error("the credentials have expired")]
    Expired,
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        Self::new(Code::Unauthenticated, refused.to_string())
    }
}

/// Finds out who calls. Clones, and what they build, ask the same [`Authenticate`].
#[derive(Clone)]
pub struct AuthenticateLayer {
    callers: Arc<dyn Authenticate>,
}

impl AuthenticateLayer {
    /// Asks `callers`.
    pub fn new(callers: impl Authenticate) -> Self {
        Self {
            callers: Arc::new(callers),
        }
    }
}

impl fmt::Debug for AuthenticateLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthenticateLayer").finish_non_exhaustive()
    }
}

impl<S> Layer<S> for AuthenticateLayer {
    type Service = Authenticated<S>;

    fn layer(&self, inner: S) -> Authenticated<S> {
        Authenticated {
            inner,
            layer: self.clone(),
        }
    }
}

/// Finds out who calls, see [`AuthenticateLayer`]. Fails with an [`Error`] of [`Code::Unauthenticated`] where
/// credentials are not accepted.
#[derive(Clone, Debug)]
pub struct Authenticated<S> {
    inner: S,
    layer: AuthenticateLayer,
}

impl<S, B> Service<Request<B>> for Authenticated<S>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        let state = match self.layer.callers.authenticate(&head) {
            Ok(identity) => {
                let caller = identity.map_or(Caller::Anonymous, Caller::Known);
                Context::of_mut(&mut head.extensions).caller = caller;
                State::Called {
                    inner: self.inner.call(Request::from_parts(head, body)),
                }
            }
            // `inner` stays ready for the next call.
            Err(refused) => State::Refused { refused },
        };
        ResponseFuture { state }
    }
}

pin_project! {
    /// The future of [`Authenticated`].
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
        Refused { refused: Refused },
    }
}

impl<F, T, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            Project::Called { inner } => inner.poll(cx).map_err(Into::into),
            Project::Refused { refused } => Poll::Ready(Err(Error::from(*refused).into())),
        }
    }
}

#[cfg(test)]
mod tests;
