//! Answers as no agent gives them, made out of answers that one gave (1.8.7; `recorded`).

use proptest::{collection::vec, prelude::*, sample::Index};
use serde_json::Value;

/// Any bytes.
pub(super) fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..200)
}

/// An answer of which bytes were changed, lost, doubled or added.
pub(super) fn garbled(recorded: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let edit = (0..4, any::<Index>(), any::<Index>(), bytes());
    vec(edit, 1..6).prop_map(|edits| {
        let mut answer = recorded.as_bytes().to_vec();
        for (kind, from, to, new) in edits {
            let [from, to] = [from, to].map(|end| end.index(answer.len() + 1));
            let range = from.min(to)..from.max(to);
            let new = match kind {
                0 => new,
                1 => Vec::new(),
                2 => answer[range.clone()].repeat(2),
                _ => answer[range.clone()].iter().rev().copied().collect(),
            };
            answer.splice(range, new);
        }
        answer
    })
}

/// Any JSON, of which much looks like what an answer has.
pub(super) fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~]{0,12}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    let name = prop_oneof!["Node|Service|Checks|ID|Port|Status|Key|Value", "[ -~]{0,8}"];
    leaf.prop_recursive(4, 24, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((name.clone(), inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// `value` with another one in the place of some part of it, which may be the whole.
pub(super) fn replaced(value: Value) -> impl Strategy<Value = Value> {
    let mut places = Vec::new();
    pointers(&value, String::new(), &mut places);
    (any::<Index>(), json()).prop_map(move |(index, new)| {
        let mut value = value.clone();
        let place = value.pointer_mut(index.get::<String>(&places));
        *place.expect("it was found there") = new;
        value
    })
}

/// Where each part of `value` is (RFC 6901).
fn pointers(value: &Value, here: String, found: &mut Vec<String>) {
    match value {
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                pointers(element, format!("{here}/{index}"), found);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                let name = name.replace('~', "~0").replace('/', "~1");
                pointers(member, format!("{here}/{name}"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    found.push(here);
}
