//! One of many: a job that runs in one process at a time, by a lock that a session holds.
//!
//! A session of Consul lives for its time to live after each renewal at least, and nobody gets a lock that it lost for
//! the lock delay (Consul's documentation, "Sessions"; Burrows, "The Chubby lock service", 2006). So a leader that
//! could not renew for the shorter of the two stops its job by itself, before anybody else may begin, whatever became
//! of the agent, the network or the session; if the session ends while the agent can be asked, it stops at once.
//!
//! A process that is frozen cannot stop anything. What must never be done twice needs the number of the leadership as
//! well: whoever is written to refuses a lower one than it has seen.

use std::{
    convert::Infallible,
    fmt,
    panic::{AssertUnwindSafe, resume_unwind},
    pin::pin,
    sync::Arc,
    thread,
    time::Duration,
};

use futures_util::FutureExt;
use serde::{Deserialize, Deserializer, de};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

use super::{Locks, Session, Stored};
use crate::{
    BoxError,
    discovery::pace::Pace,
    event::{Event, SharedObserver},
    name::EndpointId,
    policy::Backoff,
};

/// After a failure, and between two tries to get a lock that nobody holds: nobody says when its delay is over.
const BACKOFF: Backoff = Backoff {
    base: Duration::from_millis(500),
    max: Duration::from_secs(10),
};
/// How long giving the lock back may take.
const FAREWELL: Duration = Duration::from_secs(3);

/// What is contended for, and how.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ElectionConfig {
    /// The key of the lock, the same for all who stand, such as `kit/users/clean-up`. Slashes around it do not count.
    pub key: String,
    /// Who stands, for people who look at the value there: a host, an id of an instance.
    pub name: String,
    /// The instance, registered with the same agent, whose failing check ends the session too. Default: none.
    #[serde(default)]
    pub instance: Option<EndpointId>,
    /// How long the session lives without a renewal. From 10 s to a day; default 15 s.
    #[serde(
        default = "fifteen_seconds",
        deserialize_with = "within::<10, 86_400, _>"
    )]
    pub ttl: Duration,
    /// How long nobody gets the lock after its session has ended. From 1 s to 1 min; default 15 s.
    #[serde(default = "fifteen_seconds", deserialize_with = "within::<1, 60, _>")]
    pub lock_delay: Duration,
}

fn fifteen_seconds() -> Duration {
    Duration::from_secs(15)
}

/// A duration of so many seconds at least and at most.
fn within<'de, const LEAST: u64, const MOST: u64, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    let duration: Duration = humantime_serde::deserialize(deserializer)?;
    let [least, most] = [LEAST, MOST].map(Duration::from_secs);
    if (least..=most).contains(&duration) {
        return Ok(duration);
    }
    let [least, most] = [least, most].map(humantime::format_duration);
    Err(de::Error::custom(format_args!(
        "must be from {least} to {most}"
    )))
}

impl ElectionConfig {
    /// The defaults, for `name` who stands at `key`.
    pub fn new(key: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            name: name.into(),
            instance: None,
            ttl: fifteen_seconds(),
            lock_delay: fifteen_seconds(),
        }
    }

    /// How long a leader leads without a renewal.
    fn lease(&self) -> Duration {
        self.ttl.min(self.lock_delay)
    }

    /// The same with what Consul takes as it is, so that nobody else counts with another time than the leader.
    fn normal(self) -> Self {
        let [second, minute] = [1, 60].map(Duration::from_secs);
        Self {
            key: self.key.trim_matches('/').to_owned(),
            ttl: self.ttl.clamp(10 * second, 24 * 60 * minute),
            lock_delay: self.lock_delay.clamp(second, minute),
            ..self
        }
    }
}

/// What a leader is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leadership {
    /// The number of this leadership, greater than that of any earlier one for the key: a fencing token.
    pub fencing: u64,
}

/// Something that one of many does.
pub struct Election {
    locks: Arc<dyn Locks>,
    config: ElectionConfig,
    observer: SharedObserver,
}

/// Why a leader does not lead any more, or nobody could be asked.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("the session has ended")]
    Session,
    #[error("the session was not renewed within {0:?}")]
    Expired(Duration),
    #[error("the lock is held by somebody else, or by nobody")]
    Lock,
    #[error("the registry could not be asked")]
    Registry(#[source] BoxError),
}

impl From<BoxError> for Lost {
    fn from(error: BoxError) -> Self {
        Self::Registry(error)
    }
}

