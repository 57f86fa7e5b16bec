//! A list of addresses: the embedded default, and what a test uses.

use std::{collections::BTreeMap, sync::Arc};

use http::uri::Authority;

use crate::{
    endpoint::{Discovery, Endpoint, Snapshot, Watch},
    name::ServiceName,
};

/// Finds services in a list that never changes. Clones share the list.
#[derive(Clone, Debug, Default)]
pub struct Fixed(Arc<BTreeMap<ServiceName, Snapshot>>);

impl Fixed {
    /// A list of services with their addresses. A service that is not in it has no endpoints.
    pub fn new(services: impl IntoIterator<Item = (ServiceName, Vec<Authority>)>) -> Self {
        let services = services
            .into_iter()
            .map(|(service, addresses)| {
                (service, addresses.into_iter().map(Endpoint::at).collect())
            })
            .collect();
        Self(Arc::new(services))
    }
}

impl Discovery for Fixed {
    fn watch(&self, service: &ServiceName) -> Watch {
        let endpoints = self.0.get(service).cloned().unwrap_or_default();
        Watch::fixed(service.clone(), endpoints)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_is_not_in_the_list_has_no_endpoints() {
        let fixed = Fixed::new([(
            "users".parse().unwrap(),
            vec![Authority::from_static("a:1")],
        )]);
        let endpoints = |name: &str| fixed.watch(&name.parse().unwrap()).current().unwrap().len();
        assert_eq!((endpoints("users"), endpoints("bugs")), (1, 0));
    }
}
