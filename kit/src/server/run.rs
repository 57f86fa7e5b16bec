//! The life of a server, from the first connection to the last.

use std::{convert::Infallible, future::Future, pin::pin, time::Duration};

use ::metrics::{Gauge, gauge};
use bytes::Bytes;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tower_service::Service;

use super::{
    Listeners, ServerConfig,
    admin::{Admin, Check},
    connection::{Bounds, Connections},
    health::Health,
    signal,
};
use crate::{
    Body, BoxError,
    discovery::Registration,
    metrics::{self, MetricsHandle},
    name::ServiceName,
};

/// How often the samples of histograms are put together.
const UPKEEP: Duration = Duration::from_secs(5);

/// What a server is besides its app.
#[derive(Debug)]
pub struct RunOptions {
    /// Its name, in logs and metrics.
    pub service: ServiceName,
    /// Its version, in the metric `kit_build_info`; `env!("CARGO_PKG_VERSION")` is good.
    pub version: &'static str,
    /// Bounds, and how long draining may take.
    pub config: ServerConfig,
    /// Puts this instance into the registry once it listens, and says there what `/readyz` says, unless it is
    /// [reporting](Registration::reporting) something else; `None` where nobody has to find it.
    pub registration: Option<Registration>,
    /// What `/readyz` asks for.
    pub readiness: Vec<Check>,
}

/// Why a server ended otherwise than it should.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It was told twice to stop, so it stopped without waiting for the requests in flight.
    #[error("stopped at once, by a second signal; {connections} connections were broken off")]
    Interrupted {
        /// How many connections were open.
        connections: usize,
    },
}

/// Serves `app` on the listeners, HTTP/1 and HTTP/2 (with prior knowledge) on the same port, until `shutdown` is
/// ready; then drains and returns.
///
/// Draining, in this order: `/readyz` says no; the instance is taken out of the registry; those who watch it get
/// `drain.watchers` to notice, while requests are still served; no more connections are accepted, and the open
/// ones end with their present request (`connection: close`, GOAWAY); what is not over after `drain.in_flight` is
/// broken off, so a client that never finishes cannot hold it. A second SIGTERM or Ctrl-C stops it at once.
///
/// Over gRPC the service's port answers `grpc.health.v1.Health` too, with what `/readyz` says: for the whole server and
/// for the service by its full name, such as `users.Users`. What limits requests does not stand before that.
///
/// The admin port answers until the end: `/livez`, `/readyz`, `/metrics`, and what a generated service offers as JSON,
/// `/openapi.json`. Dropping the future stops everything at once.
pub async fn run<S, B>(
    listeners: Listeners,
    app: S,
    options: RunOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError>
where
    S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let RunOptions {
        service,
        version,
        config,
        registration,
        readiness,
    } = options;
    let metrics = metrics::install();
    metrics.set_build_info(&service, version);
    let admin = Admin::new(metrics.clone(), readiness, app.clone(), config.describe);
    let app = Health::new(app, admin.clone());
    let mut admin_connections = Connections::new(Bounds::admin(), Gauge::noop());
    let (address, admin_address) = (listeners.address(), listeners.admin_address());
    tracing::info!(service = service.as_str(), version, %address, %admin_address, "listening");

    let serve = async {
        let mut connections = Connections::new(Bounds::of(&config), gauge!("kit_connections"));
        let registered = tokio::select! {
            never = connections.accept(&listeners.service, app.clone()) => match never {},
            registered = async {
                let registered = registration.map(|registration| {
                    let admin = admin.clone();
                    let readiness = move || {
                        let admin = admin.clone();
                        async move { Ok(admin.readiness().await?) }
                    };
                    registration.or_reporting(readiness).start()
                });
                shutdown.await;
                registered
            } => registered,
        };
        tracing::info!(
            service = service.as_str(),
            connections = connections.len(),
            "draining"
        );
        admin.drain();
        // One for both phases: made anew, it would not hear what comes between them.
        let mut second = pin!(signal::second());
        let gone = async {
            if let Some(registered) = registered
                && let Err(error) = registered.deregister().await
            {
                // The instance's check fails from now on, so it is found out all the same.
                tracing::warn!(error = %crate::error::Chain(&error), "could not deregister");
            }
            sleep(config.drain.watchers).await;
        };
        tokio::select! {
            never = connections.accept(&listeners.service, app) => match never {},
            () = gone => {}
            () = &mut second => return interrupted(&connections),
        }
        drop(listeners.service);
        let open = connections.len();
        tokio::select! {
            cut = connections.finish(config.drain.in_flight) => {
                if cut > 0 {
                    tracing::warn!(cut, bound = ?config.drain.in_flight, "requests were broken off");
                }
            }
            () = &mut second => return Err(ServeError::Interrupted { connections: open }),
        }
        tracing::info!(service = service.as_str(), "stopped");
        Ok(())
    };
    tokio::select! {
        result = serve => result,
        never = admin_connections.accept(&listeners.admin, admin.clone()) => match never {},
        never = upkeep(&metrics) => match never {},
    }
}

fn interrupted(connections: &Connections) -> Result<(), ServeError> {
    Err(ServeError::Interrupted {
        connections: connections.len(),
    })
}

async fn upkeep(metrics: &MetricsHandle) -> Infallible {
    let mut ticks = interval(UPKEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

impl Bounds {
    fn of(config: &ServerConfig) -> Self {
        Self {
            max_connections: config.max_connections.get(),
            header_read_timeout: config.header_read_timeout,
            max_header_bytes: config.max_header_bytes,
            idle: config.idle,
            max_streams: config.max_streams.get(),
        }
    }

    /// A scraper, an agent with its checks, a person.
    fn admin() -> Self {
        Self {
            max_connections: 64,
            header_read_timeout: Duration::from_secs(5),
            max_header_bytes: 8 * 1024,
            idle: Duration::from_secs(75),
            max_streams: 8,
        }
    }
}
