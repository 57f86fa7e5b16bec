//! A circuit that many share: the machine behind a lock, and one atomic word of it for those who only pass.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    config::CircuitBreakerConfig,
    fleet::{Fleet, Member},
    machine::{Machine, State, Ticket, Transition, has_room},
};
use crate::{
    classify::Outcome,
    clock,
    event::{Event, SharedObserver},
    policy::{Admit, Column, Live, Permit, Window},
    rejection::Rejection,
    sync::{
        Mutex, MutexGuard,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

/// Where a circuit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CircuitState {
    /// Calls pass.
    Closed,
    /// Calls are refused.
    Open,
    /// A few calls pass, to see whether the peer is back.
    HalfOpen,
}

/// A circuit breaker that judges one peer, or one service. Clones are the same circuit.
///
/// A call through a closed circuit whose last result was good reads one atomic word when it begins and one when it
/// ends, and counts in one more where a success rate is asked for. The lock is taken for failures, for what follows
/// them, and for probes.
#[derive(Clone)]
pub struct Circuit {
    shared: Arc<Shared>,
}

struct Shared {
    name: Arc<str>,
    observer: SharedObserver,
    /// `None` where it stands alone.
    member: Option<Member>,
    epoch: Instant,
    settings: Live<Settings>,
    machine: Mutex<Machine>,
    // What the machine says, for those who do not take the lock. Written under it.
    /// The generation and, in the lowest two bits, the [`Code`].
    word: AtomicU64,
    /// Until when it stays open, or half open with hanging probes: nanoseconds of
    /// [`clock::nanos`].
    until: AtomicU64,
    /// Whether there were failures since the last success, so that a success must be told to the machine.
    failing: AtomicBool,
}

struct Settings {
    config: CircuitBreakerConfig,
    /// Successes to the left, failures to the right.
    window: Option<Arc<Window>>,
}

/// The state in two bits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Code {
    Closed = 0,
    Open = 1,
    /// All probes are under way.
    Full = 2,
    /// A probe may go.
    Room = 3,
}

fn code(word: u64) -> Code {
    match word & 3 {
        0 => Code::Closed,
        1 => Code::Open,
        2 => Code::Full,
        _ => Code::Room,
    }
}

impl Circuit {
    /// A closed circuit. `name` stands in the events that `observer` hears.
    pub fn new(
        name: impl Into<Arc<str>>,
        config: CircuitBreakerConfig,
        observer: SharedObserver,
    ) -> Self {
        Self::of(name.into(), config, observer, None)
    }

    /// A closed circuit that opens only where not too many of `fleet` are open
    /// ([`max_ejected`](CircuitBreakerConfig::max_ejected)), until its last clone and last call are dropped. Its
    /// events are heard by the fleet's observer.
    pub fn in_fleet(
        name: impl Into<Arc<str>>,
        config: CircuitBreakerConfig,
        fleet: &Fleet,
    ) -> Self {
        let observer = Arc::clone(fleet.observer());
        Self::of(name.into(), config, observer, Some(fleet.join()))
    }

    fn of(
        name: Arc<str>,
        config: CircuitBreakerConfig,
        observer: SharedObserver,
        member: Option<Member>,
    ) -> Self {
        let epoch = Instant::now();
        Self {
            shared: Arc::new(Shared {
                name,
                observer,
                member,
                epoch,
                settings: Live::new(Settings {
                    config,
                    window: window(&config, epoch),
                }),
                machine: Mutex::new(Machine::new(&config)),
                word: AtomicU64::new(Code::Closed as u64),
                until: AtomicU64::new(0),
                failing: AtomicBool::new(false),
            }),
        }
    }

    /// The name that stands in events.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Where it stands. An open circuit whose time is over stays open until somebody calls.
    pub fn state(&self) -> CircuitState {
        match code(self.shared.word.load(Acquire)) {
            Code::Closed => CircuitState::Closed,
            Code::Open => CircuitState::Open,
            Code::Full | Code::Room => CircuitState::HalfOpen,
        }
    }

    /// The configuration at this moment.
    pub fn config(&self) -> CircuitBreakerConfig {
        self.shared.settings.get().config
    }

    /// Replaces the configuration while calls pass. State and failures in a row are kept, and so are the counts of
    /// the success rate, as far as it is not too old for its window. It closes if fewer probes are asked for than have
    /// succeeded.
    pub fn replace(&self, config: CircuitBreakerConfig) {
        let shared = &*self.shared;
        let transition = {
            let mut machine = shared.lock();
            shared.configure(config);
            machine.set_threshold(config.consecutive_failures);
            let transition = machine.set_probes(config.probes, clock::now());
            shared.settle(transition, &machine);
            transition
        };
        shared.tell(transition);
    }

