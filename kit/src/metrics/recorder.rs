//! The kit's recorder: the exporter's, but for what every call counts.
//!
//! The exporter keeps each sample of a histogram until somebody reads it, and has every sample and every change of a gauge
//! go through words that all threads write: two threads that do nothing else are no faster than one. Here threads count
//! for themselves, and whoever reads adds up.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Display,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use metrics::{
    Counter, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, SharedString, Unit,
};
use metrics_exporter_prometheus::{
    LabelSet, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
    formatting::{sanitize_metric_name, write_help_line, write_metric_line, write_type_line},
};

use super::striped::{Lines, Striped};

/// OpenTelemetry's advice for durations of requests, and three more below it: services of one machine answer in
/// less than 5 ms.
const SECONDS: [f64; 17] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0,
    7.5, 10.0,
];

/// Histograms whose names end so have [`SECONDS`] for buckets.
const DURATION: &str = "_duration_seconds";

/// Gauges whose names end so are counted up and down by each request.
const ACTIVE: &str = "_active_requests";

pub(super) struct Recorder {
    exporter: PrometheusRecorder,
    ours: Arc<Ours>,
}

/// What [`Recorder`] counts itself.
#[derive(Default)]
struct Ours {
    durations: Mutex<BTreeMap<String, Family>>,
    active: Mutex<HashMap<Key, Arc<Active>>>,
}

/// The histograms of one name.
#[derive(Default)]
struct Family {
    description: Option<SharedString>,
    members: HashMap<Key, Arc<Durations>>,
}

/// Reads what a [`Recorder`] has counted.
#[derive(Clone)]
pub(super) struct Reader {
    exporter: PrometheusHandle,
    ours: Arc<Ours>,
}

impl Recorder {
    pub(super) fn new() -> Self {
        Self {
            exporter: PrometheusBuilder::new().build_recorder(),
            ours: Arc::default(),
        }
    }

    pub(super) fn reader(&self) -> Reader {
        Reader {
            exporter: self.exporter.handle(),
            ours: Arc::clone(&self.ours),
        }
    }
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, text: SharedString) {
        self.exporter.describe_counter(name, unit, text);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, text: SharedString) {
        self.exporter.describe_gauge(name, unit, text);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, text: SharedString) {
        if name.as_str().ends_with(DURATION) {
            let mut durations = locked(&self.ours.durations);
            let family = durations.entry(sanitize_metric_name(name.as_str()));
            family.or_default().description.get_or_insert(text);
        } else {
            self.exporter.describe_histogram(name, unit, text);
        }
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.exporter.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        let shown = self.exporter.register_gauge(key, metadata);
        if !key.name().ends_with(ACTIVE) {
            return shown;
        }
        let mut active = locked(&self.ours.active);
        let gauge = active.entry(key.to_retained());
        Gauge::from_arc(Arc::clone(gauge.or_insert_with(|| {
            Arc::new(Active {
                parts: Striped::new(),
                shown,
            })
        })))
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        if !key.name().ends_with(DURATION) {
            return self.exporter.register_histogram(key, metadata);
        }
        let mut durations = locked(&self.ours.durations);
        let family = durations.entry(sanitize_metric_name(key.name()));
        let members = &mut family.or_default().members;
        Histogram::from_arc(Arc::clone(members.entry(key.to_retained()).or_default()))
    }
}

impl Reader {
    /// All metrics, in Prometheus's text format.
    pub(super) fn render(&self) -> String {
        for active in locked(&self.ours.active).values() {
            active.shown.set(active.sum());
        }
        let mut text = self.exporter.render();
        for (name, family) in &*locked(&self.ours.durations) {
            family.render(name, &mut text);
        }
        text
    }

    /// Makes room in what the exporter counts.
    pub(super) fn run_upkeep(&self) {
        self.exporter.run_upkeep();
    }
}

/// Only looking something up, or adding it, is done while it is locked.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while locked")
}

/// A gauge that is counted up on one thread, and may be counted down on another.
struct Active {
    parts: Striped<Box<Lines<AtomicU64>>>,
    /// What the exporter shows, as of when it was last read.
    shown: Gauge,
}

impl Active {
    /// A float, as its bits: that is how the exporter's gauges are, which do the reckoning here too.
    fn part(&self) -> &AtomicU64 {
        &self.parts.mine(Box::default).0
    }

    fn sum(&self) -> f64 {
        let parts = self.parts.all();
        parts.map(|part| f64::from_bits(part.0.load(Relaxed))).sum()
    }
}

impl GaugeFn for Active {
    fn increment(&self, value: f64) {
        self.part().increment(value);
    }

    fn decrement(&self, value: f64) {
        self.part().decrement(value);
    }

    fn set(&self, value: f64) {
        self.part().increment(value - self.sum());
    }
}

/// A histogram over [`SECONDS`].
struct Durations(Striped<Box<Lines<Counts>>>);

