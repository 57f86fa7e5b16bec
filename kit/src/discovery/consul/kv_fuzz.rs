use proptest::{prelude::*, sample::Index};
use serde_json::Value;

use super::{
    super::fuzz::{bytes, garbled, json},
    *,
};

const VALUES: &str = include_str!("recorded/kv.json");
const SESSION: &str = include_str!("recorded/session.json");

proptest! {
    #[test]
    fn no_bytes_are_too_odd_for_a_list_of_values(body in prop_oneof![bytes(), garbled(VALUES)]) {
        let _ = stored(&body);
    }

    /// They are parts of one document, and of one lock: without one of them the rest says something else.
    #[test]
    fn a_list_with_an_odd_value_is_refused_as_a_whole(odd in json(), place in any::<Index>()) {
        let mut values: Vec<Value> = serde_json::from_str(VALUES).unwrap();
        let count = values.len();
        *place.get_mut(&mut values) = odd.clone();
        match stored(&serde_json::to_vec(&values).unwrap()) {
            Ok(stored) => prop_assert_eq!(stored.len(), count),
            Err(error) => prop_assert!(matches!(error, ConsulError::Answer(_)), "{:?}", error),
        }
    }

    #[test]
    fn any_value_comes_back_as_it_was(value in bytes()) {
        let entry = serde_json::json!([{"Key": "k", "Value": STANDARD.encode(&value), "ModifyIndex": 1}]);
        prop_assert_eq!(&stored(entry.to_string().as_bytes()).unwrap()[0].value, &value);
    }

    #[test]
    fn no_bytes_are_too_odd_for_a_session_and_for_whether_a_lock_was_got(
        body in prop_oneof![bytes(), garbled(SESSION), garbled("true\n")],
    ) {
        let _ = read::<Opened>(&body);
        let _ = read::<bool>(&body);
    }
}

#[test]
fn what_was_recorded_can_be_read() {
    let stored = stored(VALUES.as_bytes()).unwrap();
    assert_eq!(stored.len(), 3);
    assert_eq!(stored[0].value, b"me");
    assert!(stored[0].session.is_some() && stored[2].session.is_none());
    assert_eq!(stored[1].value, b"");
}
