//! One line of a log, as JSON or as text.

use std::{fmt, io::Write};

use serde_json::Value;
use tracing::Level;

/// Fields of an event or a span, in their order.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    /// Adds a field, or replaces the one of the same name; hides it if it is a secret.
    pub(super) fn add(&mut self, name: &'static str, value: Value) {
        let value = if is_secret(name) { "***".into() } else { value };
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    /// Takes a text field out.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| *known == name)?;
        match self.0.remove(at).1 {
            Value::String(text) => Some(text),
            other => Some(other.to_string()),
        }
    }
}

/// Whether a field of this name is never written out.
fn is_secret(name: &str) -> bool {
    const SECRET: [&str; 6] = [
        "password",
        "passwd",
        "secret",
        "token",
        "authorization",
        "api_key",
    ];
    // `user.password` and `consul_token` are secrets; `tokens_left` is a number.
    SECRET.iter().any(|secret| {
        name.strip_suffix(secret)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with(['.', '_']))
    })
}

/// A line that is being written.
pub(super) struct Line {
    bytes: Vec<u8>,
    style: Style,
    /// What stands in it already. An inner span's field hides the same of an outer one.
    names: Vec<&'static str>,
}

#[derive(Clone, Copy)]
enum Style {
    Json,
    Text { colour: bool },
}

const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

impl Line {
    pub(super) fn json(now: impl fmt::Display, level: Level, target: &str, message: &str) -> Self {
        let mut line = Self::new(Style::Json);
        line.print(format_args!(
            r#"{{"timestamp":"{now}","level":"{level}","target":"#
        ));
        line.value(&target.into());
        line.print(format_args!(r#","message":"#));
        line.value(&message.into());
        line.names
            .extend(["timestamp", "level", "target", "message"]);
        line
    }

    pub(super) fn text(
        now: impl fmt::Display,
        level: Level,
        target: &str,
        message: &str,
        colour: bool,
    ) -> Self {
        let mut line = Self::new(Style::Text { colour });
        if colour {
            let of_level = match level {
                Level::ERROR => "\x1b[31m",
                Level::WARN => "\x1b[33m",
                Level::INFO => "\x1b[32m",
                Level::DEBUG => "\x1b[34m",
                Level::TRACE => "\x1b[35m",
            };
            line.print(format_args!(
                "{DIM}{now}{RESET} {of_level}{level:>5}{RESET} {DIM}{target}:{RESET} "
            ));
        } else {
            line.print(format_args!("{now} {level:>5} {target}: "));
        }
        // Nobody who is logged may begin a line of his own, or colour it.
        for c in message.chars() {
            if c.is_control() {
                line.print(format_args!("{}", c.escape_default()));
            } else {
                line.print(format_args!("{c}"));
            }
        }
        line
    }

    fn new(style: Style) -> Self {
        Self {
            bytes: Vec::with_capacity(512),
            style,
            names: Vec::with_capacity(16),
        }
    }

    pub(super) fn fields(&mut self, fields: &Fields) {
        for (name, value) in &fields.0 {
            if self.names.contains(name) || self.is_noise(name) {
                continue;
            }
            self.names.push(name);
            match self.style {
                Style::Json => {
                    self.print(format_args!(","));
                    self.value(&(*name).into());
                    self.print(format_args!(":"));
                }
                Style::Text { colour: true } => self.print(format_args!(" {DIM}{name}={RESET}")),
                Style::Text { colour: false } => self.print(format_args!(" {name}=")),
            }
            self.value(value);
        }
    }

    /// Which span of a trace it was is for programs that put spans together; people search for the trace.
    fn is_noise(&self, name: &str) -> bool {
        matches!(self.style, Style::Text { .. }) && name == "span_id"
    }

    pub(super) fn end(mut self) -> Vec<u8> {
        if matches!(self.style, Style::Json) {
            self.bytes.push(b'}');
        }
        self.bytes.push(b'\n');
        self.bytes
    }

    fn value(&mut self, value: &Value) {
        match (self.style, value) {
            (Style::Text { .. }, Value::String(text)) if is_plain(text) => {
                self.bytes.extend_from_slice(text.as_bytes());
            }
            (Style::Text { .. }, Value::String(text)) => self.print(format_args!("{text:?}")),
            (Style::Text { .. } | Style::Json, value) => {
                serde_json::to_writer(&mut self.bytes, value).expect("memory takes all");
            }
        }
    }

    fn print(&mut self, text: fmt::Arguments<'_>) {
        self.bytes.write_fmt(text).expect("memory takes all");
    }
}

/// Whether a text needs no quotes.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '='))
}
