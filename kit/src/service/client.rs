//! One call from the side that makes it.

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, Version, header, response};
use tower::ServiceExt;
use tower_service::Service;

pub use super::received::Items;
use super::{
    Unread,
    codec::{Answer, Arguments, Codec},
    collect, grpc, params,
    sent::NDJSON,
};
use crate::{
    Body, BoxError, Context, Error,
    context::Deadline,
    error::{Code, Problem},
    name::{Method, Priority},
    wire::{self, IDEMPOTENCY_KEY, REQUEST_PRIORITY, Wire},
};

/// The longest answer that is read: 4 MiB, as with other implementations of gRPC.
pub(super) const ANSWER_LIMIT: usize = 4 * 1024 * 1024;

/// What a generated client calls through: any tower service from `http::Request<kit::Body>` to a response, such as
/// `kit::client::Client`. There is nothing to implement.
pub trait Stack: Clone + Send + Sync + 'static {
    /// What its responses bring.
    type Body: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static;

    /// Sends one request, when the service is ready for it.
    fn send(
        self,
        request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Self::Body>, BoxError>> + Send;
}

impl<S, B> Stack for S
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Body = B;

    async fn send(self, request: Request<Body>) -> Result<Response<B>, BoxError> {
        self.oneshot(request).await.map_err(Into::into)
    }
}

/// A stack, and the wire on which calls go through it. Generated clients hold one.
#[derive(Clone, Debug)]
pub struct Caller<S> {
    stack: S,
    wire: Wire,
}

impl<S: Stack> Caller<S> {
    /// Calls through `stack` on `wire`.
    pub fn new(stack: S, wire: Wire) -> Self {
        Self { stack, wire }
    }

    /// Calls `method`.
    ///
    /// `ctx` is the context of this very call. Where it is the one that a handler received, it names the call that
    /// is being handled, so its [`child`](Context::child) is used.
    ///
    /// # Errors
    /// The one that the peer answered with; a [`Rejection`](crate::Rejection) out of the stack;
    /// [`Code::Unavailable`] if the peer could not be asked or did not finish its answer; [`Code::Internal`] if it
    /// answered with something else than it should.
    pub async fn unary<Q, P>(
        &self,
        method: &'static Method,
        codec: Codec<Q, P>,
        ctx: Context,
        arguments: Q,
    ) -> Result<P, Error> {
        let request = request(self.wire, method, codec.arguments, ctx, &arguments)?;
        drop(arguments);
        let response = self.stack.clone().send(request).await?;
        let spent = wire::retry_pushback(response.headers()) == Some(None);
        let answer = match self.wire {
            Wire::Json => json_answer(codec.answer, response).await,
            Wire::Grpc => grpc_answer(codec.answer, response).await,
        };
        match spent {
            true => answer.map_err(Error::with_retries_spent),
            false => answer,
        }
    }

    /// Calls `method`, which streams: there is a stream when the peer has one. Until then the call may be made again,
    /// as any other; from then on never.
    ///
    /// # Errors
    /// As [`unary`](Self::unary), where the call failed before there was a stream.
    pub async fn stream<Q, P>(
        &self,
        method: &'static Method,
        codec: Codec<Q, P>,
        ctx: Context,
        arguments: Q,
    ) -> Result<Items<P>, Error> {
        let request = request(self.wire, method, codec.arguments, ctx, &arguments)?;
        drop(arguments);
        let deadline = Context::of(request.extensions()).deadline;
        let response = self.stack.clone().send(request).await?;
        let spent = wire::retry_pushback(response.headers()) == Some(None);
        let items = items(self.wire, codec.answer, response, deadline).await;
        match spent {
            true => items.map_err(Error::with_retries_spent),
            false => items,
        }
    }
}

async fn items<B, P>(
    wire: Wire,
    codec: Answer<P>,
    response: Response<B>,
    deadline: Option<Deadline>,
) -> Result<Items<P>, Error>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (parts, body) = response.into_parts();
    match wire {
        Wire::Json if !parts.status.is_success() => return Err(failure(&parts, body).await),
        Wire::Json => {}
        Wire::Grpc => match grpc_head(&parts)? {
            Some(()) => return Ok(Items::none(codec)),
            None => grpc::check_encoding(&parts.headers).map_err(unreadable)?,
        },
    }
    Ok(Items::new(wire, codec, Body::stream(body), deadline))
}

