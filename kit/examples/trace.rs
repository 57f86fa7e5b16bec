//! Tracing, alone in a tower stack: the caller's trace goes on, and every request has a span and a log line.

use std::convert::Infallible;

use http::{Request, Response};
use kit::{BoxError, Context, trace::TraceLayer};
use tower::{ServiceBuilder, ServiceExt, service_fn};

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    // Calls another service in its turn, through a client's layer; that one answers with what it was sent.
    let next = ServiceBuilder::new()
        .layer(TraceLayer::attempt())
        .service(service_fn(async |request: Request<()>| {
            let sent = request.headers()["traceparent"].clone();
            Ok::<_, Infallible>(Response::new(sent))
        }));
    let service = ServiceBuilder::new()
        .layer(TraceLayer::inbound())
        .service(service_fn(move |request: Request<()>| {
            let mut call = Request::new(());
            let context = Context::of(request.extensions()).child();
            call.extensions_mut().insert(context);
            next.clone().oneshot(call)
        }));

    let trace = "0af7651916cd43dd8448eb211c80319c";
    let request =
        Request::get("/").header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"));
    let sent = service.oneshot(request.body(())?).await?.into_body();
    println!("{sent:?}");
    let sent = sent.to_str()?;
    assert!(sent.contains(trace), "the same trace");
    assert!(!sent.contains("b7ad6b7169203331"), "another span");
    Ok(())
}
