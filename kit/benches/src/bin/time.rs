//! Measures time: `time [--quick]` prints what all cases cost as JSON, `time only GROUP...` what those of some groups do,
//! `time run GROUP NAME INNER CALLS` makes calls and prints nothing, for those who count its instructions.
//!
//! All cases take turns in short rounds, so that what else the machine does hits all of them; what a layer adds is
//! the difference to the bare service in the same round. One thread is measured in CPU time, in which other processes
//! do not count; two threads in time on the clock, of those rounds in which they ran the least disturbed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use kit::balance::{BalanceConfig, Pick, SubsetConfig};
use kit_benches::{BARE, Case, ENDPOINTS, Inner, Subject, Update};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => println!("{}", measure(&all(), 30, 1_000_000)),
        ["--quick"] => println!("{}", measure(&all(), 3, 50_000)),
        ["only", ref groups @ ..] => {
            let wanted = |case: &Case| case.group == BARE.group || groups.contains(&case.group);
            let cases: Vec<_> = all().into_iter().filter(wanted).collect();
            println!("{}", measure(&cases, 30, 1_000_000));
        }
        ["run", group, name, inner, calls] => {
            run(group, name, inner, calls.parse().expect("a number"));
        }
        _ => panic!(
            "time [--quick] | time only GROUP... | time run GROUP NAME at_once|pending_once CALLS"
        ),
    }
}

fn all() -> Vec<Case> {
    [vec![BARE], kit_benches::all()].concat()
}

fn run(group: &str, name: &str, inner: &str, calls: u64) {
    let case = all()
        .into_iter()
        .find(|case| (case.group, case.name) == (group, name))
        .expect("there is such a case");
    let inner = match inner {
        "at_once" => Inner::AtOnce,
        _ => Inner::PendingOnce,
    };
    let _recorder = kit::metrics::install();
    let runtime = runtime();
    let subject = runtime.block_on(async { case.build(inner) });
    let (_, subject) = batch(&runtime, subject, 100, || ());
    counted_calls(&runtime, subject, calls);
}

/// The part whose instructions are counted, by this name: what comes before calibrates clocks and so never repeats.
#[inline(never)]
fn counted_calls(runtime: &Runtime, subject: Box<dyn Subject>, calls: u64) {
    batch(runtime, subject, calls, || ());
}

/// A runtime of one thread whose wheel of timers is not idle: the first timer of an idle one costs a system call,
/// which a busy program does not pay.
fn runtime() -> Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.spawn(async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    runtime
}

/// What a batch of calls took, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Took {
    cpu: f64,
    wall: f64,
}

fn nanos(clock: ClockId) -> f64 {
    let time = clock_gettime(clock).expect("there is such a clock");
    time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64
}

impl Took {
    fn now() -> Self {
        Self {
            cpu: nanos(ClockId::CLOCK_THREAD_CPUTIME_ID),
            wall: nanos(ClockId::CLOCK_MONOTONIC),
        }
    }

    fn since(self) -> Self {
        let now = Self::now();
        Self {
            cpu: now.cpu - self.cpu,
            wall: now.wall - self.wall,
        }
    }

    /// Which part of the time the thread had a core.
    fn quality(self) -> f64 {
        self.cpu / self.wall
    }
}

/// Makes the calls in a task, where waking costs what it costs in a program.
fn batch(
    runtime: &Runtime,
    mut subject: Box<dyn Subject>,
    calls: u64,
    begin: impl FnOnce() + Send + 'static,
) -> (Took, Box<dyn Subject>) {
    let task = runtime.spawn(async move {
        begin();
        let began = Took::now();
        subject.run(calls).await;
        (began.since(), subject)
    });
    runtime.block_on(task).expect("the calls do not panic")
}

/// Calls for another thread to make.
struct Job {
    subject: Box<dyn Subject>,
    calls: u64,
    meeting: Arc<Meeting>,
}

/// Where two threads meet before they begin and after they have ended. They do not sleep there: to be woken takes
/// longer than the calls.
#[derive(Default)]
struct Meeting {
    began: AtomicUsize,
    ended: AtomicUsize,
}

impl Meeting {
    fn begin(&self) {
        self.began.fetch_add(1, SeqCst);
        while self.began.load(SeqCst) < 2 {
            thread::yield_now();
        }
    }

    /// Keeps the runtime going until both are done: a queue's worker may live in it.
    fn end(&self, runtime: &Runtime) {
        self.ended.fetch_add(1, SeqCst);
        runtime.block_on(async {
            while self.ended.load(SeqCst) < 2 {
                tokio::task::yield_now().await;
            }
        });
    }
}

/// Another thread with a runtime of its own.
struct Second {
    jobs: mpsc::Sender<Job>,
    done: mpsc::Receiver<Took>,
}

impl Second {
    fn start() -> Self {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (tell, done) = mpsc::channel();
        thread::spawn(move || {
            let runtime = runtime();
            for job in todo {
                let meeting = Arc::clone(&job.meeting);
                let begin = move || meeting.begin();
                let (took, subject) = batch(&runtime, job.subject, job.calls, begin);
                job.meeting.end(&runtime);
                drop(subject);
                tell.send(took).expect("somebody waits");
            }
        });
        Self { jobs, done }
    }
}