impl Election {
    /// An election by the locks of a registry. What happens is told to `observer`. Times beyond the bounds of `config`
    /// are taken as the bounds.
    pub fn new(locks: Arc<dyn Locks>, config: ElectionConfig, observer: SharedObserver) -> Self {
        Self {
            locks,
            config: config.normal(),
            observer,
        }
    }

    /// Stands for election, again and again. While elected, does `job`, which is dropped when the leadership is lost;
    /// no other process leads before that. A job that ends gives the leadership back, and is not begun again here; so
    /// does one that panics.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn stand<F>(self, job: impl Fn(Leadership) -> F + Send + Sync + 'static) -> Candidate
    where
        F: Future<Output = ()> + Send,
    {
        let (stop, stopped) = oneshot::channel();
        Candidate {
            task: tokio::spawn(async move { self.run(job, stopped).await }),
            stop: Some(stop),
        }
    }

    async fn run<F: Future<Output = ()>>(
        &self,
        job: impl Fn(Leadership) -> F,
        mut stopped: oneshot::Receiver<Infallible>,
    ) {
        let mut failures = 0;
        loop {
            let mut session = None;
            let ended = tokio::select! {
                // Nothing is ever sent: the sender's end is the wish to stop.
                _ = &mut stopped => None,
                ended = self.term(&mut session, &job, &mut failures) => Some(ended),
            };
            if let Some(session) = session {
                // Given back, so that nobody has to wait until it has ended by itself.
                let farewell = timeout(FAREWELL, self.leave(&session));
                let _ = farewell.await;
            }
            let lost = match ended {
                Some(Err(lost)) => lost,
                Some(Ok(Err(panic))) => resume_unwind(panic),
                Some(Ok(Ok(()))) | None => return,
            };
            let retry_in = BACKOFF.full_jitter(failures, &mut rand::rng());
            failures = failures.saturating_add(1);
            self.observer.observe(Event::ElectionFailed {
                key: &self.config.key,
                error: &lost,
                retry_in,
            });
            tokio::select! {
                _ = &mut stopped => return,
                () = sleep(retry_in) => {}
            }
        }
    }

    async fn leave(&self, session: &str) -> Result<(), BoxError> {
        let released = self.locks.release(&self.config.key, session).await;
        // It frees the lock too, though not at once.
        self.locks.close(session).await?;
        released
    }

    /// One session, from its beginning to its end or to that of the job.
    async fn term<F: Future<Output = ()>>(
        &self,
        session: &mut Option<String>,
        job: impl Fn(Leadership) -> F,
        failures: &mut u32,
    ) -> Result<thread::Result<()>, Lost> {
        let ElectionConfig {
            key,
            name,
            instance,
            ttl,
            lock_delay,
        } = &self.config;
        let asked = Instant::now();
        let wanted = Session {
            name: format!("{key} {name}"),
            instance: instance.clone(),
            ttl: *ttl,
            lock_delay: *lock_delay,
        };
        let session = &**session.insert(self.locks.open(&wanted).await?);
        let mut pace = Pace::new(self.locks.wait());
        let mut kept = pin!(self.keep(session, asked));
        let lock = tokio::select! {
            lost = &mut kept => return Err(lost),
            lock = self.elected(session, &mut pace) => lock?,
        };
        *failures = 0;
        let leadership = Leadership {
            fencing: lock.modified,
        };
        let _leading = Leading::begin(self, leadership);
        let job = AssertUnwindSafe(async { job(leadership).await }).catch_unwind();
        // In this order: after a stop of the whole process, whether it still leads is asked before the job goes on.
        tokio::select! {
            biased;
            lost = &mut kept => Err(lost),
            lost = self.deposed(session, &mut pace) => Err(lost),
            ended = job => Ok(ended),
        }
    }

    /// Renews the session until that fails for too long.
    async fn keep(&self, session: &str, mut renewed: Instant) -> Lost {
        let lease = self.config.lease();
        let mut pause = lease / 3;
        loop {
            let ends = renewed + lease;
            sleep_until(
                ends.min(Instant::now() + pause.mul_f64(0.75 + rand::random::<f64>() / 4.0)),
            )
            .await;
            let asked = Instant::now();
            match timeout_at(ends, self.locks.renew(session)).await {
                Ok(Ok(true)) => {
                    renewed = asked;
                    pause = lease / 3;
                }
                Ok(Ok(false)) => return Lost::Session,
                // There is time for some more.
                Ok(Err(_)) if Instant::now() < ends => pause = lease / 10,
                Ok(Err(_)) | Err(_) => return Lost::Expired(lease),
            }
        }
    }

