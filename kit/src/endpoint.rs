//! Where instances of a service are: the word between discovery, which knows, and balancing, which uses it.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    fmt,
    ops::Deref,
    sync::{Arc, Weak},
};

use http::uri::Authority;
use tokio::{sync::watch, task::AbortHandle};

use crate::name::{EndpointId, ServiceName};

/// One instance of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Which instance. The same instance keeps its id, and with it what the balancer has learnt about it.
    pub id: EndpointId,
    /// Host and port.
    pub address: Authority,
    /// Its share of requests beside others; 1 where nobody said anything. Never 0.
    pub weight: u32,
    /// What else the registry tells, such as `zone` or `version`.
    pub metadata: BTreeMap<String, String>,
}

impl Endpoint {
    /// An endpoint that is known by its address only, which is its id too.
    pub fn at(address: Authority) -> Self {
        let id = address
            .as_str()
            .parse()
            .expect("an authority has visible ASCII characters only");
        Self {
            id,
            address,
            weight: 1,
            metadata: BTreeMap::new(),
        }
    }
}

/// All endpoints of a service at one moment, ordered by id and without doubles. Cloning copies a pointer.
///
/// Snapshots that follow each other share the endpoints that stayed as they were, where whoever makes them says
/// [`sharing`](Self::sharing); comparing them then reads pointers and little else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot(Arc<[Arc<Endpoint>]>);

impl FromIterator<Endpoint> for Snapshot {
    /// Of endpoints with the same id the first is kept.
    fn from_iter<I: IntoIterator<Item = Endpoint>>(endpoints: I) -> Self {
        endpoints.into_iter().map(Arc::new).collect()
    }
}

impl FromIterator<Arc<Endpoint>> for Snapshot {
    /// Of endpoints with the same id the first is kept.
    fn from_iter<I: IntoIterator<Item = Arc<Endpoint>>>(endpoints: I) -> Self {
        let mut endpoints: Vec<_> = endpoints.into_iter().collect();
        endpoints.sort_by(|a, b| a.id.cmp(&b.id));
        endpoints.dedup_by(|a, b| a.id == b.id);
        Self(endpoints.into())
    }
}

impl Deref for Snapshot {
    type Target = [Arc<Endpoint>];

    fn deref(&self) -> &[Arc<Endpoint>] {
        &self.0
    }
}

impl Snapshot {
    /// Each endpoint, with the index at which `old` has the one of the same id.
    pub fn beside<'a>(
        &'a self,
        old: &'a Self,
    ) -> impl Iterator<Item = (&'a Arc<Endpoint>, Option<usize>)> {
        beside(self.iter(), old.iter())
    }

    /// The endpoints at these indices, which are in order.
    pub(crate) fn at(&self, indices: &[usize]) -> Self {
        let endpoints = indices.iter().map(|index| Arc::clone(&self[*index]));
        Self(endpoints.collect())
    }

    /// The same endpoints, of which those that `old` has too are its own; `old` itself if it has all of them and no
    /// others. For whoever makes one snapshot after the other, so that those who compare them have less to do.
    #[must_use]
    pub fn sharing(self, old: &Self) -> Self {
        if self == *old {
            return old.clone();
        }
        let kept = |(endpoint, place): (&Arc<Endpoint>, Option<usize>)| {
            let same = place
                .map(|place| &old[place])
                .filter(|old| *old == endpoint);
            Arc::clone(same.unwrap_or(endpoint))
        };
        Self(self.beside(old).map(kept).collect())
    }
}

/// Each of `new`, with the place at which `old` has the endpoint of the same id; both are ordered by id. One walk
/// over both, that looks at ids only where the two do not share an endpoint.
fn beside<'a>(
    new: impl Iterator<Item = &'a Arc<Endpoint>>,
    old: impl Iterator<Item = &'a Arc<Endpoint>>,
) -> impl Iterator<Item = (&'a Arc<Endpoint>, Option<usize>)> {
    let mut old = old.enumerate().peekable();
    new.map(move |endpoint| {
        while let Some((place, other)) = old.peek().copied() {
            let order = if Arc::ptr_eq(other, endpoint) {
                Ordering::Equal
            } else {
                other.id.cmp(&endpoint.id)
            };
            if order == Ordering::Greater {
                break;
            }
            old.next();
            if order == Ordering::Equal {
                return (endpoint, Some(place));
            }
        }
        (endpoint, None)
    })
}

