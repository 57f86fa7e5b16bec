//! A server in its whole inbound stack, and a client in its whole outbound one, over a socket.

use http::{Request, Response};
use kit::{Body, BoxError, Context, Error, client, discovery::Fixed, event::nobody, server};
use tower::{Layer, ServiceExt, service_fn};

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let (name, config) = ("clock".parse()?, server::ServerConfig::on_port(0));
    let listeners = server::Listeners::bind(&config)?;
    let address = listeners.address().to_string().parse()?;
    let inbound = server::Inbound::from_config(&config, &name);
    let app = inbound.layer(service_fn(async |request: Request<Body>| {
        let deadline = Context::of(request.extensions()).deadline;
        let left = deadline
            .expect("set")
            .remaining(tokio::time::Instant::now());
        Ok::<_, Error>(Response::new(Body::full(format!("{left:?}"))))
    }));

    // Discovery, balancing, circuit breakers, retries and deadlines are in the client.
    let discovery = Fixed::new([(name.clone(), vec![address])]);
    let client = client::Client::new(&discovery, name.clone(), Default::default(), nobody());
    let call = client.oneshot(Request::get("/").body(Body::empty())?);

    let options = server::RunOptions {
        service: name,
        version: "1.0.0",
        config,
        registration: None,
        readiness: Vec::new(),
    };
    tokio::select! {
        ended = server::run(listeners, app, options, std::future::pending()) => ended?,
        answer = call => assert_eq!(answer?.status(), 200),
    }
    Ok(())
}
