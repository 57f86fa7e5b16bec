//! The one that hears of events: each is counted, and what an operator should know is logged.

use std::sync::Arc;

use metrics::{counter, gauge};
use tracing::{debug, info, warn};

use crate::{
    error::Chain,
    event::{Event, Observer, SharedObserver},
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
            Event::EndpointsChanged {
                service,
                total,
                added,
                removed,
            } => {
                let peer = || service.to_string();
                gauge!("kit_endpoints", "peer_service" => peer()).set(total as f64);
                for (change, number) in [("added", added), ("removed", removed)] {
                    counter!("kit_endpoint_changes_total", "peer_service" => peer(), "change" => change)
                        .increment(number as u64);
                }
                if total == 0 {
                    warn!(upstream = service.as_str(), removed, "no endpoint is left");
                } else {
                    info!(
                        upstream = service.as_str(),
                        total, added, removed, "endpoints changed"
                    );
                }
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
fn transition(circuit: &str, to: &'static str) {
    let service = circuit
        .split_once('/')
        .map_or(circuit, |(service, _)| service);
    counter!("kit_circuit_transitions_total", "peer_service" => service.to_owned(), "to" => to)
        .increment(1);
}

fn registration(result: &'static str) {
    counter!("kit_registrations_total", "result" => result).increment(1);
}
