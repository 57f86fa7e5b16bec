//! Who is woken when something happens on a connection.

use std::{
    sync::Arc,
    task::{Wake, Waker},
};

use tokio::sync::Notify;

use crate::sync::{Mutex, MutexGuard};

/// The waker of one HTTP/1 connection, the same for as long as it lives.
///
/// Nobody but the task that waits for an answer drives a connection, so a connection goes from task to task. hyper
/// and tokio only ever see this one waker; it passes the word on to whom it concerns now. What wakes the connection
/// while it is polled, as its own halves do on each exchange, wakes no task.
#[derive(Debug)]
pub(super) struct Alarm {
    state: Mutex<State>,
    /// Tells the keeper of the idle connections to look at them.
    stirred: Arc<Notify>,
}

#[derive(Debug)]
enum State {
    /// Whoever holds the connection polls it, or is about to.
    Polled { woken: bool },
    /// It was polled and had nothing to say; this task waits for it.
    Awaited(Waker),
    /// Nobody holds it. Whether something happened since: the peer closed it, as a rule.
    Idle { stirred: bool },
}

impl Alarm {
    /// Of a connection that somebody is about to poll.
    pub(super) fn new(stirred: Arc<Notify>) -> Self {
        Self {
            state: Mutex::new(State::Polled { woken: false }),
            stirred,
        }
    }

    /// The connection is about to be polled for `task`. `false`: nothing has happened since it was polled last, so
    /// that there is no use; `task` is woken when something does.
    pub(super) fn poll(&self, task: &Waker) -> bool {
        let mut state = self.state();
        if let State::Awaited(waiting) = &mut *state {
            waiting.clone_from(task);
            return false;
        }
        *state = State::Polled { woken: false };
        true
    }

    /// The connection had nothing to say when it was polled: `task` is woken when it has. `false`: something has
    /// happened meanwhile, so that it must be polled again.
    pub(super) fn wait(&self, task: &Waker) -> bool {
        let mut state = self.state();
        let quiet = !matches!(*state, State::Polled { woken: true });
        *state = if quiet {
            State::Awaited(task.clone())
        } else {
            State::Polled { woken: false }
        };
        quiet
    }

    /// Somebody takes the connection, and is about to poll it.
    pub(super) fn take(&self) {
        *self.state() = State::Polled { woken: false };
    }

    /// Nobody holds the connection any more. What was heard and not looked at waits for the next one who does.
    pub(super) fn rest(&self) {
        let mut state = self.state();
        let stirred = matches!(*state, State::Polled { woken: true });
        *state = State::Idle { stirred };
    }

    /// Whether something happened since the connection is idle, or since this was asked last.
    pub(super) fn take_stirred(&self) -> bool {
        match &mut *self.state() {
            State::Idle { stirred } => std::mem::take(stirred),
            State::Polled { .. } | State::Awaited(_) => false,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while locked")
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut state = self.state();
        match &mut *state {
            State::Polled { woken } => *woken = true,
            State::Idle { stirred } => {
                *stirred = true;
                drop(state);
                self.stirred.notify_one();
            }
            State::Awaited(_) => {
                let waiting = std::mem::replace(&mut *state, State::Polled { woken: true });
                drop(state);
                if let State::Awaited(task) = waiting {
                    task.wake();
                }
            }
        }
    }
}

#[cfg(all(test, kit_loom))]
mod tests {
    use super::*;
    use crate::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    /// Counts how often it was woken.
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    /// What a task does with a connection, while something happens on that.
    fn in_every_order(with: impl Fn(&Alarm, &Waker) -> bool + Send + Sync + 'static) {
        loom::model(move || {
            let alarm = Arc::new(Alarm::new(Arc::default()));
            let task = Arc::new(Task(AtomicUsize::new(0)));
            let happens = Arc::clone(&alarm);
            let other = loom::thread::spawn(move || happens.wake());
            let seen = with(&alarm, &Arc::clone(&task).into());
            other.join().unwrap();
            let woken = task.0.load(SeqCst);
            assert!(woken <= 1);
            assert!(seen || woken == 1 || alarm.take_stirred());
        });
    }

    #[test]
    fn in_every_order_who_waits_is_woken_or_told_to_look_again() {
        in_every_order(|alarm, task| !alarm.wait(task));
        // It looks once more before it waits.
        in_every_order(|alarm, task| !alarm.wait(task) || !alarm.wait(task));
        in_every_order(|alarm, task| !alarm.wait(task) || alarm.poll(task));
    }

    #[test]
    fn in_every_order_what_happens_when_a_connection_is_put_aside_is_remembered() {
        in_every_order(|alarm, _| {
            alarm.rest();
            false
        });
        in_every_order(|alarm, task| {
            if !alarm.wait(task) {
                return true;
            }
            alarm.rest();
            false
        });
    }
}
