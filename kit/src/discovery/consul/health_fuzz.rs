use std::collections::BTreeSet;

use http::HeaderValue;
use proptest::{collection::vec, prelude::*, sample::Index};
use serde_json::Value;

use super::{
    super::fuzz::{bytes, garbled, replaced},
    *,
};

const RECORDED: &str = include_str!("recorded/health.json");
const RIGHTS: &str = include_str!("recorded/authorize.json");

fn query() -> impl Strategy<Value = Query> {
    (any::<bool>(), any::<bool>(), any::<bool>(), 0..3).prop_map(|(warnings, tag, near, mode)| {
        Query {
            warnings,
            tags: tag.then(|| "blue".to_owned()).into_iter().collect(),
            near: near.then(|| "_agent".to_owned()),
            consistency: match mode {
                0 => Consistency::Default,
                1 => Consistency::Stale {
                    max_stale: Duration::from_secs(1),
                },
                _ => Consistency::Cached {
                    max_age: Duration::from_secs(1),
                    stale_if_error: Duration::ZERO,
                },
            },
            ..Query::default()
        }
    })
}

/// Headers that are numbers, or are not.
fn headers() -> impl Strategy<Value = HeaderMap> {
    let value = prop_oneof![
        any::<u64>().prop_map(|number| number.to_string().into_bytes()),
        bytes()
    ];
    let names = [INDEX, LAST_CONTACT, AGE, FILTERED];
    vec((any::<Index>(), value), 0..4).prop_map(move |pairs| {
        let pairs = pairs.into_iter().filter_map(|(name, value)| {
            Some((
                name.get(&names).clone(),
                HeaderValue::from_bytes(&value).ok()?,
            ))
        });
        pairs.collect()
    })
}

fn ids(answer: &Answer) -> BTreeSet<String> {
    let ids = answer
        .endpoints
        .iter()
        .map(|endpoint| endpoint.id.to_string());
    ids.collect()
}

fn recorded() -> Vec<Value> {
    serde_json::from_str(RECORDED).unwrap()
}

proptest! {
    #[test]
    fn no_bytes_are_too_odd_for_a_list_of_instances(
        body in prop_oneof![bytes(), garbled(RECORDED)], headers in headers(), query in query(),
    ) {
        if let Ok(answer) = decode(&headers, &body, &query) {
            // What it says can be called.
            for endpoint in answer.endpoints.iter() {
                prop_assert!(endpoint.weight > 0 && endpoint.address.port_u16().is_some_and(|port| port > 0));
            }
        }
    }

    #[test]
    fn one_odd_instance_hides_no_other(
        (odd, entry) in (0..recorded().len()).prop_flat_map(|odd| (Just(odd), replaced(recorded()[odd].clone()))),
        query in query(),
    ) {
        let mut entries = recorded();
        let all = decode(&HeaderMap::new(), RECORDED.as_bytes(), &query).unwrap();
        prop_assert_eq!(all.endpoints.len(), entries.len());
        let name = entries[odd]["Service"]["ID"].as_str().unwrap().to_owned();
        let others = ids(&all).into_iter().filter(|id| !id.starts_with(&name));
        entries[odd] = entry;
        let body = serde_json::to_vec(&entries).unwrap();
        let answer = decode(&HeaderMap::new(), &body, &query);
        let known = ids(&answer.unwrap());
        for other in others {
            prop_assert!(known.contains(&other), "{} is missing in {:?}", other, known);
        }
    }

    #[test]
    fn an_index_is_a_number_or_none(headers in headers()) {
        let index = index_of(&headers);
        let said = headers.get(INDEX).and_then(|value| value.to_str().ok()?.parse().ok());
        prop_assert_eq!(index, said.unwrap_or(0));
    }

    #[test]
    fn no_bytes_are_too_odd_for_a_list_of_rights(body in prop_oneof![bytes(), garbled(RIGHTS)]) {
        let _ = read::<Vec<Answered>>(&body);
    }
}

#[test]
fn a_list_of_which_nothing_can_be_read_is_not_an_empty_one() {
    let body = br#"[{"error": "not today"}, 7]"#;
    let answer = decode(&HeaderMap::new(), body, &Query::default());
    assert!(matches!(answer, Err(ConsulError::Answer(_))));
}