fn request<Q>(
    wire: Wire,
    method: &'static Method,
    codec: Arguments<Q>,
    ctx: Context,
    arguments: &Q,
) -> Result<Request<Body>, Error> {
    let mut ctx = match ctx.method {
        None => ctx,
        Some(_) => ctx.child(),
    };
    ctx.method = Some(method);
    ctx.deadline = ctx.deadline.or_else(|| method.timeout.map(Deadline::after));
    ctx.priority = ctx.priority.or(match method.priority {
        Priority::Normal => None,
        priority => Some(priority),
    });
    let (verb, uri, body) = match wire {
        Wire::Json => {
            codec.hold_json(arguments)?;
            let (verb, codec) = (method.http_method.clone(), codec.json()?);
            // Only what has arguments outside the body is written in two steps.
            let (uri, body) = if !params::has_body(&verb) || method.http_path.contains('{') {
                let value = (codec.value)(arguments).map_err(Error::internal)?;
                params::write(method, value)?
            } else {
                let body = (codec.encode)(arguments)?;
                (Uri::from_static(method.http_path), Some(body))
            };
            (verb, uri, body)
        }
        Wire::Grpc => {
            let body = grpc::frame(codec.grpc()?, arguments)?;
            let uri = Uri::from_static(method.grpc_path);
            (http::Method::POST, uri, Some(body))
        }
    };
    let has_body = body.is_some();
    let mut request = Request::new(body.map_or_else(Body::empty, Body::full));
    *request.method_mut() = verb;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    if let Some(key) = &ctx.idempotency_key {
        let key = HeaderValue::from_str(key.as_str()).expect("a key has visible ASCII only");
        headers.insert(IDEMPOTENCY_KEY, key);
    }
    if let Some(priority) = ctx.priority {
        let priority = HeaderValue::from_static(priority.as_str());
        headers.insert(REQUEST_PRIORITY, priority);
    }
    match wire {
        Wire::Json => {
            let json = HeaderValue::from_static("application/json");
            if has_body {
                headers.insert(header::CONTENT_TYPE, json.clone());
            }
            let accept = match method.streaming {
                true => HeaderValue::from_static(NDJSON),
                false => json,
            };
            headers.insert(header::ACCEPT, accept);
        }
        Wire::Grpc => {
            let grpc = HeaderValue::from_static(grpc::CONTENT_TYPE);
            headers.insert(header::CONTENT_TYPE, grpc);
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
            *request.version_mut() = Version::HTTP_2;
        }
    }
    request.extensions_mut().insert(ctx);
    Ok(request)
}

async fn json_answer<B, P>(codec: Answer<P>, response: Response<B>) -> Result<P, Error>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let (parts, body) = response.into_parts();
    if !parts.status.is_success() {
        return Err(failure(&parts, body).await);
    }
    let bytes = read(body).await?.to_bytes();
    let answer = (codec.json()?.decode)(&bytes).map_err(unreadable)?;
    codec.hold_json(&answer).map_err(unreadable)?;
    Ok(answer)
}

/// What an answer that is none of success says.
async fn failure<B>(parts: &response::Parts, body: B) -> Error
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    // Whatever became of the body, the status says what became of the call.
    let problem = read(body)
        .await
        .ok()
        .map(|body| body.to_bytes())
        .and_then(|bytes| serde_json::from_slice::<Problem>(&bytes).ok());
    let error = match problem {
        Some(problem) => problem.into(),
        None => Error::new(
            Code::from_http(parts.status),
            format!("the service answered with {}", parts.status),
        ),
    };
    match wire::retry_after(&parts.headers) {
        Some(after) => error.with_retry_after(after),
        None => error,
    }
}

async fn grpc_answer<B, P>(codec: Answer<P>, response: Response<B>) -> Result<P, Error>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let (parts, body) = response.into_parts();
    grpc_head(&parts)?;
    let body = read(body).await?;
    match body.trailers().and_then(grpc::ending) {
        Some(ending) => ending?,
        None => return Err(unreadable("the answer has no gRPC status")),
    }
    grpc::check_encoding(&parts.headers).map_err(unreadable)?;
    grpc::unframe(codec.grpc()?, &body.to_bytes()).map_err(unreadable)
}

/// What the head says of how the call ended, if it does.
///
/// # Errors
/// It failed before its first message, which is told in the headers ("trailers-only"), or was not answered in gRPC.
fn grpc_head(parts: &response::Parts) -> Result<Option<()>, Error> {
    match grpc::ending(&parts.headers) {
        Some(ending) => ending.map(Some),
        None if parts.status.is_success() => Ok(None),
        None => Err(Error::new(
            Code::from_http(parts.status),
            format!("the service answered with {}", parts.status),
        )),
    }
}

async fn read<B>(body: B) -> Result<http_body_util::Collected<Bytes>, Error>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    collect(body, ANSWER_LIMIT)
        .await
        .map_err(|unread| match unread {
            Unread::TooLong { .. } => unreadable("the answer is longer than 4 MiB"),
            Unread::Broken(error) => error.into(),
        })
}

pub(super) fn unreadable(source: impl Into<BoxError>) -> Error {
    Error::new(
        Code::Internal,
        "the answer of the service could not be read",
    )
    .with_source(source)
}
