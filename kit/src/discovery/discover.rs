//! A watch as tower's `Discover`, for balancers that are not the kit's.

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use tower::discover::Change;

use crate::{
    endpoint::{Endpoint, Snapshot, Watch},
    name::EndpointId,
};

/// The changes of a service's endpoints, each with what `connect` makes of it: a
/// [`Discover`](tower::discover::Discover), such as tower's own `balance::p2c::Balance` takes.
///
/// An endpoint with a new address, weight or metadata is inserted again, which replaces it. Changes coalesce while
/// nobody polls. It never ends and never fails, and it keeps its source running.
pub struct Changes<F> {
    connect: F,
    /// Waits for the next set and gives the watch back.
    next: Pin<Box<dyn Future<Output = Watch> + Send>>,
    told: Snapshot,
    queue: VecDeque<Change<EndpointId, Arc<Endpoint>>>,
}

impl<F> Changes<F> {
    /// Begins with all endpoints that `watch` has, as inserted.
    pub fn new<S>(watch: Watch, connect: F) -> Self
    where
        F: FnMut(&Endpoint) -> S,
    {
        Self {
            connect,
            next: Box::pin(async move {
                let mut watch = watch;
                watch.known().await;
                watch
            }),
            told: Snapshot::default(),
            queue: VecDeque::new(),
        }
    }

    fn tell(&mut self, watch: &mut Watch) {
        let new = watch.see().unwrap_or_default();
        let gone = self.told.beside(&new).filter(|(_, at)| at.is_none());
        self.queue
            .extend(gone.map(|(endpoint, _)| Change::Remove(endpoint.id.clone())));
        let changed = new
            .beside(&self.told)
            .filter(|(endpoint, at)| at.is_none_or(|at| self.told[at] != **endpoint));
        let insert = |(endpoint, _): (&Arc<Endpoint>, _)| {
            Change::Insert(endpoint.id.clone(), Arc::clone(endpoint))
        };
        self.queue.extend(changed.map(insert));
        self.told = new;
    }
}

impl<F, S> Stream for Changes<F>
where
    F: FnMut(&Endpoint) -> S + Unpin,
{
    type Item = Result<Change<EndpointId, S>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(change) = self.queue.pop_front() {
                return Poll::Ready(Some(Ok(match change {
                    Change::Insert(id, endpoint) => Change::Insert(id, (self.connect)(&endpoint)),
                    Change::Remove(id) => Change::Remove(id),
                })));
            }
            let mut watch = ready!(self.next.as_mut().poll(cx));
            self.tell(&mut watch);
            self.next = Box::pin(async move {
                watch.changed().await;
                watch
            });
        }
    }
}

impl<F> fmt::Debug for Changes<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes")
            .field("told", &self.told)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http::uri::Authority;
    use tokio_test::{assert_pending, task};
    use tower::discover::Discover;

    use super::*;
    use crate::endpoint::Snapshot;

    fn set(addresses: &[(&'static str, u32)]) -> Option<Snapshot> {
        let endpoint = |&(address, weight): &(&'static str, u32)| Endpoint {
            weight,
            ..Endpoint::at(Authority::from_static(address))
        };
        Some(addresses.iter().map(endpoint).collect())
    }

    fn takes_what_tower_balances(_: &impl Discover<Key = EndpointId, Service = u32>) {}

    #[tokio::test]
    async fn tower_is_told_of_each_change_once() {
        let (sender, watch) = Watch::channel("users".parse().unwrap());
        let changes = Changes::new(watch, |endpoint: &Endpoint| endpoint.weight);
        takes_what_tower_balances(&changes);
        let mut changes = task::spawn(changes);
        assert_pending!(changes.poll_next());
        let mut told = async |next: Option<Snapshot>| {
            sender.send_replace(next);
            let mut told = Vec::new();
            while let Poll::Ready(change) = changes.poll_next() {
                told.push(match change.unwrap().unwrap() {
                    Change::Insert(id, weight) => format!("{id}={weight}"),
                    Change::Remove(id) => format!("-{id}"),
                });
            }
            told
        };
        assert_eq!(
            told(set(&[("a:1", 1), ("b:1", 1)])).await,
            ["a:1=1", "b:1=1"]
        );
        assert_eq!(
            told(set(&[("b:1", 2), ("c:1", 1)])).await,
            ["-a:1", "b:1=2", "c:1=1"]
        );
        assert!(told(set(&[("b:1", 2), ("c:1", 1)])).await.is_empty());
        assert_eq!(told(set(&[])).await, ["-b:1", "-c:1"]);
    }
}
