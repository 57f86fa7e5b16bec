//! What a server says of itself in the registry.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use http::{Uri, uri::Authority};
use tokio::net::UdpSocket;

use super::{Listeners, ServerConfig};
use crate::{
    discovery::{Check, Instance},
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

/// The instance of `service` that listens there, for the registry at `registry`, which checks it by `/readyz`.
///
/// Its id is its name and address, so a server that is started again takes the place of the one before. Its
/// metadata has `admin`, host and port of the admin port, where Prometheus finds `/metrics`.
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
    let admin_host = if admin.ip().is_unspecified() {
        host.clone()
    } else {
        self::host(admin.ip())
    };
    let admin = format!("{admin_host}:{}", admin.port());
    let check = Check {
        http: format!("http://{admin}/readyz")
            .parse()
            .expect("a host and a port make a URI"),
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(2),
    };
    Ok(Instance {
        service: service.clone(),
        // Cut where a host name is of the greatest length.
        id: format!("{service}-{port}-{host:.180}")
            .parse()
            .expect("names and hosts are visible ASCII"),
        address: format!("{host}:{port}").parse().expect("a host and a port"),
        tags: Vec::new(),
        metadata: BTreeMap::from([("admin".into(), admin)]),
        check,
    })
}

/// An IP address as the host of a URI: IPv6 in brackets.
fn host(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
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
