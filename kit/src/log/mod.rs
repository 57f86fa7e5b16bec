//! Logs for machines (JSON) or for people (text), every line with the trace id of the request it is about.
//!
//! Lines go to standard output. In JSON a line is one object with `timestamp`, `level`, `target` and `message`,
//! and beside them, at the top, the fields of the event and of the spans around it, inner ones first: so
//! `jq 'select(.trace_id == "...")'` finds all that happened to a request. Text has the same in the same order, without
//! `span_id`.
//!
//! A field whose name says that it is a secret is written as `***`, wherever it comes from.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    panic,
};

use serde::{Deserialize, Serialize};
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{
    EnvFilter, Layer,
    fmt::MakeWriter,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::error::Chain;

mod line;

use line::{Fields, Line};

/// How logs are written, and which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// For whom. Default `text`.
    pub format: Format,
    /// Which lines are written, in the words of `tracing-subscriber`'s `EnvFilter`: a level, or a list such as
    /// `info,kit=debug`. Default `info`.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: Format::default(),
            filter: "info".into(),
        }
    }
}

/// For whom logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people: coloured where standard output is a terminal and `NO_COLOR` is not set.
    #[default]
    Text,
    /// For machines: one object per line.
    Json,
}

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not one.
    #[error("log.filter (KIT_LOG__FILTER) {filter:?} is not valid")]
    Filter {
        /// What was configured.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process logs already, in another way.
    #[error("a subscriber for logs is installed already")]
    Installed(#[source] tracing_subscriber::util::TryInitError),
}

/// Begins to log to standard output, panics included. Once per process, first thing in `main`.
pub fn init(config: &LogConfig) -> Result<(), LogError> {
    let filter = EnvFilter::builder()
        .parse(&config.filter)
        .map_err(|source| LogError::Filter {
            filter: config.filter.clone(),
            source,
        })?;
    let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = Lines {
        format: config.format,
        colour,
        writer: io::stdout,
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(LogError::Installed)?;
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// A panic is logged like everything else, in the span in which it happened.
fn log_panic(info: &panic::PanicHookInfo<'_>) {
    let text = info.payload_as_str().unwrap_or("no text");
    let location = info.location().map(tracing::field::display);
    let backtrace = std::backtrace::Backtrace::capture();
    let backtrace = (backtrace.status() == std::backtrace::BacktraceStatus::Captured)
        .then(|| tracing::field::display(backtrace));
    tracing::error!(target: "panic", location, backtrace, "panicked: {text}");
}

/// Writes events as lines; for a subscriber of one's own. [`init`] is enough for a service.
#[derive(Debug)]
pub struct Lines<W> {
    /// For whom.
    pub format: Format,
    /// Whether text is coloured by ANSI escapes.
    pub colour: bool,
    /// Where lines go, each in one write.
    pub writer: W,
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().replace(fields);
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &tracing::Event<'_>, ctx: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let now = humantime::format_rfc3339_millis(std::time::SystemTime::now());
        let message = fields.take("message");
        let message = message.as_deref().unwrap_or_default();
        let mut line = match self.format {
            Format::Json => Line::json(now, *metadata.level(), metadata.target(), message),
            Format::Text => Line::text(
                now,
                *metadata.level(),
                metadata.target(),
                message,
                self.colour,
            ),
        };
        line.fields(&fields);
        for span in ctx.event_scope(event).into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<Fields>() {
                line.fields(fields);
            }
        }
        let line = line.end();
        // Whoever read the logs may be gone; that is no reason to stop.
        let _ = self.writer.make_writer_for(metadata).write_all(&line);
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field.name(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field.name(), value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field.name(), Chain(value).to_string().into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field.name(), format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Debug, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
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

    /// What `f` logs, without the time.
    fn logged(format: Format, colour: bool, f: impl FnOnce()) -> String {
        let kept = Kept::default();
        let lines = Lines {
            format,
            colour,
            writer: kept.clone(),
        };
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, f);
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        match format {
            Format::Json => text.replacen(&text[14..38], "NOW", 1),
            Format::Text => text.replacen(&text[..24], "NOW", 1),
        }
    }

    fn work() {
        let outer = tracing::error_span!("request", trace_id = "abc", span_id = "1");
        let _outer = outer.enter();
        let inner = tracing::info_span!(
            "call",
            span_id = "2",
            upstream = "users",
            late = tracing::field::Empty
        );
        let _inner = inner.enter();
        inner.record("late", 7);
        tracing::info!(target: "t", ok = true, ratio = 0.5, text = "a \"b\"", nothing = None::<u8>, "done {}", 1);
    }

    #[test]
    fn json_has_all_fields_at_the_top_and_inner_ones_hide_outer_ones() {
        assert_eq!(
            logged(Format::Json, false, work),
            concat!(
                r#"{"timestamp":"NOW","level":"INFO","target":"t","message":"done 1","ok":true,"ratio":0.5,"#,
                r#""text":"a \"b\"","span_id":"2","upstream":"users","late":7,"trace_id":"abc"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn text_is_for_people_and_plain_where_there_is_no_terminal() {
        assert_eq!(
            logged(Format::Text, false, work),
            "NOW  INFO t: done 1 ok=true ratio=0.5 text=\"a \\\"b\\\"\" upstream=users late=7 trace_id=abc\n"
        );
        assert!(logged(Format::Text, true, work).contains("\x1b[32m"));
    }

    #[test]
    fn nobody_who_is_logged_can_begin_a_line_or_colour_it() {
        let forged = "x\nNOW ERROR t: forged\x1b[31m";
        for format in [Format::Text, Format::Json] {
            let text = logged(format, false, || tracing::info!(user = forged, "{forged}"));
            assert_eq!(text.lines().count(), 1, "{text}");
            assert!(!text.contains('\x1b'), "{text}");
        }
    }

    #[test]
    fn secrets_are_not_written() {
        let text = logged(Format::Json, false, || {
            let span = tracing::info_span!("s", consul_token = "hunter2");
            let _entered = span.enter();
            tracing::info!(
                password = "hunter2",
                db.password = "hunter2",
                tokens_left = 3,
                "x"
            );
        });
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains(r#""tokens_left":3"#), "{text}");
    }

    #[test]
    fn a_filter_that_is_none_is_named() {
        let config = LogConfig {
            filter: "info,kit=loud".into(),
            ..LogConfig::default()
        };
        let error = init(&config).unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"log.filter (KIT_LOG__FILTER) "info,kit=loud" is not valid"#
        );
    }
}
