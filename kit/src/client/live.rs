//! Policies of a client that change while it runs.

use super::{Client, ClientConfig};
use crate::{
    deadline::DeadlineConfig,
    discovery::{Following, Policies},
    retry::RetryConfig,
};

/// A setting of a client that can only be chosen when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} cannot be changed while the client runs")]
pub struct FixedSetting {
    /// Which one, with dots.
    pub field: &'static str,
}

impl Client {
    /// Replaces all policies, for the calls to come. What they have counted stays: breakers, budget, latencies.
    ///
    /// # Errors
    /// If `config` differs in what is fixed: `connect_timeout`, `max_connections`, `retry.budget.window`,
    /// `whole_answer`, `health_check`, and whether there is a hedge, a limit or a rate at all. Nothing is replaced then.
    pub fn replace(&self, config: &ClientConfig) -> Result<(), FixedSetting> {
        let ClientConfig {
            timeout,
            attempt_timeout,
            connect_timeout,
            max_connections,
            concurrency,
            rate_limit,
            retry,
            hedge,
            circuit_breaker,
            balance,
            whole_answer,
            health_check,
        } = config;
        let first = &self.handles.config;
        let outbound = self.outbound();
        for (field, same) in [
            ("connect_timeout", *connect_timeout == first.connect_timeout),
            ("max_connections", *max_connections == first.max_connections),
            (
                "retry.budget.window",
                retry.budget.window == first.retry.budget.window,
            ),
            ("whole_answer", *whole_answer == first.whole_answer),
            ("health_check", *health_check == first.health_check),
            ("hedge", hedge.is_some() == outbound.hedge.is_some()),
            (
                "concurrency",
                concurrency.is_some() == outbound.concurrency.is_some(),
            ),
            (
                "rate_limit",
                rate_limit.is_some() == outbound.rate_limit.is_some(),
            ),
        ] {
            if !same {
                return Err(FixedSetting { field });
            }
        }
        let RetryConfig { budget, .. } = retry;
        outbound
            .deadline
            .config()
            .set(DeadlineConfig { timeout: *timeout });
        outbound.attempt_timeout.timeout().set(*attempt_timeout);
        outbound.retry.config().set(*retry);
        outbound.retry.budget().replace(budget.ratio, budget.floor);
        if let (Some(layer), Some(hedge)) = (&outbound.hedge, hedge) {
            layer.config().set(*hedge);
        }
        if let (Some(layer), Some(limit)) = (&outbound.concurrency, concurrency) {
            layer.limiter().config().set(*limit);
        }
        if let (Some(layer), Some(rate)) = (&outbound.rate_limit, rate_limit) {
            layer.rate().set(*rate);
        }
        self.balance().set(balance.clone());
        self.replace_circuit_breaker(*circuit_breaker);
        Ok(())
    }

    /// Follows the policies at `client/UPSTREAM` in the registry, see [`discovery::follow`](crate::discovery::follow):
    /// a [`ClientConfig`] or a part of one, upon the one that the client was made with. `None` if none are followed.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use = "dropping it ends the following"]
    pub fn follow(&self, policies: &Policies) -> Option<Following> {
        let client = self.clone();
        let name = format!("client/{}", self.handles.service);
        policies.follow(&name, &self.handles.config, move |config| {
            Ok(client.replace(&config)?)
        })
    }
}
