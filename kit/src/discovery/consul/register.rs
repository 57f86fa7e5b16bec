//! The calls of an agent's API that put an instance into its registry.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, StatusCode, uri::Authority};
use serde::{Deserialize, Serialize};

use super::{
    client::{Agent, ConsulError, TIMEOUT, read, segment},
    health::literal,
};
use crate::{
    discovery::registration::{
        AddressTag, Answer, Check, Found, Health, Instance, Registry, authority,
    },
    name::{EndpointId, ServiceName},
};

/// Where an agent keeps that an operator took an instance out of service.
const MAINTENANCE: &str = "_service_maintenance:";

/// How long a server that starts waits to hear its own address.
const ADVERTISED_WITHIN: Duration = Duration::from_secs(2);

/// A registration as `/v1/agent/service/register` takes it. Unknown fields are refused, also by later versions, so
/// what is not set is not sent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceDefinition<'a> {
    #[serde(rename = "ID")]
    id: &'a EndpointId,
    name: &'a ServiceName,
    address: &'a str,
    port: u16,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tagged_addresses: BTreeMap<&'a str, TaggedAddress<'a>>,
    tags: &'a [String],
    meta: &'a BTreeMap<String, String>,
    weights: Weights,
    check: CheckDefinition,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct TaggedAddress<'a> {
    address: &'a str,
    port: u16,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: u16,
    warning: u16,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct CheckDefinition {
    #[serde(rename = "CheckID")]
    id: String,
    deregister_critical_service_after: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(flatten)]
    kind: CheckKind,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum CheckKind {
    Http {
        #[serde(rename = "HTTP")]
        http: String,
        #[serde(rename = "Interval")]
        interval: String,
        #[serde(rename = "Timeout")]
        timeout: String,
    },
    Grpc {
        #[serde(rename = "GRPC")]
        grpc: String,
        #[serde(rename = "GRPCUseTLS")]
        tls: bool,
        #[serde(rename = "Interval")]
        interval: String,
        #[serde(rename = "Timeout")]
        timeout: String,
    },
    Ttl {
        #[serde(rename = "TTL")]
        ttl: String,
    },
}

impl<'a> ServiceDefinition<'a> {
    fn of(instance: &'a Instance, passing: bool) -> Self {
        let Instance {
            service,
            id,
            address,
            addresses,
            tags,
            metadata,
            weights,
            check,
            deregister_after,
        } = instance;
        let tagged = |(tag, address): (&AddressTag, &'a Authority)| {
            let (address, port) = host_and_port(address);
            (tag.as_str(), TaggedAddress { address, port })
        };
        let (address, port) = host_and_port(address);
        Self {
            id,
            name: service,
            address,
            port,
            tagged_addresses: addresses.iter().map(tagged).collect(),
            tags,
            meta: metadata,
            weights: Weights {
                passing: weights.passing,
                warning: weights.warning,
            },
            check: CheckDefinition {
                id: check_id(id),
                deregister_critical_service_after: millis(*deregister_after),
                status: passing.then_some("passing"),
                kind: CheckKind::of(check),
            },
        }
    }
}

impl CheckKind {
    fn of(check: &Check) -> Self {
        match check {
            Check::Http {
                uri,
                interval,
                timeout,
            } => Self::Http {
                http: uri.to_string(),
                interval: millis(*interval),
                timeout: millis(*timeout),
            },
            Check::Grpc {
                address,
                service,
                tls,
                interval,
                timeout,
            } => Self::Grpc {
                grpc: match service {
                    Some(service) => format!("{address}/{service}"),
                    None => address.to_string(),
                },
                tls: *tls,
                interval: millis(*interval),
                timeout: millis(*timeout),
            },
            Check::Ttl { ttl } => Self::Ttl { ttl: millis(*ttl) },
        }
    }
}

/// What an agent says of itself.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Own {
    member: Member,
}

#[derive(Deserialize)]
struct Member {
    #[serde(rename = "Addr")]
    address: IpAddr,
}

/// Consul wants an IPv6 address without its brackets.
fn host_and_port(address: &Authority) -> (&str, u16) {
    let host = address.host().trim_matches(['[', ']']);
    (host, address.port_u16().unwrap_or(80))
}

/// The id that an agent gives to the only check of an instance.
pub(super) fn check_id(id: &EndpointId) -> String {
    format!("service:{id}")
}

fn millis(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

/// One element of `/v1/agent/checks`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CheckEntry {
    #[serde(rename = "CheckID")]
    id: String,
    #[serde(rename = "ServiceID", default)]
    service: String,
    #[serde(rename = "Type", default)]
    kind: String,
    status: String,
    output: Option<String>,
}

