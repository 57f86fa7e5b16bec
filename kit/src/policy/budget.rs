//! How much of the load may be extra attempts: retries and hedges.
//!
//! A bound per call multiplies: three hops that try three times each are 27 calls. A bound on the share of retries
//! holds whatever fails: tower and Finagle keep it as tokens over a window, as is done here.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Column, Live, Ratio, Reader, Tick, Window};

/// How many retries a [`Budget`] allows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetConfig {
    /// Retries as a share of the calls in the window. Default 0.2.
    pub ratio: Ratio,
    /// The time over which calls and retries count, to a tenth of it. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// Retries that are allowed in any case, per second, for clients that call seldom: where the share is less than
    /// this, this counts in its place. A whole window's worth may be used at once. Default 3.
    pub floor: u32,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self {
            ratio: Ratio::new(0.2).expect("a fifth"),
            window: Duration::from_secs(10),
            floor: 3,
        }
    }
}

/// Counts calls and retries, and says whether one more retry is allowed. Clones share one budget: give it to all
/// clients that call the same service, hedging ones too.
///
/// No lock: a withdrawal is counted first and looked at then, so that two can never both take the last one. Two at
/// the same moment may both be refused it.
#[derive(Clone, Debug)]
pub struct Budget {
    terms: Live<Terms>,
}

/// What a [`Budget`] allows now, and what was counted.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    config: BudgetConfig,
    /// Calls to the left, retries to the right.
    window: Arc<Window>,
}

impl Terms {
    /// Counts a call, not a retry of one.
    pub(crate) fn deposit(&self, now: Instant) {
        self.window.add(now, Column::Left);
    }
}

impl Budget {
    /// A budget with nothing counted.
    pub fn new(config: BudgetConfig) -> Self {
        let window = Arc::new(Window::new(config.window, Instant::now()));
        Self {
            terms: Live::new(Terms { config, window }),
        }
    }

    /// Replaces how much it allows while calls pass. What was counted stays counted, as long as it is not older than a
    /// shorter window; what is counted by another thread at this very moment may be lost where the window is another one.
    pub fn replace(&self, config: BudgetConfig) {
        let old = self.terms.get();
        let window = match old.config.window == config.window {
            true => Arc::clone(&old.window),
            false => Arc::new(old.window.over(config.window, Instant::now())),
        };
        self.terms.set(Terms { config, window });
    }

    /// Counts a call, not a retry of one.
    pub fn deposit(&self, now: Instant) {
        self.terms.get().deposit(now);
    }

    /// A reader for one who counts many.
    pub(crate) fn reader(&self) -> Reader<Terms> {
        self.terms.reader()
    }

    /// Takes one retry out of the budget, or `None` when it is used up.
    pub fn withdraw(&self, now: Instant) -> Option<Withdrawal> {
        let Terms { config, window } = &**self.terms.get();
        let tick = window.add(now, Column::Right);
        let withdrawal = Withdrawal {
            taken: Some((Arc::clone(window), tick)),
        };
        let (calls, retries) = window.sum(now);
        // If this is too much, dropping it gives it back.
        (retries as f64 <= config.allowance(calls)).then_some(withdrawal)
    }
}

impl BudgetConfig {
    fn allowance(&self, calls: u64) -> f64 {
        let share = self.ratio.get() * calls as f64;
        let reserve = f64::from(self.floor) * self.window.as_secs_f64();
        // A fifth is a little less than a fifth in binary; five calls allow one retry all the same.
        (share.max(reserve) + 1e-6).floor()
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(BudgetConfig::default())
    }
}

/// A retry that is allowed. Dropped unspent, for the caller went away before it was made, it goes back into the
/// budget.
#[derive(Debug)]
#[must_use = "dropping it gives it back"]
pub struct Withdrawal {
    /// In which window it was counted, and when.
    taken: Option<(Arc<Window>, Tick)>,
}

