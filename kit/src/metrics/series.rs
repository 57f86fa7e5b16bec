//! The series of one layer, each looked up by a key of words that are not allocated.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hash, Hasher},
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use http::StatusCode;
use metrics::{Counter, Gauge, Histogram, Label, SharedString};

use crate::{
    classify::Outcome,
    error::Code,
    name::{Method, ServiceName},
    wire::Wire,
};

/// The method of a request, as a label: those of RFC 9110 and RFC 5789, and one word for all others. It is where
/// that word stands in [`VERBS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Verb(u8);

const VERBS: [&str; 10] = [
    "POST", "GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", "_OTHER",
];

impl Verb {
    pub(super) fn of(method: &http::Method) -> Self {
        let known = VERBS.iter().position(|known| method.as_str() == *known);
        Self(known.unwrap_or(VERBS.len() - 1) as u8)
    }

    fn as_str(self) -> &'static str {
        VERBS[usize::from(self.0)]
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Answer {
    Response {
        status: u16,
        /// Where it is no success.
        code: Option<Code>,
        outcome: Outcome,
        rejection: Option<&'static str>,
    },
    Error {
        outcome: Outcome,
        rejection: Option<&'static str>,
    },
    Cancelled,
}

/// Which series a request counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) wire: Wire,
    pub(super) verb: Verb,
    pub(super) method: Option<Known>,
    pub(super) answer: Answer,
}

/// A method, told from others by its address: comparing all its texts for each request would cost more than
/// counting it. Two that are alike at two addresses would count in the same series all the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known(pub(super) &'static Method);

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for Known {}

impl Hash for Known {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::ptr::hash(self.0, state);
    }
}

/// Hashes keys, which are a few small numbers and are not chosen by anybody outside: multiplies and turns, as rustc's
/// own tables do ("FxHash").
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        bytes
            .iter()
            .for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(number.into());
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        // The table goes by the highest bits and by the lowest; multiplying leaves little in the latter.
        self.0.rotate_left(26)
    }
}

/// The handles of one key.
struct Series {
    duration: Histogram,
    rejections: Option<Counter>,
}

/// All series of one side of one service. They are found without a lock, and a new one is rare: there are as
/// many as there are methods and ways for them to end.
pub(super) struct Recorder {
    side: Side,
    service: SharedString,
    active: OnceLock<Gauge>,
    series: ArcSwap<HashMap<Key, Arc<Series>, BuildHasherDefault<Mix>>>,
}

#[derive(Clone, Copy, Debug)]
enum Side {
    Server,
    Client,
}

impl Recorder {
    pub(super) fn server(service: &ServiceName) -> Self {
        Self::new(Side::Server, service)
    }

    pub(super) fn client(service: &ServiceName) -> Self {
        Self::new(Side::Client, service)
    }

    fn new(side: Side, service: &ServiceName) -> Self {
        Self {
            side,
            service: SharedString::from_shared(service.as_str().into()),
            active: OnceLock::new(),
            series: ArcSwap::default(),
        }
    }

    /// The label that says whose series these are.
    fn whose(&self) -> Label {
        let name = match self.side {
            Side::Server => "service_name",
            Side::Client => "peer_service",
        };
        Label::new(name, self.service.clone())
    }

    /// The gauge of requests in progress.
    pub(super) fn active(&self) -> &Gauge {
        self.active.get_or_init(|| {
            let labels = vec![self.whose()];
            match self.side {
                Side::Server => metrics::gauge!("http_server_active_requests", labels),
                Side::Client => metrics::gauge!("http_client_active_requests", labels),
            }
        })
    }

    pub(super) fn record(&self, mut key: Key, took: Duration) {
        if let Answer::Response { status, .. } = &mut key.answer {
            *status = known(*status);
        }
        match self.series.load().get(&key) {
            Some(series) => series.record(took),
            None => self.insert(key).record(took),
        }
    }

    #[cold]
    fn insert(&self, key: Key) -> Arc<Series> {
        let series = Arc::new(self.register(&key));
        self.series.rcu(|all| {
            let mut all = HashMap::clone(all);
            all.insert(key, Arc::clone(&series));
            all
        });
        series
    }

    fn register(&self, key: &Key) -> Series {
        let mut labels = vec![self.whose()];
        let mut label =
            |name: &'static str, value: SharedString| labels.push(Label::new(name, value));
        let (outcome, rejection) = match key.answer {
            Answer::Response {
                outcome, rejection, ..
            }
            | Answer::Error { outcome, rejection } => (outcome.as_str(), rejection),
            Answer::Cancelled => ("cancelled", None),
        };
        label("outcome", outcome.into());
        match key.wire {
            Wire::Json => {
                label("http_request_method", key.verb.as_str().into());
                if let Some(Known(method)) = key.method {
                    label("http_route", method.http_path.into());
                }
                if let Answer::Response { status, .. } = key.answer {
                    label("http_response_status_code", status.to_string().into());
                }
            }
            Wire::Grpc => {
                let method = key
                    .method
                    .map_or("_OTHER", |Known(method)| method.full_name());
                label("rpc_method", method.into());
                if let Answer::Response { code, .. } = key.answer {
                    let code =
                        code.map_or_else(|| "OK".into(), |code| code.as_str().to_uppercase());
                    label("rpc_response_status_code", code.into());
                }
            }
        }
        if let Some(error) = error_type(key, rejection) {
            label("error_type", error);
        }
        let name = match (self.side, key.wire) {
            (Side::Server, Wire::Json) => "http_server_request_duration_seconds",
            (Side::Server, Wire::Grpc) => "rpc_server_call_duration_seconds",
            (Side::Client, Wire::Json) => "http_client_request_duration_seconds",
            (Side::Client, Wire::Grpc) => "rpc_client_call_duration_seconds",
        };
        Series {
            duration: metrics::histogram!(name, labels),
            rejections: rejection.map(|reason| {
                metrics::counter!(
                    "kit_rejections_total",
                    vec![self.whose(), Label::new("reason", reason)]
                )
            }),
        }
    }
}

/// OpenTelemetry's `error.type`: what the kit called it when it refused, else the code, else the status.
fn error_type(key: &Key, rejection: Option<&'static str>) -> Option<SharedString> {
    match key.answer {
        Answer::Response {
            outcome: Outcome::Success,
            ..
        } => None,
        Answer::Cancelled => Some("cancelled".into()),
        Answer::Response { status, code, .. } => Some(match (rejection, code) {
            (Some(rejection), _) => rejection.into(),
            (None, Some(code)) => code.as_str().into(),
            (None, None) => status.to_string().into(),
        }),
        Answer::Error { .. } => Some(rejection.unwrap_or("no_answer").into()),
    }
}

/// The status if it is a registered one, else the first of its class, so that a peer cannot make up series.
fn known(status: u16) -> u16 {
    let registered = StatusCode::from_u16(status).is_ok_and(|s| s.canonical_reason().is_some());
    // 499 is the kit's own word for a caller that went away.
    if registered || status == 499 {
        status
    } else {
        status / 100 * 100
    }
}

impl Series {
    fn record(&self, took: Duration) {
        self.duration.record(took);
        if let Some(rejections) = &self.rejections {
            rejections.increment(1);
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("side", &self.side)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}
