//! A steady load that does not slow down when the answers do.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, oneshot},
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval},
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

impl Pace {
    /// So many requests a second, of which as many may wait as come in ten seconds.
    pub fn per_second(rate: u32) -> Self {
        Self {
            every: Duration::from_secs(1) / rate,
            in_flight: 10 * rate as usize,
        }
    }
}

/// How one request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Success,
    /// With this error.
    Failure(String),
}

impl From<Result<(), String>> for Outcome {
    fn from(result: Result<(), String>) -> Self {
        result.map_or_else(Self::Failure, |()| Self::Success)
    }
}

/// A load that runs until it is told to stop. Dropping it stops it at once.
#[derive(Debug)]
pub struct Load {
    task: JoinHandle<()>,
    stop: Option<oneshot::Sender<()>>,
    counts: Arc<Mutex<Counts>>,
}

/// What was counted so far.
#[derive(Debug, Default)]
struct Counts {
    /// The number of the next request.
    next: u64,
    /// The number of the first one that counts.
    first: u64,
    report: Report,
}

impl Load {
    /// Begins: the request number n (from 0) is what `request(n)` does.
    pub fn start<F, R>(pace: Pace, mut request: R) -> Self
    where
        R: FnMut(u64) -> F + Send + 'static,
        F: Future<Output = Outcome> + Send + 'static,
    {
        let (stop, mut stopped) = oneshot::channel();
        let counts = Arc::<Mutex<Counts>>::default();
        let counted = Arc::clone(&counts);
        let task = tokio::spawn(async move {
            let room = Arc::new(Semaphore::new(pace.in_flight));
            let mut flying = JoinSet::new();
            let mut ticks = interval(pace.every);
            // Late ticks are made up for: the rate over the run is what was asked for.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            loop {
                // When it should have begun: what is late because this task was is slow for whoever waits.
                let begin = tokio::select! {
                    due = ticks.tick() => due,
                    _ = &mut stopped => break,
                };
                while flying.try_join_next().is_some() {}
                let number = lock(&counted).begin();
                let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
                    let outcome = Outcome::Failure("too many in flight".to_owned());
                    lock(&counted).end(number, outcome, Duration::ZERO);
                    continue;
                };
                let (answer, counted) = (request(number), Arc::clone(&counted));
                flying.spawn(async move {
                    let outcome = answer.await;
                    lock(&counted).end(number, outcome, begin.elapsed());
                    drop(place);
                });
            }
            while flying.join_next().await.is_some() {}
        });
        Self {
            task,
            stop: Some(stop),
            counts,
        }
    }

    /// How many requests have ended so far, of those that count.
    pub fn ended(&self) -> u64 {
        lock(&self.counts).report.total()
    }

    /// Forgets what was counted, and counts only requests that begin from now on: what was before was the warm-up.
    pub fn forget(&self) {
        let mut counts = lock(&self.counts);
        counts.first = counts.next;
        counts.report = Report::default();
    }

    /// Makes no more requests, waits for those in flight, and says how it was.
    ///
    /// # Panics
    /// If the load itself panicked.
    pub async fn finish(mut self) -> Report {
        drop(self.stop.take());
        (&mut self.task).await.expect("the load does not panic");
        std::mem::take(&mut lock(&self.counts).report)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Counts {
    fn begin(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    fn end(&mut self, number: u64, outcome: Outcome, took: Duration) {
        if number < self.first {
            return;
        }
        match outcome {
            Outcome::Success => self.report.took.push(took),
            Outcome::Failure(why) => *self.report.failed.entry(why).or_default() += 1,
        }
    }
}

/// How a load went.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How long each request took that ended as it should, from when it should have begun.
    pub took: Vec<Duration>,
    /// The others, by what was wrong.
    pub failed: BTreeMap<String, u64>,
}

impl Report {
    /// All requests.
    pub fn total(&self) -> u64 {
        self.succeeded() + self.failures()
    }

    /// Requests that ended as they should.
    pub fn succeeded(&self) -> u64 {
        self.took.len() as u64
    }

    /// Requests that did not.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// The share of requests that ended as they should, from 0 to 1; 0 when there were none.
    pub fn success_rate(&self) -> f64 {
        match self.total() {
            0 => 0.0,
            total => self.succeeded() as f64 / total as f64,
        }
    }

    /// The time in which this share of all requests, from 0 to 1, ended as they should. `None` if so many never did.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let mut took = self.took.clone();
        took.sort_unstable();
        let rank = (share * self.total() as f64).ceil() as usize;
        took.get(rank.saturating_sub(1)).copied()
    }

    /// Adds what another load saw.
    pub fn merge(&mut self, other: Self) {
        self.took.extend(other.took);
        for (why, count) in other.failed {
            *self.failed.entry(why).or_default() += count;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} requests succeeded ({:.3} %), the slowest took {:?}",
            self.succeeded(),
            self.total(),
            self.success_rate() * 100.0,
            self.took.iter().max().copied().unwrap_or_default(),
        )?;
        for (why, count) in &self.failed {
            write!(f, "\n{count:>6} {why}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn slow_answers_do_not_slow_the_load_down_and_what_is_too_much_has_failed() {
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
        assert_eq!(report.succeeded(), 5, "{report}");
        assert_eq!(report.total(), 10, "{report}");
        assert_eq!(report.success_rate(), 0.5);
        assert_eq!(report.quantile(0.5), Some(Duration::from_secs(1)));
        assert_eq!(report.quantile(0.51), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_began_before_is_forgotten_when_it_ends_too() {
        let pace = Pace::per_second(100);
        let load = Load::start(pace, |number| async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Outcome::from(if number < 20 {
                Err("cold".to_owned())
            } else {
                Ok(())
            })
        });
        tokio::time::sleep(Duration::from_millis(195)).await;
        load.forget();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let report = load.finish().await;
        assert_eq!((report.succeeded(), report.failures()), (10, 0), "{report}");
    }
}
