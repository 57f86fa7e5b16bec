//! Who still comes to an address after its instance died?

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, Result};
use http::uri::Authority;
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};

/// Listens in the place of a dead instance and counts who connects. It answers nobody. Dropping it frees the address.
#[derive(Debug)]
pub struct Trap {
    visitors: Arc<AtomicU64>,
    last: Arc<Mutex<Option<Instant>>>,
    task: JoinHandle<()>,
}

impl Trap {
    /// Listens at `address`.
    ///
    /// # Errors
    /// If somebody else does.
    pub async fn at(address: &Authority) -> Result<Self> {
        let listener = TcpListener::bind(address.as_str())
            .await
            .with_context(|| format!("a trap at {address}"))?;
        let visitors = Arc::new(AtomicU64::new(0));
        let last = Arc::<Mutex<Option<Instant>>>::default();
        let (count, seen) = (Arc::clone(&visitors), Arc::clone(&last));
        let task = tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
                *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            }
        });
        Ok(Self {
            visitors,
            last,
            task,
        })
    }

    /// When somebody came for the last time; `None` if nobody has.
    pub fn last(&self) -> Option<Instant> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops listening and says how many came.
    pub async fn close(mut self) -> u64 {
        self.task.abort();
        let _ = (&mut self.task).await;
        self.visitors.load(Ordering::Relaxed)
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        self.task.abort();
    }
}
