//! What happened that no single response shows: transitions, retries, changes of the endpoint set.
//!
//! Layers report an [`Event`] to one [`Observer`] and know nothing of logs and metrics;
//! [`crate::metrics::observer`] is the one that logs and counts.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use crate::{
    classify::Outcome,
    name::{EndpointId, ServiceName},
};

/// Something that happened in a layer.
///
/// Not `#[non_exhaustive]`: a new variant must break every `match` that counts them.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A circuit breaker tripped, or a probe failed and it opened again.
    CircuitOpened {
        /// The breaker's name: a service, or an endpoint of one.
        circuit: &'a str,
        /// How long it stays open.
        open_for: Duration,
    },
    /// A circuit breaker lets probes through.
    CircuitHalfOpened {
        /// The breaker's name.
        circuit: &'a str,
    },
    /// A circuit breaker is closed again.
    CircuitClosed {
        /// The breaker's name.
        circuit: &'a str,
    },
    /// A circuit breaker should have opened, but as many of its upstream's are open already as may be.
    CircuitSpared {
        /// The breaker's name.
        circuit: &'a str,
    },
    /// An endpoint was taken out of service: its circuit breaker opened, after it had been closed.
    EndpointEjected {
        /// The service.
        upstream: &'a ServiceName,
        /// How many of its endpoints are out of service now.
        ejected: usize,
        /// Of how many.
        total: usize,
    },
    /// An endpoint is in service again, or was out of it and is gone.
    EndpointRestored {
        /// The service.
        upstream: &'a ServiceName,
        /// How many of its endpoints are out of service now.
        ejected: usize,
        /// Of how many.
        total: usize,
    },
    /// An attempt failed and another one is made.
    Retried {
        /// How many attempts were made before this one: 1 for the first retry.
        previous_attempts: u32,
        /// How long it waits first.
        backoff: Duration,
    },
    /// An attempt was late, and another one is made beside it.
    Hedged {
        /// How long the first one was waited for.
        after: Duration,
    },
    /// The attempt that was made beside a late one gave the answer.
    HedgeWon,
    /// An attempt failed or was late, might have been made again, and the budget is used up.
    RetryBudgetExhausted,
    /// A call failed, and a fallback answered it.
    FellBack {
        /// In place of what.
        outcome: Outcome,
    },
    /// A concurrency limit that adapts itself is another one.
    ConcurrencyLimitChanged {
        /// The limiter's name: the service that is limited.
        limiter: &'a str,
        /// How many requests may be in flight now.
        limit: usize,
    },
    /// The set of endpoints of a service changed.
    EndpointsChanged {
        /// The service.
        service: &'a ServiceName,
        /// What its source is asked for beside the name of the service; empty where nothing is.
        query: &'a str,
        /// How many there are now.
        total: usize,
        /// How many are new.
        added: usize,
        /// How many are gone.
        removed: usize,
    },
    /// The source said how the set of endpoints is, whether or not that is new.
    EndpointsConfirmed {
        /// The service.
        service: &'a ServiceName,
        /// What its source is asked for beside the name of the service; empty where nothing is.
        query: &'a str,
        /// How many there are.
        total: usize,
    },
    /// The source could not be asked for so long that the set is no longer used.
    EndpointsExpired {
        /// The service.
        service: &'a ServiceName,
        /// For how long nobody confirmed the set.
        age: Duration,
    },
    /// Nobody follows the endpoints of a service, by this query, any more.
    DiscoveryEnded {
        /// The service.
        service: &'a ServiceName,
        /// What its source is asked for beside the name of the service; empty where nothing is.
        query: &'a str,
    },
    /// The registry could not be asked; the last good set stays.
    DiscoveryFailed {
        /// The service whose endpoints were asked for.
        service: &'a ServiceName,
        /// What went wrong.
        error: &'a (dyn StdError + 'static),
        /// When it is asked again.
        retry_in: Duration,
    },
    /// A configuration was read out of the registry.
    ConfigRead {
        /// Under which key.
        key: &'a str,
        /// Whether it is another one than before.
        changed: bool,
    },
    /// A configuration in the registry cannot be used; the last good one stays.
    ConfigRejected {
        /// Under which key.
        key: &'a str,
        /// What is wrong with it.
        error: &'a (dyn StdError + 'static),
    },
    /// The registry could not be asked for a configuration; the last good one stays.
    ConfigFailed {
        /// Under which key.
        key: &'a str,
        /// What went wrong.
        error: &'a (dyn StdError + 'static),
        /// When it is asked again.
        retry_in: Duration,
    },
    /// This process leads.
    Elected {
        /// The key of the election.
        key: &'a str,
        /// The number of the leadership.
        fencing: u64,
    },
    /// This process does not lead any more.
    Deposed {
        /// The key of the election.
        key: &'a str,
    },
    /// A candidate has lost its session, or could not get one; it stands again.
    ElectionFailed {
        /// The key of the election.
        key: &'a str,
        /// What went wrong.
        error: &'a (dyn StdError + 'static),
        /// When it stands again.
        retry_in: Duration,
    },
    /// An instance was put into the registry.
    Registered {
        /// The service.
        service: &'a ServiceName,
        /// The instance.
        id: &'a EndpointId,
    },
    /// An instance could not be put into the registry, or could not be kept there; it is tried again.
    RegistrationFailed {
        /// The service.
        service: &'a ServiceName,
        /// What went wrong.
        error: &'a (dyn StdError + 'static),
        /// When it is tried again.
        retry_in: Duration,
    },
    /// An instance was taken out of the registry.
    Deregistered {
        /// The service.
        service: &'a ServiceName,
        /// The instance.
        id: &'a EndpointId,
    },
}

impl fmt::Debug for dyn Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

/// Hears of events. Called outside every lock, on the path of the request, so it must be quick.
pub trait Observer: Send + Sync + 'static {
    /// Hears of one event.
    fn observe(&self, event: Event<'_>);
}

/// Hears nothing.
impl Observer for () {
    fn observe(&self, _: Event<'_>) {}
}

/// An observer that clones of a layer share.
pub type SharedObserver = Arc<dyn Observer>;

/// The observer that hears nothing, the default of every layer.
pub fn nobody() -> SharedObserver {
    Arc::new(())
}
