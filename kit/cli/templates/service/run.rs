use kit::{
    BoxError,
    discovery::{DiscoveryConfig, Source},
    log::LogConfig,
    metrics::observer,
    name::ServiceName,
    server::{Listeners, RunOptions, ServerConfig, registration},
};
use serde::Deserialize;
use tower::Layer;

use crate::{__module__::Handler, api::__Trait__Server};

/// What is configured when nobody says anything.
pub const DEFAULTS: &[(&str, &str)] = &[("server.listen", "127.0.0.1:__port__")];

/// What an instance has to be told. `KIT_SERVER__LISTEN` sets `server.listen`, and so on: see [`kit::config`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where it listens, what a peer may do, how it ends.
    pub server: ServerConfig,
    /// Where other services are.
    pub discovery: DiscoveryConfig,
    /// How logs are written.
    pub log: LogConfig,
    /// The folder for what it keeps.
    pub data: std::path::PathBuf,
}

/// Runs an instance until `shutdown`, and drains it.
pub async fn run(
    config: Config,
    listeners: Listeners,
    shutdown: impl Future<Output = ()>,
) -> Result<(), BoxError> {
    let service: ServiceName = "__name__".parse()?;
    let source = Source::from_config(&config.discovery, observer())?;
    let handler = Handler;
__middleware__    let server = __Trait__Server::new(handler);
    let app = app::inbound(&config.server, &service).layer(server);
    let registration = registration(&service, &listeners, &config.server, &source).await?;
    let options = RunOptions {
        service,
        version: env!("CARGO_PKG_VERSION"),
        config: config.server,
        registration,
        readiness: Vec::new(),
    };
    Ok(kit::server::run(listeners, app, options, shutdown).await?)
}
