//! Who may have a question waiting at the agent, and how the others learn that something has changed.
//!
//! Over plain HTTP every question that waits takes a connection, and an agent takes 200 from one address, those of
//! all processes there together. So only so many services as [`ConsulConfig::max_waiting`] says are followed by a
//! question each. All others of the process are told by one [`Tide`] for all of them, two questions that wait for any
//! change of any service or check in the datacenter, and then look once, a few at a time.
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
    time::{Instant, sleep, sleep_until},
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

/// How many look at the same time, after a change or because nobody told them anything for long.
const LOOKS: usize = 8;
/// How often all may look: after a change at once, after one more too, and then once a second.
const BURST: u32 = 2;
const INTERVAL: Duration = Duration::from_secs(1);
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
        changed: watch::Receiver<()>,
        _tide: Arc<Tide>,
    },
}

impl<'a> Turns<'a> {
    pub(super) fn new(agent: &'a Arc<Agent>, query: &'a Query) -> Self {
        let way = Way::waiting(agent).unwrap_or_else(|| Way::looking(agent, query));
        Self { agent, way }
    }

    /// Returns when it is time to ask, and whether that is because of a turn of the tide: at once for the first
    /// question, and for one that waits at the agent.
    pub(super) async fn come(&mut self, index: u64, wait: Duration) -> bool {
        let Way::Looking { changed, .. } = &mut self.way else {
            return false;
        };
        if index == 0 {
            return false;
        }
        // Not all at the same time, and no later than a question that waits would have been answered.
        let latest = wait.mul_f64(0.75 + rand::random::<f64>() / 4.0);
        tokio::select! {
            // Its sender is the tide's, which is held here.
            _ = changed.changed() => {}
            () = sleep(latest) => {}
        }
        if let Some(way) = Way::waiting(self.agent) {
            self.way = way;
        }
        true
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
        Self::Looking {
            changed: tide.changed.subscribe(),
            _tide: tide,
        }
    }
}

/// Tells all who have no question waiting that something in a datacenter has changed. Stops with the last of them.
struct Tide {
    changed: watch::Sender<()>,
    _tasks: JoinSet<Infallible>,
}

impl Tide {
    fn start(agent: &Arc<Agent>, datacenter: Option<&str>) -> Self {
        let datacenter =
            datacenter.map_or_else(String::new, |name| format!("&dc={}", segment(name)));
        let (changed, _) = watch::channel(());
        let mut tasks = JoinSet::new();
        for path in [
            // The names and tags of all services: its index rises with every instance that comes, goes or changes.
            format!("/v1/catalog/services?{datacenter}"),
            // Nothing passes the filter: only the index matters, which rises with every check.
            format!("/v1/health/state/any?filter=CheckID%3D%3D%22%22{datacenter}"),
        ] {
            tasks.spawn(turn(Arc::clone(agent), path, changed.clone()));
        }
        Self {
            changed,
            _tasks: tasks,
        }
    }
}

/// Tells of each change of what is at `path`, for as long as anybody listens.
async fn turn(agent: Arc<Agent>, path: String, changed: watch::Sender<()>) -> Infallible {
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
                if new != index {
                    changed.send_replace(());
                }
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
