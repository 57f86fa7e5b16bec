//! The one that hears of events: each is counted, and what an operator should know is logged.

use std::{sync::Arc, time::SystemTime};

use metrics::{Gauge, Label, counter, gauge};
use tracing::{debug, info, warn};

use crate::{
    error::Chain,
    event::{Event, Observer, SharedObserver},
    name::ServiceName,
};

/// An observer that logs and counts. It has no state of its own, so it does not matter how many there are.
pub fn observer() -> SharedObserver {
    Arc::new(Telemetry)
}

struct Telemetry;

/// Events are rare, so their counters are looked up.
impl Observer for Telemetry {
    fn observe(&self, event: Event<'_>) {
        match event {
            Event::CircuitOpened { circuit, open_for } => {
                transition(circuit, "open");
                warn!(circuit, ?open_for, "circuit opened");
            }
            Event::CircuitHalfOpened { circuit } => {
                transition(circuit, "half_open");
                info!(circuit, "circuit half-open");
            }
            Event::CircuitClosed { circuit } => {
                transition(circuit, "closed");
                info!(circuit, "circuit closed");
            }
            Event::CircuitSpared { circuit } => {
                counter!("kit_circuits_spared_total", "peer_service" => upstream_of(circuit))
                    .increment(1);
                // One per failure, just when many fail: the counter is for the operator.
                debug!(circuit, "circuit kept closed: too many are open");
            }
            Event::EndpointEjected {
                upstream,
                ejected,
                total,
            } => {
                // Added and taken away, since several clients of this process may call the same upstream.
                ejections(upstream).increment(1.0);
                warn!(
                    upstream = upstream.as_str(),
                    ejected, total, "endpoint ejected"
                );
            }
            Event::EndpointRestored {
                upstream,
                ejected,
                total,
            } => {
                ejections(upstream).decrement(1.0);
                info!(
                    upstream = upstream.as_str(),
                    ejected, total, "endpoint restored"
                );
            }
            Event::Retried {
                previous_attempts,
                backoff,
            } => {
                counter!("kit_retries_total").increment(1);
                debug!(previous_attempts, ?backoff, "retrying");
            }
            Event::Hedged { after } => {
                counter!("kit_hedges_total").increment(1);
                debug!(?after, "hedging");
            }
            Event::HedgeWon => counter!("kit_hedges_won_total").increment(1),
            Event::RetryBudgetExhausted => {
                counter!("kit_retry_budget_exhausted_total").increment(1);
                // One per failed call, just when many fail: the counter is for the operator.
                debug!("not retrying: the budget is used up");
            }
            Event::FellBack { outcome } => {
                counter!("kit_fallbacks_total", "outcome" => outcome.as_str()).increment(1);
                // One per failed call: the counter is for the operator.
                debug!(outcome = outcome.as_str(), "answered by the fallback");
            }
            Event::ConcurrencyLimitChanged { limiter, limit } => {
                gauge!("kit_concurrency_limit", "limiter" => limiter.to_owned()).set(limit as f64);
                debug!(limiter, limit, "concurrency limit changed");
            }
            Event::EndpointsChanged {
                service,
                query,
                total,
                added,
                removed,
            } => {
                let peer = || service.to_string();
                gauge!("kit_endpoints", followed(service, query)).set(total as f64);
                for (change, number) in [("added", added), ("removed", removed)] {
                    counter!("kit_endpoint_changes_total", "peer_service" => peer(), "change" => change)
                        .increment(number as u64);
                }
                if total == 0 {
                    warn!(
                        upstream = service.as_str(),
                        query, removed, "no endpoint is left"
                    );
                } else {
                    info!(
                        upstream = service.as_str(),
                        query, total, added, removed, "endpoints changed"
                    );
                }
            }
            Event::EndpointsConfirmed {
                service,
                query,
                total,
            } => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                let now = now.map_or(0.0, |since| since.as_secs_f64());
                endpoints(service, query, total as f64, now);
            }
            Event::EndpointsExpired { service, age } => {
                warn!(
                    upstream = service.as_str(),
                    ?age,
                    "the endpoints are too old to be used"
                );
            }
            Event::DiscoveryEnded { service, query } => {
                // Not shown any more, until somebody else who asks for the same has his next answer.
                endpoints(service, query, f64::NAN, f64::NAN);
            }
            Event::DiscoveryFailed {
                service,
                error,
                retry_in,
            } => {
                counter!("kit_discovery_failures_total", "peer_service" => service.to_string())
                    .increment(1);
                warn!(upstream = service.as_str(), error = %Chain(error), ?retry_in, "the registry could not be asked");
            }
            Event::ConfigRead { key, changed } => {
                gauge!("kit_config_valid", "key" => key.to_owned()).set(1.0);
                if changed {
                    counter!("kit_config_changes_total", "key" => key.to_owned()).increment(1);
                    info!(key, "configuration changed");
                }
            }
            Event::ConfigRejected { key, error } => {
                gauge!("kit_config_valid", "key" => key.to_owned()).set(0.0);
                counter!("kit_config_rejected_total", "key" => key.to_owned()).increment(1);
                warn!(key, error = %Chain(error), "configuration rejected, the last good one stays");
            }
            Event::ConfigFailed {
                key,
                error,
                retry_in,
            } => {
                counter!("kit_config_failures_total", "key" => key.to_owned()).increment(1);
                warn!(key, error = %Chain(error), ?retry_in, "the configuration could not be asked for");
            }
            Event::Elected { key, fencing } => {
                gauge!("kit_leader", "key" => key.to_owned()).set(1.0);
                counter!("kit_leaderships_total", "key" => key.to_owned()).increment(1);
                info!(key, fencing, "elected");
            }
            Event::Deposed { key } => {
                gauge!("kit_leader", "key" => key.to_owned()).set(0.0);
                info!(key, "no longer leading");
            }
            Event::ElectionFailed {
                key,
                error,
                retry_in,
            } => warn!(key, error = %Chain(error), ?retry_in, "election failed"),
            Event::Registered { service, id } => {
                registration("registered");
                info!(service = service.as_str(), id = id.as_str(), "registered");
            }
            Event::RegistrationFailed {
                service,
                error,
                retry_in,
            } => {
                registration("failed");
                warn!(service = service.as_str(), error = %Chain(error), ?retry_in, "registration failed");
            }
            Event::Deregistered { service, id } => {
                registration("deregistered");
                info!(service = service.as_str(), id = id.as_str(), "deregistered");
            }
        }
    }
}

