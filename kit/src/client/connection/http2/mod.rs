//! One HTTP/2 connection to one endpoint, shared by all requests.
//!
//! It is made once, however many wait for it, and by a task of its own, so that nobody who gives up takes it from
//! the others. All that hyper would spawn for it, a task for each stream among them, runs in that one task.

#[cfg(test)]
mod tests;

use std::{
    error::Error as StdError,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{Request, Response};
use hyper::{client::conn::http2, rt::Executor};
use hyper_util::rt::TokioTimer;
use tokio::{sync::watch, task::JoinSet};

use super::{Outgoing, target::Target};
use crate::{
    Body, BoxError, clock,
    deadline::tell_again,
    rejection::{NotSent, find_cause},
};

/// A peer that is gone without a word, as behind a broken network, is found out after the sum of both.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// The connection to one endpoint, and those that are about to end.
pub(super) struct Line<B> {
    target: Arc<Target>,
    current: Mutex<Option<Made<B>>>,
    /// One for each connection. Dropped with the last one who uses any of them.
    tasks: Mutex<JoinSet<()>>,
}

/// `None` while it is being made.
type Made<B> = watch::Receiver<Option<Result<http2::SendRequest<B>, Arc<Unreachable>>>>;

type Unreachable = dyn StdError + Send + Sync;

impl<B: Outgoing> Line<B> {
    /// Without a connection.
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self {
            target,
            current: Mutex::default(),
            tasks: Mutex::default(),
        }
    }

    /// Sends a request, whose URI names the endpoint.
    pub(super) async fn send(
        self: Arc<Self>,
        mut request: Request<B>,
    ) -> Result<Response<Body>, BoxError> {
        let mut again = true;
        loop {
            let mut made = self.made();
            let waits = made.borrow().is_none();
            let mut sender = Self::sender(&mut made).await?;
            if waits {
                tell_again(&mut request, clock::now());
            }
            let mut error = match sender.try_send_request(request).await {
                Ok(response) => return Ok(response.map(|body| Body::held(body, self))),
                Err(error) => error,
            };
            match error.take_message() {
                // The connection ended before it had its turn, and there may be a new one already.
                Some(unsent) if again => {
                    again = false;
                    request = unsent;
                }
                unsent => {
                    let error = error.into_error();
                    return Err(if unsent.is_some() || never_arrived(&error) {
                        NotSent(error.into()).into()
                    } else {
                        error.into()
                    });
                }
            }
        }
    }

    async fn sender(made: &mut Made<B>) -> Result<http2::SendRequest<B>, BoxError> {
        let error: BoxError = match made.wait_for(Option::is_some).await {
            Ok(made) => match made.as_ref().expect("waited for") {
                Ok(sender) => return Ok(sender.clone()),
                Err(error) => Arc::clone(error).into(),
            },
            Err(gone) => gone.into(),
        };
        Err(NotSent(error).into())
    }

    /// The connection, or the next one if that is over.
    fn made(&self) -> Made<B> {
        let mut current = self.current.lock().expect("no panic while locked");
        if let Some(made) = &*current {
            let usable = match &*made.borrow() {
                None => made.has_changed().is_ok(),
                Some(Ok(sender)) => !sender.is_closed(),
                Some(Err(_)) => false,
            };
            if usable {
                return made.clone();
            }
        }
        let (publish, made) = watch::channel(None);
        let target = Arc::clone(&self.target);
        let mut tasks = self.tasks.lock().expect("no panic while locked");
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            match connect(&target).await {
                Ok((sender, parts)) => {
                    publish.send_replace(Some(Ok(sender)));
                    drop(publish);
                    parts.run().await;
                }
                Err(error) => {
                    publish.send_replace(Some(Err(error.into())));
                }
            }
        });
        *current = Some(made.clone());
        made
    }
}

async fn connect<B: Outgoing>(
    target: &Target,
) -> Result<(http2::SendRequest<B>, Spawned), BoxError> {
    let stream = target.connect().await?;
    let spawned = Spawned::default();
    let (sender, connection) = http2::Builder::new(spawned.clone())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake(stream)
        .await?;
    spawned.execute(async {
        // How it ended is told to those who wait for something on it.
        let _ = connection.await;
    });
    Ok((sender, spawned))
}

/// Whether the peer said that it did not look at the request: RFC 9113, 8.7. A GOAWAY ends only streams beyond the
/// last one that it looked at.
fn never_arrived(error: &hyper::Error) -> bool {
    find_cause::<h2::Error>(error).is_some_and(|error| {
        let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        error.is_remote() && (refused || error.is_go_away())
    })
}

/// What belongs to one connection, to be run by one task.
#[derive(Clone, Default)]
struct Spawned(Arc<Mutex<Vec<Part>>>);

type Part = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<F> Executor<F> for Spawned
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, part: F) {
        let mut parts = self.0.lock().expect("no panic while locked");
        parts.push(Box::pin(part));
    }
}

impl Spawned {
    /// Runs all parts, and those that they spawn, to their end.
    fn run(self) -> impl Future<Output = ()> {
        let mut running = FuturesUnordered::new();
        std::future::poll_fn(move |cx: &mut Context<'_>| {
            loop {
                // Parts spawn others while they are polled, and only then.
                let mut new = self.0.lock().expect("no panic while locked");
                running.extend(new.drain(..));
                drop(new);
                match running.poll_next_unpin(cx) {
                    Poll::Ready(Some(())) => {}
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending => {
                        let new = self.0.lock().expect("no panic while locked");
                        if new.is_empty() {
                            return Poll::Pending;
                        }
                    }
                }
            }
        })
    }
}
