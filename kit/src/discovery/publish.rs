//! What every source does with what it has found, and with what it has not.

use std::{convert::Infallible, error::Error as StdError, future::Future, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{
    endpoint::Snapshot,
    event::{Event, SharedObserver},
    name::ServiceName,
};

/// The set of one service, as its source keeps it up to date, and who hears of it.
pub(super) struct Publisher {
    service: ServiceName,
    /// What the source is asked for beside its name.
    query: String,
    set: watch::Sender<Option<Snapshot>>,
    /// When the source last said how the set is.
    confirmed: watch::Sender<Instant>,
    observer: SharedObserver,
}

impl Publisher {
    pub(super) fn new(
        service: ServiceName,
        query: String,
        set: watch::Sender<Option<Snapshot>>,
        observer: SharedObserver,
    ) -> Self {
        let (confirmed, _) = watch::channel(Instant::now());
        Self {
            service,
            query,
            set,
            confirmed,
            observer,
        }
    }

    pub(super) fn service(&self) -> &ServiceName {
        &self.service
    }

    /// The endpoints that are known; none where nothing is known yet.
    pub(super) fn known(&self) -> Snapshot {
        self.set.borrow().clone().unwrap_or_default()
    }

    /// The source said that the set is this one.
    pub(super) fn confirm(&self, set: Snapshot) {
        self.confirmed.send_replace(Instant::now());
        let total = set.len();
        self.replace(set);
        self.observer.observe(Event::EndpointsConfirmed {
            service: &self.service,
            query: &self.query,
            total,
        });
    }

    /// The source could not be asked; the set stays.
    pub(super) fn failed(&self, error: &(dyn StdError + 'static), retry_in: Duration) {
        self.observer.observe(Event::DiscoveryFailed {
            service: &self.service,
            error,
            retry_in,
        });
    }

    /// Runs `source`, and meanwhile empties the set whenever nothing was said about it for `max_age`.
    pub(super) async fn run(
        &self,
        max_age: Option<Duration>,
        source: impl Future<Output = Infallible>,
    ) -> Infallible {
        match max_age {
            None => source.await,
            Some(max_age) => tokio::select! {
                never = source => never,
                never = self.expire(max_age) => never,
            },
        }
    }

    async fn expire(&self, max_age: Duration) -> Infallible {
        let mut confirmed = self.confirmed.subscribe();
        loop {
            let since = *confirmed.borrow_and_update();
            tokio::select! {
                _ = confirmed.changed() => {}
                () = sleep_until(since + max_age) => {
                    if !self.known().is_empty() {
                        self.observer.observe(Event::EndpointsExpired {
                            service: &self.service,
                            age: since.elapsed(),
                        });
                        self.replace(Snapshot::default());
                    }
                    let _ = confirmed.changed().await;
                }
            }
        }
    }

    /// Replaces the set if it is another one, and says so.
    fn replace(&self, new: Snapshot) {
        let known = self.set.borrow().clone();
        if known.as_ref() == Some(&new) {
            return;
        }
        let old = known.unwrap_or_default();
        let new = new.sharing(&old);
        let stayed = new.beside(&old).filter(|(_, at)| at.is_some()).count();
        self.set.send_replace(Some(new.clone()));
        self.observer.observe(Event::EndpointsChanged {
            service: &self.service,
            query: &self.query,
            total: new.len(),
            added: new.len() - stayed,
            removed: old.len() - stayed,
        });
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.observer.observe(Event::DiscoveryEnded {
            service: &self.service,
            query: &self.query,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http::uri::Authority;
    use tokio::time::{advance, sleep};

    use super::*;
    use crate::{
        endpoint::{Endpoint, Watch},
        event::Observer,
    };

    #[derive(Default)]
    struct Names(Mutex<Vec<String>>);

    impl Observer for Names {
        fn observe(&self, event: Event<'_>) {
            let name = format!("{event:?}");
            let name = name.split_once(' ').map_or(&*name, |(name, _)| name);
            self.0.lock().unwrap().push(name.to_owned());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_set_that_nobody_confirms_is_empty_after_its_longest_age_and_back_with_the_next_answer()
     {
        let second = Duration::from_secs(1);
        let (sender, watch) = Watch::channel("users".parse().unwrap());
        let names = Arc::new(Names::default());
        let publisher = Publisher::new(
            watch.service().clone(),
            String::new(),
            sender,
            Arc::clone(&names) as _,
        );
        let one: Snapshot = [Endpoint::at(Authority::from_static("a:1"))]
            .into_iter()
            .collect();
        let source = async {
            publisher.confirm(one.clone());
            sleep(50 * second).await;
            publisher.confirm(one.clone());
            sleep(100 * second).await;
            publisher.confirm(one.clone());
            std::future::pending().await
        };
        let run = publisher.run(Some(60 * second), source);
        let look = async {
            let mut seen = Vec::new();
            for _ in 0..16 {
                sleep(10 * second).await;
                seen.push(watch.current().unwrap().len());
            }
            seen
        };
        let seen = tokio::select! {
            biased;
            _ = run => unreachable!("it runs for ever"),
            seen = look => seen,
        };
        // Known at 0 s, confirmed at 50 s and 150 s, so too old from 110 s on.
        assert_eq!(seen, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1]);
        let expired = |name: &&String| *name == "EndpointsExpired";
        assert_eq!(names.0.lock().unwrap().iter().filter(expired).count(), 1);
        drop(publisher);
        advance(second).await;
        assert_eq!(names.0.lock().unwrap().last().unwrap(), "DiscoveryEnded");
    }
}
