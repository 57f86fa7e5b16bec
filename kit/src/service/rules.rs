//! What a value may be, beside what its type says: `#[kit(min_length = 1, max_length = 254)]`.
//!
//! The words and what they mean are those of JSON Schema, so that the OpenAPI document says them as they are and others
//! hold themselves to them: a text is as long as it has characters. They hold for what is asked, on both wires; what a
//! service answers is its own affair. Generated code describes each rule by these; nobody writes them by hand.

use std::{cmp::Ordering, fmt, sync::OnceLock};

use regex_automata::{
    Anchored, Input, MatchKind,
    dfa::{Automaton, StartKind, dense},
};

use super::message::Value;
use crate::{Error, error::Violation, wire::Wire};

/// How many mistakes are told at once. They travel in headers, which have an end.
const TOLD: usize = 16;

/// What one value may be.
#[derive(Debug, PartialEq)]
pub struct Rules {
    /// How many characters or items there are at least.
    pub min_length: Option<u64>,
    /// How many characters or items there are at most.
    pub max_length: Option<u64>,
    /// What a text looks like.
    pub pattern: Option<Pattern>,
    /// The least number.
    pub minimum: Option<Number>,
    /// The greatest number.
    pub maximum: Option<Number>,
}

impl Rules {
    /// The rule that `value` breaks, the first of them.
    fn broken_by(&self, value: Measure<'_>) -> Option<String> {
        match value {
            Measure::Nothing => None,
            Measure::Text(text) => {
                // Counting is left out where bytes tell as much.
                let is_longer = |most| text.len() as u64 > most && characters(text) > most;
                let is_shorter = |least| characters(text) < least;
                self.length(is_shorter, is_longer, "characters")
                    .or_else(|| match &self.pattern {
                        Some(pattern) if !pattern.fits(text) => {
                            Some(format!("must match `{}`", pattern.text))
                        }
                        _ => None,
                    })
            }
            Measure::Items(count) => {
                let count = count as u64;
                self.length(|least| count < least, |most| count > most, "items")
            }
            // What is no number is on no side of another one.
            Measure::Number(number) => match (self.minimum, self.maximum) {
                (Some(least), _) if number.partial_cmp(&least).is_none_or(Ordering::is_lt) => {
                    Some(format!("must not be below {least}"))
                }
                (_, Some(most)) if number.partial_cmp(&most).is_none_or(Ordering::is_gt) => {
                    Some(format!("must not be above {most}"))
                }
                _ => None,
            },
        }
    }

    fn length(
        &self,
        is_shorter: impl Fn(u64) -> bool,
        is_longer: impl Fn(u64) -> bool,
        what: &str,
    ) -> Option<String> {
        match (self.min_length, self.max_length) {
            (Some(1), _) if is_shorter(1) => Some("must not be empty".to_owned()),
            (Some(least), _) if is_shorter(least) => {
                Some(format!("must not have fewer than {least} {what}"))
            }
            (_, Some(most)) if is_longer(most) => {
                Some(format!("must not have more than {most} {what}"))
            }
            _ => None,
        }
    }
}

/// As they are written: `min_length = 1, max_length = 254`.
impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pattern = self.pattern.as_ref().map(|pattern| &pattern.text);
        let words = [
            self.min_length.map(|least| format!("min_length = {least}")),
            self.max_length.map(|most| format!("max_length = {most}")),
            pattern.map(|pattern| format!("pattern = {pattern:?}")),
            self.minimum.map(|least| format!("minimum = {least}")),
            self.maximum.map(|most| format!("maximum = {most}")),
        ];
        let words: Vec<_> = words.into_iter().flatten().collect();
        f.write_str(&words.join(", "))
    }
}

fn characters(text: &str) -> u64 {
    text.chars().count() as u64
}

/// A regular expression, in what Rust and ECMA-262 (which JSON Schema follows) have in common. Whether a text fits takes
/// one step for each of its bytes, whatever the text and the expression are; nothing is locked, and nothing allocated
/// but once.
#[derive(Debug)]
pub struct Pattern {
    text: &'static str,
    automaton: OnceLock<Option<dense::DFA<Vec<u32>>>>,
}

impl Pattern {
    /// What the macro has read already, by the same engine.
    #[doc(hidden)]
    pub const fn new(text: &'static str) -> Self {
        let automaton = OnceLock::new();
        Self { text, automaton }
    }

