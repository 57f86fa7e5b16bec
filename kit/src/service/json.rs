//! Arguments and results as JSON, and what is wrong with JSON that is not what it should be.

use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::error::Category;

use super::{
    params::{Joined, Texts},
    whole::Whole,
};
use crate::{Error, error::Problem};

/// Reads arguments: `texts` from elsewhere, and the others from a body. No bytes at all are the same as no fields.
///
/// # Errors
/// [`Code::InvalidArgument`](crate::Code::InvalidArgument), naming the field and the rule.
pub(super) fn decode<T: DeserializeOwned>(texts: &Texts<'_>, bytes: &[u8]) -> Result<T, Error> {
    let bytes = if bytes.trim_ascii().is_empty() {
        b"{}"
    } else {
        bytes
    };
    // serde would also take the fields in their order, out of an array.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(Error::invalid("", "the body must be a JSON object"));
    }
    // Where in it a mistake is costs time to keep, so it is looked for when there is one.
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let body = Whole(&mut json);
    let read = T::deserialize(Joined { texts, body }).and_then(|read| json.end().map(|()| read));
    read.map_err(|error| {
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let body = Whole(&mut json);
        match serde_path_to_error::deserialize::<_, T>(Joined { texts, body }) {
            Err(error) => explain(&error.path().to_string(), error.inner(), bytes),
            // The mistake is behind it.
            Ok(_) => explain(".", &error, bytes),
        }
    })
}

/// Writes a result.
///
/// # Errors
/// [`Code::Internal`](crate::Code::Internal): the type cannot be JSON, such as a map whose keys are no texts.
pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(Error::internal)
}

/// One line of a stream. The words are those of grpc-gateway, which others read already.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line<T> {
    Result(T),
    /// Behind it there is nothing.
    Error(Problem),
}

/// Appends one item of a stream as a line.
///
/// # Errors
/// As [`encode`]; then nothing is appended.
pub(super) fn line<T: Serialize>(item: &T, out: &mut Vec<u8>) -> Result<(), Error> {
    let len = out.len();
    if let Err(error) = serde_json::to_writer(&mut *out, &Line::Result(item)) {
        out.truncate(len);
        return Err(Error::internal(error));
    }
    out.push(b'\n');
    Ok(())
}

/// Writes how a stream broke off as its last line.
pub(super) fn last_line(error: &Error) -> Vec<u8> {
    let mut line = serde_json::to_vec(&Line::<()>::Error(error.into()))
        .expect("a problem has only texts and numbers");
    line.push(b'\n');
    line
}

/// Reads a line of a stream: an item, or the error that it broke off with.
pub(super) fn read_line<T: DeserializeOwned>(line: &[u8]) -> serde_json::Result<Result<T, Error>> {
    Ok(match serde_json::from_slice(line)? {
        Line::Result(item) => Ok(item),
        Line::Error(problem) => Err(problem.into()),
    })
}

/// The field and the rule, out of serde's words, which have no other form than a text.
fn explain(path: &str, error: &serde_json::Error, bytes: &[u8]) -> Error {
    let text = error.to_string();
    let path = if path == "." { "" } else { path };
    match error.classify() {
        Category::Data => {}
        // So serde_json tells of a value that is no variant of an enum.
        Category::Syntax
            if text.starts_with("expected value")
                && serde_json::from_slice::<IgnoredAny>(bytes).is_ok() =>
        {
            return Error::invalid(path, "must be a string");
        }
        Category::Syntax | Category::Eof | Category::Io => {
            return Error::invalid("", format!("the body must be valid JSON: {text}"));
        }
    }
    let message = match text.rfind(" at line ") {
        Some(at) => &text[..at],
        None => &text,
    };
    let inner = |field: &str| match path {
        "" => field.to_owned(),
        path => format!("{path}.{field}"),
    };
    if let Some((field, _)) = quoted(message, "missing field ") {
        return Error::invalid(inner(field), "is required");
    }
    if let Some((field, expected)) = quoted(message, "unknown field ") {
        // The path of serde_path_to_error ends with the field that is not known, or does not; both happen.
        let field = match path.rsplit('.').next() {
            Some(last) if last == field => path.to_owned(),
            _ => inner(field),
        };
        let known = expected.trim_start_matches(", ");
        return Error::invalid(field, format!("is not a known field ({known})"));
    }
    if let Some((field, _)) = quoted(message, "duplicate field ") {
        return Error::invalid(inner(field), "must not be there twice");
    }
    if let Some((variant, expected)) = quoted(message, "unknown variant ") {
        let expected = expected
            .trim_start_matches(", expected ")
            .trim_start_matches("one of ");
        return Error::invalid(path, format!("must be {expected}, not `{variant}`"));
    }
    for prefix in ["invalid type: ", "invalid value: ", "invalid length "] {
        if let Some((found, expected)) = message
            .strip_prefix(prefix)
            .and_then(|rest| rest.split_once(", expected "))
        {
            let expected = in_words(expected);
            return Error::invalid(path, format!("must be {expected}, not {found}"));
        }
    }
    Error::invalid(path, message)
}

