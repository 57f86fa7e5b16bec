//! How loaded an endpoint is: Peak-EWMA, with failures penalised.
//!
//! After Finagle's `PeakEwma` load metric and linkerd's load biaser: latency is an exponentially weighted moving
//! average that jumps up with a slow answer at once and comes down slowly; a failure, however fast, counts as a
//! slow answer that is forgotten sooner. What is still waited for counts, too: an endpoint that owes several answers and
//! of which nothing is heard is as slow as it has been silent, so one that hangs is left alone before anybody has
//! given up. One answer that is owed says nothing: some calls take long, and their endpoint must not be left alone for
//! it. Nothing here is written by reading: a read projects the decay to now.

use std::time::Duration;

use super::BalanceConfig;
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Below it all latencies are the same, and what is in flight decides.
const LEAST: f32 = 1e-6;
/// A peer may ask to be left alone for longer; it is not listened to for longer than that.
const MAX_LEAVE_ALONE: Duration = Duration::from_secs(300);

/// What of the configuration loads are reckoned with, in the numbers that they are reckoned with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    decay: Decay,
    forgiveness: Decay,
    /// In seconds, as the penalty.
    initial_latency: f32,
    pub(super) penalty: f32,
}

impl Terms {
    pub(super) const fn of(config: &BalanceConfig) -> Self {
        Self {
            decay: Decay::over(config.decay),
            forgiveness: Decay::over(config.forgiveness),
            initial_latency: config.initial_latency.as_secs_f32(),
            penalty: config.penalty.as_secs_f32(),
        }
    }
}

/// The milliseconds of [`clock::nanos`](crate::clock::nanos), which wrap after seven weeks, as [`Decaying`] knows.
pub(super) fn millis(nanos: u64) -> u32 {
    (nanos / 1_000_000) as u32
}

/// What is known about the load of one endpoint. All of it is atomic; the pick takes no lock. Moments are those of
/// [`millis`], latencies are in seconds.
#[derive(Debug, Default)]
pub(super) struct Load {
    latency: Decaying,
    penalty: Decaying,
    /// How many requests are in flight, in the lower half of the word; in the upper half the millisecond since which
    /// nothing was heard: when it last got something to do, or answered while it had more to do.
    pending: AtomicU64,
}

impl Load {
    /// One more request is in flight.
    pub(super) fn enter(&self, now: u32) {
        let _ = self.pending.fetch_update(Relaxed, Relaxed, |word| {
            Some(match word as u32 {
                0 => stamped(now, 1),
                _ => word + 1,
            })
        });
    }

    /// One less, of which nothing was heard.
    pub(super) fn leave(&self) {
        self.pending.fetch_sub(1, Relaxed);
    }

    /// One less, for the endpoint gave a sign of life.
    pub(super) fn heard(&self, now: u32) {
        let _ = self
            .pending
            .fetch_update(Relaxed, Relaxed, |word| Some(stamped(now, word as u32 - 1)));
    }

    /// How many are in flight.
    pub(super) fn in_flight(&self) -> u32 {
        self.pending.load(Relaxed) as u32
    }

    /// A request was answered after `latency`.
    pub(super) fn answered(&self, now: u32, latency: f32, terms: &Terms) {
        // Never 0, which says that nothing was measured.
        self.latency.learn(now, latency.max(LEAST), terms.decay);
        self.penalty.forget(now, terms.forgiveness);
    }

    /// A request was given up after `waited`; an answer would have taken at least that long.
    pub(super) fn unanswered(&self, now: u32, waited: f32, terms: &Terms) {
        self.latency.raise(now, waited, terms.decay);
    }

    /// A request failed, and the peer asked to be left alone for `leave_alone`.
    pub(super) fn failed(&self, now: u32, leave_alone: Duration, terms: &Terms) {
        // A stamp in the future: the penalty begins to be forgotten only then.
        let leave_alone = leave_alone.min(MAX_LEAVE_ALONE).as_millis() as u32;
        let until = now.wrapping_add(leave_alone);
        self.penalty.raise(until, terms.penalty, terms.forgiveness);
    }

