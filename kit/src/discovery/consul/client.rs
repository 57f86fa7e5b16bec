//! The few calls of Consul's HTTP API that the kit makes.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde::{Deserialize, Serialize};

use super::ConsulConfig;
use crate::{
    BoxError,
    endpoint::{Endpoint, Snapshot},
    name::{EndpointId, ServiceName},
};

const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");
const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
const FILTERED: HeaderName = HeaderName::from_static("x-consul-results-filtered-by-acls");

/// A local agent that does not answer a call for so long does not answer it at all.
const TIMEOUT: Duration = Duration::from_secs(10);
/// More than ten thousand instances fit in; an answer beyond it is not one of Consul's.
const MAX_ANSWER: usize = 32 * 1024 * 1024;

/// Why a Consul agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ConsulError {
    /// The address is not of the form `http://host:port`.
    #[error("the address of Consul, {0}, is not of the form http://host:port")]
    Address(Uri),
    /// The connection failed, or broke.
    #[error("Consul could not be reached")]
    Unreachable(#[source] BoxError),
    /// No answer came in time.
    #[error("Consul did not answer within {0:?}")]
    TimedOut(Duration),
    /// It answered that it cannot, or will not.
    #[error("Consul answered {status}: {message}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// The beginning of what it said.
        message: String,
    },
    /// It answered something else than its documentation says.
    #[error("Consul's answer could not be read")]
    Answer(#[source] BoxError),
    /// The token may not see all instances, so the list without them is not believed when it is empty.
    #[error("the token may not see any instance of the service")]
    Hidden,
}

/// The instances of a service, and the moment at which they were so.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) endpoints: Snapshot,
    /// `X-Consul-Index`, or 0 where it is missing.
    pub(super) index: u64,
}

/// A registration as `/v1/agent/service/register` takes it. Unknown fields are refused, also by later versions.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::discovery) struct ServiceDefinition<'a> {
    #[serde(rename = "ID")]
    pub(in crate::discovery) id: &'a EndpointId,
    pub(in crate::discovery) name: &'a ServiceName,
    pub(in crate::discovery) address: &'a str,
    pub(in crate::discovery) port: u16,
    pub(in crate::discovery) tags: &'a [String],
    pub(in crate::discovery) meta: &'a BTreeMap<String, String>,
    pub(in crate::discovery) check: CheckDefinition,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::discovery) struct CheckDefinition {
    #[serde(rename = "HTTP")]
    pub(in crate::discovery) http: String,
    pub(in crate::discovery) interval: String,
    pub(in crate::discovery) timeout: String,
    pub(in crate::discovery) deregister_critical_service_after: &'static str,
}

/// One agent's HTTP API.
pub(in crate::discovery) struct Agent {
    http: Client<HttpConnector, Full<Bytes>>,
    config: ConsulConfig,
}

