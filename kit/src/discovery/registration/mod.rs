//! Puts an instance into the registry and keeps it there.
//!
//! A registration carries the mark of its process, so whoever finds its id taken can tell by whom. What is under the
//! id is replaced if it is at the very address at which this process listens, since nobody else can be there, or if
//! its check has failed for [`GRACE`]: a process that was killed and started again is back at once, at another address
//! soon after the check has noticed. A process that lives keeps its id, and the second one is told so. Of two that say
//! that they are at one address the later one has it, and the earlier one is told so.

mod instance;
mod registry;

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use http::uri::Authority;
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use uuid::Uuid;

pub use self::{
    instance::{AddressTag, Check, CheckConfig, Instance, RegistrationConfig, Weights},
    registry::{Answer, Found, Health, RegistrationError, Registry},
};
use crate::{
    BoxError,
    error::Chain,
    event::{Event, SharedObserver},
    policy::Backoff,
};

/// How often the registry is asked whether it still has the instance: an agent forgets all of them when it is
/// restarted without its data.
const KEEP: Duration = Duration::from_secs(2);
/// After a failure. The agent is near, and nobody finds the instance while it is not registered.
const BACKOFF: Backoff = Backoff {
    base: Duration::from_millis(200),
    max: Duration::from_secs(2),
};
/// So long a check must have failed until whoever it was made of is taken to be dead.
const GRACE: Duration = Duration::from_secs(5);
/// How long deregistering may take, and how long what is under way before it: what ends does not wait for an agent that
/// is gone.
const FAREWELL: Duration = Duration::from_secs(3);
/// The key of the metadata that tells processes apart.
const PROCESS: &str = "process";

type Readiness = dyn Fn() -> Answer<'static, ()> + Send + Sync;

/// An instance that can be put into a registry.
pub struct Registration {
    registry: Arc<dyn Registry>,
    instance: Instance,
    observer: SharedObserver,
    /// `None`: always well.
    readiness: Option<Arc<Readiness>>,
}

impl Registration {
    /// `instance`, to be put into `registry`. What happens is told to `observer`.
    pub fn new(
        registry: Arc<dyn Registry>,
        mut instance: Instance,
        observer: SharedObserver,
    ) -> Self {
        let process = Uuid::now_v7().simple().to_string();
        instance.metadata.insert(PROCESS.to_owned(), process);
        Self {
            registry,
            instance,
            observer,
            readiness: None,
        }
    }

    /// Says how the instance is, where its check is [`Check::Ttl`], and when it registers again: `readiness` is asked
    /// before each word to the registry, and should answer within a second. Without it the instance is always well, but
    /// [`server::run`](crate::server::run) says what its `/readyz` says.
    #[must_use]
    pub fn reporting<F>(mut self, readiness: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.readiness = Some(Arc::new(move || Box::pin(readiness())));
        self
    }

    /// The same, unless somebody has said already how the instance is.
    #[must_use]
    pub(crate) fn or_reporting<F>(self, readiness: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        if self.readiness.is_some() {
            return self;
        }
        self.reporting(readiness)
    }

    /// The instance.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Registers the instance, as soon as the registry can be reached, and again whenever the registry has forgotten
    /// it. To be called when the instance listens.
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

