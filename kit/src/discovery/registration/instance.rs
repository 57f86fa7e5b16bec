//! What is told of an instance.

use std::{collections::BTreeMap, fmt, time::Duration};

use http::{Uri, uri::Authority};
use serde::{Deserialize, Deserializer, de};

use crate::name::{EndpointId, ServiceName};

/// One instance of a service, as it is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// What it is an instance of.
    pub service: ServiceName,
    /// Which one it is. Must differ between all instances that register with one agent; a second process with the
    /// same id is refused while the first one lives.
    pub id: EndpointId,
    /// Where others reach it: host and port.
    pub address: Authority,
    /// Where it is reached from elsewhere, or by another protocol.
    pub addresses: BTreeMap<AddressTag, Authority>,
    /// Words that people search for in the registry.
    pub tags: Vec<String>,
    /// What balancers may want to know, such as `zone` or `version`. The key `process` is set by
    /// [`Registration`](super::Registration): it tells this process from another one with the same id.
    pub metadata: BTreeMap<String, String>,
    /// Its share of requests beside others.
    pub weights: Weights,
    /// How the registry finds out whether it is well. It takes no traffic before its check has passed once.
    pub check: Check,
    /// After how long with a failing check it is taken out of the registry, for one that ended without a word.
    /// Those who look for passing instances do not see it long before. Consul takes less than 1 min as 1 min.
    pub deregister_after: Duration,
}

/// How a registry finds out whether an instance is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// The agent makes a request again and again; any status of 200 to 299 says that the instance is well.
    Http {
        /// What it asks for, such as `http://127.0.0.1:9800/readyz`.
        uri: Uri,
        /// How often: 1 s is good, below 500 ms is not.
        interval: Duration,
        /// How long it waits for the answer.
        timeout: Duration,
    },
    /// The agent asks again and again by gRPC's health protocol (`grpc.health.v1.Health/Check`).
    Grpc {
        /// Whom it asks.
        address: Authority,
        /// The service that it asks about. `None`: the server as a whole.
        service: Option<String>,
        /// Whether it asks over TLS.
        tls: bool,
        /// How often: 1 s is good, below 500 ms is not.
        interval: Duration,
        /// How long it waits for the answer.
        timeout: Duration,
    },
    /// The instance itself says again and again how it is; the agent asks nobody. For an instance that its agent
    /// cannot reach.
    Ttl {
        /// After how long without a word it is taken to be dead; said three times as often.
        ttl: Duration,
    },
}

/// The shares of an instance, beside others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weights {
    /// While its check passes. At least 1, which is the default.
    #[serde(deserialize_with = "positive")]
    pub passing: u16,
    /// While its check warns. Default 1.
    pub warning: u16,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            passing: 1,
            warning: 1,
        }
    }
}

/// What an address beside the first one is for; the words are Consul's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressTag {
    /// In the same datacenter.
    Lan,
    /// In the same datacenter over IPv4.
    LanIpv4,
    /// In the same datacenter over IPv6.
    LanIpv6,
    /// From other datacenters.
    Wan,
    /// From other datacenters over IPv4.
    WanIpv4,
    /// From other datacenters over IPv6.
    WanIpv6,
}

impl AddressTag {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::LanIpv4 => "lan_ipv4",
            Self::LanIpv6 => "lan_ipv6",
            Self::Wan => "wan",
            Self::WanIpv4 => "wan_ipv4",
            Self::WanIpv6 => "wan_ipv6",
        }
    }
}

/// How a server registers itself; see [`server::registration`](crate::server::registration).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistrationConfig {
    /// Its id. Default: made of its name, port and host, so that a server that is started again takes the place of
    /// the one before.
    pub id: Option<EndpointId>,
    /// Words that people search for in the registry: a list, or one text with commas between them. Default: none.
    #[serde(deserialize_with = "words")]
    pub tags: Vec<String>,
    /// What balancers may want to know, such as `zone`. The kit adds `admin` and `process`. Default: nothing.
    pub metadata: BTreeMap<String, String>,
    /// Its share of requests beside others.
    pub weights: Weights,
    /// Where it is reached from elsewhere, or by another protocol, as `host:port`. Default: nowhere else.
    #[serde(deserialize_with = "addresses")]
    pub addresses: BTreeMap<AddressTag, Authority>,
    /// How the registry finds out whether it is well.
    pub check: CheckConfig,
    /// After how long with a failing check it is taken out of the registry. At least 1 min, which is the default.
    #[serde(deserialize_with = "at_least::<60_000, _>")]
    pub deregister_after: Duration,
}

impl Default for RegistrationConfig {
    fn default() -> Self {
        Self {
            id: None,
            tags: Vec::new(),
            metadata: BTreeMap::new(),
            weights: Weights::default(),
            addresses: BTreeMap::new(),
            check: CheckConfig::default(),
            deregister_after: Duration::from_secs(60),
        }
    }
}

