//! Whether what failed goes again.
//!
//! Each who is followed backs off by himself, up to a minute, so that many of them do no harm to an agent that is in
//! trouble. That would keep them away from one that is well again for as long. So while any of them backs off, one of
//! them a second asks ahead of his time, the one who has waited longest; as soon as one who had failed gets an answer,
//! all others ask too. It is his own question that he asks, so whatever the trouble was is found out to be over: an
//! agent that was down, a token that was taken away, answers that could not be read.

use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{Instant, sleep, sleep_until},
};

const INTERVAL: Duration = Duration::from_millis(800);
/// Those who are woken come back within this time, not all at once.
const SPREAD: Duration = Duration::from_millis(250);

/// Who backs off, and the task that wakes them.
#[derive(Default)]
pub(super) struct Pulse {
    ahead: Notify,
    waiting: AtomicUsize,
    /// Runs while anybody waits.
    task: Mutex<Option<AbortHandle>>,
}

impl Drop for Pulse {
    fn drop(&mut self) {
        let task = self.task.get_mut().ok().and_then(Option::take);
        if let Some(task) = task {
            task.abort();
        }
    }
}

impl Pulse {
    /// Waits until it is time for the next try: at `until`, or ahead of it. Says whether it is ahead of it.
    pub(super) async fn pause(self: &Arc<Self>, until: Instant) -> bool {
        let woken = self.ahead.notified();
        let ahead = {
            let _waiting = Waiting::begin(self);
            tokio::select! {
                () = sleep_until(until) => false,
                () = woken => true,
            }
        };
        if ahead {
            sleep(SPREAD.mul_f64(rand::random())).await;
        }
        ahead
    }

    /// Somebody who had failed got an answer: all others may ask too.
    pub(super) fn recovered(&self) {
        self.ahead.notify_waiters();
    }
}

/// One who backs off, for as long as this exists.
struct Waiting<'a>(&'a Pulse);

impl<'a> Waiting<'a> {
    fn begin(pulse: &'a Arc<Pulse>) -> Self {
        pulse.waiting.fetch_add(1, SeqCst);
        let mut task = pulse.task.lock().expect("nothing panics under this lock");
        if task.is_none() {
            *task = Some(tokio::spawn(beat(Arc::downgrade(pulse))).abort_handle());
        }
        Self(pulse)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, SeqCst);
    }
}

async fn beat(pulse: Weak<Pulse>) {
    loop {
        sleep(INTERVAL.mul_f64(0.75 + rand::random::<f64>() / 2.0)).await;
        let Some(pulse) = pulse.upgrade() else { return };
        let mut task = pulse.task.lock().expect("nothing panics under this lock");
        if pulse.waiting.load(SeqCst) == 0 {
            // Whoever comes now finds the place empty.
            *task = None;
            return;
        }
        pulse.ahead.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, advance};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn tasks() -> usize {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    }

    #[tokio::test(start_paused = true)]
    async fn of_those_who_back_off_one_a_second_asks_ahead_of_time_and_all_when_one_has_recovered()
    {
        let pulse = Arc::new(Pulse::default());
        let start = Instant::now();
        let pauses = (0..30).map(|_| {
            let pulse = Arc::clone(&pulse);
            tokio::spawn(async move { (pulse.pause(start + LONG).await, start.elapsed()) })
        });
        let pauses: Vec<_> = pauses.collect();
        for seconds in 0..10 {
            let woken = pauses.iter().filter(|pause| pause.is_finished()).count();
            // One each 0.6 s to 1 s, who comes within a quarter of a second.
            assert!(
                woken <= 2 * seconds && 2 * woken + 2 >= seconds,
                "{woken} in {seconds} s"
            );
            sleep(Duration::from_secs(1)).await;
        }
        pulse.recovered();
        sleep(SPREAD).await;
        for pause in pauses {
            let (ahead, after) = pause.await.unwrap();
            assert!(ahead && after <= Duration::from_secs(11));
        }
        // Nobody waits, so nothing runs.
        sleep(2 * INTERVAL).await;
        assert_eq!(tasks(), 0);
        // And it begins again; one whose time has come does not wait.
        assert!(!pulse.pause(Instant::now() + SPREAD).await);
        assert!(pulse.pause(Instant::now() + LONG).await);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_gone_is_not_woken_in_place_of_another() {
        let pulse = Arc::new(Pulse::default());
        let until = Instant::now() + LONG;
        let gone = tokio_test::task::spawn(pulse.pause(until));
        drop(gone);
        let mut gone = tokio_test::task::spawn(pulse.pause(until));
        assert!(gone.poll().is_pending());
        let mut stays = tokio_test::task::spawn(pulse.pause(until));
        assert!(stays.poll().is_pending());
        drop(gone);
        advance(2 * INTERVAL).await;
        assert!(stays.await);
        drop(pulse);
        tokio::task::yield_now().await;
        assert_eq!(tasks(), 0);
    }
}
