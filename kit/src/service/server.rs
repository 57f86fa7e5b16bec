//! One call from the side that answers it.

use std::{
    pin::{Pin, pin},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method as HttpMethod, Request, Response, StatusCode, header};

pub use super::sent::Outgoing;
use super::{
    Unread,
    codec::{Answer as AnswerCodec, Arguments, Codec},
    collect, grpc, params,
    reflection::Reflection,
    schema::Service,
    sent::{NDJSON, Sent},
};
use crate::{
    BoxError, Context, Error, Rejection,
    body::{Body, BodyLimit},
    context::{Caller, CallersDeadline, Deadline, IdempotencyKey},
    error::Code,
    name::{Access, Method, Transport},
    wire::{self, IDEMPOTENCY_KEY, Wire},
};

/// The future of a generated server.
pub type Answer =
    Pin<Box<dyn Future<Output = Result<Response<Body>, std::convert::Infallible>> + Send>>;

/// The body of a request that a generated server takes: any body of bytes. There is nothing to implement.
pub trait RequestBody:
    http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static
{
}

impl<B> RequestBody for B
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
}

/// A request that never reaches a handler, and what its caller is told.
#[derive(Debug)]
pub struct Refusal {
    error: Error,
    /// Where HTTP has a status that says more than the error's code.
    status: Option<StatusCode>,
    /// What the caller should have known.
    hint: Option<(HeaderName, HeaderValue)>,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self {
            error,
            status: None,
            hint: None,
        }
    }
}