    /// Begins to ask the peer in another way than through calls, such as for its health. `None` while the circuit is
    /// closed: there is nothing to find out.
    pub fn examine(&self) -> Option<Examination> {
        let word = self.shared.word.load(Acquire);
        (code(word) != Code::Closed).then(|| Examination {
            shared: Arc::clone(&self.shared),
            generation: word >> 2,
        })
    }
}

/// A question to the peer of a [`Circuit`] that is not closed, see [`Circuit::examine`]. Dropping it changes nothing.
#[must_use = "a question whose answer nobody tells changes nothing"]
pub struct Examination {
    shared: Arc<Shared>,
    generation: u64,
}

impl Examination {
    /// The peer is well: the circuit closes, unless it has gone from one state to another meanwhile. How often it
    /// opened is not forgotten by that.
    pub fn passed(self, now: Instant) {
        let shared = &self.shared;
        let transition = {
            let mut machine = shared.lock();
            let transition = machine.revive(self.generation, now);
            shared.settle(transition, &machine);
            transition
        };
        shared.tell(transition);
    }
}

impl fmt::Debug for Examination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Examination")
            .field(&self.shared.name)
            .finish()
    }
}

fn window(config: &CircuitBreakerConfig, epoch: Instant) -> Option<Arc<Window>> {
    let rate = config.success_rate?;
    Some(Arc::new(Window::new(rate.window, epoch)))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().expect("no panic while locked")
    }

    /// Takes another configuration over, under the lock.
    fn configure(&self, config: CircuitBreakerConfig) {
        let old = self.settings.get();
        let span = |config: &CircuitBreakerConfig| config.success_rate.map(|rate| rate.window);
        let window = match (&old.window, span(&config)) {
            (same, new) if span(&old.config) == new => same.clone(),
            (Some(window), Some(span)) => Some(Arc::new(window.over(span, clock::now()))),
            _ => window(&config, self.epoch),
        };
        self.settings.set(Settings { config, window });
    }

    fn nanos(&self, now: Instant) -> u64 {
        clock::nanos(now)
    }

    /// Shows to those without the lock what the machine says.
    fn publish(&self, machine: &Machine, config: &CircuitBreakerConfig) {
        let (code, until) = match machine.state() {
            State::Closed => (Code::Closed, None),
            State::Open { until } => (Code::Open, Some(until)),
            State::HalfOpen {
                in_flight,
                succeeded,
                until,
            } => {
                let room = has_room(in_flight, succeeded, config);
                (if room { Code::Room } else { Code::Full }, Some(until))
            }
        };
        self.failing.store(machine.run() > 0, Relaxed);
        if let Some(until) = until {
            self.until.store(self.nanos(until), Relaxed);
        }
        // Last: who reads this word reads the rest as it was then, or later.
        let word = machine.generation() << 2 | code as u64;
        self.word.store(word, Release);
    }

    /// Does, under the lock, what a transition entails.
    fn settle(&self, transition: Option<Transition>, machine: &Machine) {
        let settings = self.settings.get();
        if transition == Some(Transition::Closed) {
            if let Some(window) = &settings.window {
                window.clear();
            }
            if let Some(member) = &self.member {
                member.restore();
            }
        }
        self.publish(machine, &settings.config);
    }

    /// Tells the observer, outside the lock.
    fn tell(&self, transition: Option<Transition>) {
        let circuit = &*self.name;
        let event = match transition {
            None => return,
            Some(Transition::Opened(open_for)) => Event::CircuitOpened { circuit, open_for },
            Some(Transition::HalfOpened) => Event::CircuitHalfOpened { circuit },
            Some(Transition::Closed) => Event::CircuitClosed { circuit },
            Some(Transition::Spared) => Event::CircuitSpared { circuit },
        };
        self.observer.observe(event);
        if let (Some(Transition::Closed), Some(member)) = (transition, &self.member) {
            member.tell_restored();
        }
    }

    /// How long the circuit stays as it is, as far as the published words tell; zero when that is over.
    fn remaining(&self, now: Instant) -> Duration {
        let until = self.until.load(Relaxed);
        Duration::from_nanos(until.saturating_sub(self.nanos(now)))
    }

    fn admit(&self, now: Instant) -> Result<Ticket, Rejection> {
        let word = self.word.load(Acquire);
        match code(word) {
            Code::Closed => Ok(Ticket {
                generation: word >> 2,
                probe: false,
            }),
            code => self.admit_probe(code, now),
        }
    }

    /// Where it is not closed: a probe passes, or it is said when one may.
    #[cold]
    fn admit_probe(&self, code: Code, now: Instant) -> Result<Ticket, Rejection> {
        let retry_after = match code {
            Code::Open => self.remaining(now),
            Code::Full => {
                let open_for = self.settings.get().config.open_for;
                self.remaining(now).min(open_for)
            }
            Code::Room | Code::Closed => Duration::ZERO,
        };
        if !retry_after.is_zero() {
            return Err(Rejection::CircuitOpen { retry_after });
        }
        let (ticket, transition) = {
            let mut machine = self.lock();
            let config = self.settings.get().config;
            let admitted = machine
                .admit(now, &config)
                .map_err(|retry_after| Rejection::CircuitOpen { retry_after })?;
            self.publish(&machine, &config);
            admitted
        };
        self.tell(transition);
        Ok(ticket)
    }

    /// The call that was admitted at `since` was answered as it should be.
    fn succeed(&self, ticket: Ticket, since: Instant, now: Instant) {
        let closed = ticket.generation << 2 | Code::Closed as u64;
        if !ticket.probe && self.word.load(Acquire) != closed {
            return;
        }
        let settings = self.settings.get();
        let slow = |slow| now.saturating_duration_since(since) > slow;
        if settings.config.slow_call.is_some_and(slow) {
            return self.fail(ticket, true, now);
        }
        if !ticket.probe {
            if let Some(window) = &settings.window {
                window.add(now, Column::Left);
            }
            if !self.failing.load(Relaxed) {
                return;
            }
        }
        self.recover(ticket, now);
    }

    /// Tells the machine of a success that may close the circuit, or end a run of failures.
    #[cold]
    fn recover(&self, ticket: Ticket, now: Instant) {
        let transition = {
            let mut machine = self.lock();
            let transition = machine.succeed(ticket, now, &self.settings.get().config);
            self.settle(transition, &machine);
            transition
        };
        self.tell(transition);
    }

    #[cold]
    fn fail(&self, ticket: Ticket, counts: bool, now: Instant) {
        let mut ejected = None;
        let transition = {
            let mut machine = self.lock();
            let settings = self.settings.get();
            let late = ticket.generation != machine.generation();
            let rate_broken = match (&settings.window, settings.config.success_rate) {
                (Some(window), Some(rate)) if !late && !ticket.probe => {
                    window.add(now, Column::Right);
                    rate.is_broken_by(window.sum(now))
                }
                _ => false,
            };
            let may_open = || match &self.member {
                Some(member) if member.eject(settings.config.max_ejected) => {
                    ejected = Some(member);
                    true
                }
                Some(_) => false,
                None => true,
            };
            let transition = machine.fail(
                ticket,
                (counts, rate_broken),
                may_open,
                now,
                &settings.config,
                &mut rand::rng(),
            );
            self.settle(transition, &machine);
            transition
        };
        self.tell(transition);
        if let Some(member) = ejected {
            member.tell_ejected();
        }
    }

    fn cancel(&self, ticket: Ticket) {
        if ticket.probe {
            let mut machine = self.lock();
            machine.cancel(ticket);
            self.publish(&machine, &self.settings.get().config);
        }
    }
}

