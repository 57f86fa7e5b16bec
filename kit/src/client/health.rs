//! Asks endpoints whose circuit breaker is open whether they are well again.
//!
//! A circuit breaker learns from calls, so an endpoint comes back only at the cost of a call that may fail. Who asks
//! for its health finds out without one, and sooner: a success closes the circuit at once, as in Envoy, whose active
//! checks un-eject hosts. Endpoints that are in service are not asked; their calls tell enough.

use std::{sync::Mutex, time::Duration};

use futures_util::{StreamExt, stream};
use http::{Request, uri::PathAndQuery};
use serde::{Deserialize, Serialize};
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};
use tower::ServiceExt;

use super::{Connector, Endpoints};
use crate::{Body, endpoint::Endpoint, policy::Backoff};

/// How many endpoints are asked at the same time.
const AT_ONCE: usize = 16;
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

/// How endpoints are asked whether they are well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthCheckConfig {
    /// What is asked for with GET: at the address that the endpoint's metadata has as `admin`, and else at its own.
    /// A status of 2xx says that it is well. Default `/readyz`.
    #[serde(with = "path")]
    pub path: PathAndQuery,
    /// How often each of them is asked; shortened at random by up to a half, so that not all clients ask together.
    /// At least 100 ms. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// How long an answer may take. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Default for HealthCheckConfig {
    fn default() -> Self {
        Self {
            path: PathAndQuery::from_static("/readyz"),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
        }
    }
}

mod path {
    use super::*;

    pub(super) fn serialize<S: serde::Serializer>(
        path: &PathAndQuery,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(path.as_str())
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<PathAndQuery, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.parse() {
            Ok(path) if text.starts_with('/') => Ok(path),
            _ => Err(serde::de::Error::custom(format!(
                "{text:?} is not a path that begins with /"
            ))),
        }
    }
}

/// Asks in a task of its own, while there is a configuration. Dropping it stops that.
#[derive(Default)]
pub(super) struct HealthChecks(Mutex<Option<(HealthCheckConfig, Asking)>>);

/// The task that asks.
struct Asking(AbortHandle);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl HealthChecks {
    /// Asks as `config` says from now on. Who asks in that way already goes on.
    pub(super) fn replace(
        &self,
        config: Option<HealthCheckConfig>,
        endpoints: &Endpoints,
        connector: &Connector,
    ) {
        let mut asking = self.0.lock().expect("no panic while locked");
        if asking.as_ref().map(|(config, _)| config) != config.as_ref() {
            *asking = config.map(|config| {
                let (endpoints, connector) = (endpoints.clone(), connector.clone());
                let task = tokio::spawn(ask_for_ever(config.clone(), endpoints, connector));
                (config, Asking(task.abort_handle()))
            });
        }
    }
}

async fn ask_for_ever(config: HealthCheckConfig, endpoints: Endpoints, connector: Connector) {
    let interval = config.interval.max(LEAST_INTERVAL);
    let interval = Backoff {
        base: interval,
        max: interval,
    };
    loop {
        let pause = interval.equal_jitter(0, &mut rand::rng());
        sleep(pause).await;
        let mut asked = Vec::new();
        endpoints.for_each_endpoint(|endpoint, circuit| {
            let examination = circuit.examine();
            asked.extend(examination.map(|examination| (endpoint.clone(), examination)));
        });
        let (config, connector) = (&config, &connector);
        stream::iter(asked)
            .for_each_concurrent(AT_ONCE, async |(endpoint, examination)| {
                if is_well(&endpoint, config, connector).await {
                    examination.passed(Instant::now());
                }
            })
            .await;
    }
}

/// Over a connection of its own: whether one can be made is a part of the question.
async fn is_well(endpoint: &Endpoint, config: &HealthCheckConfig, connector: &Connector) -> bool {
    let admin = endpoint.metadata.get("admin");
    let address = admin.and_then(|admin| admin.parse().ok());
    let address = address.unwrap_or_else(|| endpoint.address.clone());
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = config.path.clone().into();
    let answer = connector.to(&Endpoint::at(address)).oneshot(request);
    let answer = timeout(config.timeout, answer).await;
    matches!(answer, Ok(Ok(answer)) if answer.status().is_success())
}
