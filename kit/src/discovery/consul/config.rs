//! How an agent is reached, and which instances are wanted of it.

use std::{fmt, path::PathBuf, time::Duration};

use http::Uri;
use serde::{Deserialize, Deserializer, de};

use super::{Token, client::TIMEOUT};

/// How to ask a Consul agent.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsulConfig {
    /// Where its HTTP API is: `http://host:port`, or `https://host:port` with the feature `tls`, without a path.
    /// Default: `http://127.0.0.1:8500`.
    #[serde(deserialize_with = "uri")]
    pub address: Uri,
    /// Whom to trust behind `https`. Default: nobody.
    pub tls: TlsConfig,
    /// What it demands for access. Default: none.
    pub token: Option<Token>,
    /// A file with the token, read again for each request, so that a new token is used as soon as it is there.
    /// White space around it does not count. Excludes `token`. Default: none.
    pub token_file: Option<PathBuf>,
    /// The namespace of all that is asked and registered. Only Consul Enterprise takes it. Default: not sent.
    pub namespace: Option<String>,
    /// The admin partition of all that is asked and registered. Only Consul Enterprise takes it. Default: not sent.
    pub partition: Option<String>,
    /// Which instances are wanted where nobody says otherwise, see [`Consul::select`](super::Consul::select).
    pub query: Query,
    /// How long a question for changes waits for one. Shorter asks more often, longer finds a broken connection
    /// later. From 1 s to 10 min; default 30 s.
    #[serde(with = "humantime_serde")]
    pub wait: Duration,
    /// How many services are each followed by a question that waits at the agent. Over plain HTTP each takes a
    /// connection, and an agent takes 200 from one address. The services beyond share two more, and are looked at
    /// once a second while anything changes in the datacenter. From 1 to 180; default 64.
    pub max_waiting: usize,
    /// How long a set of instances is used after the agent last confirmed it; then it is empty, and calls fail with
    /// [`Rejection::NoEndpoints`](crate::Rejection::NoEndpoints), until the agent answers again. At least `wait`, a
    /// sixteenth of it and 10 s, within which a healthy agent answers. Default: for ever.
    #[serde(with = "humantime_serde")]
    pub max_age: Option<Duration>,
}

impl Default for ConsulConfig {
    fn default() -> Self {
        Self {
            address: Uri::from_static("http://127.0.0.1:8500"),
            tls: TlsConfig::default(),
            token: None,
            token_file: None,
            namespace: None,
            partition: None,
            query: Query::default(),
            wait: Duration::from_secs(30),
            max_waiting: 64,
            max_age: None,
        }
    }
}

impl ConsulConfig {
    /// How long a question for changes waits.
    pub(super) fn wait(&self) -> Duration {
        let (shortest, longest) = (Duration::from_secs(1), Duration::from_secs(600));
        self.wait.clamp(shortest, longest)
    }

    /// Within which time a healthy agent answers it. An agent lengthens the wait by up to a sixteenth, so that not all
    /// come back at once.
    pub(super) fn answered_in(&self) -> Duration {
        TIMEOUT + self.wait() + self.wait() / 16
    }
}

/// Whom to trust, and as whom to come, where an agent is asked over `https`. The files are PEM and are read once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificates of the authorities that may vouch for the agent. Needed for `https`: agents have an
    /// authority of their own, and the machine's list is a file too.
    pub ca: Option<PathBuf>,
    /// The client's certificate, with those between it and its authority. Needs `key`. Default: none.
    pub certificate: Option<PathBuf>,
    /// The key of `certificate`. Default: none.
    pub key: Option<PathBuf>,
    /// The name that the agent's certificate must have, such as `server.dc1.consul`. Default: the host of the
    /// address.
    pub server_name: Option<String>,
}

