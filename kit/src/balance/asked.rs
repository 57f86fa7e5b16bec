//! A request at the endpoint that was picked.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use pin_project_lite::pin_project;
use tower::{ServiceExt, util::Oneshot};
use tower_service::Service;

pin_project! {
    /// The answer of an endpoint.
    #[project = Project]
    pub(super) enum Asked<S, B>
    where
        S: Service<http::Request<B>>,
    {
        Called {
            #[pin]
            answer: S::Future,
        },
        // Boxed, because the kit's own connections are always ready: no other call carries the room for it about.
        Readies {
            call: Pin<Box<Oneshot<S, http::Request<B>>>>,
        },
        Failed {
            error: Option<S::Error>,
        },
    }
}

impl<S, B> Asked<S, B>
where
    S: Service<http::Request<B>>,
{
    /// Gives `request` to `service` as soon as that is ready.
    #[inline(always)]
    pub(super) fn new(mut service: S, request: http::Request<B>) -> Self {
        // Whoever is to be woken is not known yet. If that matters, it is asked once more in the first poll.
        match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Self::Called {
                answer: service.call(request),
            },
            Poll::Ready(Err(error)) => Self::Failed { error: Some(error) },
            Poll::Pending => Self::Readies {
                call: Box::pin(service.oneshot(request)),
            },
        }
    }
}

impl<S, B> Future for Asked<S, B>
where
    S: Service<http::Request<B>>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match self.project() {
            Project::Called { answer } => ready!(answer.poll(cx)),
            Project::Readies { call } => ready!(call.as_mut().poll(cx)),
            Project::Failed { error } => Err(error.take().expect("not polled after it was ready")),
        };
        Poll::Ready(result)
    }
}
