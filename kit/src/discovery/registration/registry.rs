//! What a registry can do.

use std::{collections::BTreeMap, future::Future, pin::Pin, time::Duration};

use http::uri::Authority;

use super::Instance;
use crate::{BoxError, name::EndpointId};

/// The answer of a registry, to be awaited. Boxed, for a registry is asked every other second, and which one it is
/// is chosen while the program runs.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send + 'a>>;

/// Where instances are put so that others find them. [`Consul`](crate::discovery::Consul) is one; whoever has
/// another gives it to [`Registration::new`](super::Registration::new), which does all the rest.
///
/// An answer must come, or fail, in finite time: 10 s is long. Dropping it may or may not undo what was asked for.
pub trait Registry: Send + Sync + 'static {
    /// What is there under this id, if anything is.
    fn find<'a>(&'a self, id: &'a EndpointId) -> Answer<'a, Option<Found>>;

    /// Whether what is there under this id may be alive: its check has not failed, or not been made yet, or somebody
    /// answered it that he is not ready. Asked only if it is not the caller's own.
    fn is_alive<'a>(&'a self, id: &'a EndpointId) -> Answer<'a, bool>;

    /// Puts `instance` there, or replaces what is there under its id. What an operator said of it, such as that it is
    /// under maintenance, stays. With `passing` it is well until its first check says otherwise, without it is not
    /// until then.
    fn register<'a>(&'a self, instance: &'a Instance, passing: bool) -> Answer<'a, ()>;

    /// Says how an instance with [`Check::Ttl`](super::Check::Ttl) is; false if the registry does not know it.
    fn report<'a>(&'a self, id: &'a EndpointId, health: &'a Health) -> Answer<'a, bool>;

    /// Takes an instance out. One that is not there has been taken out already.
    fn deregister<'a>(&'a self, id: &'a EndpointId) -> Answer<'a, ()>;
}

/// What a registry has under an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it is; `None` if the registry has no usable address.
    pub address: Option<Authority>,
    /// As it was registered.
    pub metadata: BTreeMap<String, String>,
}

/// What an instance says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It is well.
    Passing,
    /// It is not, for this reason.
    Critical(String),
}

/// Why an instance is not in the registry, or could not be taken out of it.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// The registry could not be asked, or refused.
    #[error("the registry did not take it")]
    Registry(#[source] BoxError),
    /// Another process is registered under the id, and alive.
    #[error(
        "another process{} is registered as {id}: one of the two needs another id (server.registration.id, KIT_SERVER__REGISTRATION__ID)",
        .address.as_ref().map(|address| format!(" at {address}")).unwrap_or_default()
    )]
    Taken {
        /// The id.
        id: EndpointId,
        /// Where the other one is, if it says so.
        address: Option<Authority>,
    },
    /// Deregistering took longer than this.
    #[error("the registry did not answer within {0:?}")]
    TimedOut(Duration),
}

impl From<BoxError> for RegistrationError {
    fn from(error: BoxError) -> Self {
        Self::Registry(error)
    }
}
