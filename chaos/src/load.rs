//! A steady load that does not slow down when the answers do.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, oneshot},
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval},
};

/// How fast, and how much at once.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Time from one request to the next, whether or not it was answered (an open loop): a system that answers
    /// slowly is not asked less.
    pub every: Duration,
    /// Requests that may wait for an answer at once. One above it is not made, and counts as failed, so that an
    /// overload is not hidden.
    pub in_flight: usize,
}

/// How one request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Success,
    /// With this error.
    Failure(String),
}

/// A load that runs until it is told to stop. Dropping it stops it at once.
#[derive(Debug)]
pub struct Load {
    task: JoinHandle<Report>,
    stop: Option<oneshot::Sender<()>>,
    counts: Arc<Mutex<Report>>,
}

impl Load {
    /// Begins: the request number n (from 0) is what `request(n)` does.
    pub fn start<F, R>(pace: Pace, mut request: R) -> Self
    where
        R: FnMut(u64) -> F + Send + 'static,
        F: Future<Output = Outcome> + Send + 'static,
    {
        let (stop, mut stopped) = oneshot::channel();
        let counts = Arc::new(Mutex::new(Report::default()));
        let report = Arc::clone(&counts);
        let task = tokio::spawn(async move {
            let room = Arc::new(Semaphore::new(pace.in_flight));
            let mut flying = JoinSet::new();
            let mut ticks = interval(pace.every);
            // Late ticks are made up for: the rate over the run is what was asked for.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            for number in 0.. {
                tokio::select! {
                    _ = ticks.tick() => {}
                    _ = &mut stopped => break,
                }
                while flying.try_join_next().is_some() {}
                let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
                    add(
                        &report,
                        Outcome::Failure("too many in flight".to_owned()),
                        Duration::ZERO,
                    );
                    continue;
                };
                let (answer, report) = (request(number), Arc::clone(&report));
                flying.spawn(async move {
                    let begin = Instant::now();
                    add(&report, answer.await, begin.elapsed());
                    drop(place);
                });
            }
            while flying.join_next().await.is_some() {}
            std::mem::take(&mut *report.lock().unwrap_or_else(PoisonError::into_inner))
        });
        Self {
            task,
            stop: Some(stop),
            counts,
        }
    }

    /// How many requests have ended so far.
    pub fn ended(&self) -> u64 {
        self.counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .total()
    }

    /// Makes no more requests, waits for those in flight, and says how it was.
    ///
    /// # Panics
    /// If the load itself panicked.
    pub async fn finish(mut self) -> Report {
        drop(self.stop.take());
        (&mut self.task).await.expect("the load does not panic")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn add(report: &Mutex<Report>, outcome: Outcome, took: Duration) {
    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
    report.slowest = report.slowest.max(took);
    match outcome {
        Outcome::Success => report.succeeded += 1,
        Outcome::Failure(why) => *report.failed.entry(why).or_default() += 1,
    }
}

/// How a load went.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Requests that ended as they should.
    pub succeeded: u64,
    /// The others, by what was wrong.
    pub failed: BTreeMap<String, u64>,
    /// How long the slowest took.
    pub slowest: Duration,
}

impl Report {
    /// All requests.
    pub fn total(&self) -> u64 {
        self.succeeded + self.failed.values().sum::<u64>()
    }

    /// The share that succeeded, from 0 to 1; 0 when there were none.
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of requests in a test are small"
    )]
    pub fn success_rate(&self) -> f64 {
        match self.total() {
            0 => 0.0,
            total => self.succeeded as f64 / total as f64,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} succeeded ({:.3} %), the slowest took {:?}",
            self.succeeded,
            self.total(),
            100.0 * self.success_rate(),
            self.slowest
        )?;
        self.failed
            .iter()
            .try_for_each(|(why, count)| write!(f, "\n  {count} x {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn slow_answers_do_not_slow_the_load_and_too_many_count_as_failed() {
        let pace = Pace {
            every: Duration::from_millis(10),
            in_flight: 5,
        };
        let load = Load::start(pace, |_| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Outcome::Success
        });
        tokio::time::sleep(Duration::from_millis(95)).await;
        let report = load.finish().await;
        assert_eq!(report.succeeded, 5, "{report}");
        assert_eq!(report.total(), 10, "{report}");
        assert_eq!(report.success_rate(), 0.5);
    }
}
