//! Configuration that changes while the process runs.

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{sync::watch, task::AbortHandle};

use super::{
    KeyValue, Stored, Values,
    document::{self, DocumentError},
};
use crate::{
    BoxError,
    discovery::{DiscoveryConfig, Source, pace::Pace},
    event::{Event, SharedObserver},
    name::ServiceName,
    policy::Live,
};

/// Follows the value at `key`, slashes around which do not count, and the parts of it at the keys below, and gives each
/// new one to `apply`: JSON or TOML, as a merge patch upon `base`, which is what already holds. Calls `apply` from a task
/// of its own, never twice with the same.
///
/// A value that cannot be read, or that `apply` refuses, is told to `observer` and otherwise ignored: the last good one
/// stays. When nothing stands there any more, `base` is applied again; but for 10 s after a failure of the registry,
/// which may have lost what it had, that is not believed.
///
/// # Panics
/// Outside a tokio runtime; if `base` cannot be written as JSON.
pub fn follow<T>(
    kv: Arc<dyn KeyValue>,
    key: impl Into<String>,
    base: &T,
    apply: impl FnMut(T) -> Result<(), BoxError> + Send + 'static,
    observer: SharedObserver,
) -> Following
where
    T: Serialize + DeserializeOwned + 'static,
{
    let base = serde_json::to_value(base).expect("settings can be written as JSON");
    let document = Document {
        kv,
        key: key.into().trim_matches('/').to_owned(),
        current: base.clone(),
        base,
        values: Vec::new(),
        apply: Box::new(apply),
        observer,
    };
    Following(tokio::spawn(document.follow()).abort_handle())
}

/// Something that is followed for as long as this exists; what was applied last stays when it is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the following"]
pub struct Following(AbortHandle);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A value at a key of the registry, as it was last when it was right. Dropping it ends the following.
#[derive(Debug)]
pub struct View<T> {
    value: watch::Receiver<Arc<T>>,
    _following: Following,
}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> View<T> {
    /// Follows the value at `key`, see [`follow`]. Until it is known, and when there is none, it is `base`.
    ///
    /// # Panics
    /// As [`follow`].
    pub fn new(
        kv: Arc<dyn KeyValue>,
        key: impl Into<String>,
        base: T,
        observer: SharedObserver,
    ) -> Self {
        let base = Arc::new(base);
        let (sender, value) = watch::channel(Arc::clone(&base));
        let apply = move |value| {
            sender.send_replace(Arc::new(value));
            Ok(())
        };
        Self {
            value,
            _following: follow(kv, key, &*base, apply, observer),
        }
    }

    /// The value as it is. Marks it as seen.
    pub fn get(&mut self) -> Arc<T> {
        Arc::clone(&self.value.borrow_and_update())
    }

    /// Waits until there is another value than the one that was last seen.
    pub async fn changed(&mut self) {
        // The sender lives in the task, which ends with `self`.
        let _ = self.value.changed().await;
    }
}

/// Where the policies of one running service are followed, if they are: below `PREFIX/SERVICE`.
#[derive(Clone)]
pub struct Policies {
    kv: Option<Arc<dyn KeyValue>>,
    root: String,
    observer: SharedObserver,
}

impl Policies {
    /// In the key-value store of `source`, below `discovery.policies` and the name of `service`; nowhere if that is not
    /// configured. What happens is told to `observer`.
    pub fn from_config(
        config: &DiscoveryConfig,
        source: &Source,
        service: &ServiceName,
        observer: SharedObserver,
    ) -> Self {
        let prefix = config
            .policies
            .as_deref()
            .map(|prefix| prefix.trim_matches('/'));
        let kv = prefix.and_then(|_| Some(source.consul()?.key_value()));
        Self {
            kv,
            root: format!("{}/{service}", prefix.unwrap_or_default()),
            observer,
        }
    }

