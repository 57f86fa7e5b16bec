//! Instances by name: addresses at a port that is configured (A and AAAA, RFC 1035), or hosts with their ports and
//! weights (SRV, RFC 2782).
//!
//! A name is asked for again when what was said of it is not good any more, by its time to live within bounds. That
//! there is nothing (NXDOMAIN, or no records) is believed; while no server answers, the last good set stays.

#[cfg_attr(not(feature = "dns"), path = "no_resolver.rs")]
mod resolver;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    net::SocketAddr,
    str::FromStr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::uri::Authority;
use serde::{Deserialize, Deserializer, de};
use tokio::time::sleep;

use super::publish::Publisher;
use crate::{
    discovery::Answer,
    endpoint::{Discovery, Endpoint, Snapshot, Watch, WeakWatch},
    event::SharedObserver,
    name::ServiceName,
    policy::Backoff,
};

/// Where services are by name. Needs the feature `dns`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DnsConfig {
    /// The name of each service: `host:port` for addresses, without a port for SRV records, such as
    /// `users.service.consul`. A service without one has no instances. Default: none have.
    pub names: BTreeMap<ServiceName, DnsName>,
    /// The server to ask, as `address:port`. Default: those of the system (`/etc/resolv.conf`).
    pub server: Option<SocketAddr>,
    /// A name is not asked for again before this, whatever its time to live. At least 100 ms; default 1 s.
    #[serde(with = "humantime_serde")]
    pub least: Duration,
    /// A name is asked for again after this at the latest, and not later after a failure. At least `least`; default
    /// 30 s.
    #[serde(with = "humantime_serde")]
    pub most: Duration,
    /// How long a set of instances is used after a server last confirmed it; then it is empty, and calls fail with
    /// [`Rejection::NoEndpoints`](crate::Rejection::NoEndpoints), until one answers again. Default: for ever.
    #[serde(with = "humantime_serde")]
    pub max_age: Option<Duration>,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            names: BTreeMap::new(),
            server: None,
            least: Duration::from_secs(1),
            most: Duration::from_secs(30),
            max_age: None,
        }
    }
}

impl DnsConfig {
    /// How long what is good for `ttl` is used.
    fn good_for(&self, ttl: Duration) -> Duration {
        let least = self.least.max(Duration::from_millis(100));
        ttl.clamp(least, self.most.max(least))
    }
}

/// What a service is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DnsName {
    host: String,
    /// `None`: SRV records say it.
    port: Option<u16>,
}

/// A text that is neither a host name nor one with a port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither of the form host:port nor a host name that has SRV records")]
pub struct InvalidDnsName(String);

impl FromStr for DnsName {
    type Err = InvalidDnsName;

    fn from_str(text: &str) -> Result<Self, InvalidDnsName> {
        let invalid = || InvalidDnsName(text.to_owned());
        let (host, port) = match text.split_once(':') {
            None => (text, None),
            Some((host, port)) => {
                let port = port.parse().ok().filter(|port| *port > 0);
                (host, Some(port.ok_or_else(invalid)?))
            }
        };
        let mut labels = host.strip_suffix('.').unwrap_or(host).split('.');
        let is_label = |label: &str| {
            (1..64).contains(&label.len())
                && label
                    .bytes()
                    .all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c))
        };
        if host.len() > 253 || !labels.all(is_label) {
            return Err(invalid());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl<'de> Deserialize<'de> for DnsName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// What a server said of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Records {
    found: Vec<Record>,
    /// The shortest of them.
    ttl: Duration,
}

/// One address, and how it stands beside others.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    address: SocketAddr,
    /// Those with a higher number are for when none with a lower one can be reached.
    priority: u16,
    weight: u16,
}

type Ask = dyn Fn(DnsName) -> Answer<'static, Records> + Send + Sync;

/// Names, followed. Clones share one watch per service however many follow it.
#[derive(Clone)]
pub struct Dns(Arc<Shared>);

struct Shared {
    config: DnsConfig,
    ask: Arc<Ask>,
    observer: SharedObserver,
    /// An entry whose followers are gone is removed by the next one who comes.
    watches: Mutex<BTreeMap<ServiceName, WeakWatch>>,
}

impl Dns {
    /// Follows the names of `config`; nobody is asked yet. What happens is told to `observer`.
    pub fn new(config: DnsConfig, observer: SharedObserver) -> Self {
        let ask = resolver::ask(config.server);
        Self::asking(config, ask, observer)
    }

    fn asking(config: DnsConfig, ask: Arc<Ask>, observer: SharedObserver) -> Self {
        Self(Arc::new(Shared {
            config,
            ask,
            observer,
            watches: Mutex::default(),
        }))
    }
}

impl Discovery for Dns {
    /// Follows the addresses behind the name of `service`. Spawns one task per service, which ends with the last watch.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    fn watch(&self, service: &ServiceName) -> Watch {
        let Shared {
            config,
            ask,
            observer,
            watches,
        } = &*self.0;
        let Some(name) = config.names.get(service).cloned() else {
            return Watch::fixed(service.clone(), Snapshot::default());
        };
        let mut watches = watches.lock().expect("nothing panics under this lock");
        if let Some(watch) = watches.get(service).and_then(WeakWatch::upgrade) {
            return watch;
        }
        watches.retain(|_, watch| watch.upgrade().is_some());
        let (sender, watch) = Watch::channel(service.clone());
        let publisher =
            Publisher::new(service.clone(), String::new(), sender, Arc::clone(observer));
        let task = tokio::spawn(follow(config.clone(), name, Arc::clone(ask), publisher));
        let watch = watch.owning(task.abort_handle());
        watches.insert(service.clone(), watch.downgrade());
        watch
    }
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Dns").field(&self.0.config).finish()
    }
}

async fn follow(config: DnsConfig, name: DnsName, ask: Arc<Ask>, publisher: Publisher) {
    let source = look(&config, &name, &*ask, &publisher);
    match publisher.run(config.max_age, source).await {}
}

async fn look(config: &DnsConfig, name: &DnsName, ask: &Ask, publisher: &Publisher) -> Infallible {
    let backoff = Backoff {
        base: Duration::from_millis(200),
        max: config.good_for(config.most),
    };
    let mut failures = 0;
    loop {
        match ask(name.clone()).await {
            Ok(records) => {
                failures = 0;
                let good_for = config.good_for(records.ttl);
                publisher.confirm(endpoints(records.found));
                // A little later by chance, so that not all who learnt it together come back together.
                sleep(good_for.mul_f64(1.0 + rand::random::<f64>() / 10.0)).await;
            }
            Err(error) => {
                let retry_in = backoff.full_jitter(failures, &mut rand::rng());
                failures = failures.saturating_add(1);
                publisher.failed(&*error, retry_in);
                sleep(retry_in).await;
            }
        }
    }
}

/// Those of the lowest priority, which are those that are to be used.
fn endpoints(found: Vec<Record>) -> Snapshot {
    let first = found.iter().map(|record| record.priority).min();
    let used = found.iter().filter(|record| Some(record.priority) == first);
    let endpoint = |record: &Record| {
        let address = record.address.to_string();
        let address: Authority = address.parse().expect("an address and a port");
        Endpoint {
            // 0 is for those who should be used hardly ever.
            weight: u32::from(record.weight.max(1)),
            ..Endpoint::at(address)
        }
    };
    used.map(endpoint).collect()
}

#[cfg(test)]
mod tests;