/// The label is what stands before the first `/` in the circuit's name, the service: endpoints come and go
/// without bound.
fn upstream_of(circuit: &str) -> String {
    let service = circuit
        .split_once('/')
        .map_or(circuit, |(service, _)| service);
    service.to_owned()
}

fn transition(circuit: &str, to: &'static str) {
    counter!("kit_circuit_transitions_total", "peer_service" => upstream_of(circuit), "to" => to)
        .increment(1);
}

fn ejections(upstream: &ServiceName) -> Gauge {
    gauge!("kit_endpoints_ejected", "peer_service" => upstream.to_string())
}

/// Of whom and by which query, where it is not the default one: in Prometheus an empty label is none.
fn followed(service: &ServiceName, query: &str) -> Vec<Label> {
    let query = (!query.is_empty()).then(|| Label::new("query", query.to_owned()));
    let service = Label::new("peer_service", service.to_string());
    [service].into_iter().chain(query).collect()
}

/// How many there are, and as of when: a point in time and not an age, which would have to be set again and again to be
/// true.
fn endpoints(service: &ServiceName, query: &str, total: f64, at: f64) {
    gauge!("kit_endpoints", followed(service, query)).set(total);
    gauge!(
        "kit_endpoints_confirmed_timestamp_seconds",
        followed(service, query)
    )
    .set(at);
}

fn registration(result: &'static str) {
    counter!("kit_registrations_total", "result" => result).increment(1);
}
