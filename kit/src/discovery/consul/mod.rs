//! Instances as a Consul agent knows them.
//!
//! The kit speaks Consul's HTTP API itself (tested against 1.8.7); what it needs of it is three calls.
//! [`Consul`] follows a service with blocking queries and gives only instances whose checks pass, for an instance
//! that was killed stays in the catalog for at least a minute.

mod client;
mod watch;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{HeaderValue, Uri};
use serde::{Deserialize, Deserializer, de};

pub use self::client::ConsulError;
pub(super) use self::client::{Agent, CheckDefinition, ServiceDefinition};
use super::registration::{Instance, Registration};
use crate::{
    endpoint::{Discovery, Watch, WeakWatch},
    event::SharedObserver,
    name::ServiceName,
};

/// How to ask a Consul agent.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsulConfig {
    /// Where its HTTP API is: `http://host:port`, without a path. Default: `http://127.0.0.1:8500`.
    #[serde(deserialize_with = "uri")]
    pub address: Uri,
    /// What it demands for access. Default: none.
    pub token: Option<Token>,
    /// The datacenter whose instances are wanted. Default: the agent's own.
    pub datacenter: Option<String>,
    /// How long a question for changes waits for one. Shorter asks more often, longer finds a broken connection
    /// later. From 1 s to 10 min; default 30 s.
    #[serde(with = "humantime_serde")]
    pub wait: Duration,
}

impl Default for ConsulConfig {
    fn default() -> Self {
        Self {
            address: Uri::from_static("http://127.0.0.1:8500"),
            token: None,
            datacenter: None,
            wait: Duration::from_secs(30),
        }
    }
}

fn uri<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Uri, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse()
        .map_err(|error| de::Error::custom(format!("{text:?} is not a URI: {error}")))
}

/// An ACL token: goes into the header `X-Consul-Token` and is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(HeaderValue);

/// A text that cannot be sent as a header. Does not repeat it, for it may be a secret with a newline behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token must have visible ASCII characters only, and at least one")]
pub struct InvalidToken;

impl std::str::FromStr for Token {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidToken);
        }
        let mut value = HeaderValue::from_str(text).map_err(|_| InvalidToken)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// A Consul agent. Clones share one client, and one watch per service however many follow it.
#[derive(Clone)]
pub struct Consul(Arc<Shared>);

struct Shared {
    agent: Arc<Agent>,
    observer: SharedObserver,
    /// Who follows what. An entry whose followers are gone is removed by the next one who comes.
    watches: Mutex<BTreeMap<ServiceName, WeakWatch>>,
}

impl Consul {
    /// A client of the agent at the configured address, which is not asked yet. What happens to its watches and
    /// registrations is told to `observer`.
    ///
    /// # Errors
    /// [`ConsulError::Address`] if the address is not of the form `http://host:port`.
    pub fn new(config: ConsulConfig, observer: SharedObserver) -> Result<Self, ConsulError> {
        Ok(Self(Arc::new(Shared {
            agent: Arc::new(Agent::new(config)?),
            observer,
            watches: Mutex::default(),
        })))
    }

    /// What puts `instance` into this agent's registry, once it is [started](Registration::start).
    pub fn registration(&self, instance: Instance) -> Registration {
        Registration::new(
            Arc::clone(&self.0.agent),
            instance,
            Arc::clone(&self.0.observer),
        )
    }
}

impl Discovery for Consul {
    /// Follows the passing instances of `service`. Spawns one task per service, which ends with the last watch.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    fn watch(&self, service: &ServiceName) -> Watch {
        let Shared {
            agent,
            observer,
            watches,
        } = &*self.0;
        let mut watches = watches.lock().expect("nothing panics under this lock");
        if let Some(watch) = watches.get(service).and_then(WeakWatch::upgrade) {
            return watch;
        }
        watches.retain(|_, watch| watch.upgrade().is_some());
        let (sender, watch) = Watch::channel(service.clone());
        let task = tokio::spawn(watch::follow(
            Arc::clone(agent),
            service.clone(),
            sender,
            Arc::clone(observer),
        ));
        let watch = watch.owning(task.abort_handle());
        watches.insert(service.clone(), watch.downgrade());
        watch
    }
}

impl fmt::Debug for Consul {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Consul").field(&self.0.agent).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_printed() {
        let config: ConsulConfig =
            serde_json::from_str(r#"{"token": "hush", "wait": "5s"}"#).unwrap();
        assert!(config.token.is_some());
        let consul = Consul::new(config.clone(), crate::event::nobody()).unwrap();
        assert!(!format!("{config:?} {consul:?}").contains("hush"));
        let error = serde_json::from_str::<ConsulConfig>(r#"{"token": "hush\n"}"#).unwrap_err();
        assert!(!error.to_string().contains("hush"));
    }

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
        drop((first, second));
        tokio::task::yield_now().await;
        assert_eq!(tasks(), 0);
        let _other = consul.watch(&"bugs".parse().unwrap());
        assert_eq!(consul.0.watches.lock().unwrap().len(), 1);
    }
}
