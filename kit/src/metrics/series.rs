//! The series of one layer, each looked up by a key of words that are not allocated.

use std::{
    fmt, ptr,
    sync::{Arc, OnceLock},
};

use http::StatusCode;
use metrics::{Counter, Gauge, Histogram, Label, SharedString};

use super::striped::{Lines, Striped};
use crate::{
    classify::Outcome,
    error::Code,
    name::{Method, ServiceName},
    wire::Wire,
};

/// The method of a request, as a label: those of RFC 9110 and RFC 5789, and one word for all others. It is where
/// that word stands in [`VERBS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verb(u8);

const VERBS: [&str; 10] = [
    "POST", "GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", "_OTHER",
];

impl Verb {
    pub(super) fn of(method: &http::Method) -> Self {
        // Mostly the first: what the kit's own clients and servers speak.
        if *method == http::Method::POST {
            return Self(0);
        }
        let known = VERBS.iter().position(|known| method.as_str() == *known);
        Self(known.unwrap_or(VERBS.len() - 1) as u8)
    }

    fn as_str(self) -> &'static str {
        VERBS[usize::from(self.0)]
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Response {
        /// A [`known`] one.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
        ptr::eq(self.0, other.0)
    }
}

impl Eq for Known {}

impl Key {
    /// In which chain of a [`Table`] it is.
    fn chain(&self) -> usize {
        let method = self
            .method
            .map_or(0, |Known(method)| ptr::from_ref(method).addr());
        let answer = match self.answer {
            Answer::Response { status, code, .. } => {
                usize::from(status) + code.map_or(0, |code| 1 + code as usize)
            }
            Answer::Error { outcome, .. } => outcome as usize,
            Answer::Cancelled => usize::MAX,
        };
        // What lies one behind the other is spread (Fibonacci hashing); the highest bits are the best.
        let mixed = (method ^ answer) as u64;
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - CHAINS.ilog2())) as usize
    }
}

/// What one layer counts in, for each thread.
pub(super) struct Tables {
    whose: Whose,
    tables: Striped<Arc<Lines<Table>>>,
}

/// One side of one service.
#[derive(Clone, Debug)]
struct Whose {
    side: Side,
    service: SharedString,
}

#[derive(Clone, Copy, Debug)]
enum Side {
    Server,
    Client,
}

/// The series of one layer that threads have counted in. It only grows, so they are found without a lock or a guard; by as
/// many as there are methods and ways for them to end, so it stays small.
pub(super) struct Table {
    whose: Whose,
    active: Gauge,
    chains: [Link; CHAINS],
}

/// A power of two.
const CHAINS: usize = 16;

type Link = OnceLock<Box<Lines<Series>>>;

/// The handles of one key.
struct Series {
    key: Key,
    duration: Histogram,
    rejections: Option<Counter>,
    next: Link,
}

impl Tables {
    pub(super) fn server(service: &ServiceName) -> Self {
        Self::new(Side::Server, service)
    }

    pub(super) fn client(service: &ServiceName) -> Self {
        Self::new(Side::Client, service)
    }

    fn new(side: Side, service: &ServiceName) -> Self {
        let service = SharedString::from_shared(service.as_str().into());
        Self {
            whose: Whose { side, service },
            tables: Striped::new(),
        }
    }

    /// That of this thread; each request in progress has a reference to it, so that not even these are counted in one
    /// place.
    pub(super) fn mine(&self) -> Arc<Lines<Table>> {
        let make = || Arc::new(Lines(Table::new(self.whose.clone())));
        Arc::clone(self.tables.mine(make))
    }
}

impl Whose {
    /// The label that says whose series these are.
    fn label(&self) -> Label {
        let name = match self.side {
            Side::Server => "service_name",
            Side::Client => "peer_service",
        };
        Label::new(name, self.service.clone())
    }
}

impl Table {
    fn new(whose: Whose) -> Self {
        let labels = vec![whose.label()];
        let active = match whose.side {
            Side::Server => metrics::gauge!("http_server_active_requests", labels),
            Side::Client => metrics::gauge!("http_client_active_requests", labels),
        };
        Self {
            whose,
            active,
            chains: [const { OnceLock::new() }; CHAINS],
        }
    }

    /// A request begins.
    pub(super) fn enter(&self) {
        self.active.increment(1.0);
    }

    /// A request ended, after so many nanoseconds.
    pub(super) fn leave(&self, key: &Key, took: u64) {
        self.active.decrement(1.0);
        let series = self.series(key);
        series.duration.record(took as f64 / 1e9);
        if let Some(rejections) = &series.rejections {
            rejections.increment(1);
        }
    }

    fn series(&self, key: &Key) -> &Series {
        let mut link = &self.chains[key.chain()];
        loop {
            let Lines(series) = &**link.get_or_init(|| Box::new(Lines(self.register(*key))));
            if series.key == *key {
                return series;
            }
            link = &series.next;
        }
    }

    #[cold]
    fn register(&self, key: Key) -> Series {
        let mut labels = vec![self.whose.label()];
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
        if let Some(error) = error_type(&key, rejection) {
            label("error_type", error);
        }
        let name = match (self.whose.side, key.wire) {
            (Side::Server, Wire::Json) => "http_server_request_duration_seconds",
            (Side::Server, Wire::Grpc) => "rpc_server_call_duration_seconds",
            (Side::Client, Wire::Json) => "http_client_request_duration_seconds",
            (Side::Client, Wire::Grpc) => "rpc_client_call_duration_seconds",
        };
        Series {
            key,
            duration: metrics::histogram!(name, labels),
            rejections: rejection.map(|reason| {
                metrics::counter!(
                    "kit_rejections_total",
                    vec![self.whose.label(), Label::new("reason", reason)]
                )
            }),
            next: OnceLock::new(),
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
pub(super) fn known(status: StatusCode) -> u16 {
    // 499 is the kit's own word for a caller that went away.
    if status.canonical_reason().is_some() || status.as_u16() == 499 {
        status.as_u16()
    } else {
        status.as_u16() / 100 * 100
    }
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tables").field(&self.whose).finish()
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Table").field(&self.whose).finish()
    }
}
