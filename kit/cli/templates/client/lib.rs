//! Calls __name__ from other programs.

use kit::{
    client::{Client, ClientConfig},
    discovery::Source,
    metrics::observer,
    name::InvalidName,
};

pub use __module__::api;

use api::__Trait__Client;

/// A client of the instances that `source` knows, in Consul or in a list. It spreads calls over them, makes again what
/// may be made again, and leaves out those that fail.
pub fn connect(source: &Source, config: ClientConfig) -> Result<Client, InvalidName> {
    Ok(Client::new(source, "__name__".parse()?, config, observer()))
}
__constructors__