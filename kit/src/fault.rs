//! Injects delays and errors, to see how the rest copes. Off unless asked.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use tokio::time::{Sleep, sleep};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    BoxError,
    error::Code,
    policy::{Live, Ratio},
    rejection::Rejection,
};

/// Which faults are injected, and how often. Nothing by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FaultConfig {
    /// Requests that are held up before they go on.
    pub delay: Option<Delay>,
    /// Requests that fail without going on. Those are drawn beside the delayed ones: some are both.
    pub error: Option<Fail>,
}

/// Holds requests up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delay {
    /// The share of requests, from 0 to 1.
    pub ratio: Ratio,
    /// For how long.
    #[serde(with = "humantime_serde")]
    pub duration: Duration,
}

/// Fails requests.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fail {
    /// The share of requests, from 0 to 1.
    pub ratio: Ratio,
    /// The code to fail with, such as `unavailable`.
    pub code: Code,
}

/// Injects faults into all services that it, or a clone of it, builds: they share configuration and luck.
#[derive(Clone)]
pub struct FaultLayer {
    config: Live<FaultConfig>,
    // Locked only to draw, and drawn only while a fault is configured.
    rng: Arc<Mutex<StdRng>>,
}

impl FaultLayer {
    /// Injects what `config` says.
    pub fn new(config: FaultConfig) -> Self {
        Self::seeded(config, rand::random())
    }

    /// The same faults for the same seed and the same order of requests.
    pub fn seeded(config: FaultConfig, seed: u64) -> Self {
        Self {
            config: Live::new(config),
            rng: Arc::new(Mutex::new(StdRng::seed_from_u64(seed))),
        }
    }

    /// The handle that turns faults on and off while requests pass.
    pub fn config(&self) -> &Live<FaultConfig> {
        &self.config
    }

    /// What shall happen to the next request.
    fn draw(&self) -> (Option<Duration>, Option<Rejection>) {
        let config = **self.config.get();
        if config == FaultConfig::default() {
            return (None, None);
        }
        let mut rng = self.rng.lock().expect("no panic while locked");
        let mut hit = |ratio: Ratio| rng.random_bool(ratio.get());
        let delay = config.delay.filter(|delay| hit(delay.ratio));
        let error = config.error.filter(|error| hit(error.ratio));
        (
            delay.map(|delay| delay.duration),
            error.map(|error| Rejection::FaultInjected { code: error.code }),
        )
    }
}

impl Default for FaultLayer {
    fn default() -> Self {
        Self::new(FaultConfig::default())
    }
}

impl fmt::Debug for FaultLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultLayer")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for FaultLayer {
    type Service = Fault<S>;

    fn layer(&self, inner: S) -> Fault<S> {
        Fault {
            inner,
            layer: self.clone(),
        }
    }
}

/// Fails with [`Rejection::FaultInjected`], or answers later, as often as it was told.
#[derive(Clone, Debug)]
pub struct Fault<S> {
    inner: S,
    layer: FaultLayer,
}

impl<S, Req> Service<Req> for Fault<S>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = FaultFuture<S, Req>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let state = match self.layer.draw() {
            (None, None) => State::Called {
                future: self.inner.call(request),
            },
            // `inner` stays ready for the next call.
            (None, Some(reason)) => State::Failed {
                reason: Some(reason),
            },
            (Some(delay), reason) => {
                // The one that is ready goes along, to be called later.
                let unready = self.inner.clone();
                let ready = std::mem::replace(&mut self.inner, unready);
                State::Delayed {
                    sleep: sleep(delay),
                    call: Some((ready, request)),
                    reason,
                }
            }
        };
        FaultFuture { state }
    }
}

pin_project! {
    /// Answers with a fault, or as the inner service does, at once or later.
    pub struct FaultFuture<S: Service<Req>, Req> {
        #[pin]
        state: State<S, Req>,
    }
}

pin_project! {
    #[project = Project]
    enum State<S: Service<Req>, Req> {
        Delayed {
            #[pin]
            sleep: Sleep,
            call: Option<(S, Req)>,
            reason: Option<Rejection>,
        },
        Called {
            #[pin]
            future: S::Future,
        },
        Failed {
            reason: Option<Rejection>,
        },
    }
}

impl<S: Service<Req>, Req> fmt::Debug for FaultFuture<S, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Delayed { .. } => "delayed",
            State::Called { .. } => "called",
            State::Failed { .. } => "failed",
        };
        f.debug_struct("FaultFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}

impl<S, Req> Future for FaultFuture<S, Req>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                Project::Delayed {
                    sleep,
                    call,
                    reason,
                } => {
                    ready!(sleep.poll(cx));
                    let (mut service, request) = call.take().expect("called once");
                    match reason.take() {
                        Some(reason) => State::Failed {
                            reason: Some(reason),
                        },
                        None => State::Called {
                            future: service.call(request),
                        },
                    }
                }
                Project::Called { future } => return future.poll(cx).map_err(Into::into),
                Project::Failed { reason } => {
                    let reason = reason.take().expect("not polled after it was ready");
                    return Poll::Ready(Err(reason.into()));
                }
            };
            state.set(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
    use tower::{ServiceExt, service_fn};
    use tower_test::{assert_request_eq, mock};

    use super::*;

    fn always_fail() -> FaultConfig {
        FaultConfig {
            error: Some(Fail {
                ratio: Ratio::ONE,
                code: Code::Unavailable,
            }),
            ..FaultConfig::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_delayed_request_reaches_the_service_that_was_ready_later() {
        let delay = Delay {
            ratio: Ratio::ONE,
            duration: Duration::from_secs(1),
        };
        let layer = FaultLayer::new(FaultConfig {
            delay: Some(delay),
            ..FaultConfig::default()
        });
        let (mut faulty, mut peer) = mock::spawn_layer::<&str, &str, _>(layer);
        assert_ready_ok!(faulty.poll_ready());
        let mut call = task::spawn(faulty.call("a"));
        assert_pending!(call.poll());
        assert_pending!(peer.poll_request());
        tokio::time::advance(delay.duration).await;
        assert_pending!(call.poll());
        assert_request_eq!(peer, "a").send_response("ok");
        assert_ready_ok!(call.poll());
    }

    #[tokio::test]
    async fn faults_are_turned_on_and_off_while_requests_pass() {
        let layer = FaultLayer::default();
        let faulty = layer.layer(service_fn(|()| async { Ok::<_, BoxError>(()) }));
        assert!(faulty.clone().oneshot(()).await.is_ok());
        layer.config().set(always_fail());
        let mut failing = task::spawn(faulty.clone().oneshot(()));
        let error = assert_ready_err!(failing.poll());
        let code = Code::Unavailable;
        assert_eq!(
            Rejection::find(&*error),
            Some(&Rejection::FaultInjected { code })
        );
        layer.config().set(FaultConfig::default());
        assert!(faulty.oneshot(()).await.is_ok());
    }

    #[test]
    fn the_same_seed_gives_the_same_share_of_faults() {
        let mut config = always_fail();
        config.error.as_mut().unwrap().ratio = Ratio::new(0.25).unwrap();
        let faults = |seed| {
            let layer = FaultLayer::seeded(config, seed);
            let draws: Vec<_> = (0..1_000).map(|_| layer.draw().1.is_some()).collect();
            draws
        };
        assert_eq!(faults(7), faults(7));
        assert_ne!(faults(7), faults(8));
        let hits = faults(7).into_iter().filter(|hit| *hit).count();
        assert!((200..300).contains(&hits), "{hits}");
    }
}