    /// Runs until it is told to stop, then takes the instance out again. A call to the registry is never broken off
    /// by that: a registration on its way would arrive after the instance was taken out.
    async fn keep(
        self,
        mut stop: oneshot::Receiver<Infallible>,
        known: watch::Sender<bool>,
    ) -> Result<(), RegistrationError> {
        let mut failures = 0;
        let mut other = Other::default();
        loop {
            let registered = *known.borrow();
            let pause = match self.ensure(registered, &mut other).await {
                Ok(()) => {
                    failures = 0;
                    known.send_replace(true);
                    let period = match self.instance.check {
                        Check::Ttl { ttl } => KEEP.min(ttl / 3),
                        Check::Http { .. } | Check::Grpc { .. } => KEEP,
                    };
                    period.mul_f64(0.75 + rand::random::<f64>() / 2.0)
                }
                Err(error) => {
                    if let RegistrationError::Taken { .. } = error {
                        known.send_replace(false);
                    }
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
        timeout(FAREWELL, self.leave())
            .await
            .unwrap_or(Err(RegistrationError::TimedOut(FAREWELL)))
    }

    /// Registers the instance unless the registry has it, and says how it is where that is its own to say.
    async fn ensure(&self, known: bool, other: &mut Other) -> Result<(), RegistrationError> {
        let id = &self.instance.id;
        match self.registry.find(id).await? {
            Some(found) if self.is_mine(&found, known) => *other = Other::default(),
            Some(found) => {
                let process = found.metadata.get(PROCESS);
                if known && self.is_here(&found) {
                    other.usurper = process.cloned();
                }
                // Who was pushed aside by another at the same address does not push back, for ever and in turn.
                let usurped = other.usurper.is_some() && other.usurper.as_ref() == process;
                let free = !known && !usurped && self.is_here(&found)
                    || other.is_dead(self.registry.is_alive(id).await?);
                if !free {
                    return Err(RegistrationError::Taken {
                        id: id.clone(),
                        address: found.address,
                    });
                }
                self.register(false).await?;
            }
            // It was found well before it was forgotten, and need not wait for its first check if it still is.
            None => self.register(known && self.health().await.is_ok()).await?,
        }
        if let Check::Ttl { .. } = self.instance.check {
            let health = match self.health().await {
                Ok(()) => Health::Passing,
                Err(error) => Health::Critical(Chain(&*error).to_string()),
            };
            if !self.registry.report(id, &health).await? {
                self.register(false).await?;
                self.registry.report(id, &health).await?;
            }
        }
        Ok(())
    }

    async fn health(&self) -> Result<(), BoxError> {
        match &self.readiness {
            Some(readiness) => readiness().await,
            None => Ok(()),
        }
    }

    /// Whether it was this process that registered what was found. An operator who changes an instance in place, its
    /// weights for example, may leave the mark out.
    fn is_mine(&self, found: &Found, known: bool) -> bool {
        match found.metadata.get(PROCESS) {
            Some(process) => self.instance.metadata.get(PROCESS) == Some(process),
            None => known && self.is_here(found),
        }
    }

    /// Whether it is where this process listens.
    fn is_here(&self, found: &Found) -> bool {
        found.address.as_ref() == Some(&self.instance.address)
    }

    async fn register(&self, passing: bool) -> Result<(), RegistrationError> {
        self.registry.register(&self.instance, passing).await?;
        self.observer.observe(Event::Registered {
            service: &self.instance.service,
            id: &self.instance.id,
        });
        Ok(())
    }

    /// Takes the instance out, if it is this process's.
    async fn leave(&self) -> Result<(), RegistrationError> {
        let Instance { service, id, .. } = &self.instance;
        if let Some(found) = self.registry.find(id).await?
            && !self.is_mine(&found, true)
        {
            return Ok(());
        }
        self.registry.deregister(id).await?;
        self.observer.observe(Event::Deregistered { service, id });
        Ok(())
    }
}

/// What is known of somebody else under the id.
#[derive(Default)]
struct Other {
    /// The mark of who has taken our place at our own address.
    usurper: Option<String>,
    /// Since when he was found dead each time.
    dead_since: Option<Instant>,
}

impl Other {
    fn is_dead(&mut self, is_alive: bool) -> bool {
        if is_alive {
            self.dead_since = None;
            return false;
        }
        let now = Instant::now();
        now - *self.dead_since.get_or_insert(now) >= GRACE
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
    task: JoinHandle<Result<(), RegistrationError>>,
    /// Says by its end that the instance is to be taken out.
    stop: Option<oneshot::Sender<Infallible>>,
    known: watch::Receiver<bool>,
}

impl Registered {
    /// Waits until the registry has taken the registration for the first time.
    pub async fn registered(&mut self) {
        // The sender lives as long as the task, which ends with `self` only.
        let _ = self.known.wait_for(|known| *known).await;
    }

    /// Takes the instance out of the registry, unless another process has taken its place there. Takes 3 s at most if
    /// nothing is under way, and 3 s more if something is.
    ///
    /// # Errors
    /// If the registry could not be told; it then finds the instance's check failing.
    pub async fn deregister(mut self) -> Result<(), RegistrationError> {
        self.stop = None;
        match timeout(2 * FAREWELL, &mut self.task).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(RegistrationError::Registry(error.into())),
            // A question to an agent that hangs is broken off.
            Err(_) => Err(RegistrationError::TimedOut(2 * FAREWELL)),
        }
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

#[cfg(test)]
mod tests;
