//! Puts an instance into the registry and keeps it there.

use std::{collections::BTreeMap, convert::Infallible, fmt, sync::Arc, time::Duration};

use http::{Uri, uri::Authority};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::sleep,
};

use super::consul::{Agent, CheckDefinition, ConsulError, ServiceDefinition};
use crate::{
    event::{Event, SharedObserver},
    name::{EndpointId, ServiceName},
    policy::Backoff,
};

/// How often the agent is asked whether it still has the instance: it forgets all of them when it is restarted
/// without its data.
const KEEP: Duration = Duration::from_secs(2);
/// After a failure. The agent is near, and nobody finds the instance while it is not registered.
const BACKOFF: Backoff = Backoff {
    base: Duration::from_millis(200),
    max: Duration::from_secs(5),
};
/// How long deregistering may take in all: what ends does not wait for an agent that is gone.
const FAREWELL: Duration = Duration::from_secs(3);
/// The least that Consul takes. Watches ask for passing instances, so this only tidies up behind killed ones.
const REAP_AFTER: &str = "1m";

/// One instance of a service, as it is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// What it is an instance of.
    pub service: ServiceName,
    /// Which one it is. Must differ between all instances that register with one agent.
    pub id: EndpointId,
    /// Where others reach it: host and port.
    pub address: Authority,
    /// Words that people search for in the registry.
    pub tags: Vec<String>,
    /// What balancers may want to know, such as `zone` or `version`.
    pub metadata: BTreeMap<String, String>,
    /// How the agent finds out whether it is well. It takes no traffic before its check has passed once.
    pub check: Check,
}

/// A request that the agent makes again and again; any status of 200 to 299 says that the instance is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What it asks for, such as `http://127.0.0.1:9800/readyz`.
    pub http: Uri,
    /// How often: 1 s is good, below 500 ms is not.
    pub interval: Duration,
    /// How long it waits for the answer.
    pub timeout: Duration,
}

/// An instance that can be put into the registry of one agent.
pub struct Registration {
    agent: Arc<Agent>,
    instance: Instance,
    observer: SharedObserver,
}

impl Registration {
    pub(super) fn new(agent: Arc<Agent>, instance: Instance, observer: SharedObserver) -> Self {
        Self {
            agent,
            instance,
            observer,
        }
    }

    /// The instance.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Registers the instance, as soon as the agent can be reached, and again whenever the agent has forgotten it.
    /// To be called when the instance listens.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(self) -> Registered {
        let (stop, stopped) = oneshot::channel();
        let (sender, known) = watch::channel(false);
        Registered {
            task: tokio::spawn(self.keep(stopped, sender)),
            stop: Some(stop),
            known,
        }
    }

    /// Runs until it is told to stop, then takes the instance out again. A call to the agent is never broken off
    /// by that: a registration on its way would arrive after the instance was taken out.
    async fn keep(
        self,
        mut stop: oneshot::Receiver<Infallible>,
        known: watch::Sender<bool>,
    ) -> Result<(), ConsulError> {
        let mut failures = 0;
        loop {
            let registered = *known.borrow();
            let pause = match self.ensure(registered).await {
                Ok(()) => {
                    failures = 0;
                    known.send_replace(true);
                    KEEP.mul_f64(0.75 + rand::random::<f64>() / 2.0)
                }
                Err(error) => {
                    let retry_in = BACKOFF.full_jitter(failures, &mut rand::rng());
                    failures = failures.saturating_add(1);
                    self.observer.observe(Event::RegistrationFailed {
                        service: &self.instance.service,
                        error: &error,
                        retry_in,
                    });
                    retry_in
                }
            };
            tokio::select! {
                // Nothing is ever sent: the sender's end is the wish to stop.
                _ = &mut stop => break,
                () = sleep(pause) => {}
            }
        }
        tokio::time::timeout(FAREWELL, self.agent.deregister(&self.instance.id))
            .await
            .unwrap_or(Err(ConsulError::TimedOut(FAREWELL)))?;
        self.observer.observe(Event::Deregistered {
            service: &self.instance.service,
            id: &self.instance.id,
        });
        Ok(())
    }

    /// Registers the instance unless the agent has it.
    async fn ensure(&self, known: bool) -> Result<(), ConsulError> {
        let Instance {
            service,
            id,
            address,
            tags,
            metadata,
            check,
        } = &self.instance;
        // What an earlier process left under the same id is replaced, so the first time nobody asks.
        if known && self.agent.has(id).await? {
            return Ok(());
        }
        let definition = ServiceDefinition {
            id,
            name: service,
            // Consul wants an IPv6 address without its brackets.
            address: address.host().trim_matches(['[', ']']),
            port: address.port_u16().unwrap_or(80),
            tags,
            meta: metadata,
            check: CheckDefinition {
                http: check.http.to_string(),
                interval: format!("{}ms", check.interval.as_millis()),
                timeout: format!("{}ms", check.timeout.as_millis()),
                deregister_critical_service_after: REAP_AFTER,
            },
        };
        self.agent.register(&definition).await?;
        self.observer.observe(Event::Registered { service, id });
        Ok(())
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

/// An instance that is kept in the registry for as long as this exists.
///
/// Dropping it only stops keeping it there; the agent then finds its check failing. [`deregister`](Self::deregister)
/// is the polite way.
#[derive(Debug)]
pub struct Registered {
    task: JoinHandle<Result<(), ConsulError>>,
    /// Says by its end that the instance is to be taken out.
    stop: Option<oneshot::Sender<Infallible>>,
    known: watch::Receiver<bool>,
}

impl Registered {
    /// Waits until the agent has taken the registration for the first time.
    pub async fn registered(&mut self) {
        // The sender lives as long as the task, which ends with `self` only.
        let _ = self.known.wait_for(|known| *known).await;
    }

    /// Takes the instance out of the registry. Takes 3 s at most if nothing is under way, 10 s more if the agent
    /// is slow to answer what is.
    ///
    /// # Errors
    /// If the agent could not be told; it then finds the instance's check failing.
    pub async fn deregister(mut self) -> Result<(), ConsulError> {
        self.stop = None;
        (&mut self.task)
            .await
            .unwrap_or_else(|error| Err(ConsulError::Unreachable(error.into())))
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Host and port together; brackets around an IPv6 address are added. `None` if the host is none.
pub(super) fn authority(host: &str, port: u16) -> Option<Authority> {
    let text = if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    text.parse()
        .ok()
        .filter(|a: &Authority| !a.host().is_empty() && !host.contains('@'))
}