    /// Whether an answer takes no longer than `waited`, as far as that is known. What was learnt long ago is not less
    /// true of one answer.
    pub(super) fn answers_within(&self, waited: f32, terms: &Terms) -> bool {
        waited >= self.latency.last().unwrap_or(terms.initial_latency)
    }

    /// What one more request would have to wait.
    pub(super) fn cost(&self, now: u32, terms: &Terms) -> Cost {
        let pending = self.pending.load(Relaxed);
        let in_flight = pending as u32;
        let assumed = terms.initial_latency;
        let silent = match in_flight {
            0 | 1 => 0.0,
            _ => silent_millis((pending >> 32) as u32, now) as f32 / 1e3,
        };
        Cost {
            latency: match self.latency.at(now, terms.decay) {
                Some(latency) => Some(latency.max(silent)),
                None => (silent > assumed).then_some(silent),
            },
            penalty: self.penalty.at(now, terms.forgiveness).unwrap_or_default(),
            requests: (in_flight + 1) as f32,
            assumed,
        }
    }

    #[cfg(test)]
    fn score(&self, now: u32, terms: &Terms) -> f32 {
        self.cost(now, terms).alone()
    }
}

fn stamped(millis: u32, count: u32) -> u64 {
    u64::from(millis) << 32 | u64::from(count)
}

/// The difference of two wrapping counters; 0 where somebody else has read the clock later.
fn silent_millis(since: u32, now: u32) -> u32 {
    let millis = now.wrapping_sub(since);
    if millis > u32::MAX / 2 { 0 } else { millis }
}

/// What one more request would have to wait, as a guess that is good for comparing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    /// In seconds; `None` where nothing was measured yet.
    pub(super) latency: Option<f32>,
    pub(super) penalty: f32,
    /// How many there would be with this one, over the weight.
    pub(super) requests: f32,
    /// The latency where nothing was measured.
    pub(super) assumed: f32,
}

impl Cost {
    fn with(&self, unknown: f32) -> f32 {
        (self.latency.unwrap_or(unknown) + self.penalty).max(LEAST) * self.requests
    }

    /// In seconds.
    pub(super) fn alone(&self) -> f32 {
        self.with(self.assumed)
    }

    /// Whether it is lower than `other`. One that has not been measured is taken to be no slower than the other:
    /// only so will it be measured, however fast the others are.
    pub(super) fn is_below(&self, other: &Self) -> bool {
        let like = |rival: &Self| rival.latency.unwrap_or(self.assumed).min(self.assumed);
        self.with(like(other)) < other.with(like(self))
    }
}

/// How fast something decays exponentially: which part of it a millisecond takes, over `2^POWER`.
#[derive(Clone, Copy, Debug)]
struct Decay(f32);

impl Decay {
    const POWER: i32 = 8;

    /// So that 63 % of it are lost in this time.
    const fn over(time: Duration) -> Self {
        let millis = time.as_secs_f32().max(1e-3) * 1e3;
        Self(1.0 / millis / (1 << Self::POWER) as f32)
    }

    /// What is left of 1 after so many milliseconds: e^-x as (1 - x/n)^n, which takes a dozen instructions. It is 0.2 %
    /// less than that where a third is left, and 1 % where a tenth is.
    fn left(self, millis: u32) -> f32 {
        let left = (1.0 - millis as f32 * self.0).max(0.0);
        (0..Self::POWER).fold(left, |left, _| left * left)
    }
}

/// A number that decays exponentially: its value in the upper half of the word, as the bits of an `f32`, and the
/// millisecond at which it had that value in the lower half.
#[derive(Debug, Default)]
struct Decaying(AtomicU64);

impl Decaying {
    fn project(word: u64, now: u32, decay: Decay) -> f32 {
        let value = f32::from_bits((word >> 32) as u32);
        if value == 0.0 {
            return 0.0;
        }
        // The difference of two wrapping counters. A stamp may be in the future, but not further than a peer is left
        // alone: what seems to be is from weeks ago.
        let ahead = (word as u32).wrapping_sub(now);
        let age = match ahead <= MAX_LEAVE_ALONE.as_millis() as u32 {
            true => 0,
            false => ahead.wrapping_neg(),
        };
        value * decay.left(age)
    }

