//! Sockets that listen.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

use super::ServerConfig;

/// How far above the port of the service the admin port is, where nothing else is said.
const ADMIN: u16 = 1000;
/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 1024;

/// The two sockets of a server, which listen already.
#[derive(Debug)]
pub struct Listeners {
    pub(super) service: TcpListener,
    pub(super) admin: TcpListener,
}

/// Why a server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be had.
    #[error("cannot listen on {address} ({key})")]
    Address {
        /// The address.
        address: SocketAddr,
        /// The key of the configuration that says so.
        key: &'static str,
        /// What the system says, such as that it is in use.
        #[source]
        source: io::Error,
    },
    /// There is no port so high.
    #[error(
        "server.listen (KIT_SERVER__LISTEN) has port {0}, which leaves no room for the admin port at +1000; set server.admin (KIT_SERVER__ADMIN)"
    )]
    NoAdminPort(u16),
}

impl Listeners {
    /// Listens where `config` says; port 0 lets the system choose.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn bind(config: &ServerConfig) -> Result<Self, BindError> {
        let admin = match config.admin {
            Some(admin) => admin,
            None => {
                let port = match config.listen.port() {
                    0 => 0,
                    port => port
                        .checked_add(ADMIN)
                        .ok_or(BindError::NoAdminPort(port))?,
                };
                SocketAddr::new(config.listen.ip(), port)
            }
        };
        Ok(Self {
            service: listen(config.listen, "server.listen, KIT_SERVER__LISTEN")?,
            admin: listen(admin, "server.admin, KIT_SERVER__ADMIN")?,
        })
    }

    /// Where the service listens.
    pub fn address(&self) -> SocketAddr {
        self.service.local_addr().expect("it is bound")
    }

    /// Where `/livez`, `/readyz` and `/metrics` are.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.local_addr().expect("it is bound")
    }
}

fn listen(address: SocketAddr, key: &'static str) -> Result<TcpListener, BindError> {
    let listen = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // A server that is started again does not wait for the connections of the one before to be forgotten.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|source| BindError::Address {
        address,
        key,
        source,
    })
}