    /// The expression.
    pub fn as_str(&self) -> &'static str {
        self.text
    }

    fn fits(&self, text: &str) -> bool {
        let automaton = self.automaton.get_or_init(|| {
            let config = dense::Config::new()
                .match_kind(MatchKind::All)
                .start_kind(StartKind::Unanchored);
            dense::Builder::new()
                .configure(config)
                .build(self.text)
                .ok()
        });
        let input = Input::new(text).anchored(Anchored::No).earliest(true);
        let found = automaton
            .as_ref()
            .and_then(|automaton| automaton.try_search_fwd(&input).ok());
        found.flatten().is_some()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// A number of any type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// Without a fraction.
    Integer(i128),
    /// With one, or none at all.
    Float(f64),
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let float = |number: &Self| match number {
            Self::Integer(number) => *number as f64,
            Self::Float(number) => *number,
        };
        match (self, other) {
            (Self::Integer(one), Self::Integer(other)) => one.partial_cmp(other),
            (one, other) => float(one).partial_cmp(&float(other)),
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => number.fmt(f),
            Self::Float(number) => number.fmt(f),
        }
    }
}

/// What rules can be about in a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    /// Nothing.
    Nothing,
    /// A text: its length, and what it looks like.
    Text,
    /// How many items there are.
    Items,
    /// A number: how great it is.
    Number,
}

/// The same of one value.
#[derive(Clone, Copy, Debug)]
pub enum Measure<'a> {
    /// There is none, or nothing that rules could be about.
    Nothing,
    /// A text.
    Text(&'a str),
    /// How many items there are.
    Items(usize),
    /// A number.
    Number(Number),
}

/// The rules that a value and its parts break.
#[derive(Debug)]
pub struct Violations {
    wire: Wire,
    /// Whether rules hold; otherwise this is about what cannot travel.
    is_asked: bool,
    found: Vec<Violation>,
}

impl Violations {
    /// None yet, of what somebody asks on `wire`.
    pub(super) fn of_arguments(wire: Wire) -> Self {
        Self {
            wire,
            is_asked: true,
            found: Vec::new(),
        }
    }

    /// None yet, of what is to be JSON or was.
    pub(super) fn of_json() -> Self {
        Self {
            is_asked: false,
            ..Self::of_arguments(Wire::Json)
        }
    }

    /// What is found in a field, by its name in protobuf and in JSON.
    pub fn within(&mut self, name: &str, json: &str, find: impl FnOnce(&mut Self)) {
        let before = self.found.len();
        find(self);
        let name = match self.wire {
            Wire::Grpc => name,
            Wire::Json => json,
        };
        for violation in &mut self.found[before..] {
            violation.field = inside(name, &violation.field);
        }
    }

    /// What is found in the items of a list, or the values of a map, each with the name that it has there.
    pub(super) fn within_each<'a, K, V: Value + 'a>(
        &mut self,
        items: impl Iterator<Item = (K, &'a V)>,
        name: impl Fn(K) -> String,
    ) {
        for (key, item) in items {
            let before = self.found.len();
            item.check(self);
            // A name is made only for what there is something to tell of.
            if self.found.len() > before {
                let name = name(key);
                for violation in &mut self.found[before..] {
                    violation.field = inside(&name, &violation.field);
                }
            }
        }
    }

    /// Holds one value against its rules.
    pub fn hold(&mut self, rules: &Rules, value: Measure<'_>) {
        if self.is_asked
            && let Some(rule) = rules.broken_by(value)
        {
            self.tell(rule);
        }
    }

    /// JSON has no number that is none or has no end, and where it has one that is too great for its type, that
    /// becomes infinite.
    pub(super) fn hold_finite(&mut self, number: f64) {
        if self.wire == Wire::Json && !number.is_finite() {
            self.tell("must be a finite number of its type".to_owned());
        }
    }

    fn tell(&mut self, rule: String) {
        if self.found.len() < TOLD {
            let field = String::new();
            self.found.push(Violation { field, rule });
        }
    }

    /// # Errors
    /// [`Code::InvalidArgument`](crate::Code::InvalidArgument), naming the fields and the rules.
    pub(super) fn finish(self) -> Result<(), Error> {
        let mut found = self.found.into_iter();
        match found.next() {
            None => Ok(()),
            Some(first) => Err(found.fold(
                Error::invalid(first.field, first.rule),
                |error, violation| error.with_violation(violation.field, violation.rule),
            )),
        }
    }
}

/// The path of the field `inner` of what is `outer`.
pub(super) fn inside(outer: &str, inner: &str) -> String {
    let dot = match inner {
        "" => "",
        inner if inner.starts_with('[') => "",
        _ => ".",
    };
    format!("{outer}{dot}{inner}")
}
