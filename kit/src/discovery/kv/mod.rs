//! What a registry keeps beside instances: values under keys.
//!
//! [`View`] follows one value and gives it typed, [`follow`] applies each new one; both keep the last good one while
//! there is none that is better. [`Policies`] says where the policies of a running service are. [`Election`] makes one
//! process of many the one that does a job.

mod document;
mod election;
mod live;

use std::{future::Future, pin::Pin, time::Duration};

use tokio::time::{Instant, sleep_until};

pub use self::{
    document::DocumentError,
    election::{Candidate, Election, ElectionConfig, Leadership},
    live::{Following, Policies, View, follow},
};
use super::registration::Answer;
use crate::name::EndpointId;

/// Values under keys, which can be followed. [`Consul`](super::Consul) has them.
///
/// An answer must come, or fail, in finite time: `wait` and 10 s more is long. Dropping it may or may not undo what
/// was asked for.
pub trait KeyValue: Send + Sync + 'static {
    /// How long a question for changes waits, in general.
    fn wait(&self) -> Duration;

    /// All values whose keys begin with `prefix`, ordered by key: at once if `index` is 0, else when they may no
    /// longer be what they were at `index`, or when `wait` is over.
    fn look<'a>(&'a self, prefix: &'a str, index: u64, wait: Duration) -> Answer<'a, Values>;

    /// Whether the caller may read all values whose keys begin with one of `prefixes`: a registry may leave out what he
    /// may not read, as if it were not there. Asked when values are gone. Default: yes.
    fn may_read<'a>(&'a self, prefixes: &'a [String]) -> Answer<'a, bool> {
        let _ = prefixes;
        Box::pin(std::future::ready(Ok(true)))
    }

    /// Waits after a failure until it is time for the next question: at `until`, or ahead of it if there is a reason,
    /// such as a look at whether the trouble is over. Default: at `until`.
    fn pause(&self, until: Instant) -> Pause<'_> {
        Box::pin(sleep_until(until))
    }

    /// Somebody who had failed got an answer; others in [`pause`](Self::pause) may ask again. Default: they wait on.
    fn recovered(&self) {}
}

/// A wait, which may end early.
pub type Pause<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Locks that are held by sessions: a session that is not renewed in time ends, and its locks are free.
pub trait Locks: KeyValue {
    /// Begins a session and gives its name.
    fn open<'a>(&'a self, session: &'a Session) -> Answer<'a, String>;

    /// Says that the session is still wanted; false if it has ended.
    fn renew<'a>(&'a self, session: &'a str) -> Answer<'a, bool>;

    /// Takes the lock `key` for the session, with `value` for others to read; false if another session has it, or had
    /// it until a moment ago and lost it without giving it back.
    fn acquire<'a>(&'a self, key: &'a str, value: &'a str, session: &'a str) -> Answer<'a, bool>;

    /// Gives the lock back, so that another may have it at once.
    fn release<'a>(&'a self, key: &'a str, session: &'a str) -> Answer<'a, ()>;

    /// Ends the session. One that has ended is as good.
    fn close<'a>(&'a self, session: &'a str) -> Answer<'a, ()>;
}

/// What a session is asked to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// For people who read of it.
    pub name: String,
    /// The instance, registered with the same agent, whose failing check ends it too.
    pub instance: Option<EndpointId>,
    /// How long it lives at least after each renewal.
    pub ttl: Duration,
    /// How long nobody gets a lock that it lost without giving it back.
    pub lock_delay: Duration,
}

/// Values, and the moment at which they were so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values {
    /// Ordered by key.
    pub values: Vec<Stored>,
    /// The moment, in the registry's own count; 0 where it does not say.
    pub index: u64,
}

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its key.
    pub key: String,
    /// The value, any bytes.
    pub value: Vec<u8>,
    /// The session that holds the key as a lock.
    pub session: Option<String>,
    /// When it was last written, in the registry's own count, which only grows.
    pub modified: u64,
}
