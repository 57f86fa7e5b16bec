//! Who may have a question waiting at the agent, and how the others learn that something has changed.
//!
//! Over plain HTTP every question that waits takes a connection, and an agent takes 200 from one address, those of
//! all processes there together. So only so many services as [`ConsulConfig::max_waiting`] says are followed by a
//! question each. All others of the process are told by one [`Tide`] for all of them, two questions that wait for any
//! change of any service or check in the datacenter, and then look once, a few at a time. Where both are answered that
//! there was none, all of them know that what they saw is so still, without a look.
//!
//! [`ConsulConfig::max_waiting`]: super::ConsulConfig::max_waiting

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use bytes::Bytes;
use http::Method;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    client::{Agent, ConsulError, TIMEOUT, segment},
    config::Query,
    health::index_of,
};
use crate::{
    discovery::{bucket::Bucket, pace::next_index},
    policy::Backoff,
};

/// How many look at the same time, after a change or because they have not for long.
const LOOKS: usize = 8;
/// How often all may look: after a change at once, after one more too, and then once a second.
const BURST: u32 = 2;
const INTERVAL: Duration = Duration::from_secs(1);
/// After so many waits without any change they look all the same.
const SELDOM: u32 = 10;
const BACKOFF: Backoff = Backoff {
    base: Duration::from_millis(200),
    max: Duration::from_secs(60),
};

/// The places that all who follow services of one agent share.
pub(super) struct Places {
    waiting: Arc<Semaphore>,
    looking: Semaphore,
    tides: Mutex<BTreeMap<Option<String>, Weak<Tide>>>,
}

impl Places {
    /// How many connections are kept for the next request: as many as come and go. An agent accepts 200 from one
    /// address, and resets the next ones without a word.
    pub(super) const IDLE: usize = LOOKS;

    pub(super) fn new(max_waiting: usize) -> Self {
        Self {
            waiting: Arc::new(Semaphore::new(max_waiting)),
            looking: Semaphore::new(LOOKS),
            tides: Mutex::default(),
        }
    }
}

/// How one of them goes on.
pub(super) struct Turns<'a> {
    agent: &'a Arc<Agent>,
    way: Way,
}

enum Way {
    /// By questions that wait, until the service is no longer followed.
    Waiting { _place: OwnedSemaphorePermit },
    /// By a look whenever anything has changed.
    Looking {
        said: watch::Receiver<Said>,
        /// What the tide had said before the last look.
        seen: Said,
        looked: Instant,
        _tide: Arc<Tide>,
    },
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// To ask a question that waits at the agent.
    Ask,
    /// To look at the set as it is: for the first time, or because something has changed.
    Look,
    /// Nothing but to know that the set is as it was.
    Still,
}

/// What the two questions of a tide have been answered.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    /// How often there was a change.
    changes: u64,
    /// How often there was none, by each question.
    still: [u64; 2],
}

impl<'a> Turns<'a> {
    pub(super) fn new(agent: &'a Arc<Agent>, query: &'a Query) -> Self {
        let way = Way::waiting(agent).unwrap_or_else(|| Way::looking(agent, query));
        Self { agent, way }
    }

    /// Returns when there is something to do.
    pub(super) async fn come(&mut self, index: u64, wait: Duration) -> Turn {
        let Way::Looking {
            said, seen, looked, ..
        } = &mut self.way
        else {
            return Turn::Ask;
        };
        if index == 0 {
            (*seen, *looked) = (*said.borrow_and_update(), Instant::now());
            return Turn::Look;
        }
        // Whoever has a doubt looks when that is over.
        let calm = wait == self.agent.config.wait();
        let latest = wait * if calm { SELDOM } else { 1 };
        // Not all at the same time.
        let latest = sleep_until(*looked + latest.mul_f64(0.75 + rand::random::<f64>() / 4.0));
        tokio::pin!(latest);
        let still = loop {
            tokio::select! {
                // Its sender is the tide's, which is held here.
                _ = said.changed() => {}
                () = &mut latest => break false,
            }
            let now = *said.borrow_and_update();
            if now.changes != seen.changes {
                break false;
            }
            let both = [0, 1].map(|which| now.still[which] != seen.still[which]);
            if calm && both == [true; 2] {
                break true;
            }
        };
        *seen = *said.borrow();
        if let Some(way) = Way::waiting(self.agent) {
            self.way = way;
            return Turn::Look;
        }
        if still {
            return Turn::Still;
        }
        *looked = Instant::now();
        Turn::Look
    }