impl Agent {
    pub(super) fn new(config: ConsulConfig) -> Result<Self, ConsulError> {
        let uri = &config.address;
        let usable = uri.scheme() == Some(&uri::Scheme::HTTP)
            && matches!(uri.path(), "" | "/")
            && uri.query().is_none()
            && uri.host().is_some_and(|host| !host.is_empty());
        if !usable {
            return Err(ConsulError::Address(config.address));
        }
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(2)));
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            // An agent accepts 200 connections from one address, and resets the next ones without a word.
            .pool_max_idle_per_host(2)
            .pool_idle_timeout(Duration::from_secs(20))
            .build(connector);
        Ok(Self { http, config })
    }

    /// How long a question for changes waits, in general.
    pub(super) fn wait(&self) -> Duration {
        let (shortest, longest) = (Duration::from_secs(1), Duration::from_secs(600));
        self.config.wait.clamp(shortest, longest)
    }

    /// The passing instances of a service: at once if `index` is 0, else when they are no longer what they were
    /// at `index`, or when `wait` is over.
    pub(super) async fn instances(
        &self,
        service: &ServiceName,
        index: u64,
        wait: Duration,
    ) -> Result<Answer, ConsulError> {
        let mut path = format!("/v1/health/service/{service}?passing=true");
        if let Some(datacenter) = &self.config.datacenter {
            path += &format!("&dc={}", segment(datacenter));
        }
        let mut timeout = TIMEOUT;
        if index > 0 {
            path += &format!("&index={index}&wait={}ms", wait.as_millis().max(1));
            // The agent lengthens the wait by up to a sixteenth, so that not all come back at once.
            timeout += wait + wait / 16;
        }
        let (headers, body) = self.call(Method::GET, path, Bytes::new(), timeout).await?;
        let entries: Vec<Entry> = read(&body)?;
        if entries.is_empty() && headers.get(FILTERED).is_some_and(|value| value == "true") {
            return Err(ConsulError::Hidden);
        }
        let index = headers
            .get(INDEX)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Answer {
            endpoints: entries.into_iter().filter_map(Entry::endpoint).collect(),
            index: index.unwrap_or(0),
        })
    }

    /// Puts an instance into the registry, or replaces it there.
    pub(in crate::discovery) async fn register(
        &self,
        definition: &ServiceDefinition<'_>,
    ) -> Result<(), ConsulError> {
        let body = serde_json::to_vec(definition).expect("a definition has texts and numbers only");
        let path = "/v1/agent/service/register?replace-existing-checks=true".to_owned();
        self.call(Method::PUT, path, body.into(), TIMEOUT).await?;
        Ok(())
    }

    /// Whether the agent still has the instance.
    pub(in crate::discovery) async fn has(&self, id: &EndpointId) -> Result<bool, ConsulError> {
        let path = format!("/v1/agent/service/{}", segment(id.as_str()));
        found(self.call(Method::GET, path, Bytes::new(), TIMEOUT).await)
    }

    /// Takes an instance out of the registry. One that is not there has been taken out already.
    pub(in crate::discovery) async fn deregister(
        &self,
        id: &EndpointId,
    ) -> Result<(), ConsulError> {
        let path = format!("/v1/agent/service/deregister/{}", segment(id.as_str()));
        found(self.call(Method::PUT, path, Bytes::new(), TIMEOUT).await)?;
        Ok(())
    }

    async fn call(
        &self,
        method: Method,
        path: String,
        body: Bytes,
        timeout: Duration,
    ) -> Result<(HeaderMap, Bytes), ConsulError> {
        let mut parts = self.config.address.clone().into_parts();
        parts.path_and_query = Some(path.parse().expect("all names in it are encoded"));
        let uri = Uri::from_parts(parts).expect("the address has a scheme and an authority");
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        request.headers_mut().insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if let Some(token) = &self.config.token {
            request.headers_mut().insert(TOKEN, token.0.clone());
        }
        tokio::time::timeout(timeout, self.exchange(request))
            .await
            .unwrap_or(Err(ConsulError::TimedOut(timeout)))
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(HeaderMap, Bytes), ConsulError> {
        let response = self
            .http
            .request(request)
            .await
            .map_err(|error| ConsulError::Unreachable(error.into()))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER)
            .collect()
            .await
            .map_err(ConsulError::Unreachable)?
            .to_bytes();
        if head.status != StatusCode::OK {
            let message = String::from_utf8_lossy(&body[..body.len().min(200)]);
            return Err(ConsulError::Refused {
                status: head.status,
                message: message.trim().to_owned(),
            });
        }
        Ok((head.headers, body))
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Whether the thing exists that a call was about.
fn found<T>(result: Result<T, ConsulError>) -> Result<bool, ConsulError> {
    match result {
        Ok(_) => Ok(true),
        Err(ConsulError::Refused { status, .. }) if status == StatusCode::NOT_FOUND => Ok(false),
        Err(error) => Err(error),
    }
}

/// A name as one segment of a path, or one value of a query: percent-encoded but for what RFC 3986 calls unreserved.
fn segment(name: &str) -> String {
    name.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("a text that grows takes all");
        }
        text
    })
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ConsulError> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| ConsulError::Answer(error.into()))
}

