//! How an agent's HTTP API is called: one place for its address, its token, namespaces, timeouts and errors.

use std::{
    fmt::{self, Write},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{ConsulConfig, health::INDEX, pulse::Pulse, tls, token::Access, turn::Places};
use crate::BoxError;

const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");

/// A local agent that does not answer a call for so long does not answer it at all.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// More than ten thousand instances fit in; an answer beyond it is not one of Consul's.
const MAX_ANSWER: usize = 32 * 1024 * 1024;

/// Why a Consul agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ConsulError {
    /// The address is not of the form `http://host:port` or `https://host:port`.
    #[error("the address of Consul, {0}, is not of the form http://host:port or https://host:port")]
    Address(Uri),
    /// Another field of the configuration breaks a rule.
    #[error("`{field}` of Consul's configuration {rule}")]
    Config {
        /// Which one, with a dot where it is inside of another.
        field: &'static str,
        /// The rule that it breaks.
        rule: String,
    },
    /// The file with the token cannot be read, or has none in it.
    #[error("the token of Consul cannot be read from {}", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: BoxError,
    },
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
    /// The token may not see all that there is, so what it does not see any more is not believed to be gone.
    #[error("the token may not see all that there is")]
    Hidden,
}

/// One agent's HTTP API: how it is called. What it is asked is in modules of its own.
pub(super) struct Agent {
    http: Client<tls::Connector, Full<Bytes>>,
    access: Access,
    pub(super) config: ConsulConfig,
    pub(super) places: Places,
    pub(super) pulse: Arc<Pulse>,
}

impl Agent {
    pub(super) fn new(config: ConsulConfig) -> Result<Self, ConsulError> {
        let uri = &config.address;
        let usable = matches!(uri.scheme_str(), Some("http" | "https"))
            && matches!(uri.path(), "" | "/")
            && uri.query().is_none()
            && uri.host().is_some_and(|host| !host.is_empty());
        if !usable {
            return Err(ConsulError::Address(config.address));
        }
        if !(1..=180).contains(&config.max_waiting) {
            return Err(ConsulError::Config {
                field: "max_waiting",
                rule: "must be from 1 to 180".to_owned(),
            });
        }
        let answered_in = config.answered_in();
        if config.max_age.is_some_and(|age| age < answered_in) {
            return Err(ConsulError::Config {
                field: "max_age",
                rule: format!(
                    "must be at least {answered_in:?}: `wait`, a sixteenth of it and {TIMEOUT:?}"
                ),
            });
        }
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(2)));
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(Places::IDLE)
            .pool_idle_timeout(Duration::from_secs(20))
            .build(tls::connector(connector, &config)?);
        Ok(Self {
            http,
            access: Access::from_config(&config)?,
            places: Places::new(config.max_waiting),
            pulse: Arc::default(),
            config,
        })
    }

    /// Asks once. `path` has its query with it, all names in both encoded by [`segment`].
    pub(super) async fn call(
        &self,
        method: Method,
        path: String,
        body: Bytes,
        timeout: Duration,
    ) -> Result<(HeaderMap, Bytes), ConsulError> {
        self.call_with(HeaderMap::new(), method, path, body, timeout)
            .await
    }

    /// The same with headers beside those that every request has.
    pub(super) async fn call_with(
        &self,
        headers: HeaderMap,
        method: Method,
        path: String,
        body: Bytes,
        timeout: Duration,
    ) -> Result<(HeaderMap, Bytes), ConsulError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.uri(path);
        *request.headers_mut() = headers;
        request.headers_mut().insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if let Some(token) = self.access.header().await? {
            request.headers_mut().insert(TOKEN, token);
        }
        tokio::time::timeout(timeout, self.exchange(request))
            .await
            .unwrap_or(Err(ConsulError::TimedOut(timeout)))
    }

    fn uri(&self, mut path: String) -> Uri {
        let ConsulConfig {
            address,
            namespace,
            partition,
            ..
        } = &self.config;
        // Agents that are not Consul Enterprise refuse them, so they are sent only where somebody wants them.
        for (name, value) in [("ns", namespace), ("partition", partition)] {
            if let Some(value) = value {
                let separator = if path.contains('?') { '&' } else { '?' };
                path += &format!("{separator}{name}={}", segment(value));
            }
        }
        let mut parts = address.clone().into_parts();
        parts.path_and_query = Some(path.parse().expect("all names in it are encoded"));
        Uri::from_parts(parts).expect("the address has a scheme and an authority")
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
            .map_err(|error| match error.downcast::<LengthLimitError>() {
                Ok(error) => ConsulError::Answer(error),
                Err(error) => ConsulError::Unreachable(error),
            })?
            .to_bytes();
        // That nothing is there is an answer too where it comes with an index, from which it can be waited for.
        let nothing = head.status == StatusCode::NOT_FOUND && head.headers.contains_key(INDEX);
        if head.status != StatusCode::OK && !nothing {
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

/// A name as one segment of a path, or one value of a query: percent-encoded but for what RFC 3986 calls unreserved.
pub(super) fn segment(name: &str) -> String {
    name.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("a text that grows takes all");
        }
        text
    })
}

pub(super) fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ConsulError> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| ConsulError::Answer(error.into()))
}

/// A list without what cannot be read of it: one odd element hides no other. Where none can be read, it is no list of
/// such elements, and certainly not an empty one.
pub(super) fn read_list<T: DeserializeOwned>(body: &[u8]) -> Result<Vec<T>, ConsulError> {
    let error = match read(body) {
        Ok(all) => return Ok(all),
        Err(error) => error,
    };
    let Ok(elements) = read::<Vec<serde_json::Value>>(body) else {
        return Err(error);
    };
    let readable: Vec<T> = elements
        .into_iter()
        .filter_map(|element| serde_json::from_value(element).ok())
        .collect();
    if readable.is_empty() {
        return Err(error);
    }
    Ok(readable)
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

    #[test]
    fn only_http_to_a_host_is_an_address() {
        assert!(agent("http://127.0.0.1:8500").is_ok());
        assert!(agent("http://consul/").is_ok());
        for bad in [
            "ftp://a:1",
            "a:1",
            "/x",
            "http://a:1/prefix",
            "http://a:1/?x=1",
        ] {
            assert!(matches!(agent(bad), Err(ConsulError::Address(_))), "{bad}");
        }
    }

    #[test]
    fn a_namespace_and_a_partition_are_sent_only_where_they_are_set() {
        let mut config = ConsulConfig::default();
        let uri = |config: &ConsulConfig, path: &str| {
            let agent = Agent::new(config.clone()).unwrap();
            agent.uri(path.to_owned()).to_string()
        };
        assert_eq!(uri(&config, "/v1/x"), "http://127.0.0.1:8500/v1/x");
        config.partition = Some("p".into());
        assert_eq!(
            uri(&config, "/v1/x"),
            "http://127.0.0.1:8500/v1/x?partition=p"
        );
        config.namespace = Some("a&b".into());
        assert_eq!(
            uri(&config, "/v1/x?y=z"),
            "http://127.0.0.1:8500/v1/x?y=z&ns=a%26b&partition=p"
        );
    }

    #[test]
    fn no_name_reaches_out_of_its_path_segment() {
        assert_eq!(segment("users-127.0.0.1:8800"), "users-127.0.0.1%3A8800");
        assert_eq!(segment("a/b?c#d%2f e\n"), "a%2Fb%3Fc%23d%252f%20e%0A");
    }
}
