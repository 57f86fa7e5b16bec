//! A hop of a chain: kit's server in front, kit's client behind.

use anyhow::Result;
use chaos::{Hops, Relay, RelayClient, RelayServer};
use kit::{
    Context, Error,
    client::Client,
    config::ServiceConfig,
    discovery::Source,
    metrics::observer,
    name::ServiceName,
    server::{Inbound, Listeners, RunOptions, registration, shutdown_signal},
    service::client::Stack,
};
use tower::Layer;

/// Asks the next one, where there is one.
struct Hop<S>(Option<RelayClient<S>>);

impl<S: Stack> Relay for Hop<S> {
    async fn ask(&self, ctx: Context) -> Result<Hops, Error> {
        let behind = match &self.0 {
            Some(next) => next.ask(ctx).await?.hops,
            None => 0,
        };
        Ok(Hops { hops: behind + 1 })
    }
}

/// Serves until it is told to stop.
pub(crate) async fn run() -> Result<()> {
    let config: ServiceConfig = kit::config::load()?;
    kit::log::init(&config.log)?;
    let service: ServiceName = "relay".parse()?;
    let source = Source::from_config(&config.discovery, observer())?;
    let next = config.discovery.fixed.contains_key(&service).then(|| {
        let client = Client::new(&source, service.clone(), config.client, observer());
        RelayClient::grpc(client)
    });
    let hop = Hop(next);
    let app = Inbound::from_config(&config.server, &service).layer(RelayServer::new(hop));
    let listeners = Listeners::bind(&config.server)?;
    // In Consul, where its environment names an agent.
    let registration = registration(&service, &listeners, &config.server, &source).await?;
    let options = RunOptions {
        service,
        version: env!("CARGO_PKG_VERSION"),
        config: config.server,
        registration,
        readiness: Vec::new(),
    };
    Ok(kit::server::run(listeners, app, options, shutdown_signal()).await?)
}
