//! Delivers what was promised: the worker of a transactional outbox.
//!
//! A service that must tell others what it did cannot do both at once: it may die between its commit and its
//! call. So it writes the message into its own database, in the transaction of the change itself, and a worker
//! delivers it afterwards, again and again until it is delivered: at least once. The receiver makes that exactly
//! once by the idempotency key (P. Helland, "Life beyond Distributed Transactions", CIDR 2007).
//!
//! Storage is the service's own, behind [`Outbox`]; the worker knows when to look, how many at once, and how long
//! to wait after a failure. Several replicas may work on the same storage: a message is leased to one of them for
//! a while, and who dies with a lease delays a message and never loses it.

use std::{
    future::Future,
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, watch},
    task::{JoinHandle, JoinSet},
    time,
};

use crate::{Error, error::Chain, policy::Live, rejection::Rejection};

/// Where messages wait: the service's own database.
pub trait Outbox: Send + Sync + 'static {
    /// A message, with what is needed to find it again.
    type Message: Send + Sync + 'static;

    /// Takes up to `limit` messages that are due, the oldest first, and hides them from all replicas for `lease`.
    /// Asked often, so it should be cheap when there is none.
    fn lease(
        &self,
        limit: usize,
        lease: Duration,
    ) -> impl Future<Output = Result<Vec<Leased<Self::Message>>, Error>> + Send;

    /// Delivers one message. Cancelled after half of the lease.
    fn deliver(
        &self,
        message: &Self::Message,
    ) -> impl Future<Output = Result<(), Undelivered>> + Send;

    /// Writes down what became of a leased message; must do nothing if it was leased anew since, which
    /// [`Leased::attempt`] tells. If it fails, the message is delivered again when the lease is over.
    fn settle(
        &self,
        leased: &Leased<Self::Message>,
        settlement: Settlement,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}

/// A message that this replica may deliver now.
#[derive(Clone, Debug)]
pub struct Leased<M> {
    /// What is to be delivered.
    pub message: M,
    /// Which attempt this is: 1 for the first. Counted in the storage, so over restarts and all replicas.
    pub attempt: u32,
}

/// Why a message was not delivered.
#[derive(Debug)]
pub enum Undelivered {
    /// Not now; it is tried again.
    Again(Error),
    /// It never will be: the receiver says that the message itself is wrong.
    Never(Error),
}

/// What became of a message.
#[derive(Debug)]
pub enum Settlement {
    /// It was delivered and can be forgotten.
    Delivered,
    /// It is due again after `delay`.
    Postponed {
        /// How long it waits.
        delay: Duration,
        /// Why it was not delivered.
        reason: Error,
    },
    /// It is not tried again; a person should look at it.
    Failed {
        /// Why it was not delivered.
        reason: Error,
    },
}

/// How a worker works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutboxConfig {
    /// How many messages one replica delivers at once. Default 16.
    pub in_flight: NonZeroUsize,
    /// How long a message belongs to the replica that took it; half of it is the time that a delivery may take.
    /// A message whose replica was killed is delivered after this time. Default 20 s.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// How often the storage is looked at when nothing is heard: finds what other replicas left behind and what
    /// was postponed. Default 500 ms.
    #[serde(with = "humantime_serde")]
    pub poll: Duration,
    /// How long a message waits after its first failure, doubled with each further one. Default 250 ms.
    #[serde(with = "humantime_serde")]
    pub backoff: Duration,
    /// The longest that a message waits. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub max_backoff: Duration,
    /// How many attempts are made before a message counts as failed; without end if absent, the default.
    pub attempts: Option<NonZeroU32>,
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self {
            in_flight: NonZeroUsize::new(16).expect("16 is not 0"),
            lease: Duration::from_secs(20),
            poll: Duration::from_millis(500),
            backoff: Duration::from_millis(250),
            max_backoff: Duration::from_secs(30),
            attempts: None,
        }
    }
}

