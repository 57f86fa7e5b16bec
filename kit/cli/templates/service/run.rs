pub use kit::config::ServiceConfig as Config;
use kit::discovery::{Policies, Source};
use kit::server::{Listeners, RunOptions, registration};
use kit::{BoxError, metrics::observer, name::ServiceName};
use tower::Layer;

use crate::{__module__::Handler, api::__Trait__Server};

/// What is configured when nobody says anything.
pub const DEFAULTS: &[(&str, &str)] = &[("server.listen", "127.0.0.1:__port__")];

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
__endpoint__    let inbound = app::inbound(&config.server, &service);
    // For as long as it runs, where that is configured.
    let policies = Policies::from_config(&config.discovery, &source, &service, observer());
    let _followed = inbound.follow(&policies);
    let app = inbound.layer(server);
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