impl Admit for Circuit {
    type Permit = CircuitPermit;

    fn is_available(&self, now: Instant) -> bool {
        match code(self.shared.word.load(Acquire)) {
            Code::Closed | Code::Room => true,
            Code::Open | Code::Full => self.shared.remaining(now).is_zero(),
        }
    }

    fn admit(&self, now: Instant) -> Result<CircuitPermit, Rejection> {
        let ticket = self.shared.admit(now)?;
        Ok(CircuitPermit {
            call: Some((Arc::clone(&self.shared), ticket)),
            since: now,
        })
    }
}

impl fmt::Debug for Circuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Circuit")
            .field("name", &self.name())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// One call that passed a [`Circuit`]. Dropping it says that the call was cancelled; a probe then gives its place
/// to another one.
pub struct CircuitPermit {
    call: Option<(Arc<Shared>, Ticket)>,
    since: Instant,
}

impl Permit for CircuitPermit {
    fn finish(mut self, now: Instant, outcome: Outcome) {
        let Some((circuit, ticket)) = self.call.take() else {
            return;
        };
        match outcome {
            // A caller that asks for nonsense is told so by a peer that is well.
            Outcome::Success | Outcome::CallerFault => circuit.succeed(ticket, self.since, now),
            Outcome::Failure => circuit.fail(ticket, true, now),
            // A peer that says so is alive, so this is no failure in a row; but it should be asked less.
            Outcome::Overload => circuit.fail(ticket, false, now),
            Outcome::Rejected => circuit.cancel(ticket),
        }
    }
}

impl Drop for CircuitPermit {
    fn drop(&mut self) {
        if let Some((circuit, ticket)) = self.call.take() {
            circuit.cancel(ticket);
        }
    }
}

impl fmt::Debug for CircuitPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ticket = self.call.as_ref().map(|(_, ticket)| ticket);
        f.debug_struct("CircuitPermit")
            .field("ticket", &ticket)
            .finish()
    }
}