    /// Waits until the session has the lock.
    async fn elected(&self, session: &str, pace: &mut Pace) -> Result<Stored, Lost> {
        let ElectionConfig { key, name, .. } = &self.config;
        let mut refusals = 0;
        loop {
            match self.lock(pace).await? {
                Some(lock) if lock.session.as_deref() == Some(session) => return Ok(lock),
                Some(Stored {
                    session: Some(_), ..
                }) => refusals = 0,
                Some(_) | None => {
                    if !self.locks.acquire(key, name, session).await? {
                        let retry_in = BACKOFF.full_jitter(refusals, &mut rand::rng());
                        refusals = (refusals + 1).min(2);
                        sleep(retry_in).await;
                    }
                    pace.look_again();
                }
            }
        }
    }

    /// Waits until the session does not have the lock any more. Whoever cannot ask is not deposed yet.
    async fn deposed(&self, session: &str, pace: &mut Pace) -> Lost {
        loop {
            match self.lock(pace).await {
                Ok(Some(lock)) if lock.session.as_deref() == Some(session) => {}
                Ok(_) => return Lost::Lock,
                Err(_) => {
                    let most = self.config.lease() / 10;
                    sleep(pace.failed().map_or(most, |retry_in| retry_in.min(most))).await;
                }
            }
        }
    }

    /// The lock, when it may have changed.
    async fn lock(&self, pace: &mut Pace) -> Result<Option<Stored>, BoxError> {
        let key = &self.config.key;
        let (index, wait) = pace.next().await;
        let found = self.locks.look(key, index, wait).await?;
        pace.answered(found.index);
        Ok(found.values.into_iter().find(|value| value.key == *key))
    }
}

impl fmt::Debug for Election {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Election")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Says that the leadership is over when it is.
struct Leading<'a>(&'a Election);

impl<'a> Leading<'a> {
    fn begin(election: &'a Election, Leadership { fencing }: Leadership) -> Self {
        election.observer.observe(Event::Elected {
            key: &election.config.key,
            fencing,
        });
        Self(election)
    }
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        self.0.observer.observe(Event::Deposed {
            key: &self.0.config.key,
        });
    }
}

/// One that stands for election, for as long as this exists. Dropping it ends the job soon and gives the lock back
/// within 3 s, in the background; [`stop`](Self::stop) waits for that.
#[derive(Debug)]
#[must_use = "dropping it ends the candidacy"]
pub struct Candidate {
    task: JoinHandle<()>,
    /// Says by its end that it is over.
    stop: Option<oneshot::Sender<Infallible>>,
}

impl Candidate {
    /// Ends the job and gives the lock back, so that another may lead at once. Takes 3 s at most.
    pub async fn stop(mut self) {
        self.stop = None;
        let _ = (&mut self.task).await;
    }

    /// Waits until the job has ended by itself.
    pub async fn ended(&mut self) {
        let _ = (&mut self.task).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_no_session_has_are_refused_and_in_code_taken_as_the_nearest() {
        let config = |ttl: &str, lock_delay: &str| {
            serde_json::from_value::<ElectionConfig>(serde_json::json!({
                "key": "/kit/x/", "name": "a", "ttl": ttl, "lock_delay": lock_delay,
            }))
            .map_err(|error| error.to_string())
        };
        for (ttl, lock_delay, rule) in [
            ("9s", "15s", "must be from 10s to 1day"),
            ("2days", "15s", "must be from 10s to 1day"),
            ("15s", "0s", "must be from 1s to 1m"),
            ("15s", "61s", "must be from 1s to 1m"),
        ] {
            let error = config(ttl, lock_delay).unwrap_err();
            assert!(error.contains(rule), "{error}");
        }
        let config = ElectionConfig {
            ttl: Duration::from_secs(1),
            lock_delay: Duration::from_secs(600),
            ..config("15s", "15s").unwrap()
        };
        let normal = config.normal();
        assert_eq!(normal.key, "kit/x");
        assert_eq!(normal.ttl, Duration::from_secs(10));
        assert_eq!(normal.lock_delay, Duration::from_secs(60));
        assert_eq!(normal.lease(), normal.ttl);
    }
}
