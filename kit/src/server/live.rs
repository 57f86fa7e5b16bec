//! Policies of a server that change while it runs.

use serde::{Deserialize, Serialize};

use super::Inbound;
use crate::{
    concurrency::ConcurrencyConfig,
    deadline::DeadlineConfig,
    discovery::{Following, Policies},
    fault::FaultConfig,
    rate_limit::Rate,
};

/// The policies of [`Inbound`] that can be replaced while it serves. What else a [`ServerConfig`](super::ServerConfig) has
/// belongs to listeners and connections that are there already, and is fixed once they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InboundPolicies {
    /// How long a request may take at most.
    pub deadline: DeadlineConfig,
    /// How many requests may be in progress at once. `None`: any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<ConcurrencyConfig>,
    /// How many requests may come in a time. `None`: any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<Rate>,
    /// Faults that are injected on purpose.
    pub fault: FaultConfig,
}

impl Inbound {
    /// The policies as they are.
    pub fn policies(&self) -> InboundPolicies {
        InboundPolicies {
            deadline: **self.deadline.config().get(),
            concurrency: **self.concurrency.limiter().config().get(),
            rate_limit: **self.rate_limit.rate().get(),
            fault: **self.fault.config().get(),
        }
    }

    /// Replaces all of them, for the requests to come. What they have counted stays, also of a limit that is taken away
    /// and comes back.
    pub fn replace(&self, policies: &InboundPolicies) {
        let InboundPolicies {
            deadline,
            concurrency,
            rate_limit,
            fault,
        } = policies;
        self.rate_limit.rate().set(*rate_limit);
        self.deadline.config().set(*deadline);
        self.concurrency.limiter().config().set(*concurrency);
        self.fault.config().set(*fault);
    }

    /// Follows the policies at `server` in the registry, see [`discovery::follow`](crate::discovery::follow):
    /// [`InboundPolicies`] or a part of them, upon those that it has now. `None` if none are followed.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use = "dropping it ends the following"]
    pub fn follow(&self, policies: &Policies) -> Option<Following> {
        let inbound = self.clone();
        policies.follow("server", &self.policies(), move |new| {
            inbound.replace(&new);
            Ok(())
        })
    }
}