impl CheckEntry {
    /// Whether it says that nobody is there: not one that was not made yet, or which somebody answered that he is not
    /// ready; nor that of an operator, who took the instance out of service.
    fn found_nobody(&self) -> bool {
        let output = self.output.as_deref().unwrap_or_default();
        let answered = match &*self.kind {
            "http" => output.starts_with("HTTP "),
            "ttl" => !output.starts_with("TTL expired"),
            _ => false,
        };
        self.status == "critical"
            && !self.id.starts_with(MAINTENANCE)
            && !output.is_empty()
            && !answered
    }
}

/// What `/v1/agent/service/ID` answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceEntry {
    #[serde(default)]
    address: String,
    // Consul takes any number here, and a wrong one is replaced like any other.
    #[serde(default)]
    port: i64,
    #[serde(default)]
    meta: Option<BTreeMap<String, String>>,
}

impl Agent {
    async fn get(&self, path: String) -> Result<Bytes, ConsulError> {
        let (_, body) = self.call(Method::GET, path, Bytes::new(), TIMEOUT).await?;
        Ok(body)
    }

    /// The address at which the other agents reach this one.
    pub(super) async fn advertised(&self) -> Result<IpAddr, ConsulError> {
        let path = "/v1/agent/self".to_owned();
        let asked = self.call(Method::GET, path, Bytes::new(), ADVERTISED_WITHIN);
        let (_, body) = asked.await?;
        let own: Own = read(&body)?;
        Ok(own.member.address)
    }

    async fn put(&self, path: String, body: Vec<u8>) -> Result<(), ConsulError> {
        self.call(Method::PUT, path, body.into(), TIMEOUT).await?;
        Ok(())
    }

    /// All checks of one instance.
    async fn checks(&self, id: &EndpointId) -> Result<Vec<CheckEntry>, ConsulError> {
        // Agents that know no filter give all of them.
        let filter = format!("ServiceID=={}", literal(id.as_str()));
        let path = format!("/v1/agent/checks?filter={}", segment(&filter));
        checks_of(&self.get(path).await?, id)
    }
}

/// The checks of one instance among those of all; what cannot be read is none of it.
fn checks_of(body: &[u8], id: &EndpointId) -> Result<Vec<CheckEntry>, ConsulError> {
    let all: HashMap<String, serde_json::Value> = read(body)?;
    let readable = all
        .into_values()
        .filter_map(|check| serde_json::from_value::<CheckEntry>(check).ok());
    Ok(readable
        .filter(|check| check.service == id.as_str())
        .collect())
}

/// An instance as it is registered.
fn found(body: &[u8]) -> Result<Found, ConsulError> {
    let ServiceEntry {
        address,
        port,
        meta,
    } = read(body)?;
    Ok(Found {
        address: u16::try_from(port)
            .ok()
            .and_then(|port| authority(&address, port)),
        metadata: meta.unwrap_or_default(),
    })
}

impl Registry for Agent {
    fn find<'a>(&'a self, id: &'a EndpointId) -> Answer<'a, Option<Found>> {
        Box::pin(async move {
            let path = format!("/v1/agent/service/{}", segment(id.as_str()));
            let Some(body) = known(self.get(path).await)? else {
                return Ok(None);
            };
            Ok(Some(found(&body)?))
        })
    }

    fn is_alive<'a>(&'a self, id: &'a EndpointId) -> Answer<'a, bool> {
        Box::pin(async move {
            let checks = self.checks(id).await?;
            Ok(!checks.iter().any(CheckEntry::found_nobody))
        })
    }

    fn register<'a>(&'a self, instance: &'a Instance, passing: bool) -> Answer<'a, ()> {
        Box::pin(async move {
            let checks = self.checks(&instance.id).await?;
            let body = serde_json::to_vec(&ServiceDefinition::of(instance, passing))
                .expect("a definition has texts and numbers only");
            let mut path = "/v1/agent/service/register".to_owned();
            // Checks that another program left would stay beside the new one. So would the one by which an operator
            // put the instance under maintenance, but that is meant to stay.
            if !checks.iter().any(|check| check.id.starts_with(MAINTENANCE)) {
                path += "?replace-existing-checks=true";
            }
            Ok(self.put(path, body).await?)
        })
    }

