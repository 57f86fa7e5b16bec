//! What a server says of itself in the registry.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use http::{Uri, uri::Authority};
use tokio::net::UdpSocket;
use tracing::warn;

use super::{Listeners, ServerConfig};
use crate::{
    discovery::{Check, CheckConfig, Consul, Instance, Registration, RegistrationConfig, Source},
    error::Chain,
    name::ServiceName,
};

/// Why a server does not know its own address.
#[derive(Debug, thiserror::Error)]
#[error(
    "the server listens at every address, and which of them leads to the registry {registry} cannot be found out; \
     {ADVISE}"
)]
pub struct InstanceError {
    registry: Uri,
    #[source]
    source: io::Error,
}

const ADVISE: &str = "set server.advertise (KIT_SERVER__ADVERTISE)";

/// What puts the instance of `service` that listens there into the registry of `source`, once it is
/// [run](super::run); `None` where there is no registry to tell.
///
/// A server that listens at every address, and whose agent is on this machine's own loopback interface, is told to others
/// at the address that the agent has for them. It asks the agent, for which the token needs `agent:read`; if there is no
/// answer within two seconds, it takes the address that leads out of this machine, and logs a warning.
///
/// # Errors
/// As [`instance`].
pub async fn registration(
    service: &ServiceName,
    listeners: &Listeners,
    config: &ServerConfig,
    source: &Source,
) -> Result<Option<Registration>, InstanceError> {
    let Some(consul) = source.consul() else {
        return Ok(None);
    };
    let local = local(listeners, config, consul.address()).await?;
    let local = match local {
        Some(local) if local.is_loopback() => Some(known_to_others(consul, local).await),
        local => local,
    };
    let instance = described(service, listeners, config, local);
    Ok(Some(consul.registration(instance)))
}

/// The instance of `service` that listens there, for the registry at `registry`, which follows what `/readyz` says.
///
/// Its id, where none is configured, is its name and address, so a server that is started again takes the place of
/// the one before. Its metadata has `admin`, host and port of the admin port, where Prometheus finds `/metrics`.
///
/// # Errors
/// If it listens at every address, and it cannot be found out which of them leads to the registry.
pub async fn instance(
    service: &ServiceName,
    listeners: &Listeners,
    config: &ServerConfig,
    registry: &Uri,
) -> Result<Instance, InstanceError> {
    let local = local(listeners, config, registry).await?;
    Ok(described(service, listeners, config, local))
}

/// The address from which this machine talks to `registry`, where that is wanted.
async fn local(
    listeners: &Listeners,
    config: &ServerConfig,
    registry: &Uri,
) -> Result<Option<IpAddr>, InstanceError> {
    if config.advertise.is_some() || !listeners.address().ip().is_unspecified() {
        return Ok(None);
    }
    let local = towards(registry).await.map_err(|source| InstanceError {
        registry: registry.clone(),
        source,
    })?;
    Ok(Some(local))
}

/// The address at which others reach this machine, whose agent is reached at `loopback`.
async fn known_to_others(consul: &Consul, loopback: IpAddr) -> IpAddr {
    match consul.advertised().await {
        Ok(address) => address,
        Err(error) => {
            // Nothing is sent there: it is an address of the kind that is for documents.
            let outside = out((Ipv4Addr::new(192, 0, 2, 1), 80).into()).await;
            let address = outside.unwrap_or(loopback);
            warn!(
                %address, error = %Chain(&error),
                "the agent does not say at which address others reach this machine; if it is not this one, {ADVISE}"
            );
            address
        }
    }
}

/// What the registry is told, by a server that `local` stands for where it listens at every address.
fn described(
    service: &ServiceName,
    listeners: &Listeners,
    config: &ServerConfig,
    local: Option<IpAddr>,
) -> Instance {
    let (address, admin) = (listeners.address(), listeners.admin_address());
    let host = match &config.advertise {
        Some(advertised) => advertised.host().to_owned(),
        None => host(local.unwrap_or(address.ip())),
    };
    let port = config
        .advertise
        .as_ref()
        .and_then(Authority::port_u16)
        .unwrap_or(address.port());
    let admin = format!("{}:{}", host_of(admin.ip(), &host), admin.port());
    let check = match config.registration.check.clone() {
        CheckConfig::Http { interval, timeout } => Check::Http {
            uri: format!("http://{admin}/readyz")
                .parse()
                .expect("a host and a port make a URI"),
            interval,
            timeout,
        },
        CheckConfig::Grpc {
            service,
            interval,
            timeout,
        } => Check::Grpc {
            // Where it listens, and not where others are told to find it: that may be behind something else.
            address: format!("{}:{}", host_of(address.ip(), &host), address.port())
                .parse()
                .expect("a host and a port"),
            service,
            tls: false,
            interval,
            timeout,
        },
        CheckConfig::Ttl { ttl } => Check::Ttl { ttl },
    };
    let RegistrationConfig {
        id,
        tags,
        metadata,
        weights,
        addresses,
        check: _,
        deregister_after,
    } = config.registration.clone();
    // Cut where a host name is of the greatest length.
    let own = || {
        format!("{service}-{port}-{host:.180}")
            .parse()
            .expect("names and hosts are visible ASCII")
    };
    Instance {
        service: service.clone(),
        id: id.unwrap_or_else(own),
        address: format!("{host}:{port}").parse().expect("a host and a port"),
        addresses,
        tags,
        metadata: metadata
            .into_iter()
            .chain([("admin".into(), admin)])
            .collect(),
        weights,
        check,
        deregister_after,
    }
}

/// An IP address as the host of a URI: IPv6 in brackets.
fn host(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// The host of a listener: `advertised` where it listens at every address.
fn host_of(ip: IpAddr, advertised: &str) -> String {
    if ip.is_unspecified() {
        return advertised.to_owned();
    }
    host(ip)
}

/// The address from which this machine talks to `registry`. Connecting a UDP socket sends nothing.
async fn towards(registry: &Uri) -> io::Result<IpAddr> {
    let host = registry.host().unwrap_or("localhost");
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = registry.port_u16().unwrap_or(80);
    let mut peers = tokio::net::lookup_host((host, port)).await?;
    let peer = peers
        .next()
        .ok_or_else(|| io::Error::other("it has no address"))?;
    out(peer).await
}

/// The address from which this machine talks to `peer`.
async fn out(peer: SocketAddr) -> io::Result<IpAddr> {
    let any: SocketAddr = match peer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(peer).await?;
    Ok(socket.local_addr()?.ip())
}