/// How many took how long, in each bucket alone, the last of which has no bound; and the time that all of them took, a
/// float as its bits.
#[derive(Default)]
struct Counts {
    buckets: [AtomicU64; SECONDS.len() + 1],
    sum: AtomicU64,
}

impl Default for Durations {
    fn default() -> Self {
        Self(Striped::new())
    }
}

impl HistogramFn for Durations {
    fn record(&self, seconds: f64) {
        let counts = &self.0.mine(Box::default).0;
        let bucket = SECONDS.partition_point(|bound| *bound < seconds);
        counts.buckets[bucket].fetch_add(1, Relaxed);
        counts.sum.increment(seconds);
    }
}

impl Family {
    fn render(&self, name: &str, text: &mut String) {
        if self.members.is_empty() {
            return;
        }
        if let Some(description) = &self.description {
            write_help_line(text, name, None, None, description);
        }
        write_type_line(text, name, None, None, "histogram");
        for (key, durations) in &self.members {
            let labels = LabelSet::from_key_and_global(key, &Default::default());
            durations.render(name, &labels, text);
        }
        text.push('\n');
    }
}

impl Durations {
    fn render(&self, name: &str, labels: &LabelSet, text: &mut String) {
        let mut line = |suffix, le: Option<&dyn Display>, value: &dyn Display| {
            let le = le.map(|bound| ("le", bound));
            write_metric_line(text, name, Some(suffix), labels, le, value, None);
        };
        let mut count = 0;
        let bounds = SECONDS.iter().map(|bound| bound as &dyn Display);
        for (bucket, bound) in bounds.chain([&"+Inf" as _]).enumerate() {
            let counts = self.0.all();
            count += counts
                .map(|counts| counts.0.buckets[bucket].load(Relaxed))
                .sum::<u64>();
            line("bucket", Some(bound), &count);
        }
        let sums = self.0.all().map(|counts| counts.0.sum.load(Relaxed));
        line("sum", None, &sums.map(f64::from_bits).sum::<f64>());
        line("count", None, &count);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use metrics::{gauge, histogram, with_local_recorder};

    use super::*;

    #[test]
    fn what_threads_counted_is_added_up() {
        let recorder = Recorder::new();
        let record = || {
            with_local_recorder(&recorder, || {
                metrics::describe_histogram!("a_duration_seconds", "How long.");
                let histogram = histogram!("a_duration_seconds", "of" => "a\"b");
                // On a bound, between two of them, and beyond the last.
                for seconds in [0.0005, 0.0006, 4.0, 11.0] {
                    histogram.record(seconds);
                }
                gauge!("a_active_requests").increment(1.0);
            });
        };
        thread::scope(|threads| {
            for _ in 0..3 {
                threads.spawn(record);
            }
        });
        with_local_recorder(&recorder, || gauge!("a_active_requests").decrement(2.0));
        let text = recorder.reader().render();
        let labels = "of=\"a\\\"b\"";
        for line in [
            "# HELP a_duration_seconds How long.".to_owned(),
            "# TYPE a_duration_seconds histogram".to_owned(),
            format!("a_duration_seconds_bucket{{{labels},le=\"0.0005\"}} 3"),
            format!("a_duration_seconds_bucket{{{labels},le=\"0.001\"}} 6"),
            format!("a_duration_seconds_bucket{{{labels},le=\"2.5\"}} 6"),
            format!("a_duration_seconds_bucket{{{labels},le=\"5\"}} 9"),
            format!("a_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 12"),
            format!("a_duration_seconds_count{{{labels}}} 12"),
            "a_active_requests 1".to_owned(),
        ] {
            assert!(text.lines().any(|other| other == line), "{line} in {text}");
        }
        let sum = text.lines().find_map(|line| {
            line.strip_prefix(&format!("a_duration_seconds_sum{{{labels}}} "))?
                .parse::<f64>()
                .ok()
        });
        assert!((sum.unwrap() - 45.0033).abs() < 1e-9, "{text}");
    }

    #[test]
    fn a_gauge_that_is_set_has_that_value_whoever_counted_before() {
        let recorder = Recorder::new();
        let active = || with_local_recorder(&recorder, || gauge!("a_active_requests"));
        thread::scope(|threads| {
            threads.spawn(|| active().increment(5.0));
        });
        active().set(2.0);
        let text = recorder.reader().render();
        assert!(text.contains("a_active_requests 2\n"), "{text}");
    }

    #[test]
    fn what_others_name_otherwise_is_the_exporters() {
        let recorder = Recorder::new();
        with_local_recorder(&recorder, || {
            histogram!("size_bytes").record(7.0);
            gauge!("depth").set(3.0);
        });
        let text = recorder.reader().render();
        assert!(text.contains("size_bytes{quantile=\"1\"} 7"), "{text}");
        assert!(text.contains("depth 3\n"), "{text}");
    }
}
