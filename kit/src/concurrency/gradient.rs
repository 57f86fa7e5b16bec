//! How the limit follows the latency: no clock, no lock, no tower.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use rand::{RngExt, rngs::StdRng};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{clock, policy::Ratio};

/// How a limit adapts itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Adaptive {
    /// The limit that it begins with. Low, so that the first latencies are those of a service that is not flooded.
    /// Default 20.
    pub initial: NonZeroUsize,
    /// The limit never falls below this. Default 4.
    pub min: NonZeroUsize,
    /// By which part answers may be slower than without a queue before the limit falls. The mean of 50 answers whose
    /// latency varies by as much as it is long is off by a seventh, and two of them are compared: below 0.3, chance
    /// lowers the limit. Default 0.5.
    pub slack: Ratio,
    /// The least time between two decisions. Default 100 ms.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// The least number of answers that a decision is made from; where they come seldom, it takes that much longer.
    /// Default 50.
    pub min_answers: NonZeroU32,
    /// The time, give or take a quarter, after which a third of the limit is let in for one window, to see how fast
    /// answers are without a queue. Where the limit is reached, that costs half of one window; elsewhere, nothing.
    /// Default 30 s.
    #[serde(with = "humantime_serde")]
    pub probe_every: Duration,
}

impl Default for Adaptive {
    fn default() -> Self {
        Self {
            initial: NonZeroUsize::new(20).expect("not zero"),
            min: NonZeroUsize::new(4).expect("not zero"),
            slack: Ratio::new(0.5).expect("a half"),
            window: Duration::from_millis(100),
            min_answers: NonZeroU32::new(50).expect("not zero"),
            probe_every: Duration::from_secs(30),
        }
    }
}

impl Adaptive {
    /// How slow is too slow.
    pub(super) fn tolerated(&self, baseline: Duration) -> Duration {
        baseline.mul_f64(1.0 + self.slack.get())
    }
}

/// What was seen in one window, of calls that began in it: so that each decision sees what the one before did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Measured {
    /// Answers that came, or did not come in a time that was too long already.
    pub(super) answers: u32,
    /// How long they took, all together.
    pub(super) took: Duration,
    /// Answers by which the peer said that it had too much to do.
    pub(super) overloads: u32,
    /// The most that were in flight at once.
    pub(super) peak: usize,
}

impl Measured {
    fn mean(&self) -> Option<Duration> {
        let mean = self.took.checked_div(self.answers)?;
        // No time at all is no measure.
        (!mean.is_zero()).then_some(mean)
    }
}

/// The part of the limit that is let in while the baseline is measured.
const PROBED: f64 = 1.0 / 3.0;
/// The part of the way to its target that the limit goes in one step, against swinging.
const STEP: f64 = 0.2;
/// The lowest gradient: one bad window costs a tenth of the limit, with the step above.
const STEEPEST: f64 = 0.5;

/// A limit that follows the gradient of the latency: Netflix's Gradient2 with a baseline that is measured.
///
/// With n workers that take the time s, L calls in flight take s up to L = n, and s L / n above it. The limit settles
/// where `L = gradient x L + sqrt(L)`, with a gradient of (1 + slack) x baseline / latency: a little above
/// (1 + slack) x n, enough to keep all workers busy. The root is the queue that randomness needs (Halfin and Whitt,
/// "Heavy-Traffic Limits for Queues with Many Exponential Servers", 1981); it is also what the limit grows by.
///
/// Gradient2 takes a long average of the latency as its baseline. Under an overload that lasts, that average becomes
/// the latency of the overload, and the limit grows with it. Here the baseline is measured with a third of the limit
/// in flight, which is less than n, as BBR measures the round trip of an empty path (Cardwell et al., 2016). Where the
/// limit was too high for that, it is measured again at once, and the limit is lower each time, until it is not: also
/// with a slack of 1, the next one is at most two thirds of it and its root.
#[derive(Debug)]
pub(super) struct Gradient {
    limit: f64,
    /// The latency without a queue.
    baseline: Option<Duration>,
    /// Whether the present window measures it, with less in flight.
    probing: bool,
    /// `None`: as soon as the limit is reached.
    next_probe: Option<Instant>,
    rng: StdRng,
}

impl Gradient {
    pub(super) fn new(config: &Adaptive, rng: StdRng) -> Self {
        Self {
            limit: config.initial.get() as f64,
            baseline: None,
            probing: false,
            next_probe: None,
            rng,
        }
    }

    /// How many may be in flight now.
    pub(super) fn limit(&self) -> usize {
        let limit = if self.probing {
            self.limit * PROBED
        } else {
            self.limit
        };
        (limit as usize).max(1)
    }

    pub(super) fn baseline(&self) -> Option<Duration> {
        self.baseline
    }

    /// Learns from one window, within `config.min` and `max`.
    pub(super) fn learn(
        &mut self,
        measured: Measured,
        now: Instant,
        config: &Adaptive,
        max: NonZeroUsize,
    ) {
        let mean = measured.mean();
        // A limit that is not reached has no part in the latency: it needs not be higher, nor be probed.
        let reached = measured.peak as f64 >= self.limit / 2.0;
        if self.probing {
            // Lower by a quarter: there was a queue the last time, and there may be one now.
            let again = matches!((mean, self.baseline), (Some(mean), Some(before)) if mean < before * 3 / 4);
            // Not all instances at the same time.
            let jitter = self.rng.random_range(0.75..1.25);
            self.next_probe = (!again).then(|| {
                let every = clock::after(now, config.probe_every) - now;
                now + every.mul_f64(jitter)
            });
            self.baseline = mean.or(self.baseline);
            self.probing = false;
        } else {
            // By chance no mean is off by half: the baseline is that of an overload, and it is over.
            self.baseline = match (mean, self.baseline) {
                (Some(mean), Some(baseline)) if mean >= baseline / 2 => Some(baseline),
                (mean, baseline) => mean.or(baseline),
            };
            if reached {
                let target = self.limit * self.gradient(measured, config) + self.limit.sqrt();
                self.limit += STEP * (target - self.limit);
            }
            self.probing = reached && self.next_probe.is_none_or(|at| at <= now);
        }
        let max = max.get() as f64;
        self.limit = self.limit.clamp((config.min.get() as f64).min(max), max);
    }

    fn gradient(&self, measured: Measured, config: &Adaptive) -> f64 {
        let by_latency = match (measured.mean(), self.baseline) {
            (Some(mean), Some(baseline)) => config.tolerated(baseline).div_duration_f64(mean),
            _ => 1.0,
        };
        let all = measured.answers + measured.overloads;
        let by_answer = f64::from(measured.answers) / f64::from(all.max(1));
        by_latency.min(by_answer).clamp(STEEPEST, 1.0)
    }

    #[cfg(test)]
    pub(super) fn is_probing(&self) -> bool {
        self.probing
    }

    #[cfg(test)]
    pub(super) fn unprobed_limit(&self) -> f64 {
        self.limit
    }
}
