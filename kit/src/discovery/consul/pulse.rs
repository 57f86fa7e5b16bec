//! Whether an agent that could not be asked is back.
//!
//! Each watch backs off by itself, up to a minute, so that many of them do no harm to an agent that is in trouble.
//! That would keep them away from one that is well again for as long. So while any of them backs off, one small
//! question a second for all of them together finds out, and wakes them.

use std::{
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use bytes::Bytes;
use http::Method;
use tokio::{sync::watch, task::AbortHandle, time::sleep};

use super::client::{Agent, ConsulError};

const INTERVAL: Duration = Duration::from_secs(1);
/// Those who are woken come back within this time, not all at once.
const SPREAD: Duration = Duration::from_millis(250);
const TIMEOUT: Duration = Duration::from_secs(2);

/// Who wants to know that the agent is back, and the task that finds out.
pub(super) struct Pulse {
    back: watch::Sender<()>,
    task: Mutex<Option<AbortHandle>>,
}

impl Default for Pulse {
    fn default() -> Self {
        let (back, _) = watch::channel(());
        Self {
            back,
            task: Mutex::default(),
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        let task = self.task.get_mut().ok().and_then(Option::take);
        if let Some(task) = task {
            task.abort();
        }
    }
}

impl Agent {
    /// Waits after `error` until it is time for the next try: for `retry_in`, or until the agent is seen to have come
    /// back from an outage.
    pub(super) async fn pause(self: &Arc<Self>, retry_in: Duration, error: &ConsulError) {
        if !error.is_outage() {
            return sleep(retry_in).await;
        }
        let mut back = self.pulse.back.subscribe();
        self.feel();
        tokio::select! {
            () = sleep(retry_in) => {}
            _ = back.changed() => sleep(SPREAD.mul_f64(rand::random())).await,
        }
    }

    /// Sees to it that somebody finds out when the agent is back.
    fn feel(self: &Arc<Self>) {
        let mut task = self
            .pulse
            .task
            .lock()
            .expect("nothing panics under this lock");
        if task.as_ref().is_none_or(AbortHandle::is_finished) {
            *task = Some(tokio::spawn(feel(Arc::downgrade(self))).abort_handle());
        }
    }

    /// Whether it can be asked, and knows of a leader.
    async fn is_well(&self) -> bool {
        let path = "/v1/status/leader".to_owned();
        let answer = self.call(Method::GET, path, Bytes::new(), TIMEOUT).await;
        // An address in quotes; without a leader, an empty text in quotes.
        answer.is_ok_and(|(_, body)| body.len() > 2)
    }
}

async fn feel(agent: Weak<Agent>) {
    let mut was_down = false;
    loop {
        sleep(INTERVAL.mul_f64(0.75 + rand::random::<f64>() / 2.0)).await;
        let Some(agent) = agent.upgrade() else { return };
        if agent.is_well().await {
            // Who failed although it was well backs off as long as he thinks right.
            if was_down {
                agent.pulse.back.send_replace(());
            }
            return;
        }
        was_down = true;
    }
}

#[cfg(test)]
mod tests {
    use http::Uri;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        time::timeout,
    };

    use super::*;
    use crate::discovery::ConsulConfig;

    const LONG: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn who_backs_off_from_an_outage_is_woken_when_it_is_over_and_nobody_else_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = ConsulConfig {
            address: Uri::try_from(format!("http://{address}")).unwrap(),
            ..ConsulConfig::default()
        };
        let agent = Arc::new(Agent::new(config).unwrap());
        let outage = ConsulError::TimedOut(LONG);
        let mut waits = tokio_test::task::spawn(agent.pause(LONG, &outage));
        let mut other = tokio_test::task::spawn(agent.pause(LONG, &ConsulError::Hidden));
        assert!(waits.poll().is_pending() && other.poll().is_pending());
        // The first says that there is no leader, the second that there is one.
        for leader in ["\"\"", "\"127.0.0.1:8300\""] {
            let (mut stream, _) = timeout(LONG, listener.accept()).await.unwrap().unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            assert!(request[..length].starts_with(b"GET /v1/status/leader "));
            assert!(waits.poll().is_pending());
            let length = leader.len();
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            stream.write_all((head + leader).as_bytes()).await.unwrap();
        }
        timeout(Duration::from_secs(30), waits).await.unwrap();
        assert!(other.poll().is_pending());
    }
}