    /// `None` if it never had a value.
    fn at(&self, now: u32, decay: Decay) -> Option<f32> {
        let word = self.0.load(Relaxed);
        (word >> 32 != 0).then(|| Self::project(word, now, decay))
    }

    /// The value that it had when it last changed; `None` if it never had one.
    fn last(&self) -> Option<f32> {
        let word = self.0.load(Relaxed);
        (word >> 32 != 0).then(|| f32::from_bits((word >> 32) as u32))
    }

    fn update(&self, stamp: u32, value: impl Fn(u64) -> Option<f32>) {
        // What is lost when all of this fails is nothing: the closure says that there is nothing to change.
        let _ = self.0.fetch_update(Relaxed, Relaxed, |word| {
            let value = value(word)?;
            Some(u64::from(value.to_bits()) << 32 | u64::from(stamp))
        });
    }

    /// The value is at least `sample`.
    fn raise(&self, stamp: u32, sample: f32, decay: Decay) {
        self.update(stamp, |word| {
            (sample > Self::project(word, stamp, decay)).then_some(sample)
        });
    }

    /// A value of which nothing is left is forgotten, before the counter of its stamp comes round to it again.
    fn forget(&self, now: u32, decay: Decay) {
        let word = self.0.load(Relaxed);
        if word != 0 && Self::project(word, now, decay) < LEAST {
            // Whoever raised it meanwhile knows better.
            let _ = self.0.compare_exchange(word, 0, Relaxed, Relaxed);
        }
    }

