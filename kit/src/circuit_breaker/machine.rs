//! The states of a circuit and the ways between them: no clock, no lock, no tower.

use std::{
    num::{NonZeroU16, NonZeroU32},
    time::Duration,
};

use failsafe::{
    FailurePolicy,
    backoff::{Constant, constant},
    failure_policy::{ConsecutiveFailures, consecutive_failures},
};
use rand::Rng;
use tokio::time::Instant;

use super::config::CircuitBreakerConfig;
use crate::clock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Closed,
    Open {
        until: Instant,
    },
    HalfOpen {
        in_flight: u16,
        succeeded: u16,
        /// When probes that have not ended are given up.
        until: Instant,
    },
}

/// What an admitted call holds: which state it was admitted in. A result that comes from another one is late and
/// says nothing about now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) generation: u64,
    pub(super) probe: bool,
}

/// A state was left for another one; observers hear of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    Opened(Duration),
    HalfOpened,
    Closed,
    /// It should have opened, and was not allowed to.
    Spared,
}

#[derive(Debug)]
pub(super) struct Machine {
    state: State,
    /// Grows with each state.
    generation: u64,
    /// How often it opened, as far as that was not forgotten.
    openings: u32,
    /// Since when it is closed; none of its openings are forgotten before.
    closed_at: Option<Instant>,
    /// Says when failures in a row are too many. Its durations are not used: failsafe's back-offs know whole seconds
    /// only.
    policy: ConsecutiveFailures<Constant>,
    /// Failures in a row; failsafe's policy cannot be asked for them.
    run: u32,
}

fn policy(threshold: NonZeroU32) -> ConsecutiveFailures<Constant> {
    consecutive_failures(threshold.get(), constant(Duration::ZERO))
}

impl Machine {
    pub(super) fn new(config: &CircuitBreakerConfig) -> Self {
        Self {
            state: State::Closed,
            generation: 0,
            openings: 0,
            closed_at: None,
            policy: policy(config.consecutive_failures),
            run: 0,
        }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Failures in a row since the last success.
    pub(super) fn run(&self) -> u32 {
        self.run
    }

    /// Takes another threshold over and keeps the failures that were counted. A threshold that they reach already
    /// opens the circuit with the next failure, not at once.
    pub(super) fn set_threshold(&mut self, threshold: NonZeroU32) {
        self.policy = policy(threshold);
        self.run = self.run.min(threshold.get() - 1);
        for _ in 0..self.run {
            self.policy.mark_dead_on_failure();
        }
    }

    /// Closes the circuit if so many probes are enough that have succeeded already: there may be none under way any
    /// more whose result would close it.
    pub(super) fn set_probes(&mut self, probes: NonZeroU16, now: Instant) -> Option<Transition> {
        match self.state {
            State::HalfOpen { succeeded, .. } if succeeded >= probes.get() => Some(self.close(now)),
            State::HalfOpen { .. } | State::Closed | State::Open { .. } => None,
        }
    }

    fn go(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
    }

    fn ticket(&self, probe: bool) -> Ticket {
        Ticket {
            generation: self.generation,
            probe,
        }
    }

    /// Lets a call pass, or says how long to wait.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        config: &CircuitBreakerConfig,
    ) -> Result<(Ticket, Option<Transition>), Duration> {
        let first_probe = State::HalfOpen {
            in_flight: 1,
            succeeded: 0,
            until: clock::after(now, config.max_open_for),
        };
        match &mut self.state {
            State::Closed => Ok((self.ticket(false), None)),
            State::Open { until } if now < *until => Err(*until - now),
            State::Open { .. } => {
                self.go(first_probe);
                Ok((self.ticket(true), Some(Transition::HalfOpened)))
            }
            State::HalfOpen {
                in_flight,
                succeeded,
                ..
            } if has_room(*in_flight, *succeeded, config) => {
                *in_flight += 1;
                Ok((self.ticket(true), None))
            }
            State::HalfOpen { until, .. } if now < *until => {
                Err((*until - now).min(config.open_for))
            }
            // The probes hang. A new round forgets them.
            State::HalfOpen { .. } => {
                self.go(first_probe);
                Ok((self.ticket(true), None))
            }
        }
    }

    /// The peer did what it should.
    pub(super) fn succeed(
        &mut self,
        ticket: Ticket,
        now: Instant,
        config: &CircuitBreakerConfig,
    ) -> Option<Transition> {
        if ticket.generation != self.generation {
            return None;
        }
        match &mut self.state {
            State::Closed => {
                self.policy.record_success();
                self.run = 0;
                None
            }
            State::HalfOpen {
                in_flight,
                succeeded,
                ..
            } => {
                *in_flight -= 1;
                *succeeded += 1;
                if *succeeded < config.probes.get() {
                    return None;
                }
                Some(self.close(now))
            }
            State::Open { .. } => None,
        }
    }

    /// Somebody who asked in another way, since the state of `generation` began, knows that the peer is well.
    pub(super) fn revive(&mut self, generation: u64, now: Instant) -> Option<Transition> {
        let is_ejected = self.state != State::Closed && generation == self.generation;
        is_ejected.then(|| self.close(now))
    }

    fn close(&mut self, now: Instant) -> Transition {
        self.policy.revived();
        self.run = 0;
        self.closed_at = Some(now);
        self.go(State::Closed);
        Transition::Closed
    }

    /// The peer failed. `counts` says whether this is one more of the failures in a row; `rate_broken`, whether the
    /// success rate is too low by now; `may_open` is asked before a closed circuit opens.
    pub(super) fn fail(
        &mut self,
        ticket: Ticket,
        (counts, rate_broken): (bool, bool),
        may_open: impl FnOnce() -> bool,
        now: Instant,
        config: &CircuitBreakerConfig,
        rng: &mut impl Rng,
    ) -> Option<Transition> {
        if ticket.generation != self.generation {
            return None;
        }
        let trips = match self.state {
            State::Closed if counts => {
                self.run = self.run.saturating_add(1);
                self.policy.mark_dead_on_failure().is_some() || rate_broken
            }
            State::Closed => rate_broken,
            State::HalfOpen { .. } => true,
            State::Open { .. } => false,
        };
        if !trips {
            return None;
        }
        if self.state == State::Closed {
            if !may_open() {
                return Some(Transition::Spared);
            }
            self.forget(now, config.forget_after);
        }
        let open_for = config.backoff().equal_jitter(self.openings, rng);
        self.openings = self.openings.saturating_add(1);
        self.go(State::Open {
            until: clock::after(now, open_for),
        });
        Some(Transition::Opened(open_for))
    }

    /// Forgets one opening for each `after` that it was closed.
    fn forget(&mut self, now: Instant, after: Duration) {
        let Some(closed_at) = self.closed_at.take() else {
            return;
        };
        let closed = now.saturating_duration_since(closed_at);
        let forgotten = closed.as_nanos().checked_div(after.as_nanos());
        let forgotten = forgotten.map_or(u32::MAX, |n| n.try_into().unwrap_or(u32::MAX));
        self.openings = self.openings.saturating_sub(forgotten);
    }

    /// The call was cancelled: a probe gives its place back.
    pub(super) fn cancel(&mut self, ticket: Ticket) {
        if ticket.generation == self.generation
            && let State::HalfOpen { in_flight, .. } = &mut self.state
        {
            *in_flight -= 1;
        }
    }
}

/// Whether one more probe may go.
pub(super) fn has_room(in_flight: u16, succeeded: u16, config: &CircuitBreakerConfig) -> bool {
    u32::from(in_flight) + u32::from(succeeded) < u32::from(config.probes.get())
}