struct Row {
    case: Case,
    inner: Inner,
    /// `None` while it makes calls.
    subject: Option<Box<dyn Subject>>,
    calls: u64,
    /// Per call, one for each round.
    one: Vec<f64>,
    added: Vec<f64>,
    /// How well two threads got to run, how many times more calls they made, and how many in a microsecond.
    two: Vec<(f64, f64, f64)>,
}

impl Row {
    fn subject(&mut self) -> Box<dyn Subject> {
        self.subject.take().expect("it is put back")
    }
}

fn measure(cases: &[Case], rounds: usize, batch_nanos: u64) -> Value {
    let recorder = kit::metrics::install();
    let runtime = runtime();
    let second = Second::start();
    let mut rows = Vec::new();
    for case in cases.iter().copied() {
        for inner in [Inner::AtOnce, Inner::PendingOnce] {
            let subject = runtime.block_on(async { case.build(inner) });
            let (_, subject) = batch(&runtime, subject, 100, || ());
            let (took, subject) = batch(&runtime, subject, 100, || ());
            let calls = batch_nanos as f64 / (took.cpu / 100.0);
            rows.push(Row {
                case,
                inner,
                subject: Some(subject),
                calls: (calls as u64).clamp(20, 20_000),
                one: Vec::new(),
                added: Vec::new(),
                two: Vec::new(),
            });
        }
    }
    for _ in 0..rounds {
        let mut bare = [0.0; 2];
        for row in &mut rows {
            let (took, subject) = batch(&runtime, row.subject(), row.calls, || ());
            let nanos = took.cpu / row.calls as f64;
            let bare = &mut bare[usize::from(row.inner == Inner::PendingOnce)];
            if row.case.group == BARE.group {
                *bare = nanos;
            }
            row.one.push(nanos);
            row.added.push(nanos - *bare);
            let clone = subject.clone_for_thread();
            row.subject = Some(subject);
            if let Some(clone) = clone {
                let one = took.wall / row.calls as f64;
                let two = two_threads(&runtime, &second, row, clone, one);
                row.two.push(two);
            }
        }
        // The recorder keeps what was measured until somebody reads it.
        drop(recorder.render());
    }
    let rows: Vec<_> = rows.iter().map(report).collect();
    json!({ "rows": rows, "updates": updates(&runtime, rounds) })
}

fn two_threads(
    runtime: &Runtime,
    second: &Second,
    row: &mut Row,
    clone: Box<dyn Subject>,
    one: f64,
) -> (f64, f64, f64) {
    let meeting = Arc::new(Meeting::default());
    // Long enough for them to be under way together.
    let calls = row.calls * 4;
    let job = Job {
        subject: clone,
        calls,
        meeting: Arc::clone(&meeting),
    };
    second.jobs.send(job).expect("the thread is there");
    let together = Arc::clone(&meeting);
    let (mine, subject) = batch(runtime, row.subject(), calls, move || together.begin());
    meeting.end(runtime);
    row.subject = Some(subject);
    let its = second.done.recv().expect("the thread is there");
    let calls = calls as f64;
    let rate = calls / mine.wall + calls / its.wall;
    let quality = mine.quality().min(its.quality());
    (quality, rate * one, rate * 1e3)
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn spread(values: &[f64]) -> Value {
    json!({
        "median": median(values.iter().copied()),
        "min": values.iter().copied().fold(f64::INFINITY, f64::min),
        "max": values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    })
}

fn report(row: &Row) -> Value {
    let mut two = row.two.clone();
    two.sort_by(|a, b| b.0.total_cmp(&a.0));
    two.truncate((two.len() / 4).max(1));
    let over = |value: fn(&(f64, f64, f64)) -> f64| {
        let best = two.iter().map(value);
        (!two.is_empty()).then(|| median(best))
    };
    json!({
        "group": row.case.group,
        "name": row.case.name,
        "inner": if row.inner == Inner::AtOnce { "at_once" } else { "pending_once" },
        "ns": spread(&row.one),
        "added_ns": spread(&row.added),
        "two_threads": { "times_one": over(|two| two.1), "mcalls": over(|two| two.2) },
    })
}

/// What the first call costs after the endpoints were told again, beside one of the others, by what is made of the
/// endpoints.
fn updates(runtime: &Runtime, rounds: usize) -> Value {
    let _context = runtime.enter();
    let of = |(name, config): (&str, BalanceConfig)| {
        let mut update = Update::new(config);
        let mut call = |tell: fn(&mut Update)| {
            let times = (0..rounds).map(|_| {
                tell(&mut update);
                let began = Took::now();
                update.call();
                began.since().cpu / 1e3
            });
            median(times)
        };
        json!({
            "pick": name,
            "one_replaced_us": call(Update::replace_one),
            "same_again_us": call(Update::tell_again),
            "untold_us": call(|_| ()),
        })
    };
    let by = |pick| BalanceConfig {
        pick,
        ..BalanceConfig::default()
    };
    let subset = BalanceConfig {
        subset: Some(SubsetConfig::default()),
        ..BalanceConfig::default()
    };
    let picks = [
        ("peak_ewma", by(Pick::PeakEwma)),
        ("weighted", by(Pick::Weighted)),
        ("consistent_hash", by(Pick::ConsistentHash)),
        ("peak_ewma, of a subset of 20", subset),
    ];
    json!({ "endpoints": ENDPOINTS, "picks": picks.map(of) })
}