    /// The place for one request, for as long as it takes.
    pub(super) async fn place(&self) -> Option<SemaphorePermit<'a>> {
        match self.way {
            Way::Waiting { .. } => None,
            Way::Looking { .. } => {
                let place = self.agent.places.looking.acquire().await;
                Some(place.expect("nobody closes it"))
            }
        }
    }
}

impl Way {
    fn waiting(agent: &Agent) -> Option<Self> {
        let place = Arc::clone(&agent.places.waiting).try_acquire_owned();
        place.ok().map(|place| Self::Waiting { _place: place })
    }

    fn looking(agent: &Arc<Agent>, query: &Query) -> Self {
        let mut tides = agent
            .places
            .tides
            .lock()
            .expect("nothing panics under this lock");
        let running = tides.get(&query.datacenter).and_then(Weak::upgrade);
        let tide = running.unwrap_or_else(|| {
            let tide = Arc::new(Tide::start(agent, query.datacenter.as_deref()));
            tides.retain(|_, tide| tide.strong_count() > 0);
            tides.insert(query.datacenter.clone(), Arc::downgrade(&tide));
            tide
        });
        let said = tide.said.subscribe();
        let seen = *said.borrow();
        Self::Looking {
            said,
            seen,
            looked: Instant::now(),
            _tide: tide,
        }
    }
}

/// Tells all who have no question waiting whether anything in a datacenter has changed. Stops with the last of them.
struct Tide {
    said: watch::Sender<Said>,
    _tasks: JoinSet<Infallible>,
}

impl Tide {
    fn start(agent: &Arc<Agent>, datacenter: Option<&str>) -> Self {
        let datacenter =
            datacenter.map_or_else(String::new, |name| format!("&dc={}", segment(name)));
        let (said, _) = watch::channel(Said::default());
        let mut tasks = JoinSet::new();
        let paths = [
            // The names and tags of all services: its index rises with every instance that comes, goes or changes.
            format!("/v1/catalog/services?{datacenter}"),
            // Nothing passes the filter: only the index matters, which rises with every check.
            format!("/v1/health/state/any?filter=CheckID%3D%3D%22%22{datacenter}"),
        ];
        for (which, path) in paths.into_iter().enumerate() {
            tasks.spawn(turn(Arc::clone(agent), which, path, said.clone()));
        }
        Self {
            said,
            _tasks: tasks,
        }
    }
}

/// Tells whether what is at `path` has changed, for as long as anybody listens.
async fn turn(
    agent: Arc<Agent>,
    which: usize,
    path: String,
    said: watch::Sender<Said>,
) -> Infallible {
    let mut bucket = Bucket::new(BURST, INTERVAL, Instant::now());
    let (mut index, mut failures) = (0, 0);
    loop {
        sleep_until(bucket.take(Instant::now())).await;
        match agent.index(&path, index).await {
            Ok(new) => {
                if failures > 0 {
                    agent.pulse.recovered();
                }
                failures = 0;
                said.send_modify(|said| match new == index && index > 0 {
                    true => said.still[which] += 1,
                    false => said.changes += 1,
                });
                index = next_index(index, new);
            }
            // Those who look find out too, and tell.
            Err(_) => {
                index = 0;
                let retry_in = BACKOFF.full_jitter(failures, &mut rand::rng());
                failures = failures.saturating_add(1);
                agent.pulse.pause(Instant::now() + retry_in).await;
            }
        }
    }
}

impl Agent {
    /// The index of what is at `path`: at once if `index` is 0, else when it has changed or the wait is over.
    async fn index(&self, path: &str, index: u64) -> Result<u64, ConsulError> {
        let (path, timeout) = if index == 0 {
            (path.to_owned(), TIMEOUT)
        } else {
            let wait = self.config.wait().as_millis();
            let path = format!("{path}&index={index}&wait={wait}ms");
            (path, self.config.answered_in())
        };
        let (headers, _) = self.call(Method::GET, path, Bytes::new(), timeout).await?;
        Ok(index_of(&headers))
    }
}
