//! A document out of the values under a key.
//!
//! What stands in the registry is a merge patch (RFC 7396) upon the value that the process was started with: what it
//! does not name stays, and null takes a setting back to its default. The value at the key is the whole document; a
//! value at a key below it, such as `KEY/retry/attempts`, is the part of that name, and goes before. Each is JSON, or
//! TOML where it is no JSON.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::Stored;
use crate::BoxError;

/// How many levels a part may lie below its document; no policy has as many.
const DEEPEST: usize = 32;

/// What is wrong with a value in the registry.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is neither JSON nor TOML.
    #[error("{key} is neither JSON nor TOML")]
    Syntax {
        /// Its key.
        key: String,
        /// What the reader says: that of JSON where it begins like JSON.
        #[source]
        source: BoxError,
    },
    /// It lies too far below its document.
    #[error("{key} lies more than {DEEPEST} levels below its document")]
    Depth {
        /// Its key.
        key: String,
    },
    /// A setting is unknown, or breaks a rule.
    #[error("{key}: {field}: {rule}")]
    Field {
        /// The key of the document.
        key: String,
        /// Which setting, with dots.
        field: String,
        /// The rule.
        rule: String,
    },
    /// It is right in itself, but what it is for does not take it.
    #[error("{key} cannot be applied")]
    Refused {
        /// The key of the document.
        key: String,
        /// Why.
        #[source]
        source: BoxError,
    },
}

/// Which part of the document at `root` a key is: its path, empty for the document itself. `None`: no part of it.
pub(super) fn part<'a>(root: &str, key: &'a str) -> Option<Vec<&'a str>> {
    let rest = key.strip_prefix(root)?;
    if !rest.is_empty() && !rest.starts_with('/') {
        return None;
    }
    Some(rest.split('/').filter(|name| !name.is_empty()).collect())
}

/// `base`, changed as the values at `root` and below it say; each of them is a part of it.
pub(super) fn read<T: Serialize + DeserializeOwned>(
    root: &str,
    base: &Value,
    values: &[Stored],
) -> Result<(T, Value), DocumentError> {
    let mut document = base.clone();
    for Stored { key, value, .. } in values {
        // A folder is a value too, an empty one.
        if value.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let path = part(root, key).unwrap_or_default();
        if path.len() > DEEPEST {
            return Err(DocumentError::Depth { key: key.clone() });
        }
        let patch = path
            .into_iter()
            .rev()
            .fold(parse(key, value)?, |inner, name| {
                Value::Object(Map::from_iter([(name.to_owned(), inner)]))
            });
        merge(&mut document, patch);
    }
    let typed = serde_path_to_error::deserialize(&document).map_err(|error| {
        let (field, rule) = (error.path().to_string(), error.inner().to_string());
        DocumentError::Field {
            key: root.to_owned(),
            field,
            rule,
        }
    })?;
    Ok((typed, document))
}

fn parse(key: &str, value: &[u8]) -> Result<Value, DocumentError> {
    let wrong = |source: BoxError| DocumentError::Syntax {
        key: key.to_owned(),
        source,
    };
    let text = std::str::from_utf8(value).map_err(|error| wrong(error.into()))?;
    let json = match serde_json::from_str(text) {
        Ok(json) => return Ok(json),
        Err(error) => error,
    };
    if text.trim_start().starts_with(['{', '"']) {
        return Err(wrong(json.into()));
    }
    toml::from_str(text).map_err(|error| wrong(error.into()))
}