/// Which instances of a service are wanted, and how fresh the answer must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Query {
    /// The datacenter whose instances are wanted. Default: the agent's own.
    pub datacenter: Option<String>,
    /// Tags that an instance must have, every one of them: a list, or one text with commas. Default: none.
    #[serde(deserialize_with = "texts")]
    pub tags: Vec<String>,
    /// Whether an instance is wanted too while the worst of its checks is in the state warning; its weight is then
    /// the one that it registered for that state, and 0 leaves it out. Default: only passing ones.
    pub warnings: bool,
    /// A node, or `_agent`, from which Consul reckons distance: instances then have the metadata `near`, 0 for the
    /// nearest. Default: none.
    pub near: Option<String>,
    /// How fresh the answer must be. Default: as the leader knows it.
    pub consistency: Consistency,
}

/// What is not left at its default, as `key=value` with spaces between them; empty where all is.
impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            datacenter,
            tags,
            warnings,
            near,
            consistency,
        } = self;
        let consistency = match consistency {
            Consistency::Default => None,
            Consistency::Consistent => Some("consistent".to_owned()),
            Consistency::Stale { max_stale } => Some(format!("stale:{max_stale:?}")),
            Consistency::Cached {
                max_age,
                stale_if_error,
            } => Some(format!("cached:{max_age:?}:{stale_if_error:?}")),
        };
        let said = [
            ("datacenter", datacenter.clone()),
            ("tags", (!tags.is_empty()).then(|| tags.join(","))),
            ("warnings", warnings.then(|| "true".to_owned())),
            ("near", near.clone()),
            ("consistency", consistency),
        ];
        let mut space = "";
        for (key, value) in said {
            if let Some(value) = value {
                write!(f, "{space}{key}={value}")?;
                space = " ";
            }
        }
        Ok(())
    }
}

/// How fresh an answer must be (Consul's HTTP API, "Consistency Modes" and "Agent Caching").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Consistency {
    /// The leader answers, and may have been deposed without knowing it yet.
    #[default]
    Default,
    /// The leader answers after it has made sure that it is the leader.
    Consistent,
    /// Any server answers, also while there is no leader.
    Stale {
        /// An answer of a server that has not heard of the leader for longer is not taken; the leader is asked.
        #[serde(with = "humantime_serde")]
        max_stale: Duration,
    },
    /// The agent answers out of its cache, which it keeps fresh while anybody asks for it.
    Cached {
        /// How old what is cached may be, for an agent that does not keep it fresh by itself.
        #[serde(with = "humantime_serde")]
        max_age: Duration,
        /// How old it may be while the servers cannot be asked. An older answer is not taken; the leader is asked.
        #[serde(with = "humantime_serde")]
        stale_if_error: Duration,
    },
}

fn uri<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Uri, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse()
        .map_err(|error| de::Error::custom(format!("{text:?} is not a URI: {error}")))
}

/// Texts as a list, or with commas between them, as a variable of the environment has them.
fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Texts;

    impl<'de> de::Visitor<'de> for Texts {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("texts, as a list or with commas between them")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<String>, E> {
            let texts = text.split(',').map(str::trim);
            Ok(texts
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
                .collect())
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Vec<String>, A::Error> {
            Vec::deserialize(de::value::SeqAccessDeserializer::new(list))
        }
    }

    deserializer.deserialize_any(Texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_a_list_or_a_text_with_commas() {
        let query: Query = serde_json::from_str(
            r#"{"tags": ["a", "b"], "warnings": true,
                "consistency": {"stale": {"max_stale": "5s"}}}"#,
        )
        .unwrap();
        let max_stale = Duration::from_secs(5);
        assert_eq!(query.consistency, Consistency::Stale { max_stale });
        let text: Query = serde_json::from_str(r#"{"tags": "a, b"}"#).unwrap();
        assert_eq!(text.tags, query.tags);
        let said = "tags=a,b warnings=true consistency=stale:5s";
        assert_eq!(query.to_string(), said);
        assert_eq!(Query::default().to_string(), "");
        let error = serde_json::from_str::<Query>(r#"{"tags": 7}"#).unwrap_err();
        assert!(error.to_string().contains("expected texts"), "{error}");
    }
}
