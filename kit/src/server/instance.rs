//! What a server says of itself in the registry.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use http::{Uri, uri::Authority};
use tokio::net::UdpSocket;

use super::{Listeners, ServerConfig};
use crate::{
    discovery::{Check, CheckConfig, Instance, Registration, RegistrationConfig, Source},
    name::ServiceName,
};

/// Why a server does not know its own address.
#[derive(Debug, thiserror::Error)]
#[error(
    "the server listens at every address, and which of them leads to the registry {registry} cannot be found out; \
     set server.advertise (KIT_SERVER__ADVERTISE)"
)]
pub struct InstanceError {
    registry: Uri,
    #[source]
    source: io::Error,
}

/// What puts the instance of `service` that listens there into the registry of `source`, once it is
/// [run](super::run); `None` where there is no registry to tell.
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
    let instance = instance(service, listeners, config, consul.address()).await?;
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
    let (address, admin) = (listeners.address(), listeners.admin_address());
    let host = match &config.advertise {
        Some(advertised) => advertised.host().to_owned(),
        None if address.ip().is_unspecified() => {
            let local = towards(registry).await.map_err(|source| InstanceError {
                registry: registry.clone(),
                source,
            })?;
            host(local)
        }
        None => host(address.ip()),
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
    Ok(Instance {
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
    })
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
    let any: SocketAddr = match peer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(peer).await?;
    Ok(socket.local_addr()?.ip())
}
