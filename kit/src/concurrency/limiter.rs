//! The count of what is in flight, and the limit, for all who share them.

use std::{fmt, num::NonZeroUsize, sync::Arc, time::Duration};

use rand::{SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::gradient::{Adaptive, Gradient, Measured};
use crate::{
    classify::Outcome,
    event::{Event, SharedObserver},
    name::Priority,
    policy::{Admit, Live, Permit},
    rejection::Rejection,
    sync::{
        Mutex,
        atomic::{
            AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

/// How many requests may be in flight at once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConcurrencyConfig {
    /// The limit, or the most that it may become where it adapts itself. Default 1024. What is sheddable may use three
    /// quarters of it, and what is critical a tenth more.
    pub limit: NonZeroUsize,
    /// Lets the limit follow the latency. Default `None`: it is fixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<Adaptive>,
}

impl Default for ConcurrencyConfig {
    fn default() -> Self {
        Self {
            limit: NonZeroUsize::new(1024).expect("not zero"),
            adaptive: None,
        }
    }
}

/// The policy: counts what is in flight against a limit, which is fixed or follows the latency. Clones share the
/// count and what was learnt.
///
/// No lock is waited for: a call is two counts, and two more where the limit adapts itself; whoever ends a window
/// takes a lock that nobody else wants.
#[derive(Clone)]
pub struct ConcurrencyLimiter {
    shared: Arc<Shared>,
}

// Written by all requests, so nobody else lies there.
#[repr(align(128))]
struct Shared {
    name: Arc<str>,
    observer: SharedObserver,
    config: Live<Option<ConcurrencyConfig>>,
    in_flight: AtomicUsize,
    adapting: Adapting,
}

/// What is learnt where the limit adapts itself; at rest where it is fixed.
struct Adapting {
    epoch: Instant,
    gradient: Mutex<Gradient>,
    // What the gradient says, for those who do not take the lock. Written under it.
    limit: AtomicUsize,
    /// Nanoseconds; zero: not known.
    baseline: AtomicU64,
    /// Counts the windows, to know the calls that began in this one.
    window: AtomicU32,
    /// When this one may end, in nanoseconds since the epoch.
    ends: AtomicU64,
    // What is measured in this window. An answer that is counted while the window ends may count for the next one.
    answers: AtomicU32,
    took: AtomicU64,
    overloads: AtomicU32,
    peak: AtomicUsize,
}

impl ConcurrencyLimiter {
    /// Nothing is in flight. Without a configuration nothing is limited, and nothing counted. `name` stands in the
    /// events by which `observer` hears how the limit moves.
    pub fn new(
        name: impl Into<Arc<str>>,
        config: impl Into<Option<ConcurrencyConfig>>,
        observer: SharedObserver,
    ) -> Self {
        Self::with_rng(
            name,
            config.into(),
            observer,
            StdRng::from_rng(&mut rand::rng()),
        )
    }

    /// The same, with the chance that says when the baseline is measured.
    pub(super) fn with_rng(
        name: impl Into<Arc<str>>,
        config: Option<ConcurrencyConfig>,
        observer: SharedObserver,
        rng: StdRng,
    ) -> Self {
        let adaptive = config.and_then(|config| config.adaptive);
        let gradient = Gradient::new(&adaptive.unwrap_or_default(), rng);
        Self {
            shared: Arc::new(Shared {
                name: name.into(),
                observer,
                config: Live::new(config),
                in_flight: AtomicUsize::new(0),
                adapting: Adapting {
                    epoch: Instant::now(),
                    limit: AtomicUsize::new(gradient.limit()),
                    gradient: Mutex::new(gradient),
                    baseline: AtomicU64::new(0),
                    window: AtomicU32::new(0),
                    ends: AtomicU64::new(0),
                    answers: AtomicU32::new(0),
                    took: AtomicU64::new(0),
                    overloads: AtomicU32::new(0),
                    peak: AtomicUsize::new(0),
                },
            }),
        }
    }

    /// The handle that replaces the configuration; `None` limits nothing. What is in flight stays in flight, also above
    /// a lower limit, and what was learnt stays. What began while there was no limit is not counted.
    pub fn config(&self) -> &Live<Option<ConcurrencyConfig>> {
        &self.shared.config
    }

    /// How many of those that are counted are in flight at this moment.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Relaxed)
    }

    /// How many may be; without a limit as many as there are numbers.
    pub fn limit(&self) -> usize {
        match &**self.shared.config.get() {
            Some(config) => self.shared.limit(config),
            None => usize::MAX,
        }
    }

    /// Lets a call of this priority pass while less than its share of the limit are in flight.
    ///
    /// # Errors
    /// [`Rejection::Overloaded`].
    pub fn admit_as(&self, priority: Priority, now: Instant) -> Result<InFlight, Rejection> {
        self.admit_by(&self.shared.config.get(), || (priority, now))
    }

    /// The same for one who has read the configuration already, and has to find out the priority, which is wanted where
    /// there is a limit only.
    pub(super) fn admit_by(
        &self,
        config: &Option<ConcurrencyConfig>,
        call: impl FnOnce() -> (Priority, Instant),
    ) -> Result<InFlight, Rejection> {
        let shared = &self.shared;
        let Some(config) = config else {
            return Ok(InFlight::uncounted());
        };
        let (priority, now) = call();
        let limit = share(priority, shared.limit(config));
        // Counted first, so that two can never both take the last place; if it is one too many, dropping it counts
        // it out.
        let before = shared.in_flight.fetch_add(1, Acquire);
        let mut entered = InFlight {
            counted: Some(Arc::clone(shared)),
            since: None,
        };
        if before >= limit {
            return Err(Rejection::Overloaded { limit });
        }
        if config.adaptive.is_some() {
            let adapting = &shared.adapting;
            if adapting.peak.load(Relaxed) <= before {
                adapting.peak.fetch_max(before + 1, Relaxed);
            }
            entered.since = Some((now, adapting.window.load(Relaxed)));
        }
        Ok(entered)
    }
}

/// What calls of a priority may use of a limit, at least one place. The limit means normal calls, of which most are, so
/// what is critical has room above it, as Envoy's thresholds for high priority are.
fn share(priority: Priority, limit: usize) -> usize {
    match priority {
        Priority::Sheddable => limit - limit / 4,
        Priority::Normal => limit,
        Priority::Critical => limit.saturating_add(limit.div_ceil(10)),
    }
}

impl Shared {
    fn limit(&self, config: &ConcurrencyConfig) -> usize {
        match &config.adaptive {
            None => config.limit.get(),
            // Never above a bound that was replaced; below the other one while it probes.
            Some(_) => self.adapting.limit.load(Relaxed).min(config.limit.get()),
        }
    }
}

/// Lets a call pass while less than the limit are in flight, and refuses it with [`Rejection::Overloaded`] else.
impl Admit for ConcurrencyLimiter {
    type Permit = InFlight;

    fn is_available(&self, _: Instant) -> bool {
        self.in_flight() < self.limit()
    }

    fn admit(&self, now: Instant) -> Result<InFlight, Rejection> {
        self.admit_as(Priority::Normal, now)
    }
}

impl fmt::Debug for ConcurrencyLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConcurrencyLimiter")
            .field("name", &self.shared.name)
            .field("in_flight", &self.in_flight())
            .field("limit", &self.limit())
            .finish_non_exhaustive()
    }
}

