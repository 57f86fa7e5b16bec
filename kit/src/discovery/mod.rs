//! Where instances of a service are, and how an instance says where it is.
//!
//! A source gives a [`Watch`] of a whole [`Snapshot`](crate::endpoint::Snapshot) of endpoints. There are three:
//! [`Fixed`], a list; [`Consul`], followed through blocking queries; and [`Dns`], names, asked for again when their time
//! to live is over. [`Source`] is the one of them that the
//! configuration names. [`Registration`] puts an instance into a [`Registry`] and keeps it there.

mod bucket;
pub mod consul;
mod discover;
mod dns;
mod fixed;
mod kv;
mod pace;
mod publish;
mod registration;

use std::{collections::BTreeMap, fmt};

use http::uri::Authority;
use serde::{Deserialize, Deserializer, de};

pub use self::{
    consul::{Consul, ConsulConfig, ConsulError},
    discover::Changes,
    dns::{Dns, DnsConfig, DnsName, InvalidDnsName},
    fixed::Fixed,
    kv::{
        Candidate, DocumentError, Election, ElectionConfig, Following, KeyValue, Leadership, Locks,
        Pause, Policies, Session, Stored, Values, View, follow,
    },
    registration::{
        AddressTag, Answer, Check, CheckConfig, Found, Health, Instance, Registered, Registration,
        RegistrationConfig, RegistrationError, Registry, Weights,
    },
};
use crate::{
    endpoint::{Discovery, Watch},
    event::SharedObserver,
    name::ServiceName,
};

/// Where to look for instances: in Consul if it is configured, else by name if that is, else in the fixed list.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiscoveryConfig {
    /// The Consul agent to ask. Default: none.
    pub consul: Option<ConsulConfig>,
    /// The names to follow. Default: none.
    pub dns: Option<DnsConfig>,
    /// Addresses by service, as `host:port`: a list, or one text with commas between them. Default: empty.
    #[serde(deserialize_with = "addresses_by_service")]
    pub fixed: BTreeMap<ServiceName, Vec<Authority>>,
    /// Below which key in Consul's store policies are followed while the service runs, such as `kit`: see
    /// [`Policies`]. Default: none are.
    pub policies: Option<String>,
}

/// The source that the configuration names. Clones follow the same watches.
#[derive(Clone, Debug)]
pub enum Source {
    /// A list that never changes.
    Fixed(Fixed),
    /// A Consul agent.
    Consul(Consul),
    /// Names.
    Dns(Dns),
}

impl Source {
    /// The source that `config` names; what happens to it is told to `observer`.
    ///
    /// # Errors
    /// If a Consul agent is named whose address cannot be used. The agent is not asked yet.
    pub fn from_config(
        config: &DiscoveryConfig,
        observer: SharedObserver,
    ) -> Result<Self, ConsulError> {
        if config.policies.is_some() && config.consul.is_none() {
            return Err(ConsulError::Config {
                field: "policies",
                rule: "needs an agent: `consul`".to_owned(),
            });
        }
        match (&config.consul, &config.dns) {
            (Some(consul), _) => Consul::new(consul.clone(), observer).map(Self::Consul),
            (None, Some(dns)) => Ok(Self::Dns(Dns::new(dns.clone(), observer))),
            (None, None) => Ok(Self::Fixed(Fixed::new(config.fixed.clone()))),
        }
    }

    /// The Consul agent, where there is one to register with.
    pub fn consul(&self) -> Option<&Consul> {
        match self {
            Self::Consul(consul) => Some(consul),
            Self::Fixed(_) | Self::Dns(_) => None,
        }
    }
}

impl Discovery for Source {
    fn watch(&self, service: &ServiceName) -> Watch {
        match self {
            Self::Fixed(fixed) => fixed.watch(service),
            Self::Consul(consul) => consul.watch(service),
            Self::Dns(dns) => dns.watch(service),
        }
    }
}

fn addresses_by_service<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<ServiceName, Vec<Authority>>, D::Error> {
    let services = BTreeMap::<ServiceName, Addresses>::deserialize(deserializer)?;
    Ok(services
        .into_iter()
        .map(|(name, all)| (name, all.0))
        .collect())
}

/// Addresses as a list, or as a text with commas.
struct Addresses(Vec<Authority>);

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AddressesVisitor)
    }
}

struct AddressesVisitor;

impl<'de> de::Visitor<'de> for AddressesVisitor {
    type Value = Addresses;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("addresses of the form host:port, as a list or with commas between them")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Addresses, E> {
        let addresses: Result<_, _> = text.split(',').map(address).collect();
        addresses.map(Addresses).map_err(E::custom)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Addresses, A::Error> {
        let mut addresses = Vec::new();
        while let Some(text) = list.next_element::<String>()? {
            addresses.push(address(&text).map_err(de::Error::custom)?);
        }
        Ok(Addresses(addresses))
    }
}

/// `host:port`. A user name in front of it is no part of an address.
fn address(text: &str) -> Result<Authority, String> {
    let text = text.trim();
    text.parse::<Authority>()
        .ok()
        .filter(|address| address.port_u16().is_some_and(|port| port != 0))
        .filter(|address| !address.host().is_empty() && !text.contains('@'))
        .ok_or_else(|| format!("{text:?} is not an address of the form host:port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: serde_json::Value) -> Result<DiscoveryConfig, String> {
        serde_path_to_error::deserialize(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_list_and_a_text_with_commas_say_the_same() {
        let config = config(serde_json::json!({"fixed": {
            "users": "127.0.0.1:8800, 127.0.0.1:8810",
            "bugs": ["127.0.0.1:8800", "127.0.0.1:8810"],
        }}))
        .unwrap();
        let [users, bugs] = ["users", "bugs"].map(|name| &config.fixed[&name.parse().unwrap()]);
        assert_eq!(users, bugs);
        assert_eq!(users.len(), 2);
    }

    #[test]
    fn a_wrong_address_is_named_together_with_its_service() {
        for bad in [
            "127.0.0.1",
            "users:0",
            ":80",
            "a:1,",
            "me@a:1",
            "http://a:1",
        ] {
            let error = config(serde_json::json!({"fixed": {"users": bad}})).unwrap_err();
            assert!(error.starts_with("fixed.users: "), "{bad}: {error}");
            assert!(error.contains("of the form host:port"), "{bad}: {error}");
        }
        let error = config(serde_json::json!({"fixed": {"users": 8800}})).unwrap_err();
        assert!(
            error.contains("expected addresses of the form host:port"),
            "{error}"
        );
    }

    #[test]
    fn consul_goes_before_names_and_names_before_the_list() {
        let mut config = config(serde_json::json!({
            "consul": {"address": "http://127.0.0.1:8500"},
            "dns": {"names": {"users": "users.example:80"}, "server": "127.0.0.1:53", "most": "10s"},
            "fixed": {"users": "127.0.0.1:8800"},
        }))
        .unwrap();
        let source = |config: &_| Source::from_config(config, crate::event::nobody()).unwrap();
        assert!(source(&config).consul().is_some());
        config.consul = None;
        assert!(matches!(source(&config), Source::Dns(_)));
        config.dns = None;
        assert!(matches!(source(&config), Source::Fixed(_)));
    }
}
