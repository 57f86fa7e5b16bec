//! Calls __name__ from other programs.

use kit::{
    client::{Client, ClientConfig},
    discovery::Fixed,
    metrics::observer,
    name::InvalidName,
};

pub use __module__::api;

use api::__Trait__Client;

/// A client of the instances at these addresses, each `host:port`. It spreads calls over them, makes again what may
/// be made again, and leaves out those that fail.
pub fn connect(addresses: Vec<http::uri::Authority>) -> Result<Client, InvalidName> {
    let service = "__name__".parse()?;
    let fixed = Fixed::new([("__name__".parse()?, addresses)]);
    Ok(Client::new(&fixed, service, ClientConfig::default(), observer()))
}

/// The same, as the trait that the service implements.
pub fn json(addresses: Vec<http::uri::Authority>) -> Result<__Trait__Client<Client>, InvalidName> {
    Ok(__Trait__Client::json(connect(addresses)?))
}