/// A source of endpoints: a registry, a list, DNS.
pub trait Discovery: Send + Sync + 'static {
    /// Follows the endpoints of `service`. What runs to keep it up to date runs until the last clone of the
    /// returned watch is dropped. Does not wait and does not fail: a service that nobody has registered has an
    /// empty set, and an error leaves the last good set in place.
    fn watch(&self, service: &ServiceName) -> Watch;
}

impl<D: Discovery + ?Sized> Discovery for Arc<D> {
    fn watch(&self, service: &ServiceName) -> Watch {
        (**self).watch(service)
    }
}

/// Follows the endpoints of one service: holds the whole set, so changes coalesce and none is missed.
///
/// Clones follow the same source, each at its own pace.
#[derive(Clone)]
pub struct Watch {
    service: ServiceName,
    set: watch::Receiver<Option<Snapshot>>,
    _source: Option<Arc<Source>>,
}

/// What feeds a watch, until its last clone is dropped.
enum Source {
    /// Is stopped then.
    Task(AbortHandle),
    /// Never sends anything. To look whether a set has changed whose sender is gone costs more.
    Fixed {
        _sender: watch::Sender<Option<Snapshot>>,
    },
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Self::Task(task) = self {
            task.abort();
        }
    }
}

impl Watch {
    /// A set that never changes.
    pub fn fixed(service: ServiceName, endpoints: Snapshot) -> Self {
        let (_sender, set) = watch::channel(Some(endpoints));
        Self {
            service,
            set,
            _source: Some(Arc::new(Source::Fixed { _sender })),
        }
    }

    /// A set that whoever holds the sender keeps up to date; `None` until it is known for the first time.
    pub fn channel(service: ServiceName) -> (watch::Sender<Option<Snapshot>>, Self) {
        let (sender, set) = watch::channel(None);
        (
            sender,
            Self {
                service,
                set,
                _source: None,
            },
        )
    }

    /// Makes this watch, with all clones made from now on, the owner of the task that feeds it.
    #[must_use]
    pub fn owning(mut self, task: AbortHandle) -> Self {
        self._source = Some(Arc::new(Source::Task(task)));
        self
    }

    /// A handle that does not keep the source running, for a registry that gives all who follow one service the
    /// same source.
    pub fn downgrade(&self) -> WeakWatch {
        WeakWatch {
            service: self.service.clone(),
            set: self.set.clone(),
            source: self._source.as_ref().map(Arc::downgrade),
        }
    }

    /// The service whose endpoints these are.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// The set as it is, or `None` if it has never been known. Does not mark it as seen.
    pub fn current(&self) -> Option<Snapshot> {
        self.set.borrow().clone()
    }

    /// Whether the set was replaced since this clone last saw it. Costs one atomic read, while the source is there.
    pub fn has_changed(&self) -> bool {
        match self.set.has_changed() {
            Ok(changed) => changed,
            // The source is gone, and may have left a last set.
            Err(_) => self.set.borrow().has_changed(),
        }
    }

    /// The set as it is, marked as seen.
    pub fn see(&mut self) -> Option<Snapshot> {
        self.set.borrow_and_update().clone()
    }

