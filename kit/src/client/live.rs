//! Policies of a client that change while it runs.

use super::{Client, ClientConfig};
use crate::{
    deadline::DeadlineConfig,
    discovery::{Following, Policies},
};

impl Client {
    /// Replaces all policies, for the calls to come. What they have counted stays: breakers, budget, latencies, what is in
    /// flight and which connections there are. A limit, a rate or a hedge that is taken away keeps it too, for when there is one again.
    ///
    /// # Panics
    /// If there is a [`health_check`](ClientConfig::health_check), which is another one than before, and this is outside of a
    /// tokio runtime.
    pub fn replace(&self, config: &ClientConfig) {
        let ClientConfig {
            timeout,
            attempt_timeout,
            connect_timeout: _,
            max_connections: _,
            concurrency,
            rate_limit,
            retry,
            hedge,
            circuit_breaker,
            balance,
            whole_answer,
            health_check,
        } = config;
        let outbound = self.outbound();
        outbound
            .deadline
            .config()
            .set(DeadlineConfig { timeout: *timeout });
        outbound.concurrency.limiter().config().set(*concurrency);
        outbound.rate_limit.rate().set(*rate_limit);
        outbound.retry.config().set(*retry);
        outbound.retry.budget().replace(retry.budget);
        outbound.hedge.config().set(*hedge);
        outbound.attempt_timeout.timeout().set(*attempt_timeout);
        self.balance().set(balance.clone());
        self.replace_circuit_breaker(*circuit_breaker);
        let handles = self.handles();
        handles.whole_answer.set(*whole_answer);
        handles.connector.config().set(config.connections());
        handles
            .health_checks
            .replace(health_check.clone(), &handles.endpoints, &handles.connector);
    }

    /// Follows the policies at `client/UPSTREAM` in the registry, see [`discovery::follow`](crate::discovery::follow):
    /// a [`ClientConfig`] or a part of one, upon the one that the client was made with. `None` if none are followed.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use = "dropping it ends the following"]
    pub fn follow(&self, policies: &Policies) -> Option<Following> {
        let client = self.clone();
        let name = format!("client/{}", self.handles().service);
        policies.follow(&name, &self.handles().config, move |config| {
            client.replace(&config);
            Ok(())
        })
    }
}