/// By which check the registry follows the readiness of a server, which `/readyz` says too.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum CheckConfig {
    /// The agent asks `/readyz` of the admin port.
    Http {
        /// How often. At least 500 ms; default 1 s.
        #[serde(default = "one_second", deserialize_with = "at_least::<500, _>")]
        interval: Duration,
        /// How long it waits for the answer. At least 1 ms; default 2 s.
        #[serde(default = "two_seconds", deserialize_with = "at_least::<1, _>")]
        timeout: Duration,
    },
    /// The agent asks the server itself, on the port of the service, by gRPC's health protocol
    /// (`grpc.health.v1.Health/Check`).
    Grpc {
        /// The service that it asks about, such as `users.Users`. Default: the server as a whole.
        #[serde(default)]
        service: Option<String>,
        /// How often. At least 500 ms; default 1 s.
        #[serde(default = "one_second", deserialize_with = "at_least::<500, _>")]
        interval: Duration,
        /// How long it waits for the answer. At least 1 ms; default 2 s.
        #[serde(default = "two_seconds", deserialize_with = "at_least::<1, _>")]
        timeout: Duration,
    },
    /// The server tells the agent, which need not reach it.
    Ttl {
        /// After how long without a word it is taken to be dead. At least 1 s; default 10 s.
        #[serde(default = "ten_seconds", deserialize_with = "at_least::<1000, _>")]
        ttl: Duration,
    },
}

impl Default for CheckConfig {
    fn default() -> Self {
        Self::Http {
            interval: one_second(),
            timeout: two_seconds(),
        }
    }
}

fn one_second() -> Duration {
    Duration::from_secs(1)
}

fn two_seconds() -> Duration {
    Duration::from_secs(2)
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

/// A duration of so many milliseconds or more.
fn at_least<'de, const MILLIS: u64, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    let least = Duration::from_millis(MILLIS);
    let duration: Duration = humantime_serde::deserialize(deserializer)?;
    if duration < least {
        let least = humantime::format_duration(least);
        return Err(de::Error::custom(format_args!("must be at least {least}")));
    }
    Ok(duration)
}

/// Agents refuse 0, and for as long as it is there.
fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let weight = u16::deserialize(deserializer)?;
    if weight == 0 {
        return Err(de::Error::custom("must be at least 1"));
    }
    Ok(weight)
}

fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "expected texts, as a list or with commas between them"
    )]
    enum Words {
        Text(String),
        List(Vec<String>),
    }
    let words = match Words::deserialize(deserializer)? {
        Words::Text(text) => text.split(',').map(|word| word.trim().to_owned()).collect(),
        Words::List(list) => list,
    };
    // What a comma too many makes, or a variable that is set to nothing.
    Ok(words.into_iter().filter(|word| !word.is_empty()).collect())
}

fn addresses<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<AddressTag, Authority>, D::Error> {
    let texts = BTreeMap::<AddressTag, String>::deserialize(deserializer)?;
    texts
        .into_iter()
        .map(|(tag, text)| Ok((tag, super::super::address(&text)?)))
        .collect::<Result<_, String>>()
        .map_err(de::Error::custom)
}

impl fmt::Display for AddressTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: serde_json::Value) -> Result<RegistrationConfig, String> {
        serde_path_to_error::deserialize(json).map_err(|error| error.to_string())
    }

    #[test]
    fn everything_can_be_said_in_words() {
        let config = config(serde_json::json!({
            "tags": "blue, canary",
            "weights": {"passing": "10"},
            "addresses": {"wan": "203.0.113.7:80", "lan_ipv6": "[fd00::1]:8800"},
            "check": {"kind": "ttl", "ttl": "15s"},
            "deregister_after": "5m",
        }));
        // A number as text is what the environment gives, and its reader makes it one.
        assert!(config.unwrap_err().starts_with("weights.passing"));
        let config = self::config(serde_json::json!({
            "tags": "blue,, canary,",
            "weights": {"passing": 10},
            "addresses": {"wan": "203.0.113.7:80", "lan_ipv6": "[fd00::1]:8800"},
            "check": {"kind": "ttl", "ttl": "15s"},
            "deregister_after": "5m",
        }))
        .unwrap();
        assert_eq!(config.tags, ["blue", "canary"]);
        assert_eq!((config.weights.passing, config.weights.warning), (10, 1));
        assert_eq!(config.addresses[&AddressTag::LanIpv6], "[fd00::1]:8800");
        let ttl = Duration::from_secs(15);
        assert_eq!(config.check, CheckConfig::Ttl { ttl });
        let config = self::config(serde_json::json!({
            "tags": "", "check": {"kind": "grpc", "service": "users.Users", "timeout": "3s"},
        }));
        let config = config.unwrap();
        assert!(config.tags.is_empty());
        let grpc = CheckConfig::Grpc {
            service: Some("users.Users".into()),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(3),
        };
        assert_eq!(config.check, grpc);
    }

    #[test]
    fn what_breaks_a_rule_is_told_by_its_key() {
        for (key, value, rule) in [
            (
                "deregister_after",
                serde_json::json!("59s"),
                "must be at least 1m",
            ),
            (
                "check",
                serde_json::json!({"kind": "http", "interval": "100ms"}),
                "must be at least 500ms",
            ),
            (
                "check",
                serde_json::json!({"kind": "ttl", "ttl": "0s"}),
                "must be at least 1s",
            ),
            (
                "addresses",
                serde_json::json!({"wan": "nowhere"}),
                "of the form host:port",
            ),
            (
                "addresses",
                serde_json::json!({"moon": "a:1"}),
                "unknown variant `moon`",
            ),
            ("tags", serde_json::json!(1), "expected texts"),
            (
                "weights",
                serde_json::json!({"passing": 0}),
                "must be at least 1",
            ),
            (
                "check",
                serde_json::json!({"kind": "grpc", "interval": "1ms"}),
                "must be at least 500ms",
            ),
        ] {
            let error = config(serde_json::json!({ key: value })).unwrap_err();
            assert!(error.starts_with(key) && error.contains(rule), "{error}");
        }
    }
}