    /// Waits until the set is replaced; for ever if its source is gone.
    pub async fn changed(&mut self) {
        if self.set.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits until the set is known; for ever if its source went away before.
    pub async fn known(&mut self) -> Snapshot {
        // In two steps, so that nothing borrowed is held while this waits for ever.
        let known = self.set.wait_for(Option::is_some).await;
        match known.ok().and_then(|set| set.clone()) {
            Some(set) => set,
            None => std::future::pending().await,
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("service", &self.service)
            .field("set", &self.current())
            .finish()
    }
}

/// A [`Watch`] that is not counted when it is decided whether the source is still wanted.
pub struct WeakWatch {
    service: ServiceName,
    set: watch::Receiver<Option<Snapshot>>,
    source: Option<Weak<Source>>,
}

impl WeakWatch {
    /// A watch that has seen what this one had when it was made, or `None` if the source has been stopped because
    /// nobody followed it any more.
    pub fn upgrade(&self) -> Option<Watch> {
        let source = match &self.source {
            Some(source) => Some(source.upgrade()?),
            None => None,
        };
        Some(Watch {
            service: self.service.clone(),
            set: self.set.clone(),
            _source: source,
        })
    }
}

impl fmt::Debug for WeakWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakWatch")
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn endpoint(address: &'static str) -> Endpoint {
        Endpoint::at(Authority::from_static(address))
    }

    #[test]
    fn a_snapshot_is_ordered_and_without_doubles() {
        let set: Snapshot = ["b:1", "a:1", "b:1"].map(endpoint).into_iter().collect();
        assert_eq!(
            set.iter().map(|e| e.id.as_str()).collect::<Vec<_>>(),
            ["a:1", "b:1"]
        );
    }

    proptest! {
        /// Against maps from id to endpoint.
        #[test]
        fn endpoints_that_stayed_are_shared_and_found_again(
            sets in prop::array::uniform2(prop::collection::btree_map(0_u8..12, 1_u32..3, 0..12)),
        ) {
            let [old, new] = sets.clone().map(|set| {
                let endpoint = |(id, weight): (u8, u32)| Endpoint {
                    weight,
                    ..Endpoint::at(format!("h{id}:1").parse().unwrap())
                };
                set.into_iter().map(endpoint).collect::<Snapshot>()
            });
            let shared = new.clone().sharing(&old);
            prop_assert_eq!(&shared, &new);
            prop_assert_eq!(Arc::ptr_eq(&shared.0, &old.0), old == new);
            let found = shared.beside(&old);
            prop_assert_eq!(found.size_hint().0, new.len());
            for (endpoint, place) in found {
                let same_id = old.iter().position(|old| old.id == endpoint.id);
                prop_assert_eq!(place, same_id);
                let is_shared = old.iter().any(|old| Arc::ptr_eq(old, endpoint));
                prop_assert_eq!(is_shared, old.contains(endpoint));
            }
        }
    }

    #[tokio::test]
    async fn a_change_is_seen_once_by_each_clone() {
        let (sender, mut watch) = Watch::channel("users".parse().unwrap());
        assert_eq!(watch.current(), None);
        let mut clone = watch.clone();
        sender.send_replace(Some([endpoint("a:1")].into_iter().collect()));
        assert!(watch.has_changed() && clone.has_changed());
        assert_eq!(watch.see().unwrap().len(), 1);
        assert!(!watch.has_changed() && clone.has_changed());
        clone.changed().await;
        drop(sender);
        assert_eq!(watch.known().await.len(), 1);
    }

    #[tokio::test]
    async fn the_last_set_of_a_source_that_is_gone_is_seen() {
        let (sender, mut watch) = Watch::channel("users".parse().unwrap());
        sender.send_replace(Some([endpoint("a:1")].into_iter().collect()));
        drop(sender);
        assert!(watch.has_changed());
        assert_eq!(watch.see().unwrap().len(), 1);
        assert!(!watch.has_changed());
        let clone = watch.clone();
        assert!(!clone.has_changed());

        let fixed = Watch::fixed("users".parse().unwrap(), Snapshot::default());
        assert!(!fixed.has_changed());
    }

    #[tokio::test]
    async fn the_last_clone_stops_the_source() {
        let (sender, watch) = Watch::channel("users".parse().unwrap());
        let task = tokio::spawn(async move {
            let _sender = sender;
            std::future::pending::<()>().await
        });
        let watch = watch.owning(task.abort_handle());
        let clone = watch.clone();
        let weak = watch.downgrade();
        drop(watch);
        assert!(!task.is_finished());
        assert!(weak.upgrade().is_some());
        drop(clone);
        assert!(weak.upgrade().is_none());
        assert!(task.await.unwrap_err().is_cancelled());
    }
}
