//! Without the feature `tls`: an address with `https` is refused.

use hyper_util::client::legacy::connect::HttpConnector;

use super::{ConsulConfig, ConsulError};

pub(super) type Connector = HttpConnector;

pub(super) fn connector(
    http: HttpConnector,
    config: &ConsulConfig,
) -> Result<Connector, ConsulError> {
    if config.address.scheme_str() == Some("https") {
        return Err(ConsulError::Config {
            field: "address",
            rule: "can have https only where kit was built with its feature `tls`".to_owned(),
        });
    }
    Ok(http)
}
