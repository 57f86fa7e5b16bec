//! Instances as a Consul agent knows them.
//!
//! The kit speaks Consul's HTTP API itself (tested against 1.8.7); what it needs of it is a few calls.
//! [`Consul`] follows a service with blocking queries and gives only instances whose checks pass, for an instance
//! that was killed stays in the catalog for at least a minute.

mod client;
mod config;
#[cfg(test)]
mod fuzz;
mod health;
mod kv;
mod pulse;
mod register;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
mod tls;
mod token;
mod turn;
mod watch;

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use http::Uri;

use self::client::Agent;
pub use self::{
    client::ConsulError,
    config::{Consistency, ConsulConfig, Query, TlsConfig},
    token::{InvalidToken, Token},
};
use super::{
    kv::{KeyValue, Locks},
    publish::Publisher,
    registration::{Instance, Registration, Registry},
};
use crate::{
    endpoint::{Discovery, Watch, WeakWatch},
    event::SharedObserver,
    name::ServiceName,
};

/// A Consul agent. Clones share one client, and one watch per service and query however many follow it.
#[derive(Clone)]
pub struct Consul {
    shared: Arc<Shared>,
    query: Arc<Query>,
}

struct Shared {
    agent: Arc<Agent>,
    observer: SharedObserver,
    /// Who follows what. An entry whose followers are gone is removed by the next one who comes.
    watches: Mutex<BTreeMap<(ServiceName, Arc<Query>), WeakWatch>>,
}

impl Consul {
    /// A client of the agent at the configured address, which is not asked yet. What happens to its watches and
    /// registrations is told to `observer`.
    ///
    /// # Errors
    /// [`ConsulError::Address`] or [`ConsulError::Config`] if the configuration breaks a rule, or names files that
    /// cannot be used.
    pub fn new(config: ConsulConfig, observer: SharedObserver) -> Result<Self, ConsulError> {
        let query = Arc::new(config.query.clone());
        let shared = Shared {
            agent: Arc::new(Agent::new(config)?),
            observer,
            watches: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            query,
        })
    }

    /// The same agent for whoever wants other instances than its configuration says. Shares all but the query.
    #[must_use]
    pub fn select(&self, query: Query) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            query: Arc::new(query),
        }
    }

    /// What puts `instance` into this agent's registry, once it is [started](Registration::start).
    pub fn registration(&self, instance: Instance) -> Registration {
        let registry: Arc<dyn Registry> = Arc::<Agent>::clone(&self.shared.agent);
        Registration::new(registry, instance, Arc::clone(&self.shared.observer))
    }

    /// The values that the agent keeps.
    pub fn key_value(&self) -> Arc<dyn KeyValue> {
        Arc::<Agent>::clone(&self.shared.agent)
    }

    /// The locks that the agent keeps.
    pub fn locks(&self) -> Arc<dyn Locks> {
        Arc::<Agent>::clone(&self.shared.agent)
    }

    /// The address at which others reach the agent, and whatever else is on its machine.
    ///
    /// # Errors
    /// If the agent does not say so within two seconds, or refuses to: the token needs `agent:read`.
    pub async fn advertised(&self) -> Result<IpAddr, ConsulError> {
        self.shared.agent.advertised().await
    }

    /// Where the agent is.
    pub fn address(&self) -> &Uri {
        &self.shared.agent.config.address
    }
}

impl Discovery for Consul {
    /// Follows the instances of `service` that the query wants. Spawns one task per service and query, which ends with
    /// the last watch.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    fn watch(&self, service: &ServiceName) -> Watch {
        let Shared {
            agent,
            observer,
            watches,
        } = &*self.shared;
        let mut watches = watches.lock().expect("nothing panics under this lock");
        let key = (service.clone(), Arc::clone(&self.query));
        if let Some(watch) = watches.get(&key).and_then(WeakWatch::upgrade) {
            return watch;
        }
        watches.retain(|_, watch| watch.upgrade().is_some());
        let (sender, watch) = Watch::channel(service.clone());
        let query = Arc::clone(&self.query);
        let publisher = Publisher::new(
            service.clone(),
            query.to_string(),
            sender,
            Arc::clone(observer),
        );
        let task = tokio::spawn(watch::follow(Arc::clone(agent), query, publisher));
        let watch = watch.owning(task.abort_handle());
        watches.insert(key, watch.downgrade());
        watch
    }
}

impl fmt::Debug for Consul {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Consul").field(&self.shared.agent).finish()
    }
}

#[cfg(test)]
mod tests {
    use http::Uri;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_who_follow_a_service_share_one_watch_until_the_last_one_leaves() {
        let config = ConsulConfig {
            address: Uri::from_static("http://127.0.0.1:1"),
            ..ConsulConfig::default()
        };
        let consul = Consul::new(config, crate::event::nobody()).unwrap();
        let tasks = || {
            tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks()
        };
        let name = "users".parse().unwrap();
        let [first, second] = [(); 2].map(|()| consul.clone().watch(&name));
        assert_eq!(tasks(), 1);
        let same = consul.select(Query::default()).watch(&name);
        assert_eq!(tasks(), 1);
        let warnings = Query {
            warnings: true,
            ..Query::default()
        };
        let other = consul.select(warnings).watch(&name);
        assert_eq!(tasks(), 2);
        drop((first, second, same, other));
        tokio::task::yield_now().await;
        assert_eq!(tasks(), 0);
        let _other = consul.watch(&"bugs".parse().unwrap());
        assert_eq!(consul.shared.watches.lock().unwrap().len(), 1);
    }
}
