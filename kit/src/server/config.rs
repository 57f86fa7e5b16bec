//! How a server is configured.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use http::uri::Authority;
use serde::{Deserialize, Deserializer, de};

use crate::{
    authenticate::StaticTokens, concurrency::ConcurrencyConfig, deadline::DeadlineConfig,
    discovery::RegistrationConfig, fault::FaultConfig, rate_limit::Rate,
};

/// Where a server listens, what a peer may do, and how it ends.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// Where it listens. Default 127.0.0.1:8800; a service sets its own port, see
    /// [`ServerConfig::on_port`]. Port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Where `/livez`, `/readyz`, `/metrics` and `/openapi.json` are. Default: the same address, the port plus 1000.
    pub admin: Option<SocketAddr>,
    /// Host, and port where it is another one, at which others reach it, for the registry. Default: where it
    /// listens, or, if that is every address, the one from which it reaches the registry; with an agent on this machine's
    /// loopback interface the one that the agent has for others.
    #[serde(deserialize_with = "authority")]
    pub advertise: Option<Authority>,
    /// Whether others may ask what the service is made of: by gRPC's reflection, and by its OpenAPI document on the
    /// admin port. Default true.
    pub describe: bool,
    /// What else the registry is told, where one is configured.
    pub registration: RegistrationConfig,
    /// Connections that may be open at once; more wait in the kernel's queue. Default 10,000.
    pub max_connections: NonZeroUsize,
    /// Time to read the head of a request, from its first byte. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub header_read_timeout: Duration,
    /// Size of the head of a request, at least 8 KiB. Default 16 KiB.
    pub max_header_bytes: usize,
    /// How long a connection is kept without a request, and one whose peer does not read its answer. Longer than
    /// clients keep theirs, so that they close first: then no request meets a connection that is just being
    /// closed. Default 75 s.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
    /// Requests that one HTTP/2 connection may have open at once. Default 256.
    pub max_streams: NonZeroU32,
    /// Size of the body of a request, in bytes. Default 1 MiB.
    pub body_limit: usize,
    /// How long a request may take at most; callers may ask for less. Default 5 s.
    pub deadline: DeadlineConfig,
    /// How many requests may be in progress at once; more are refused at once.
    pub concurrency: ConcurrencyConfig,
    /// How many requests may come in a time; more are refused at once. Default: any number.
    pub rate_limit: Option<Rate>,
    /// The file by whose tokens callers are known, see [`StaticTokens`]. Default: nobody is asked who it is, and methods
    /// that are not for anyone are closed.
    pub tokens: Option<StaticTokens>,
    /// Faults that are injected on purpose. Default: none.
    pub fault: FaultConfig,
    /// How it ends.
    pub drain: DrainConfig,
}

/// How a server ends, see [`run`](super::run).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainConfig {
    /// How long requests are still accepted after the instance left the registry, so that all who watch it have
    /// noticed. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub watchers: Duration,
    /// How long requests in flight may take then, before they are broken off. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub in_flight: Duration,
}

fn authority<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Authority>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| {
        text.parse()
            .map_err(|_| de::Error::custom("must be host or host:port"))
    })
    .transpose()
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8800)),
            admin: None,
            advertise: None,
            describe: true,
            registration: RegistrationConfig::default(),
            max_connections: NonZeroUsize::new(10_000).expect("not zero"),
            header_read_timeout: Duration::from_secs(10),
            max_header_bytes: 16 * 1024,
            idle: Duration::from_secs(75),
            max_streams: NonZeroU32::new(256).expect("not zero"),
            body_limit: 1024 * 1024,
            deadline: DeadlineConfig::default(),
            concurrency: ConcurrencyConfig::default(),
            rate_limit: None,
            tokens: None,
            fault: FaultConfig::default(),
            drain: DrainConfig::default(),
        }
    }
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self {
            watchers: Duration::from_secs(2),
            in_flight: Duration::from_secs(30),
        }
    }
}

impl ServerConfig {
    /// The defaults, on this port of the loopback interface.
    pub fn on_port(port: u16) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            ..Self::default()
        }
    }
}
