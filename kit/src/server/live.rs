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

/// The policies of [`Inbound`] that can be replaced while it serves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InboundPolicies {
    /// How long a request may take at most.
    pub deadline: DeadlineConfig,
    /// How many requests may be in progress at once.
    pub concurrency: ConcurrencyConfig,
    /// How many requests may come in a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<Rate>,
    /// Faults that are injected on purpose.
    pub fault: FaultConfig,
}

/// Whether there is a rate limit at all can only be chosen when the server is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a rate_limit can be changed while the server runs, but neither added nor taken away")]
pub struct FixedRateLimit;

impl Inbound {
    /// The policies as they are.
    pub fn policies(&self) -> InboundPolicies {
        InboundPolicies {
            deadline: **self.deadline.config().get(),
            concurrency: **self.concurrency.limiter().config().get(),
            rate_limit: self.rate_limit.as_ref().map(|limit| **limit.rate().get()),
            fault: **self.fault.config().get(),
        }
    }

    /// Replaces all of them, for the requests to come. What they have counted stays.
    ///
    /// # Errors
    /// If there is a rate limit and none was before, or the other way round. Nothing is replaced then.
    pub fn replace(&self, policies: &InboundPolicies) -> Result<(), FixedRateLimit> {
        let InboundPolicies {
            deadline,
            concurrency,
            rate_limit,
            fault,
        } = policies;
        match (&self.rate_limit, rate_limit) {
            (Some(layer), Some(rate)) => layer.rate().set(*rate),
            (None, None) => {}
            _ => return Err(FixedRateLimit),
        }
        self.deadline.config().set(*deadline);
        self.concurrency.limiter().config().set(*concurrency);
        self.fault.config().set(*fault);
        Ok(())
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
            Ok(inbound.replace(&new)?)
        })
    }
}