    /// The value goes to `sample`: up at once, down in proportion to the time since the last sample.
    fn learn(&self, now: u32, sample: f32, decay: Decay) {
        self.update(now, |word| {
            let value = f32::from_bits((word >> 32) as u32);
            let projected = Self::project(word, now, decay);
            // The weight of what was before is what is left of it; that of the sample is the rest.
            let kept = if value == 0.0 { 0.0 } else { projected / value };
            Some((projected + sample * (1.0 - kept)).max(sample))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Ratio;

    const CONFIG: BalanceConfig = BalanceConfig {
        decay: Duration::from_secs(10),
        initial_latency: Duration::from_millis(30),
        penalty: Duration::from_secs(5),
        forgiveness: Duration::from_secs(2),
        panic_threshold: Ratio::ONE,
        discovery_wait: Duration::from_secs(1),
        empty_wait: Duration::ZERO,
        pick: super::super::Pick::PeakEwma,
        hash_slack: Ratio::ZERO,
        slow_start: Duration::ZERO,
        locality: None,
        subset: None,
    };

    const TERMS: Terms = Terms::of(&CONFIG);

    fn secs(millis: u16) -> f32 {
        f32::from(millis) / 1e3
    }

    #[test]
    fn a_fast_failure_makes_an_endpoint_less_attractive_than_a_slow_answer() {
        let now = 7_000;
        let [failing, slow] = [(); 2].map(|()| Load::default());
        failing.answered(now, secs(1), &TERMS);
        failing.failed(now, Duration::ZERO, &TERMS);
        slow.answered(now, secs(2000), &TERMS);
        assert!(failing.score(now, &TERMS) > slow.score(now, &TERMS));
    }

    #[test]
    fn a_failure_is_forgiven_after_some_seconds() {
        let now = 7_000;
        let load = Load::default();
        load.answered(now, secs(1), &TERMS);
        load.failed(now, Duration::ZERO, &TERMS);
        assert!(load.score(now, &TERMS) >= 5.0);
        assert!(load.score(now + 20_000, &TERMS) < 0.005);
    }

    #[test]
    fn a_peer_that_asks_to_be_left_alone_is_forgiven_only_after_that() {
        let now = 7_000;
        let load = Load::default();
        load.answered(now, secs(1), &TERMS);
        load.failed(now, Duration::from_millis(30_000), &TERMS);
        assert!(load.score(now + 29_000, &TERMS) >= 5.0);
        assert!(load.score(now + 50_000, &TERMS) < 0.005);
        // More than five minutes are not granted.
        let greedy = Load::default();
        greedy.failed(now, Duration::from_millis(86_400_000), &TERMS);
        assert!(greedy.score(now + 299_000, &TERMS) >= 5.0);
        assert!(greedy.score(now + 320_000, &TERMS) < 0.04);
        // An earlier end does not shorten it.
        load.failed(now + 1000, Duration::ZERO, &TERMS);
        assert!(load.score(now + 29_000, &TERMS) >= 5.0);
    }

    #[test]
    fn latency_goes_up_at_once_and_down_slowly() {
        let now = 7_000;
        let load = Load::default();
        load.answered(now, secs(500), &TERMS);
        assert_eq!(load.score(now, &TERMS), 0.5);
        load.answered(now + 1000, secs(100), &TERMS);
        let score = load.score(now + 1000, &TERMS);
        assert!((0.4..0.5).contains(&score), "{score}");
    }

    #[test]
    fn reading_projects_the_decay_and_changes_nothing() {
        let now = 7_000;
        let load = Load::default();
        load.answered(now, secs(500), &TERMS);
        let later = load.score(now + 10_000, &TERMS);
        assert!((0.18..0.19).contains(&later), "{later}");
        assert_eq!(load.score(now, &TERMS), 0.5);
    }

    #[test]
    fn giving_up_early_says_nothing_about_an_endpoint_that_is_slower_anyway() {
        let now = 7_000;
        let load = Load::default();
        load.answered(now, secs(500), &TERMS);
        load.unanswered(now, secs(100), &TERMS);
        assert_eq!(load.score(now, &TERMS), 0.5);
        load.unanswered(now, secs(900), &TERMS);
        assert_eq!(load.score(now, &TERMS), 0.9);
    }

    #[test]
    fn one_that_was_not_measured_is_as_good_as_any_until_it_was() {
        let now = 7_000;
        let [fast, slow, cold] = [(); 3].map(|()| Load::default());
        fast.answered(now, secs(1), &TERMS);
        slow.answered(now, secs(100), &TERMS);
        let below = |a: &Load, b: &Load| a.cost(now, &TERMS).is_below(&b.cost(now, &TERMS));
        assert!(!below(&fast, &cold) && !below(&cold, &fast));
        assert!(below(&cold, &slow));
        fast.enter(now);
        assert!(below(&cold, &fast));
        cold.enter(now);
        assert!(!below(&cold, &fast));
        // It learns from its first answer as from no later one.
        cold.leave();
        cold.answered(now, secs(2), &TERMS);
        assert_eq!(cold.score(now, &TERMS), 0.002);
        assert!(below(&cold, &slow) && !below(&slow, &cold));
        // A failure tells, too.
        let failed = Load::default();
        failed.failed(now, Duration::ZERO, &TERMS);
        assert!(below(&slow, &failed));
    }

    #[test]
    fn among_idle_endpoints_what_is_in_flight_decides() {
        let now = 7_000;
        let later = now + 3_600_000;
        let [busy, idle] = [(); 2].map(|()| Load::default());
        busy.enter(later);
        assert!(busy.score(later, &TERMS) > idle.score(later, &TERMS));
        busy.leave();
        assert_eq!(busy.score(later, &TERMS), idle.score(later, &TERMS));
    }

    #[test]
    fn one_that_owes_several_answers_is_as_slow_as_it_has_been_silent() {
        let now = 7_000;
        let [hangs, cold] = [(); 2].map(|()| Load::default());
        hangs.answered(now, secs(10), &TERMS);
        let latency = |load: &Load, at| load.cost(at, &TERMS).latency;
        // Nobody expects anything of it.
        let later = now + 60_000;
        assert!(latency(&hangs, later).unwrap() < 0.001);
        for load in [&hangs, &cold] {
            load.enter(later);
            load.enter(later + 50);
        }
        assert_eq!(latency(&hangs, later + 100), Some(0.1));
        assert_eq!(latency(&cold, later + 100), Some(0.1));
        // Who is new has the time that is assumed of it.
        assert_eq!(latency(&cold, later + 20), None);
        // Who read the clock earlier does not take it for silent.
        assert!(latency(&hangs, later - 1).unwrap() < 0.001);
        // A call that was given up says nothing, an answer says that it lives.
        hangs.enter(later + 150);
        hangs.leave();
        assert_eq!(latency(&hangs, later + 200), Some(0.2));
        hangs.enter(later + 200);
        hangs.heard(later + 300);
        assert_eq!(hangs.in_flight(), 2);
        assert_eq!(latency(&hangs, later + 301), Some(0.001));
        assert_eq!(latency(&hangs, later + 400), Some(0.1));
        // One alone may be a call that takes long.
        hangs.leave();
        assert!(latency(&hangs, later + 500).unwrap() < 0.001);
    }

    #[test]
    fn a_penalty_of_weeks_ago_does_not_come_back() {
        let start = 7_000_u32;
        let load = Load::default();
        load.answered(start, secs(1), &TERMS);
        load.failed(start, Duration::ZERO, &TERMS);
        let day = 86_400_000;
        // Where nobody asks meanwhile, and so nobody has a reason to forget it.
        for days in [1, 24, 25, 30, 49] {
            let score = load.score(start + day * days, &TERMS);
            assert!(score < 0.01, "{score} after {days} days");
        }
        // And where somebody does, not even when the counter of milliseconds has wrapped.
        load.answered(start + day, secs(1), &TERMS);
        load.answered(start, secs(1), &TERMS);
        let score = load.score(start, &TERMS);
        assert!(score < 0.01, "{score}");
    }

    #[test]
    fn an_answer_takes_nothing_from_a_penalty_that_holds() {
        let now = 7_000;
        let load = Load::default();
        load.failed(now, Duration::from_millis(30_000), &TERMS);
        load.answered(now + 10_000, secs(1), &TERMS);
        assert!(load.score(now + 30_000, &TERMS) >= 5.0);
    }

    #[test]
    fn seven_weeks_do_not_turn_the_past_into_the_future() {
        let load = Load::default();
        let before = u32::MAX - 10;
        load.answered(before, secs(500), &TERMS);
        assert!(load.score(before.wrapping_add(10_000), &TERMS) < 0.19);
    }

    /// What `value` is at 60 s, after it was 5 at 0 s and two threads did what they do at 60 s.
    #[cfg(kit_loom)]
    fn in_every_order(
        one: fn(&Decaying, u32),
        other: fn(&Decaying, u32),
        check: impl Fn(f32) + Send + Sync + 'static,
    ) {
        loom::model(move || {
            let value = std::sync::Arc::new(Decaying::default());
            value.raise(0, 5.0, TERMS.forgiveness);
            let shared = std::sync::Arc::clone(&value);
            let other = loom::thread::spawn(move || other(&shared, 60_000));
            one(&value, 60_000);
            other.join().unwrap();
            check(value.at(60_000, TERMS.forgiveness).unwrap());
        });
    }

    #[cfg(kit_loom)]
    #[test]
    fn in_every_order_the_higher_of_two_samples_stays() {
        let high: fn(&Decaying, u32) = |value, now| value.raise(now, 2.0, TERMS.forgiveness);
        let low: [fn(&Decaying, u32); 2] = [
            |value, now| value.raise(now, 1.0, TERMS.forgiveness),
            |value, now| value.learn(now, 1.0, TERMS.forgiveness),
        ];
        for low in low {
            in_every_order(high, low, |value| assert_eq!(value, 2.0));
        }
    }

    #[cfg(kit_loom)]
    #[test]
    fn in_every_order_a_penalty_that_is_new_is_not_forgotten_with_the_old_one() {
        in_every_order(
            |value, now| value.forget(now, TERMS.forgiveness),
            |value, now| value.raise(now, 5.0, TERMS.forgiveness),
            |value| assert_eq!(value, 5.0),
        );
    }
}