/// One request in flight; dropping it counts it out.
///
/// Only what was answered tells how long answers take. A call that failed or was cancelled says nothing, unless it
/// took too long by then: its caller may have left because of that, and if all do, nothing else is heard.
pub struct InFlight {
    /// By whom; `None` where there was no limit.
    counted: Option<Arc<Shared>>,
    /// When it began, and in which window; `None` where nothing is to be learnt.
    since: Option<(Instant, u32)>,
}

impl InFlight {
    pub(super) fn uncounted() -> Self {
        Self {
            counted: None,
            since: None,
        }
    }

    /// Whether anything is learnt from what becomes of it: not where the limit is fixed.
    pub(super) fn is_measured(&self) -> bool {
        self.since.is_some()
    }
}

impl Permit for InFlight {
    fn finish(mut self, now: Instant, outcome: Outcome) {
        let (Some(shared), Some((since, window))) = (&self.counted, self.since.take()) else {
            return;
        };
        let took = now.saturating_duration_since(since);
        let call = (window, took);
        match outcome {
            Outcome::Success | Outcome::CallerFault => shared.learn(call, Seen::Answer, now),
            Outcome::Overload => shared.learn(call, Seen::Overload, now),
            Outcome::Failure | Outcome::Rejected => shared.learn(call, Seen::Nothing, now),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let Some(shared) = &self.counted else {
            return;
        };
        // Pairs with the acquiring count in: what was done in this place is over when the next one takes it.
        shared.in_flight.fetch_sub(1, Release);
        if let Some((since, window)) = self.since.take() {
            let now = Instant::now();
            let call = (window, now.saturating_duration_since(since));
            shared.learn(call, Seen::Nothing, now);
        }
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight")
            .field("since", &self.since)
            .finish_non_exhaustive()
    }
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Answer,
    Overload,
    Nothing,
}

impl Shared {
    /// Counts what became of a call, and ends the window if that is due.
    fn learn(&self, (window, took): (u32, Duration), seen: Seen, now: Instant) {
        let config = self.config.get();
        let Some(ConcurrencyConfig {
            limit: max,
            adaptive: Some(config),
        }) = &**config
        else {
            return;
        };
        let adapting = &self.adapting;
        if window != adapting.window.load(Relaxed) {
            return;
        }
        match seen {
            Seen::Nothing if !adapting.is_too_long(took, config) => return,
            Seen::Nothing | Seen::Answer => {
                adapting.took.fetch_add(nanos(took), Relaxed);
                adapting.answers.fetch_add(1, Relaxed);
            }
            Seen::Overload => {
                adapting.overloads.fetch_add(1, Relaxed);
            }
        }
        if let Some(limit) = adapting.end_window(now, config, *max) {
            self.observer.observe(Event::ConcurrencyLimitChanged {
                limiter: &self.name,
                limit,
            });
        }
    }
}

impl Adapting {
    fn is_too_long(&self, took: Duration, config: &Adaptive) -> bool {
        match self.baseline.load(Relaxed) {
            0 => false,
            baseline => took > config.tolerated(Duration::from_nanos(baseline)),
        }
    }

