//! An instance that can be told to be sick. It knows nothing of kit: plain hyper over plain sockets.

use std::{
    convert::Infallible,
    future::Future,
    io::stdin,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;
use chaos::{CALL, Fault, Order, Served};
use futures_util::{StreamExt, stream};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use kit::{BoxError, wire::PREVIOUS_ATTEMPTS};
use tokio::{
    net::{TcpListener, TcpSocket},
    task::{JoinSet, spawn_blocking},
    time::sleep,
};

/// What it answers with, when it is well.
const BODY: [u8; 1024] = [b'x'; 1024];
/// Every answer takes this long,
const LEAST: Duration = Duration::from_millis(2);
/// and exponentially distributed this long more: the 99th percentile is 16 ms.
const MEAN: Duration = Duration::from_millis(3);
/// How much longer it takes when it is slow.
const SLOWER: u32 = 20;

type Body = BoxBody<Bytes, BoxError>;

/// What is served, and how.
#[derive(Debug, Default)]
struct State {
    fault: Option<Fault>,
    served: Served,
}

/// Serves on `port` as the standard input says, until that ends: so it never outlives the one who started it, unless
/// it is stopped, and then the kernel sees to it.
pub(crate) async fn run(port: u16) -> Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let state = Arc::<Mutex<State>>::default();
    let mut serving = serve(address, &state)?;
    while let Some(order) = spawn_blocking(|| stdin().lines().next()).await? {
        let fault = match serde_json::from_str(&order?)? {
            Order::Tell => lock(&state, |state| state.fault),
            Order::BeWell => None,
            Order::Have(fault) => Some(fault),
        };
        lock(&state, |state| state.fault = fault);
        if fault == Some(Fault::Refuses) {
            serving.shutdown().await;
        } else if serving.is_empty() {
            serving = serve(address, &state)?;
        }
        println!(
            "{}",
            lock(&state, |state| serde_json::to_string(&state.served))?
        );
    }
    Ok(())
}

fn lock<T>(state: &Mutex<State>, f: impl FnOnce(&mut State) -> T) -> T {
    f(&mut state.lock().unwrap_or_else(PoisonError::into_inner))
}

/// One task, which ends listening and all connections when it does.
fn serve(address: SocketAddr, state: &Arc<Mutex<State>>) -> Result<JoinSet<()>> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(1024)?;
    let mut serving = JoinSet::new();
    serving.spawn(accept(listener, Arc::clone(state)));
    Ok(serving)
}

async fn accept(listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        // Whenever this side closes a connection, it is a reset.
        if stream.set_zero_linger().is_err() || stream.set_nodelay(true).is_err() {
            continue;
        }
        let state = Arc::clone(&state);
        let answer = service_fn(move |request| answer(request, Arc::clone(&state)));
        connections.spawn(async move {
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> impl Future<Output = Result<Response<Body>, Infallible>> {
    let headers = request.headers();
    let call = headers
        .get(CALL)
        .and_then(|call| call.to_str().ok()?.parse().ok());
    let is_retry = headers.contains_key(PREVIOUS_ATTEMPTS);
    let fault = lock(&state, |state| {
        state.served.requests += 1;
        state.served.retries += u64::from(is_retry);
        if let Some(call) = call {
            *state.served.calls.entry(call).or_default() += 1;
        }
        state.fault
    });
    async move {
        let mut response = Response::new(whole());
        match fault {
            Some(Fault::FailsFast) => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
            Some(Fault::Slow) => sleep(latency() * SLOWER).await,
            Some(Fault::Resets) => {
                sleep(latency()).await;
                *response.body_mut() = half();
                let length = header::HeaderValue::from(BODY.len());
                response
                    .headers_mut()
                    .insert(header::CONTENT_LENGTH, length);
            }
            // Who hangs or refuses is not asked.
            None | Some(Fault::Hangs | Fault::Refuses) => sleep(latency()).await,
        }
        Ok(response)
    }
}

fn latency() -> Duration {
    // Never the logarithm of 0.
    LEAST + MEAN.mul_f64(-(1.0 - rand::random::<f64>()).ln())
}

fn whole() -> Body {
    Full::new(Bytes::from_static(&BODY))
        .map_err(|never| match never {})
        .boxed()
}

/// Half of a body, and then an error, for which hyper drops the connection.
fn half() -> Body {
    let half = async { Ok(Frame::data(Bytes::from_static(&BODY[..BODY.len() / 2]))) };
    let broken = async {
        // Meanwhile the half is sent, and read: a reset may throw away what was not.
        sleep(Duration::from_millis(5)).await;
        Err(BoxError::from("broken off on purpose"))
    };
    BodyExt::boxed(StreamBody::new(Box::pin(
        stream::once(half).chain(stream::once(broken)),
    )))
}