/// One element of `/v1/health/service/NAME`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    node: Node,
    service: Service,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    node: String,
    address: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    address: String,
    port: u16,
    #[serde(default)]
    meta: Option<BTreeMap<String, String>>,
    #[serde(default)]
    weights: Weights,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Weights {
    passing: u32,
}

impl Default for Weights {
    fn default() -> Self {
        Self { passing: 1 }
    }
}

impl Entry {
    /// `None` for what cannot be called: an instance without a port, or with an address that is none.
    fn endpoint(self) -> Option<Endpoint> {
        let Self { node, service } = self;
        let host = if service.address.is_empty() {
            node.address
        } else {
            service.address
        };
        if service.port == 0 {
            return None;
        }
        let address = super::super::registration::authority(&host, service.port)?;
        // An id is unique on one agent only: wherever it defaults to the service's name, all instances have it.
        let id = format!("{}@{}", service.id, node.node).parse();
        Some(Endpoint {
            weight: service.weights.passing.max(1),
            metadata: service.meta.unwrap_or_default(),
            ..match id {
                Ok(id) => Endpoint {
                    id,
                    ..Endpoint::at(address)
                },
                // A name with spaces in it. The address tells it from the others too.
                Err(_) => Endpoint::at(address),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(address: &'static str) -> Result<Agent, ConsulError> {
        Agent::new(ConsulConfig {
            address: Uri::from_static(address),
            ..ConsulConfig::default()
        })
    }

    fn endpoints(body: &str) -> Snapshot {
        let entries: Vec<Entry> = read(body.as_bytes()).unwrap();
        entries.into_iter().filter_map(Entry::endpoint).collect()
    }

    #[test]
    fn only_plain_http_to_a_host_is_an_address() {
        assert!(agent("http://127.0.0.1:8500").is_ok());
        assert!(agent("http://consul/").is_ok());
        for bad in [
            "https://a:1",
            "a:1",
            "/x",
            "http://a:1/prefix",
            "http://a:1/?x=1",
        ] {
            assert!(matches!(agent(bad), Err(ConsulError::Address(_))), "{bad}");
        }
    }

    #[test]
    fn an_instance_without_an_address_has_that_of_its_node() {
        let set = endpoints(
            r#"[{"Node": {"Node": "n1", "Address": "10.0.0.1"},
                 "Service": {"ID": "users", "Address": "", "Port": 80, "Meta": null,
                             "Weights": {"Passing": 3, "Warning": 1}}},
                {"Node": {"Node": "n2", "Address": "::1"},
                 "Service": {"ID": "users", "Port": 81, "Meta": {"zone": "a"}}}]"#,
        );
        assert_eq!(set[0].address, "10.0.0.1:80");
        assert_eq!(set[0].weight, 3);
        assert_eq!(set[1].address, "[::1]:81");
        assert_eq!(set[1].metadata["zone"], "a");
        assert_ne!(set[0].id, set[1].id);
    }

    #[test]
    fn what_cannot_be_called_is_left_out() {
        let set = endpoints(
            r#"[{"Node": {"Node": "n1", "Address": "10.0.0.1"},
                 "Service": {"ID": "a", "Address": "not a host", "Port": 80}},
                {"Node": {"Node": "n1", "Address": "10.0.0.1"}, "Service": {"ID": "b", "Port": 0}}]"#,
        );
        assert!(set.is_empty());
    }

    #[test]
    fn no_name_reaches_out_of_its_path_segment() {
        assert_eq!(segment("users-127.0.0.1:8800"), "users-127.0.0.1%3A8800");
        assert_eq!(segment("a/b?c#d%2f e\n"), "a%2Fb%3Fc%23d%252f%20e%0A");
    }
}