impl Refusal {
    /// The refusal as a response on `wire`.
    pub fn into_response(self, wire: Wire) -> Response<Body> {
        let mut response = match self.status {
            Some(status) => wire.error_as(self.error, status),
            None => wire.error(self.error),
        };
        if let Some((name, value)) = self.hint {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// Which of `methods` a request asks for, by its place in the list.
///
/// Where more than one fits, the one with the more precise path is meant: `/users/me` before `/users/{id}`.
///
/// # Errors
/// It asks for none of them: 404 or 405 in HTTP, UNIMPLEMENTED in gRPC.
pub fn route<B>(methods: &'static [Method], request: &Request<B>) -> Result<usize, Refusal> {
    let (path, verb) = (request.uri().path(), request.method());
    let wire = Wire::of(request.headers());
    if wire == Wire::Json
        && methods
            .iter()
            .any(|method| method.transport == Transport::Grpc)
    {
        // As gRPC over HTTP/2 has it.
        return Err(Refusal {
            status: Some(StatusCode::UNSUPPORTED_MEDIA_TYPE),
            ..Error::new(Code::Unimplemented, "the service speaks gRPC only").into()
        });
    }
    let fits = |method: &&Method| match wire {
        Wire::Json => params::fits(method.http_path, path),
        Wire::Grpc => method.grpc_path == path && method.transport.has(wire),
    };
    let verb_of = |method: &'static Method| match wire {
        Wire::Json => &method.http_method,
        Wire::Grpc => &HttpMethod::POST,
    };
    // What answers GET answers HEAD too; the server leaves the body out.
    let answers = |method: &'static Method| {
        let own = verb_of(method);
        own == verb || (own == HttpMethod::GET && verb == HttpMethod::HEAD)
    };
    let found = methods
        .iter()
        .enumerate()
        .filter(|(_, method)| fits(method) && answers(method))
        .min_by(|(_, one), (_, other)| params::by_precision(one.http_path, other.http_path));
    if let Some((at, _)) = found {
        return Ok(at);
    }
    let mut allowed: Vec<_> = methods.iter().filter(fits).map(verb_of).collect();
    if allowed.is_empty() {
        let code = match wire {
            Wire::Json => Code::NotFound,
            Wire::Grpc => Code::Unimplemented,
        };
        return Err(Error::new(code, "there is no such method").into());
    }
    if allowed.contains(&&HttpMethod::GET) {
        allowed.push(&HttpMethod::HEAD);
    }
    let mut names: Vec<_> = allowed.into_iter().map(HttpMethod::as_str).collect();
    names.sort_unstable();
    names.dedup();
    let names = names.join(", ");
    let allow = HeaderValue::from_str(&names).expect("the names of methods are ASCII");
    Err(Refusal {
        error: Error::new(
            Code::Unimplemented,
            format!("the HTTP method must be {}", names.replace(", ", " or ")),
        ),
        status: Some(StatusCode::METHOD_NOT_ALLOWED),
        hint: Some((header::ALLOW, allow)),
    })
}

/// Answers what asks for none of the service's `methods`: tells what the service is made of, where that is asked for by
/// reflection over gRPC, and refuses everything else.
pub fn other<B: RequestBody>(
    methods: &'static [Method],
    describe: fn() -> Service,
    request: Request<B>,
    refusal: Refusal,
) -> Response<Body> {
    let wire = Wire::of(request.headers());
    // A service that has no methods yet has them over either.
    let is_on =
        |wire| methods.is_empty() || methods.iter().any(|method| method.transport.has(wire));
    if let Some(Described(described)) = request.extensions().get() {
        described.get_or_init(|| {
            let service = describe();
            let openapi = is_on(Wire::Json).then(|| service.openapi().to_string().into());
            Description {
                names: vec![service.full_name()],
                openapi,
            }
        });
    }
    match Reflection::at(request.uri().path()) {
        Some(reflection) if wire == Wire::Grpc && is_on(Wire::Grpc) => {
            reflection.answer(describe, request.into_body())
        }
        _ => refusal.into_response(wire),
    }
}

/// Whether `path` is where gRPC asks what a service is made of.
pub(crate) fn is_reflection(path: &str) -> bool {
    Reflection::at(path).is_some()
}

/// What a server says of the service that it serves.
#[derive(Debug)]
pub(crate) struct Description {
    /// What gRPC calls it.
    pub(crate) names: Vec<String>,
    /// Its OpenAPI document, where it answers JSON.
    pub(crate) openapi: Option<Bytes>,
}

/// In the extensions of a request that asks for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Described(pub(crate) Arc<OnceLock<Description>>);

/// Answers one call: reads the arguments, calls `handler`, and writes what it returns, on the wire on which the
/// request came.
///
/// A method with a [timeout](Method::timeout) takes no longer than that, its arguments included, and then fails with
/// [`Rejection::DeadlineExceeded`]; the handler's deadline is the earlier of this one and the caller's.
///
/// The response carries `method` in its extensions, and an erring one its [`Error`] too, for the layers outside.
pub async fn unary<B, Q, P, H, F>(
    method: &'static Method,
    codec: Codec<Q, P>,
    request: Request<B>,
    handler: H,
) -> Response<Body>
where
    B: RequestBody,
    H: FnOnce(Context, Q) -> F,
    F: Future<Output = Result<P, Error>>,
{
    let wire = Wire::of(request.headers());
    // The earlier of the two; without a time of its own a method is bounded by the layers outside alone.
    let longest = method.timeout.map(|timeout| {
        let own = Deadline::after(timeout);
        let callers = Context::of(request.extensions()).deadline;
        callers.map_or(own, |callers| callers.min(own))
    });
    let call = pin!(async {
        match arguments(wire, method, codec.arguments, request).await {
            Ok((mut ctx, arguments)) => {
                ctx.deadline = longest.or(ctx.deadline);
                handler(ctx, arguments)
                    .await
                    .and_then(|reply| write(wire, codec.answer, &reply))
                    .unwrap_or_else(|error| wire.error(error))
            }
            Err(refusal) => refusal.into_response(wire),
        }
    });
    let mut response = match longest {
        None => call.await,
        Some(longest) => tokio::time::timeout_at(longest.instant(), call)
            .await
            .unwrap_or_else(|_| wire.error(Rejection::DeadlineExceeded.into())),
    };
    response.extensions_mut().insert(method);
    response
}

/// The same for a method that streams: `handler` hands its stream to [`Outgoing`], and the response is there as soon as
/// there is a stream.
///
/// On gRPC its items are messages, and how it ended stands in the trailers. As JSON they are lines,
/// `application/x-ndjson`: `{"result": ...}` for each item, and `{"error": ...}` with a problem document at the end of a
/// stream that broke off; an empty line says that there is nothing new.
///
/// The caller's deadline and the method's timeout hold for the whole stream. What the server's own stack adds to them
/// bounds the wait for its beginning only.
pub async fn streaming<B, Q, P, H, F>(
    method: &'static Method,
    codec: Codec<Q, P>,
    mut request: Request<B>,
    handler: H,
) -> Response<Body>
where
    B: RequestBody,
    H: FnOnce(Context, Q, Outgoing<P>) -> F,
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    let wire = Wire::of(request.headers());
    let extensions = request.extensions_mut();
    let callers = match extensions.get::<CallersDeadline>() {
        Some(CallersDeadline(deadline)) => *deadline,
        None => Context::of(extensions).deadline,
    };
    let own = method.timeout.map(Deadline::after);
    let deadline = callers.into_iter().chain(own).min();
    let begin = async {
        let (mut ctx, arguments) = arguments(wire, method, codec.arguments, request).await?;
        ctx.deadline = deadline;
        let mut sent = Box::pin(Sent::new(wire, codec.answer, deadline, |outgoing| {
            handler(ctx, arguments, outgoing)
        }));
        sent.as_mut().begun().await?;
        Ok(sent)
    };
    let begun: Result<_, Refusal> = match deadline {
        None => begin.await,
        Some(deadline) => tokio::time::timeout_at(deadline.instant(), begin)
            .await
            .unwrap_or_else(|_| Err(Error::from(Rejection::DeadlineExceeded).into())),
    };
    let mut response = match begun {
        Ok(sent) => {
            let content_type = match wire {
                Wire::Json => NDJSON,
                Wire::Grpc => grpc::CONTENT_TYPE,
            };
            answer(Body::stream(sent), content_type)
        }
        Err(refusal) => refusal.into_response(wire),
    };
    response.extensions_mut().insert(method);
    response
}