    fn report<'a>(&'a self, id: &'a EndpointId, health: &'a Health) -> Answer<'a, bool> {
        Box::pin(async move {
            let (status, output) = match health {
                Health::Passing => ("passing", ""),
                Health::Critical(why) => ("critical", &**why),
            };
            let body = serde_json::json!({"Status": status, "Output": output});
            let path = format!("/v1/agent/check/update/{}", segment(&check_id(id)));
            match known(self.put(path, body.to_string().into_bytes()).await) {
                // Older agents fail where later ones do not find.
                Err(ConsulError::Refused { status, message })
                    if status == StatusCode::INTERNAL_SERVER_ERROR
                        && message.contains("does not have associated TTL") =>
                {
                    Ok(false)
                }
                answer => Ok(answer?.is_some()),
            }
        })
    }

    fn deregister<'a>(&'a self, id: &'a EndpointId) -> Answer<'a, ()> {
        Box::pin(async move {
            let path = format!("/v1/agent/service/deregister/{}", segment(id.as_str()));
            known(self.put(path, Vec::new()).await)?;
            Ok(())
        })
    }
}

/// What was asked for, or `None` if the agent does not know it.
fn known<T>(result: Result<T, ConsulError>) -> Result<Option<T>, ConsulError> {
    match result {
        Ok(answer) => Ok(Some(answer)),
        Err(ConsulError::Refused { status, .. }) if status == StatusCode::NOT_FOUND => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[path = "register_fuzz.rs"]
mod fuzz;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::discovery::Weights;

    #[test]
    fn what_is_not_set_is_not_sent() {
        let mut instance = Instance {
            service: "users".parse().unwrap(),
            id: "users-1".parse().unwrap(),
            address: "[::1]:8800".parse().unwrap(),
            addresses: BTreeMap::new(),
            tags: Vec::new(),
            metadata: BTreeMap::new(),
            weights: Weights::default(),
            check: Check::Ttl {
                ttl: Duration::from_secs(10),
            },
            deregister_after: Duration::from_secs(300),
        };
        let sent =
            |instance: &Instance| serde_json::to_value(ServiceDefinition::of(instance, false));
        assert_eq!(
            sent(&instance).unwrap(),
            json!({
                "ID": "users-1", "Name": "users", "Address": "::1", "Port": 8800, "Tags": [], "Meta": {},
                "Weights": {"Passing": 1, "Warning": 1},
                "Check": {
                    "CheckID": "service:users-1", "TTL": "10000ms",
                    "DeregisterCriticalServiceAfter": "300000ms",
                },
            })
        );
        let again = serde_json::to_value(ServiceDefinition::of(&instance, true)).unwrap();
        assert_eq!(again["Check"]["Status"], "passing");
        instance.check = Check::Grpc {
            address: "10.0.0.1:1".parse().unwrap(),
            service: None,
            tls: true,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
        };
        assert_eq!(
            sent(&instance).unwrap()["Check"],
            json!({
                "CheckID": "service:users-1", "GRPC": "10.0.0.1:1", "GRPCUseTLS": true,
                "Interval": "1000ms", "Timeout": "2000ms",
                "DeregisterCriticalServiceAfter": "300000ms",
            })
        );
    }

    #[test]
    fn a_check_finds_nobody_only_where_nobody_has_answered() {
        let found_nobody = |kind: &str, status: &str, output: serde_json::Value| {
            let entry = json!({
                "CheckID": "service:a", "ServiceID": "a", "Type": kind, "Status": status, "Output": output,
            });
            serde_json::from_value::<CheckEntry>(entry)
                .unwrap()
                .found_nobody()
        };
        let refused = "Get \"http://a:1/\": dial tcp: connect: connection refused";
        assert!(found_nobody("http", "critical", refused.into()));
        assert!(found_nobody(
            "ttl",
            "critical",
            "TTL expired (last output before timeout follows): ".into()
        ));
        assert!(found_nobody(
            "grpc",
            "critical",
            "connection refused".into()
        ));
        assert!(
            found_nobody("", "critical", refused.into()),
            "an older agent does not tell the kind"
        );
        for output in [
            "".into(),
            serde_json::Value::Null,
            "HTTP GET http://a:1/: 503 Service Unavailable Output: no".into(),
        ] {
            assert!(!found_nobody("http", "critical", output));
        }
        assert!(!found_nobody("http", "passing", refused.into()));
        assert!(!found_nobody("ttl", "critical", "out of disk".into()));
    }

    #[test]
    fn an_instance_with_an_odd_port_is_read_all_the_same() {
        for port in ["-1", "70000", "0"] {
            let entry: ServiceEntry =
                read(format!(r#"{{"Address": "a", "Port": {port}}}"#).as_bytes()).unwrap();
            assert_eq!(entry.port.to_string(), port);
        }
    }
}
