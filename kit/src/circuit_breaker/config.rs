//! What a circuit breaker can be told.

use std::{
    num::{NonZeroU16, NonZeroU32},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::policy::{Backoff, Ratio};

/// When a circuit opens, and how it closes again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CircuitBreakerConfig {
    /// So many failures without a success between them open it. Default 5.
    pub consecutive_failures: NonZeroU32,
    /// So does a success rate that is too low. `None` counts no rate. Default: see [`SuccessRate`].
    pub success_rate: Option<SuccessRate>,
    /// An answer that takes longer than this is a failure, whatever it says. `None`: time does not matter. Default
    /// `None`.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub slow_call: Option<Duration>,
    /// How long it stays open the first time, and twice as long each time that it opens again, after a probe that
    /// failed or after it was closed. Shortened at random by up to a half, so that those who tripped together do not
    /// probe together. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub open_for: Duration,
    /// How long it must be closed for one of its openings to be forgotten, so that the next one is half as long. 0:
    /// all are forgotten as soon as it is closed. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub forget_after: Duration,
    /// The longest that it stays open between two probes. After the same time a probe that has not ended is given
    /// up, and another one is let through. Default 60 s.
    #[serde(with = "humantime_serde")]
    pub max_open_for: Duration,
    /// How many probes must succeed to close it; all may be in flight together. Default 1.
    pub probes: NonZeroU16,
    /// Of the circuits of one [`Fleet`](super::Fleet), such as those of all endpoints of a client: the share that may
    /// be open at once. One may be, however few they are. A circuit that stands alone does not look at it. Default
    /// 0.5.
    pub max_ejected: Ratio,
}

impl Default for CircuitBreakerConfig {
    fn default() -> Self {
        Self {
            consecutive_failures: NonZeroU32::new(5).expect("not zero"),
            success_rate: Some(SuccessRate::default()),
            slow_call: None,
            open_for: Duration::from_secs(1),
            forget_after: Duration::from_secs(10),
            max_open_for: Duration::from_secs(60),
            probes: NonZeroU16::MIN,
            max_ejected: Ratio::new(0.5).expect("it is from 0 to 1"),
        }
    }
}

impl CircuitBreakerConfig {
    /// How long the circuit stays open.
    pub(super) fn backoff(&self) -> Backoff {
        Backoff {
            base: self.open_for,
            max: self.max_open_for,
        }
    }
}

/// Opens a circuit whose peer answers now and then, so that failures in a row do not tell.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SuccessRate {
    /// The circuit opens when a smaller share than this succeeded; 0 never opens it. Overload counts as a failure
    /// here. Default 0.5.
    pub threshold: Ratio,
    /// The time over which results count, to a tenth of it. Shorter trips sooner, on less evidence. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// With fewer results than this in the window, the rate says nothing. Default 20.
    pub min_requests: NonZeroU32,
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self {
            threshold: Ratio::new(0.5).expect("a half"),
            window: Duration::from_secs(10),
            min_requests: NonZeroU32::new(20).expect("not zero"),
        }
    }
}

impl SuccessRate {
    /// Whether these counts are too bad.
    pub(super) fn is_broken_by(&self, (successes, failures): (u64, u64)) -> bool {
        let requests = successes + failures;
        requests >= u64::from(self.min_requests.get())
            && (successes as f64) < self.threshold.get() * requests as f64
    }
}