/// RFC 7396, section 2.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else {
        return;
    };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(&name);
        } else {
            merge(target.entry(name).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, time::Duration};

    use proptest::{collection::vec, prelude::*};
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        #[serde(with = "humantime_serde")]
        timeout: Duration,
        retry: Retry,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Retry {
        attempts: NonZeroU32,
        hedge: Option<u32>,
    }

    fn values(values: &[(&str, &str)]) -> Vec<Stored> {
        let stored = |(key, value): &(&str, &str)| Stored {
            key: (*key).to_owned(),
            value: value.as_bytes().to_vec(),
            session: None,
            modified: 1,
        };
        values.iter().map(stored).collect()
    }

    fn config(all: &[(&str, &str)]) -> Result<Config, DocumentError> {
        let base = json!({"timeout": "5s", "retry": {"attempts": 3, "hedge": 1}});
        read("k", &base, &values(all)).map(|(config, _)| config)
    }

    /// The examples of RFC 7396, appendix A.
    #[test]
    fn it_merges_as_the_standard_says() {
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": "b"}),
                json!({"b": "c"}),
                json!({"a": "b", "b": "c"}),
            ),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (
                json!({"a": "b", "b": "c"}),
                json!({"a": null}),
                json!({"b": "c"}),
            ),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (
                json!({"a": [{"b": "c"}]}),
                json!({"a": [1]}),
                json!({"a": [1]}),
            ),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": "b"}), json!(["c"]), json!(["c"])),
            (json!({"a": "foo"}), json!(null), json!(null)),
            (
                json!({"e": null}),
                json!({"a": 1}),
                json!({"e": null, "a": 1}),
            ),
            (
                json!([1, 2]),
                json!({"a": "b", "c": null}),
                json!({"a": "b"}),
            ),
            (
                json!({}),
                json!({"a": {"bb": {"ccc": null}}}),
                json!({"a": {"bb": {}}}),
            ),
        ] {
            let mut merged = target.clone();
            merge(&mut merged, patch.clone());
            assert_eq!(merged, result, "{target} {patch}");
        }
    }

    #[test]
    fn json_toml_and_keys_below_say_the_same() {
        let changed = config(&[("k", r#"{"retry": {"attempts": 2}}"#)]).unwrap();
        assert_eq!(changed.retry.attempts.get(), 2);
        assert_eq!(changed.timeout.as_secs(), 5);
        assert_eq!(changed.retry.hedge, Some(1));
        for same in [
            &[("k", "[retry]\nattempts = 2")],
            &[("k/retry", "attempts = 2")],
            &[("k/retry", r#"{"attempts": 2}"#)],
            &[("k/retry/attempts", "2")],
        ] {
            assert_eq!(config(same).unwrap(), changed, "{same:?}");
        }
        let below = config(&[("k", "timeout = '9s'"), ("k/", ""), ("k/timeout", "\"3s\"")]);
        assert_eq!(below.unwrap().timeout.as_secs(), 3);
        let without = config(&[("k", r#"{"retry": {"hedge": null}}"#)]).unwrap();
        assert_eq!(without.retry.hedge, None);
    }

    #[test]
    fn a_part_lies_at_most_so_many_levels_below_its_document() {
        let at = |levels| format!("k{}", "/a".repeat(levels));
        for (levels, told) in [
            (DEEPEST, "k: a: unknown field `a`".to_owned()),
            (
                DEEPEST + 1,
                format!("{} lies more than 32 levels", at(DEEPEST + 1)),
            ),
            (100_000, format!("{} lies more than 32 levels", at(100_000))),
        ] {
            let error = config(&[(&at(levels), "1")]).unwrap_err().to_string();
            assert!(error.starts_with(&told), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_by_its_key_and_field() {
        for (key, value, error) in [
            ("k", "{\"retry\"", "k is neither JSON nor TOML"),
            ("k/retry", "attempts: 2", "k/retry is neither JSON nor TOML"),
            (
                "k",
                "retry.attempts = 0",
                "k: retry.attempts: invalid value: integer `0`",
            ),
            ("k", "retries = 1", "k: retries: unknown field `retries`"),
            ("k/timeout", "2", "k: timeout: invalid type: integer `2`"),
            ("k", "3", "k: .: invalid type: integer `3`"),
        ] {
            let found = config(&[(key, value)]).unwrap_err().to_string();
            assert!(found.starts_with(error), "{found}");
        }
    }

    proptest! {
        #[test]
        fn no_value_is_too_odd_for_a_document(
            values in vec(
                (
                    prop_oneof!["k(/[a-z]{0,3}){0,4}", "[ -~]{0,20}", "k(/a){0,300}"],
                    prop_oneof![
                        vec(any::<u8>(), 0..40),
                        "[ -~\n]{0,40}".prop_map(String::into_bytes),
                        "(retry|timeout|attempts)( = |\\.|: )[0-9'\"s]{0,4}".prop_map(String::into_bytes),
                        r#"\{"(retry|timeout)": (\{"attempts": -?[0-9]{1,9}\}|null|\[\])\}"#.prop_map(String::into_bytes),
                    ],
                ),
                0..6,
            ),
        ) {
            let base = json!({"timeout": "5s", "retry": {"attempts": 3, "hedge": 1}});
            let values = values.into_iter().map(|(key, value)| Stored {
                key,
                value,
                session: None,
                modified: 1,
            });
            if let Ok((_, document)) = read::<Config>("k", &base, &values.collect::<Vec<_>>()) {
                // What was accepted is accepted again, since it is what the next change is merged into.
                let again = read::<Config>("k", &document, &[]);
                prop_assert!(again.is_ok());
            }
        }
    }

    #[test]
    fn a_key_that_only_begins_alike_is_no_part_of_it() {
        assert_eq!(part("a/b", "a/b"), Some(vec![]));
        assert_eq!(part("a/b", "a/b/"), Some(vec![]));
        assert_eq!(part("a/b", "a/b/c/d"), Some(vec!["c", "d"]));
        assert_eq!(part("a/b", "a/bc"), None);
    }
}
