//! What is logged, kept and read back.

use std::{
    io,
    sync::{Arc, LazyLock, Mutex},
};

use kit::log::{Format, Lines};
use serde_json::Value;
use tracing::{Dispatch, subscriber::NoSubscriber};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter, layer::SubscriberExt};

/// While there is one subscriber alone, whoever reaches an event first decides for all threads whether anybody wants
/// it, and a thread without a subscriber decides that nobody does. Tests run side by side, so there are always two.
static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));

/// Log lines, kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept(Arc<Mutex<Vec<u8>>>);

impl io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Kept {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Kept {
    /// Keeps what this thread, and with it the test's runtime, logs as JSON.
    pub(crate) fn begin(filter: &str) -> (Self, tracing::subscriber::DefaultGuard) {
        LazyLock::force(&SECOND);
        let kept = Self::default();
        let lines = Lines {
            format: Format::Json,
            colour: false,
            writer: kept.clone(),
        };
        let subscriber = tracing_subscriber::registry()
            .with(EnvFilter::new(filter))
            .with(lines);
        (kept, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    pub(crate) fn lines(&self) -> Vec<Value> {
        let text = self.text();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The lines of the access log.
    pub(crate) fn access(&self) -> Vec<Value> {
        let mut lines = self.lines();
        lines.retain(|line| line["target"] == "kit::access");
        lines
    }
}
