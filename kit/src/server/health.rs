//! `grpc.health.v1` on the service's port: what `/readyz` says, for those who ask by gRPC.
//!
//! <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>. It stands outside of the service's layers, for an
//! instance that sheds requests is not one that should be taken away.

use std::{
    convert::Infallible,
    future::ready,
    pin::{Pin, pin},
    task::{self, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Request, Response, header};
use http_body::Frame;
use http_body_util::{Either, StreamBody};
use pin_project_lite::pin_project;
use tokio::time::sleep;
use tower_service::Service;

use super::admin::Admin;
use crate::{
    Body, BoxError, Error,
    error::Code,
    service::{Unread, collect, grpc, message::Alone, server::is_reflection},
    wire::Wire,
};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
/// A question has the name of a service.
const QUESTION_LIMIT: usize = 4 * 1024;
/// So often the checks are asked for those who watch. That the server drains is told at once.
const PERIOD: Duration = Duration::from_secs(1);

#[derive(crate::Message)]
struct Question {
    service: String,
}

#[derive(crate::Message)]
struct Answer {
    status: u32,
}

const SERVING: u32 = 1;
const NOT_SERVING: u32 = 2;
const SERVICE_UNKNOWN: u32 = 3;

/// Answers questions after the health of `inner`, and lets everything else pass, but reflection where that is not
/// wanted.
#[derive(Clone)]
pub(super) struct Health<S> {
    inner: S,
    admin: Admin,
}

impl<S> Health<S> {
    pub(super) fn new(inner: S, admin: Admin) -> Self {
        Self { inner, admin }
    }
}

impl<S, B> Service<Request<Body>> for Health<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Either<B, Body>>;
    type Error = S::Error;
    type Future = HealthFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let watched = match request.uri().path() {
            CHECK => false,
            WATCH => true,
            path => {
                let is_closed = !self.admin.describes() && is_reflection(path);
                if is_closed && Wire::of(request.headers()) == Wire::Grpc {
                    let closed = Error::new(Code::Unimplemented, "there is no such method");
                    let answer = Box::pin(ready(Ok(Wire::Grpc.error(closed))));
                    return HealthFuture::Asked { answer };
                }
                let inner = self.inner.call(request);
                return HealthFuture::Called { inner };
            }
        };
        if Wire::of(request.headers()) != Wire::Grpc {
            let inner = self.inner.call(request);
            return HealthFuture::Called { inner };
        }
        let admin = self.admin.clone();
        HealthFuture::Asked {
            answer: Box::pin(async move {
                Ok(match is_known(request, &admin).await {
                    Ok(is_known) if watched => watch(admin, is_known),
                    Ok(true) => check(&admin).await,
                    Ok(false) => Wire::Grpc.error(Error::not_found("there is no such service")),
                    Err(error) => Wire::Grpc.error(error),
                })
            }),
        }
    }
}

/// Whether the service that is asked for is known.
async fn is_known(request: Request<Body>, admin: &Admin) -> Result<bool, Error> {
    let body =
        collect(request.into_body(), QUESTION_LIMIT)
            .await
            .map_err(|unread| match unread {
                Unread::TooLong { limit } => Error::too_large(limit),
                Unread::Broken(error) => {
                    Error::new(Code::Cancelled, "the body broke off").with_source(error)
                }
            })?;
    let Question { service } = grpc::unframe(Alone::MESSAGE, &body.to_bytes())?;
    if service.is_empty() {
        return Ok(true);
    }
    let described = admin.description().await;
    Ok(described.is_some_and(|described| described.names.contains(&service)))
}

fn status(is_ready: bool) -> u32 {
    if is_ready { SERVING } else { NOT_SERVING }
}

fn frame(status: u32) -> Vec<u8> {
    grpc::frame(Alone::MESSAGE, &Answer { status }).expect("it has a few bytes")
}

async fn check(admin: &Admin) -> Response<Body> {
    let is_ready = admin.readiness().await.is_ok();
    response(grpc::answer(frame(status(is_ready))))
}

fn response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(grpc::CONTENT_TYPE),
    );
    response
}

/// Tells the status, and again whenever it has changed, until the server drains.
fn watch(admin: Admin, is_known: bool) -> Response<Body> {
    let watching = Watching {
        admin,
        is_known,
        told: None,
        is_over: false,
    };
    let frames = stream::unfold(watching, |mut watching| async move {
        let frame = watching.next().await?;
        Some((Ok::<_, Infallible>(frame), watching))
    });
    response(Body::stream(StreamBody::new(frames)))
}

struct Watching {
    admin: Admin,
    is_known: bool,
    told: Option<u32>,
    is_over: bool,
}

impl Watching {
    async fn next(&mut self) -> Option<Frame<Bytes>> {
        while !self.is_over {
            let is_draining = self.admin.is_draining();
            let status = match self.is_known {
                true => status(self.admin.lately_ready(PERIOD).await),
                false => SERVICE_UNKNOWN,
            };
            if self.told.replace(status) != Some(status) {
                return Some(Frame::data(frame(status).into()));
            }
            if is_draining {
                // A stream without an end would hold the drain.
                self.is_over = true;
                let gone = Error::unavailable("the server is about to end");
                return Some(Frame::trailers(grpc::trailers(Err(gone))));
            }
            let (period, drained) = (pin!(sleep(PERIOD)), pin!(self.admin.drained()));
            futures_util::future::select(period, drained).await;
        }
        None
    }
}

pin_project! {
    /// The future of [`Health`].
    #[project = Project]
    pub(super) enum HealthFuture<F> {
        Called { #[pin] inner: F },
        Asked { answer: Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>> },
    }
}

impl<F, B, E> Future for HealthFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<Either<B, Body>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Project::Called { inner } => {
                inner.poll(cx).map_ok(|response| response.map(Either::Left))
            }
            Project::Asked { answer } => answer.as_mut().poll(cx).map(|answer| {
                let Ok(response) = answer;
                Ok(response.map(Either::Right))
            }),
        }
    }
}