/// The context and the arguments of a call.
async fn arguments<B, Q>(
    wire: Wire,
    method: &'static Method,
    codec: Arguments<Q>,
    request: Request<B>,
) -> Result<(Context, Q), Refusal>
where
    B: RequestBody,
{
    let (parts, body) = request.into_parts();
    let mut ctx = Context::of(&parts.extensions);
    allow(method, &ctx.caller)?;
    ctx.method = Some(method);
    ctx.priority = wire::priority(&parts.headers).or(ctx.priority);
    if let Some(key) = parts.headers.get(IDEMPOTENCY_KEY) {
        ctx.idempotency_key = Some(idempotency_key(key)?);
    }
    if wire == Wire::Grpc {
        grpc::check_encoding(&parts.headers).map_err(|error| Refusal {
            hint: Some((
                grpc::ACCEPT_ENCODING,
                HeaderValue::from_static(grpc::IDENTITY),
            )),
            ..error.into()
        })?;
    }
    let BodyLimit(limit) = parts.extensions.get().copied().unwrap_or_default();
    let body = collect(body, limit).await.map_err(|unread| match unread {
        Unread::TooLong { limit } => Refusal {
            status: Some(StatusCode::PAYLOAD_TOO_LARGE),
            ..Error::too_large(limit).into()
        },
        // A layer outside ended the body and left its reason in the error, or the caller hung up.
        Unread::Broken(error) => match Error::from(error) {
            error if error.rejection().is_some() => error.into(),
            error => Error::new(Code::Cancelled, "the body broke off")
                .with_source(error)
                .into(),
        },
    })?;
    let bytes = body.to_bytes();
    let arguments = match wire {
        Wire::Json if !params::has_body(&method.http_method) && !bytes.trim_ascii().is_empty() => {
            let rule = "the arguments must be in the query string, not in a body";
            return Err(Error::invalid("", rule).into());
        }
        Wire::Json => (codec.json()?.decode)(&params::read(method, &parts.uri)?, &bytes)?,
        Wire::Grpc => grpc::unframe(codec.grpc()?, &bytes)?,
    };
    codec.hold(wire, &arguments)?;
    Ok((ctx, arguments))
}

/// Whether `caller` may call `method`. Nothing of the body was read yet.
fn allow(method: &'static Method, caller: &Caller) -> Result<(), Refusal> {
    let identity = match (method.access, caller) {
        (Access::Anyone, _) => return Ok(()),
        (_, Caller::NotAsked) => {
            let mistake = format!(
                "{} is for callers that say who they are, and nothing asks them: `server::Inbound` has no `authenticate`",
                method.full_name()
            );
            return Err(Error::internal(mistake).into());
        }
        (_, Caller::Anonymous) => {
            let message = "the method is for callers that say who they are";
            return Err(Error::new(Code::Unauthenticated, message).into());
        }
        (_, Caller::Known(identity)) => identity,
    };
    match method.access {
        Access::Scope(scope) if !identity.has(scope) => {
            // RFC 6750, section 3.1.
            let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\"");
            let challenge = HeaderValue::from_str(&challenge).expect("a scope is visible ASCII");
            Err(Refusal {
                hint: Some((header::WWW_AUTHENTICATE, challenge)),
                ..Error::permission_denied(format!("the scope `{scope}` is needed")).into()
            })
        }
        Access::Anyone | Access::Authenticated | Access::Scope(_) => Ok(()),
    }
}

fn idempotency_key(key: &HeaderValue) -> Result<IdempotencyKey, Error> {
    key.to_str()
        .ok()
        .and_then(|key| key.parse().ok())
        .ok_or_else(|| {
            Error::invalid(
                IDEMPOTENCY_KEY.as_str(),
                "must have 1 to 255 visible ASCII characters",
            )
        })
}

fn write<P>(wire: Wire, codec: AnswerCodec<P>, reply: &P) -> Result<Response<Body>, Error> {
    let (body, content_type) = match wire {
        Wire::Json => {
            codec.hold_json(reply).map_err(Error::internal)?;
            let body = (codec.json()?.encode)(reply)?;
            (Body::full(body), "application/json")
        }
        Wire::Grpc => (
            grpc::answer(grpc::frame(codec.grpc()?, reply)?),
            grpc::CONTENT_TYPE,
        ),
    };
    Ok(answer(body, content_type))
}

fn answer(body: Body, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