/// What serde expects, for those who do not know Rust.
fn in_words(expected: &str) -> &str {
    match expected {
        "u8" => "an integer from 0 to 255",
        "u16" => "an integer from 0 to 65535",
        "u32" => "an integer from 0 to 4294967295",
        "u64" | "usize" => "an integer from 0 to 18446744073709551615",
        "i32" => "an integer from -2147483648 to 2147483647",
        "i64" | "isize" => "an integer from -9223372036854775808 to 9223372036854775807",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        other if other.starts_with("struct ") => "an object",
        other => other,
    }
}

/// What stands in backticks after `prefix`, and what comes after that.
fn quoted<'a>(message: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    message
        .strip_prefix(prefix)?
        .strip_prefix('`')?
        .split_once('`')
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::error::Violation;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only read from JSON")]
    struct Request {
        email: String,
        items: Vec<Item>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only read from JSON")]
    struct Item {
        count: u8,
        state: State,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum State {
        Open,
        Done,
    }

    #[test]
    fn an_error_names_the_field_and_the_rule() {
        let with_item = |item: &str| format!(r#"{{"email": "a", "items": [{item}]}}"#);
        for (json, field, rule) in [
            ("{}".to_owned(), "email", "is required"),
            (String::new(), "email", "is required"),
            (
                r#"{"email": 1}"#.to_owned(),
                "email",
                "must be a string, not integer `1`",
            ),
            (
                r#"{"email": null}"#.to_owned(),
                "email",
                "must be a string, not null",
            ),
            (
                r#"{"mail": "a"}"#.to_owned(),
                "mail",
                "is not a known field (expected `email` or `items`)",
            ),
            (
                r#"{"email": "a", "email": "b"}"#.to_owned(),
                "email",
                "must not be there twice",
            ),
            (
                with_item("3"),
                "items[0]",
                "must be an object, not integer `3`",
            ),
            (
                with_item(r#"{"count": 300}"#),
                "items[0].count",
                "must be an integer from 0 to 255, not integer `300`",
            ),
            (
                with_item(r#"{"count": 3}"#),
                "items[0].state",
                "is required",
            ),
            (
                with_item(r#"{"cuont": 3}"#),
                "items[0].cuont",
                "is not a known field (expected `count` or `state`)",
            ),
            (
                with_item(r#"{"count": 3, "state": "lost"}"#),
                "items[0].state",
                "must be `open` or `done`, not `lost`",
            ),
            (
                with_item(r#"{"count": 3, "state": 3}"#),
                "items[0].state",
                "must be a string",
            ),
            ("[]".to_owned(), "", "the body must be a JSON object"),
            ("3".to_owned(), "", "must be an object, not integer `3`"),
        ] {
            let error = decode::<Request>(&Texts::new(), json.as_bytes()).unwrap_err();
            let violation = &error.violations()[0];
            assert_eq!(
                (&*violation.field, &*violation.rule),
                (field, rule),
                "{json}"
            );
        }
    }

    #[test]
    fn an_integer_may_be_spelled_with_a_fraction_of_nothing() {
        let read = |count: &str| {
            let json =
                format!(r#"{{"email": "a", "items": [{{"count": {count}, "state": "open"}}]}}"#);
            decode::<Request>(&Texts::new(), json.as_bytes()).map(|request| request.items[0].count)
        };
        for (spelled, count) in [("3.0", 3), ("3e1", 30), ("-0.0", 0), ("255.0", 255)] {
            assert_eq!(read(spelled).unwrap(), count, "{spelled}");
        }
        for (spelled, found) in [
            ("3.5", "floating point `3.5`"),
            ("256.0", "integer `256`"),
            ("-1.0", "integer `-1`"),
            ("1e300", "floating point `1e+300`"),
        ] {
            let error = read(spelled).unwrap_err();
            let Violation { field, rule } = &error.violations()[0];
            assert_eq!(field, "items[0].count");
            assert_eq!(
                *rule,
                format!("must be an integer from 0 to 255, not {found}")
            );
        }
    }

    #[test]
    fn what_is_no_json_is_said_to_be_none() {
        for bad in [
            "{",
            r#"{"email": "a"} x"#,
            r#"{"email": "#,
            "email=a",
            "\u{0}",
            r#"{"a": 1e999999}"#,
        ] {
            let error = decode::<Request>(&Texts::new(), bad.as_bytes()).unwrap_err();
            assert_eq!(error.code(), crate::Code::InvalidArgument, "{bad}");
            assert_eq!(error.violations().len(), 1, "{bad}");
        }
        let error = decode::<Request>(&Texts::new(), b"{\"email\": \"\xff\"}").unwrap_err();
        assert_eq!(error.code(), crate::Code::InvalidArgument);
    }
}
