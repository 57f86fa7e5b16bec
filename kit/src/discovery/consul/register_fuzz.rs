use proptest::prelude::*;
use serde_json::Value;

use super::{
    super::fuzz::{bytes, garbled, replaced},
    *,
};

const CHECKS: &str = include_str!("recorded/checks.json");
const SERVICE: &str = include_str!("recorded/service.json");
const OWN: &str = "service:users-127.0.0.1:8801";
const OTHER: &str = "service:users-127.0.0.1:8802";

fn check(id: &str) -> Value {
    serde_json::from_str::<Value>(CHECKS).unwrap()[id].clone()
}

proptest! {
    #[test]
    fn no_bytes_are_too_odd_for_a_list_of_checks(body in prop_oneof![bytes(), garbled(CHECKS)]) {
        let _ = checks_of(&body, &"users-127.0.0.1:8801".parse().unwrap());
    }

    #[test]
    fn an_odd_check_of_another_instance_hides_none_of_ones_own(odd in replaced(check(OTHER))) {
        let id: EndpointId = "users-127.0.0.1:8801".parse().unwrap();
        let body = serde_json::json!({OTHER: odd, OWN: check(OWN)}).to_string();
        let own = checks_of(body.as_bytes(), &id).unwrap();
        prop_assert!(own.iter().any(|check| check.id == OWN && check.status == "passing"));
    }

    #[test]
    fn no_bytes_are_too_odd_for_an_instance(body in prop_oneof![bytes(), garbled(SERVICE)]) {
        let _ = found(&body);
    }
}

#[test]
fn what_was_recorded_can_be_read() {
    let own = checks_of(CHECKS.as_bytes(), &"users-127.0.0.1:8801".parse().unwrap());
    assert_eq!(own.unwrap().len(), 1);
    let found = found(SERVICE.as_bytes()).unwrap();
    assert_eq!(found.address.unwrap(), "127.0.0.1:8801");
    assert_eq!(found.metadata["process"], "0193");
}
