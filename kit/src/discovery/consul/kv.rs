//! The calls of an agent's API that read values and hold locks.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::{Deserialize, Deserializer, de};
use tokio::time::Instant;

use super::{
    client::{Agent, ConsulError, TIMEOUT, read, segment},
    health::{FILTERED, Right, index_of},
    register::check_id,
};
use crate::discovery::{
    kv::{KeyValue, Locks, Pause, Session, Stored, Values},
    registration::Answer,
};

/// One element of `/v1/kv/KEY?recurse`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    key: String,
    #[serde(deserialize_with = "base64")]
    value: Vec<u8>,
    #[serde(default)]
    session: Option<String>,
    modify_index: u64,
}

/// What `/v1/session/create` answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Opened {
    #[serde(rename = "ID")]
    id: String,
}

impl KeyValue for Agent {
    fn wait(&self) -> Duration {
        self.config.wait()
    }

    fn look<'a>(&'a self, prefix: &'a str, index: u64, wait: Duration) -> Answer<'a, Values> {
        Box::pin(async move {
            let mut path = format!("/v1/kv/{}?recurse=true", key(prefix));
            let mut timeout = TIMEOUT;
            if index > 0 {
                path += &format!("&index={index}&wait={}ms", wait.as_millis().max(1));
                // The agent lengthens the wait by up to a sixteenth, so that not all come back at once.
                timeout += wait + wait / 16;
            }
            let (headers, body) = self.call(Method::GET, path, Bytes::new(), timeout).await?;
            if headers.get(FILTERED).is_some_and(|value| value == "true") {
                return Err(ConsulError::Hidden.into());
            }
            Ok(Values {
                values: stored(&body)?,
                index: index_of(&headers),
            })
        })
    }

    fn may_read<'a>(&'a self, prefixes: &'a [String]) -> Answer<'a, bool> {
        Box::pin(async move {
            let rights = prefixes.iter().map(|key| Right::to_read("key", key));
            Ok(self.may(rights.collect()).await?)
        })
    }

    fn pause(&self, until: Instant) -> Pause<'_> {
        Box::pin(async move {
            self.pulse.pause(until).await;
        })
    }

    fn recovered(&self) {
        self.pulse.recovered();
    }
}

impl Locks for Agent {
    fn open<'a>(&'a self, session: &'a Session) -> Answer<'a, String> {
        Box::pin(async move {
            let Session {
                name,
                instance,
                ttl,
                lock_delay,
            } = session;
            let mut body = serde_json::json!({
                "Name": name,
                "TTL": format!("{}ms", ttl.as_millis()),
                "LockDelay": format!("{}ms", lock_delay.as_millis()),
                "Behavior": "release",
            });
            if let Some(id) = instance {
                body["ServiceChecks"] = serde_json::json!([{"ID": check_id(id)}]);
            }
            let path = "/v1/session/create".to_owned();
            let Opened { id } = read(&self.write(path, body.to_string()).await?)?;
            Ok(id)
        })
    }

    fn renew<'a>(&'a self, session: &'a str) -> Answer<'a, bool> {
        Box::pin(async move {
            let path = format!("/v1/session/renew/{}", segment(session));
            match self.write(path, String::new()).await {
                Ok(_) => Ok(true),
                Err(ConsulError::Refused { status, .. }) if status == StatusCode::NOT_FOUND => {
                    Ok(false)
                }
                Err(error) => Err(error.into()),
            }
        })
    }

    fn acquire<'a>(&'a self, lock: &'a str, value: &'a str, session: &'a str) -> Answer<'a, bool> {
        Box::pin(async move {
            let path = format!("/v1/kv/{}?acquire={}", key(lock), segment(session));
            Ok(read(&self.write(path, value.to_owned()).await?)?)
        })
    }

    fn release<'a>(&'a self, lock: &'a str, session: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let path = format!("/v1/kv/{}?release={}", key(lock), segment(session));
            self.write(path, String::new()).await?;
            Ok(())
        })
    }

    fn close<'a>(&'a self, session: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let path = format!("/v1/session/destroy/{}", segment(session));
            self.write(path, String::new()).await?;
            Ok(())
        })
    }
}

impl Agent {
    async fn write(&self, path: String, body: String) -> Result<Bytes, ConsulError> {
        let (_, answer) = self.call(Method::PUT, path, body.into(), TIMEOUT).await?;
        Ok(answer)
    }
}

/// The values of an answer: all, or none where one cannot be read.
fn stored(body: &[u8]) -> Result<Vec<Stored>, ConsulError> {
    // Where nothing is there is no list either.
    if body.is_empty() {
        return Ok(Vec::new());
    }
    let entries: Vec<Entry> = read(body)?;
    let values = entries.into_iter().map(|entry| Stored {
        key: entry.key,
        value: entry.value,
        session: entry.session.filter(|session| !session.is_empty()),
        modified: entry.modify_index,
    });
    Ok(values.collect())
}

/// A key as the end of a path: its slashes are those of the path.
fn key(key: &str) -> String {
    let segments: Vec<_> = key.split('/').map(segment).collect();
    segments.join("/")
}

/// A value as Consul writes it: in base64, or null where it is empty.
fn base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
    STANDARD.decode(text).map_err(de::Error::custom)
}

#[cfg(test)]
#[path = "kv_fuzz.rs"]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slashes_of_a_key_are_kept() {
        assert_eq!(key("kit/users/a b?/x"), "kit/users/a%20b%3F/x");
    }
}