    /// Follows the value at `name` there, see [`follow`]; `None` if nothing is followed.
    ///
    /// # Panics
    /// As [`follow`].
    pub fn follow<T: Serialize + DeserializeOwned + 'static>(
        &self,
        name: &str,
        base: &T,
        apply: impl FnMut(T) -> Result<(), BoxError> + Send + 'static,
    ) -> Option<Following> {
        let kv = Arc::clone(self.kv.as_ref()?);
        let key = format!("{}/{name}", self.root);
        Some(follow(kv, key, base, apply, Arc::clone(&self.observer)))
    }

    /// The same, through the handle of what the policy is about, upon what holds there now.
    ///
    /// # Panics
    /// As [`follow`].
    pub fn follow_live<T>(&self, name: &str, live: &Live<T>) -> Option<Following>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        let handle = live.clone();
        self.follow(name, &**live.get(), move |policy| {
            handle.set(policy);
            Ok(())
        })
    }
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policies")
            .field("root", &self.root)
            .field("followed", &self.kv.is_some())
            .finish_non_exhaustive()
    }
}

/// Nothing is applied, for what is there cannot be told from what is not.
#[derive(Debug, thiserror::Error)]
#[error("the token may not read all that is at {0}")]
struct Hidden(String);

type Apply<T> = dyn FnMut(T) -> Result<(), BoxError> + Send;

/// What stands under a key.
struct Document<T> {
    kv: Arc<dyn KeyValue>,
    key: String,
    /// What holds where nothing is said.
    base: Value,
    /// What was applied last.
    current: Value,
    /// What the registry said last, good or bad.
    values: Vec<(String, Vec<u8>)>,
    apply: Box<Apply<T>>,
    observer: SharedObserver,
}

impl<T: Serialize + DeserializeOwned> Document<T> {
    fn replace(&mut self, values: &[Stored]) -> Result<bool, DocumentError> {
        let (typed, document) = document::read(&self.key, &self.base, values)?;
        if document == self.current {
            return Ok(false);
        }
        (self.apply)(typed).map_err(|source| DocumentError::Refused {
            key: self.key.clone(),
            source,
        })?;
        self.current = document;
        Ok(true)
    }
}

impl<T: Serialize + DeserializeOwned> Document<T> {
    async fn follow(mut self) -> Infallible {
        let mut pace = Pace::new(self.kv.wait());
        loop {
            let (index, wait) = pace.next().await;
            match self.look(index, wait).await {
                Ok(Values { values, index }) => {
                    if pace.is_failing() {
                        self.kv.recovered();
                    }
                    if pace.answered(index) && values.is_empty() && !self.values.is_empty() {
                        pace.doubted();
                    } else {
                        self.take(&values);
                    }
                }
                Err(error) => {
                    if let Some(retry_in) = pace.failed() {
                        self.observer.observe(Event::ConfigFailed {
                            key: &self.key,
                            error: &*error,
                            retry_in,
                        });
                    }
                    self.kv.pause(pace.retry_at()).await;
                }
            }
        }
    }

    /// The values of this document. Those that are gone must be gone, and not only out of sight.
    async fn look(&mut self, index: u64, wait: Duration) -> Result<Values, BoxError> {
        let mut found = self.kv.look(&self.key, index, wait).await?;
        found
            .values
            .retain(|value| document::part(&self.key, &value.key).is_some());
        let is_there = |key: &String| found.values.iter().any(|value| value.key == *key);
        let known = self.values.iter().map(|(key, _)| key);
        let mut gone: Vec<_> = known.filter(|key| !is_there(key)).cloned().collect();
        if found.values.is_empty() {
            // At the beginning too, so that somebody hears of it.
            gone.push(self.key.clone());
        }
        if !gone.is_empty() && !self.kv.may_read(&gone).await? {
            return Err(Box::new(Hidden(self.key.clone())));
        }
        Ok(found)
    }

    /// Takes what the registry said, if it is not what it said before.
    fn take(&mut self, values: &[Stored]) {
        let said: Vec<_> = values
            .iter()
            .map(|value| (value.key.clone(), value.value.clone()))
            .collect();
        if self.values == said {
            return;
        }
        self.values = said;
        match self.replace(values) {
            Ok(changed) => self.observer.observe(Event::ConfigRead {
                key: &self.key,
                changed,
            }),
            Err(error) => self.observer.observe(Event::ConfigRejected {
                key: &self.key,
                error: &error,
            }),
        }
    }
}