impl OutboxConfig {
    /// What follows from a failed attempt. `jitter` out of 0 to 1 spreads the waiting over its upper half.
    fn after(&self, attempt: u32, undelivered: Undelivered, jitter: f64) -> Settlement {
        let reason = match undelivered {
            Undelivered::Never(reason) => return Settlement::Failed { reason },
            Undelivered::Again(reason) => reason,
        };
        if self.attempts.is_some_and(|most| attempt >= most.get()) {
            return Settlement::Failed { reason };
        }
        let doubled = 2_u32.saturating_pow(attempt.saturating_sub(1));
        let backoff = self.backoff.saturating_mul(doubled).min(self.max_backoff);
        let delay = backoff
            .mul_f64(0.5 + jitter / 2.0)
            .max(reason.retry_after().unwrap_or_default());
        Settlement::Postponed { delay, reason }
    }
}

/// Tells the worker of this process that there is something to deliver. Clones wake the same worker.
#[derive(Clone, Debug, Default)]
pub struct Wake(Arc<Notify>);

impl Wake {
    /// For a worker that is yet to be started.
    pub fn new() -> Self {
        Self::default()
    }

    /// There is something, or there may be. Call it after the commit.
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

/// Delivers what is in an [`Outbox`] for as long as it lives. Dropping it stops at once, with what is being
/// delivered; [`stop`](Self::stop) finishes that first.
#[derive(Debug)]
pub struct Worker {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    config: Live<OutboxConfig>,
}

impl Worker {
    /// Starts to work on `outbox`, and looks at once when `wake` says so.
    pub fn start<O: Outbox>(outbox: Arc<O>, config: OutboxConfig, wake: Wake) -> Self {
        let (stop, stopped) = watch::channel(false);
        let config = Live::new(config);
        let task = tokio::spawn(work(outbox, config.clone(), wake, stopped));
        Self { stop, task, config }
    }

    /// The handle that replaces how it works, from when it looks next: after `poll` at the latest. What is being delivered
    /// is finished as it was begun.
    pub fn config(&self) -> &Live<OutboxConfig> {
        &self.config
    }

    /// Takes no more messages, finishes those that are being delivered (at most half a lease), and ends.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        // An error says that the task panicked, which was reported where it happened.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn work<O: Outbox>(
    outbox: Arc<O>,
    live: Live<OutboxConfig>,
    wake: Wake,
    mut stopped: watch::Receiver<bool>,
) {
    // Owned by this future: dropping it aborts what is being delivered.
    let mut deliveries = JoinSet::new();
    while !*stopped.borrow_and_update() {
        let config = OutboxConfig::clone(&live.get());
        let free = config.in_flight.get().saturating_sub(deliveries.len());
        if free > 0 {
            match outbox.lease(free, config.lease).await {
                Ok(batch) => {
                    for leased in batch {
                        deliveries.spawn(deliver(Arc::clone(&outbox), config.clone(), leased));
                    }
                }
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "the outbox could not be read");
                }
            }
        }
        tokio::select! {
            () = wake.0.notified(), if deliveries.len() < config.in_flight.get() => {}
            Some(_) = deliveries.join_next() => {}
            () = time::sleep(config.poll) => {}
            _ = stopped.changed() => {}
        }
    }
    while deliveries.join_next().await.is_some() {}
}

