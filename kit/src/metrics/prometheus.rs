//! The process-wide recorder, and what Prometheus reads from it.

use std::{fmt, fs, sync::OnceLock, time::SystemTime};

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram, gauge};

use super::recorder::{Reader, Recorder};
use crate::name::ServiceName;

/// Reads what the process-wide recorder has counted. Clones read the same.
#[derive(Clone)]
pub struct MetricsHandle {
    recorder: Reader,
}

/// Makes the kit's recorder the one of the process, the first time it is called; afterwards returns the same
/// handle again. If the process has another recorder already, that one keeps counting and this handle has
/// nothing to show, which is logged.
pub fn install() -> MetricsHandle {
    static INSTALLED: OnceLock<MetricsHandle> = OnceLock::new();
    INSTALLED
        .get_or_init(|| {
            let recorder = Recorder::new();
            let handle = MetricsHandle {
                recorder: recorder.reader(),
            };
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("another metrics recorder is installed; /metrics will be empty");
            }
            describe();
            handle
        })
        .clone()
}

fn describe() {
    for (name, text) in [
        (
            "http_server_request_duration_seconds",
            "Time to answer requests as JSON over HTTP.",
        ),
        (
            "rpc_server_call_duration_seconds",
            "Time to answer requests over gRPC.",
        ),
        (
            "http_client_request_duration_seconds",
            "Time that calls over HTTP took, all attempts together.",
        ),
        (
            "rpc_client_call_duration_seconds",
            "Time that calls over gRPC took, all attempts together.",
        ),
    ] {
        describe_histogram!(name, Unit::Seconds, text);
    }
    for (name, text) in [
        ("http_server_active_requests", "Requests in progress."),
        ("http_client_active_requests", "Calls in progress."),
        (
            "kit_build_info",
            "Always 1; its labels say what is running.",
        ),
        (
            "kit_endpoints",
            "Instances of a service that discovery knows, by the query for them.",
        ),
        (
            "kit_concurrency_limit",
            "How many requests may be in flight, where the limit adapts itself.",
        ),
        (
            "kit_endpoints_ejected",
            "Instances of an upstream whose circuit breaker is not closed.",
        ),
        (
            "kit_config_valid",
            "1 if what the registry has under a key is in use, 0 if it was rejected.",
        ),
        ("kit_leader", "1 while this process leads."),
        (
            "kit_endpoints_confirmed_timestamp_seconds",
            "When discovery was last told how the instances of a service are, in seconds since 1970.",
        ),
        ("kit_ready", "1 while /readyz answers 200, else 0."),
        ("kit_connections", "Open connections."),
        (
            "process_start_time_seconds",
            "When the process started, in seconds since 1970.",
        ),
        (
            "process_resident_memory_bytes",
            "Memory that the process has in RAM.",
        ),
        ("process_open_fds", "Open file descriptors."),
    ] {
        describe_gauge!(name, text);
    }
    for (name, text) in [
        (
            "kit_rejections_total",
            "Requests that the kit answered and not the peer, by reason.",
        ),
        ("kit_retries_total", "Attempts after the first."),
        (
            "kit_hedges_total",
            "Second attempts that were made beside a late first one.",
        ),
        (
            "kit_hedges_won_total",
            "Second attempts that answered before the first one.",
        ),
        (
            "kit_fallbacks_total",
            "Calls that a fallback answered, by what became of them before.",
        ),
        (
            "kit_retry_budget_exhausted_total",
            "Calls that were not tried again because the retry budget was used up.",
        ),
        (
            "kit_circuit_transitions_total",
            "Transitions of circuit breakers, by the state they went to.",
        ),
        (
            "kit_circuits_spared_total",
            "Failures that did not open a circuit breaker because too many of its upstream are open.",
        ),
        (
            "kit_endpoint_changes_total",
            "Instances that came and went.",
        ),
        (
            "kit_discovery_failures_total",
            "Times that the registry could not be asked.",
        ),
        (
            "kit_config_changes_total",
            "Configurations out of the registry that were applied.",
        ),
        (
            "kit_config_rejected_total",
            "Configurations in the registry that could not be used.",
        ),
        (
            "kit_config_failures_total",
            "Times that the registry could not be asked for a configuration.",
        ),
        (
            "kit_leaderships_total",
            "Times that this process was elected.",
        ),
        (
            "kit_registrations_total",
            "Registrations of this instance, by result.",
        ),
    ] {
        describe_counter!(name, text);
    }
}

impl MetricsHandle {
    /// All metrics, in Prometheus's text format, without gauges of what is not there any more: those that are NaN.
    pub fn render(&self) -> String {
        observe_process();
        let text = self.recorder.render();
        let lines = text.split_inclusive('\n');
        lines.filter(|line| !line.ends_with(" NaN\n")).collect()
    }

    /// Makes room: the samples of histograms, except those whose names end in `_duration_seconds`, are kept one by one
    /// until this is called or somebody [`render`](Self::render)s. A server calls it every few seconds.
    pub fn run_upkeep(&self) {
        self.recorder.run_upkeep();
    }

    /// Says what is running, as the labels of `kit_build_info`.
    pub fn set_build_info(&self, service: &ServiceName, version: &'static str) {
        gauge!("kit_build_info", "service_name" => service.to_string(), "service_version" => version)
            .set(1.0);
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        gauge!("process_start_time_seconds")
            .set(since_1970.map_or(0.0, |t| t.as_secs_f64().floor()));
    }
}

impl fmt::Debug for MetricsHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetricsHandle")
    }
}

/// What Linux tells about this process; nothing elsewhere.
fn observe_process() {
    let memory = fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.trim().strip_suffix(" kB")?.trim().parse::<u32>().ok()
        });
    if let Some(kibibytes) = memory {
        gauge!("process_resident_memory_bytes").set(f64::from(kibibytes) * 1024.0);
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        gauge!("process_open_fds").set(files.count() as f64);
    }
}