    fn is_due(&self, now: u64, config: &Adaptive) -> bool {
        let seen = self.answers.load(Relaxed) + self.overloads.load(Relaxed);
        seen >= config.min_answers.get() && now >= self.ends.load(Relaxed)
    }

    /// Decides anew if enough was seen, and says what the limit is if it became another one.
    fn end_window(&self, at: Instant, config: &Adaptive, max: NonZeroUsize) -> Option<usize> {
        let now = nanos(at.saturating_duration_since(self.epoch));
        if !self.is_due(now, config) {
            return None;
        }
        // Whoever has it ends this very window.
        let mut gradient = self.gradient.try_lock().ok()?;
        if !self.is_due(now, config) {
            return None;
        }
        let measured = Measured {
            answers: self.answers.swap(0, Relaxed),
            took: Duration::from_nanos(self.took.swap(0, Relaxed)),
            overloads: self.overloads.swap(0, Relaxed),
            peak: self.peak.swap(0, Relaxed),
        };
        gradient.learn(measured, at, config, max);
        self.baseline
            .store(gradient.baseline().map_or(0, nanos), Relaxed);
        self.ends
            .store(now.saturating_add(nanos(config.window)), Relaxed);
        self.window.fetch_add(1, Relaxed);
        let limit = gradient.limit();
        (self.limit.swap(limit, Relaxed) != limit).then_some(limit)
    }
}

/// Whole nanoseconds; five centuries are as good as for ever.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