async fn deliver<O: Outbox>(outbox: Arc<O>, config: OutboxConfig, leased: Leased<O::Message>) {
    let limit = config.lease / 2;
    let result = match time::timeout(limit, outbox.deliver(&leased.message)).await {
        Ok(result) => result,
        Err(_) => Err(Undelivered::Again(
            Rejection::TimedOut { after: limit }.into(),
        )),
    };
    let settlement = match result {
        Ok(()) => Settlement::Delivered,
        Err(undelivered) => config.after(leased.attempt, undelivered, rand::random()),
    };
    if let Err(error) = outbox.settle(&leased, settlement).await {
        tracing::warn!(
            ?error,
            "the outbox could not be written; a message will be delivered again"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::Mutex};

    use tokio::{sync::mpsc, time::Instant};

    use super::*;

    /// Messages in memory; each is its number of failures before it is delivered.
    struct Memory {
        due: Mutex<VecDeque<(Instant, Leased<u32>)>>,
        settled: mpsc::UnboundedSender<(u32, Settlement, Instant)>,
        slow: Duration,
    }

    type Settled = mpsc::UnboundedReceiver<(u32, Settlement, Instant)>;

    fn memory(slow: Duration) -> (Arc<Memory>, Settled) {
        let (settled, receiver) = mpsc::unbounded_channel();
        let due = Mutex::default();
        (Arc::new(Memory { due, settled, slow }), receiver)
    }

    impl Memory {
        fn put(&self, message: u32) {
            let leased = Leased {
                message,
                attempt: 0,
            };
            self.due.lock().unwrap().push_back((Instant::now(), leased));
        }
    }

    impl Outbox for Memory {
        type Message = u32;

        async fn lease(&self, limit: usize, lease: Duration) -> Result<Vec<Leased<u32>>, Error> {
            let now = Instant::now();
            let mut due = self.due.lock().unwrap();
            let mut batch = Vec::new();
            for (at, leased) in due.iter_mut() {
                if *at <= now && batch.len() < limit {
                    *at = now + lease;
                    leased.attempt += 1;
                    batch.push(leased.clone());
                }
            }
            Ok(batch)
        }

        async fn deliver(&self, failures: &u32) -> Result<(), Undelivered> {
            time::sleep(self.slow).await;
            let attempt = {
                let due = self.due.lock().unwrap();
                due.iter()
                    .find(|(_, l)| l.message == *failures)
                    .unwrap()
                    .1
                    .attempt
            };
            match failures {
                99 => Err(Undelivered::Never(Error::invalid("to", "is wrong"))),
                failures if attempt <= *failures => {
                    Err(Undelivered::Again(Error::unavailable("not now")))
                }
                _ => Ok(()),
            }
        }

        async fn settle(&self, leased: &Leased<u32>, settlement: Settlement) -> Result<(), Error> {
            {
                let mut due = self.due.lock().unwrap();
                let at = due
                    .iter()
                    .position(|(_, l)| l.message == leased.message)
                    .unwrap();
                match settlement {
                    Settlement::Postponed { delay, .. } => due[at].0 = Instant::now() + delay,
                    Settlement::Delivered | Settlement::Failed { .. } => drop(due.remove(at)),
                }
            }
            let _ = self
                .settled
                .send((leased.message, settlement, Instant::now()));
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_is_delivered_at_once_when_the_worker_is_woken() {
        let (outbox, mut settled) = memory(Duration::ZERO);
        let config = OutboxConfig {
            poll: Duration::from_secs(3600),
            ..OutboxConfig::default()
        };
        let wake = Wake::new();
        let _worker = Worker::start(Arc::clone(&outbox), config, wake.clone());
        time::sleep(Duration::from_secs(1)).await;
        let start = Instant::now();
        outbox.put(0);
        wake.wake();
        let (_, settlement, at) = settled.recv().await.unwrap();
        assert!(matches!(settlement, Settlement::Delivered));
        // The resolution of tokio's timer.
        assert!(at - start <= Duration::from_millis(2), "{:?}", at - start);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_message_is_tried_again_after_a_growing_wait_until_it_is_delivered() {
        let (outbox, mut settled) = memory(Duration::ZERO);
        outbox.put(3);
        let _worker = Worker::start(outbox, OutboxConfig::default(), Wake::new());
        let mut delays = Vec::new();
        while let (_, Settlement::Postponed { delay, .. }, _) = settled.recv().await.unwrap() {
            delays.push(delay.as_millis());
        }
        let [first, second, third] = delays[..] else {
            panic!("{delays:?}")
        };
        assert!((125..=250).contains(&first), "{first}");
        assert!((250..=500).contains(&second), "{second}");
        assert!((500..=1000).contains(&third), "{third}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_is_wrong_is_not_tried_again() {
        let (outbox, mut settled) = memory(Duration::ZERO);
        outbox.put(99);
        let _worker = Worker::start(outbox, OutboxConfig::default(), Wake::new());
        let (_, settlement, _) = settled.recv().await.unwrap();
        assert!(matches!(settlement, Settlement::Failed { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_longer_than_half_a_lease_is_cancelled_and_tried_again() {
        let (outbox, mut settled) = memory(Duration::from_secs(3600));
        outbox.put(0);
        let start = Instant::now();
        let _worker = Worker::start(outbox, OutboxConfig::default(), Wake::new());
        let (_, settlement, at) = settled.recv().await.unwrap();
        assert!(matches!(settlement, Settlement::Postponed { .. }));
        assert_eq!((at - start).as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn stopping_finishes_what_is_being_delivered_and_takes_no_more() {
        let (outbox, mut settled) = memory(Duration::from_secs(2));
        let config = OutboxConfig {
            in_flight: NonZeroUsize::MIN,
            ..OutboxConfig::default()
        };
        outbox.put(0);
        outbox.put(1);
        let worker = Worker::start(Arc::clone(&outbox), config, Wake::new());
        time::sleep(Duration::from_secs(1)).await;
        worker.stop().await;
        assert_eq!(settled.recv().await.unwrap().0, 0);
        assert_eq!(outbox.due.lock().unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_the_worker_stops_it() {
        let (outbox, mut settled) = memory(Duration::from_secs(2));
        outbox.put(0);
        let worker = Worker::start(Arc::clone(&outbox), OutboxConfig::default(), Wake::new());
        time::sleep(Duration::from_secs(1)).await;
        drop(worker);
        time::sleep(Duration::from_secs(60)).await;
        assert!(settled.try_recv().is_err());
        assert_eq!(Arc::strong_count(&outbox), 1);
    }

    #[test]
    fn attempts_may_be_limited_and_the_wait_has_an_end() {
        let config = OutboxConfig {
            attempts: NonZeroU32::new(40),
            ..OutboxConfig::default()
        };
        let again = || Undelivered::Again(Error::unavailable("not now"));
        let Settlement::Postponed { delay, .. } = config.after(39, again(), 1.0) else {
            panic!("one more")
        };
        assert_eq!(delay, config.max_backoff);
        assert!(matches!(
            config.after(40, again(), 1.0),
            Settlement::Failed { .. }
        ));
    }

    #[test]
    fn the_receiver_may_ask_for_more_time() {
        let busy = Error::unavailable("busy").with_retry_after(Duration::from_secs(70));
        let settlement = OutboxConfig::default().after(1, Undelivered::Again(busy), 0.0);
        assert!(matches!(settlement, Settlement::Postponed { delay, .. } if delay.as_secs() == 70));
    }

    #[tokio::test(start_paused = true)]
    async fn a_replaced_configuration_holds_from_the_next_look() {
        let (outbox, mut settled) = memory(Duration::from_secs(3));
        let config = OutboxConfig {
            in_flight: NonZeroUsize::new(3).unwrap(),
            ..OutboxConfig::default()
        };
        let worker = Worker::start(Arc::clone(&outbox), config.clone(), Wake::new());
        (0..4).for_each(|_| outbox.put(0));
        time::sleep(Duration::from_secs(1)).await;
        worker.config().set(OutboxConfig {
            in_flight: NonZeroUsize::MIN,
            ..config
        });
        // Three at once, as when they were begun, and then no more than one.
        let mut ends = Vec::new();
        outbox.put(0);
        for _ in 0..5 {
            ends.push(settled.recv().await.unwrap().2);
        }
        assert_eq!(ends[0], ends[2]);
        assert!(ends[3] >= ends[2] + Duration::from_secs(3));
        assert!(ends[4] >= ends[3] + Duration::from_secs(3));
    }
}