impl Withdrawal {
    /// The retry is made.
    pub fn spend(mut self) {
        self.taken = None;
    }
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        if let Some((window, tick)) = self.taken.take() {
            window.take_back(tick, Column::Right);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn config(ratio: f64, floor: u32) -> BudgetConfig {
        BudgetConfig {
            ratio: Ratio::new(ratio).unwrap(),
            window: SECOND * 10,
            floor,
        }
    }

    fn budget(ratio: f64, floor: u32) -> Budget {
        Budget::new(config(ratio, floor))
    }

    fn withdrawn(budget: &Budget, now: Instant) -> usize {
        std::iter::from_fn(|| budget.withdraw(now))
            .map(Withdrawal::spend)
            .count()
    }

    #[tokio::test(start_paused = true)]
    async fn retries_are_a_share_of_the_calls_and_a_floor() {
        let now = Instant::now();
        let floor = budget(0.2, 3);
        assert_eq!(withdrawn(&floor, now), 30);
        let share = budget(0.2, 0);
        assert_eq!(withdrawn(&share, now), 0);
        (0..99).for_each(|_| share.deposit(now));
        assert_eq!(withdrawn(&share, now), 19);
        share.deposit(now);
        assert_eq!(withdrawn(&share, now), 1);
        // Both are forgotten together.
        assert_eq!(withdrawn(&share, now + SECOND * 10), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_spent_goes_back() {
        let now = Instant::now();
        let budget = budget(1.0, 0);
        budget.deposit(now);
        drop(budget.withdraw(now).unwrap());
        budget.withdraw(now).unwrap().spend();
        assert!(budget.withdraw(now).is_none());
        assert!(budget.clone().withdraw(now).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_replaced_share_keeps_what_was_counted() {
        let now = Instant::now();
        let budget = budget(0.5, 0);
        (0..10).for_each(|_| budget.deposit(now));
        assert_eq!(withdrawn(&budget, now), 5);
        budget.replace(config(1.0, 0));
        assert_eq!(withdrawn(&budget, now), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_replaced_window_keeps_what_was_counted_within_it() {
        let budget = budget(0.5, 0);
        let deposit = |calls: usize| (0..calls).for_each(|_| budget.deposit(Instant::now()));
        deposit(6);
        tokio::time::advance(SECOND * 5).await;
        deposit(10);
        assert_eq!(withdrawn(&budget, Instant::now()), 8);
        let over = |window| BudgetConfig {
            window,
            ..config(1.0, 0)
        };
        budget.replace(over(SECOND * 100));
        assert_eq!(withdrawn(&budget, Instant::now()), 8);
        tokio::time::advance(SECOND * 20).await;
        deposit(3);
        assert_eq!(withdrawn(&budget, Instant::now()), 3);
        // All that a short one remembers is the last calls and retries, as many of each.
        budget.replace(over(SECOND * 2));
        assert_eq!(withdrawn(&budget, Instant::now()), 0);
        deposit(2);
        assert_eq!(withdrawn(&budget, Instant::now()), 2);
        tokio::time::advance(SECOND * 3).await;
        deposit(1);
        assert_eq!(withdrawn(&budget, Instant::now()), 1);
    }

    #[test]
    fn threads_never_exceed_the_budget() {
        let budget = budget(0.0, 10);
        let now = Instant::now();
        let spent: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..1_000)
                            .filter_map(|_| budget.withdraw(now))
                            .map(Withdrawal::spend)
                            .count()
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(spent, 100);
    }

    #[cfg(kit_loom)]
    #[test]
    fn in_every_order_the_last_retry_is_made_once_or_given_back() {
        loom::model(|| {
            let now = Instant::now();
            let budget = budget(1.0, 0);
            budget.deposit(now);
            let other = budget.clone();
            let withdraw = move |budget: Budget| budget.withdraw(now).map(Withdrawal::spend);
            let other = loom::thread::spawn(move || withdraw(other));
            let mine = withdraw(budget.clone());
            let made = [mine, other.join().unwrap()].into_iter().flatten().count();
            // Both may have been refused it; then it is there again.
            assert_eq!(made + withdrawn(&budget, now), 1);
        });
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u64),
        Call,
        Retry { spent: bool },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            1 => (0_u64..3_000).prop_map(Step::Wait),
            5 => Just(Step::Call),
            3 => any::<bool>().prop_map(|spent| Step::Retry { spent }),
        ]
    }

    /// What one thread does: calls, retries that are made, retries that are given up.
    type Work = (usize, usize, usize);

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Against lists of all calls and retries, looked at whenever all threads pause.
        #[test]
        fn threads_are_allowed_what_the_model_allows(
            percent in 0_u32..=100,
            floor in 0_u32..2,
            phases in prop::collection::vec(
                (0_u64..3_000, prop::collection::vec((0_usize..20, 0_usize..9, 0_usize..9), 3)), 1..12,
            ),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            let _context = runtime.enter();
            let epoch = Instant::now();
            let budget = budget(f64::from(percent) / 100.0, floor);
            let (mut millis, mut calls, mut retries) = (0, Vec::new(), Vec::new());
            for (step, threads) in phases {
                millis += step;
                let now = epoch + Duration::from_millis(millis);
                let budget = &budget;
                let work = &|&(calls, made, given_up): &Work| {
                    (0..calls).for_each(|_| budget.deposit(now));
                    for _ in 0..given_up {
                        drop(budget.withdraw(now));
                    }
                    let made = (0..made).filter_map(|_| budget.withdraw(now));
                    made.map(Withdrawal::spend).count()
                };
                let made: usize = std::thread::scope(|scope| {
                    let threads = threads.iter().map(|thread| scope.spawn(move || work(thread)));
                    let threads: Vec<_> = threads.collect();
                    threads.into_iter().map(|thread| thread.join().unwrap()).sum()
                });
                calls.extend(threads.iter().flat_map(|(calls, _, _)| vec![millis; *calls]));
                retries.extend(vec![millis; made]);
                let counted = |times: &[u64]| {
                    let counts = |at: &&u64| *at / 1_000 + 10 > millis / 1_000;
                    times.iter().filter(counts).count()
                };
                let share = counted(&calls) * percent as usize / 100;
                let allowed = share.max(floor as usize * 10);
                prop_assert!(made == 0 || counted(&retries) <= allowed);
                // Nothing was lost between them, and nothing kept.
                let left: Vec<_> = std::iter::from_fn(|| budget.withdraw(now)).collect();
                prop_assert_eq!(left.len(), allowed.saturating_sub(counted(&retries)));
            }
        }

    }

    proptest! {
        /// Against a list of all calls and retries.
        #[test]
        fn it_allows_what_the_model_allows(
            percent in 0_u32..=100, floor in 0_u32..2, steps in prop::collection::vec(step(), 1..200),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            let _context = runtime.enter();
            let epoch = Instant::now();
            let budget = budget(f64::from(percent) / 100.0, floor);
            let (mut millis, mut calls, mut retries) = (0, Vec::new(), Vec::new());
            for step in steps {
                let now = epoch + Duration::from_millis(millis);
                let counted = |times: &[u64]| {
                    let counts = |at: &&u64| *at / 1_000 + 10 > millis / 1_000;
                    times.iter().filter(counts).count()
                };
                match step {
                    Step::Wait(time) => millis += time,
                    Step::Call => {
                        budget.deposit(now);
                        calls.push(millis);
                    }
                    Step::Retry { spent } => {
                        let share = counted(&calls) * percent as usize;
                        let allowed = share.max(floor as usize * 1_000);
                        let expected = (counted(&retries) + 1) * 100 <= allowed;
                        let withdrawal = budget.withdraw(now);
                        prop_assert_eq!(withdrawal.is_some(), expected);
                        if let Some(withdrawal) = withdrawal && spent {
                            withdrawal.spend();
                            retries.push(millis);
                        }
                    }
                }
            }
        }
    }
}
