//! A request given to a service without a clone of it for each: at once where it is ready, and for another attempt
//! where one is made.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use pin_project_lite::pin_project;
use tower::{ServiceExt, util::Oneshot};
use tower_service::Service;

use crate::BoxError;

pin_project! {
    /// The answer of a service.
    #[project = Project]
    pub(crate) enum Asked<S, Q>
    where
        S: Service<Q>,
    {
        Called {
            #[pin]
            answer: S::Future,
        },
        // Boxed, because the kit's own services are always ready: no other call carries the room for it about.
        Readies {
            call: Pin<Box<Oneshot<S, Q>>>,
        },
        Failed {
            error: Option<BoxError>,
        },
    }
}

impl<S, Q> Asked<S, Q>
where
    S: Service<Q> + Clone,
    S::Error: Into<BoxError>,
{
    /// Gives `request` to `service` as soon as that is ready. If that is not at once, the service that becomes ready is
    /// this very one, and a clone stays in its place.
    #[inline(always)]
    pub(crate) fn of(service: &mut S, request: Q) -> Self {
        // Whoever is to be woken is not known yet. If that matters, it is asked once more in the first poll.
        match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Self::Called {
                answer: service.call(request),
            },
            Poll::Ready(Err(error)) => Self::Failed {
                error: Some(error.into()),
            },
            Poll::Pending => Self::when_ready(service, request),
        }
    }

    #[cold]
    fn when_ready(service: &mut S, request: Q) -> Self {
        let next = service.clone();
        let service = mem::replace(service, next);
        Self::Readies {
            call: Box::pin(service.oneshot(request)),
        }
    }
}

impl<S, Q> Future for Asked<S, Q>
where
    S: Service<Q>,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Project::Called { answer } => answer.poll(cx).map_err(Into::into),
            Project::Readies { call } => call.as_mut().poll(cx).map_err(Into::into),
            Project::Failed { error } => {
                Poll::Ready(Err(error.take().expect("not polled after it was ready")))
            }
        }
    }
}

/// What layers that make a call again take from: the same for all calls through a service, so that each of them counts
/// one reference and copies nothing of a service that it will hardly ever need.
#[derive(Debug)]
pub(crate) struct Origin<S, L> {
    /// Behind a lock because a service need not be `Sync`; it is taken for an attempt after the first one only.
    service: Mutex<S>,
    layer: L,
}

impl<S: Clone, L> Origin<S, L> {
    pub(crate) fn new(service: S, layer: L) -> Self {
        Self {
            service: Mutex::new(service),
            layer,
        }
    }

    /// A service that is still to be made ready: the one that was has been called.
    pub(crate) fn service(&self) -> S {
        let service = self.service.lock();
        service.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<S, L> Origin<S, L> {
    /// The layer that the service is in.
    pub(crate) fn layer(&self) -> &L {
        &self.layer
    }
}
