//! Which calls stay near: endpoints in the caller's own zone, or on its node, are preferred as long as they do not
//! get more than they can take.
//!
//! The aim is that of Envoy's zone-aware routing: as much as possible stays near while every endpoint gets about as
//! much as every other. So a call stays with a chance that is computed from the capacity that is in service near and
//! everywhere, and what is too much leaves in proportion, not all at once when a line is crossed; the slack is the
//! 1.4 by which Envoy overprovisions a priority level. Capacity is what this balancer sees: open gates, weights, slow
//! start, and failures that are not forgiven yet, among them the answers of endpoints that have too much to do.
//!
//! Not taken: comparing the load of a near endpoint with that of a far one at each pick. A near set that takes all
//! calls always looks busier than a far one that gets none, so that half of the calls would leave without need.

use serde::{Deserialize, Serialize};

use crate::{endpoint::Endpoint, policy::Ratio};

/// Where the caller is, and how much that counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalityConfig {
    /// Which of an endpoint's [`metadata`](Endpoint::metadata) says where it is. Default `zone`.
    #[serde(default = "zone")]
    pub key: String,
    /// What stands there for endpoints that are near.
    pub value: String,
    /// What a near endpoint may get above its fair share before calls go to others. Default 0.4.
    #[serde(default = "slack")]
    pub slack: Ratio,
    /// The share of all calls to this service that come from near its near endpoints. Default `None`: as large as
    /// the share of endpoints, by weight, that discovery knows there, so that callers and endpoints are spread alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Ratio>,
}

fn zone() -> String {
    "zone".to_owned()
}

fn slack() -> Ratio {
    Ratio::new(0.4).expect("it is from 0 to 1")
}

/// How much a group can take.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Capacity {
    /// With all of it in service.
    pub(super) nominal: f32,
    /// As it is.
    pub(super) actual: f32,
}

impl LocalityConfig {
    /// A caller in this zone.
    pub fn zone(zone: impl Into<String>) -> Self {
        Self {
            key: self::zone(),
            value: zone.into(),
            slack: slack(),
            share: None,
        }
    }

    /// A caller on this node.
    pub fn node(node: impl Into<String>) -> Self {
        Self {
            key: "node".to_owned(),
            ..Self::zone(node)
        }
    }

    pub(super) fn is_near(&self, endpoint: &Endpoint) -> bool {
        endpoint.metadata.get(&self.key) == Some(&self.value)
    }

    /// With which probability a call goes to one of the near endpoints only, from 0 to 1; else it goes to any, the
    /// near ones among them.
    pub(super) fn chance(&self, near: Capacity, all: Capacity) -> f32 {
        if near.actual <= 0.0 {
            return 0.0;
        }
        let fair = near.actual / all.actual;
        let demand = match self.share {
            Some(share) => share.get() as f32,
            None => near.nominal / all.nominal,
        };
        let keep = (1.0 + self.slack.get() as f32) * fair / demand;
        if keep >= 1.0 {
            return 1.0;
        }
        // Those that go to any find a near one as often as is fair.
        ((keep - fair) / (1.0 - fair)).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn capacity(nominal: f32, actual: f32) -> Capacity {
        Capacity { nominal, actual }
    }

    #[test]
    fn as_long_as_nothing_is_wrong_all_calls_stay() {
        let locality = LocalityConfig::zone("a");
        for near in [1.0, 3.0, 9.0] {
            let chance = locality.chance(capacity(near, near), capacity(10.0, 10.0));
            assert_eq!(chance, 1.0);
        }
        // Trouble that is everywhere is no reason to leave.
        assert_eq!(locality.chance(capacity(3.0, 1.5), capacity(9.0, 4.5)), 1.0);
        // Nor is trouble that is elsewhere only.
        assert_eq!(locality.chance(capacity(3.0, 3.0), capacity(9.0, 3.0)), 1.0);
    }

    proptest! {
        /// What the near endpoints get, of the calls from near, by either way.
        #[test]
        fn near_endpoints_get_what_they_may_and_no_more(
            near in 1_u8..20, far in 1_u8..20, near_in_service: u8, far_in_service: u8,
            slack in 0.0_f64..1.0, share in prop::option::of(0.01_f64..1.0),
        ) {
            let part = |whole: u8, of: u8| f32::from(whole) * f32::from(of) / 255.0;
            let (near_now, far_now) = (part(near, near_in_service), part(far, far_in_service));
            let all = f32::from(near) + f32::from(far);
            let locality = LocalityConfig {
                slack: Ratio::new(slack).unwrap(),
                share: share.map(|share| Ratio::new(share).unwrap()),
                ..LocalityConfig::zone("a")
            };
            let chance = locality.chance(
                capacity(f32::from(near), near_now),
                capacity(all, near_now + far_now),
            );
            prop_assert!((0.0..=1.0).contains(&chance), "{chance}");
            if near_now == 0.0 {
                prop_assert_eq!(chance, 0.0);
                return Ok(());
            }
            let fair = near_now / (near_now + far_now);
            let kept = chance + (1.0 - chance) * fair;
            // What comes from near, over what is fair for one that can take as much.
            let demand = share.map_or(f32::from(near) / all, |share| share as f32);
            let above = kept * demand / fair;
            let most = 1.0 + slack as f32;
            // They get all that there is, or as much as they may.
            prop_assert!(kept > 0.999 || (above - most).abs() < 0.01 * most, "{kept} {above} {most}");
            prop_assert!(above < most * 1.01 || kept > 0.999);
        }
    }

    #[test]
    fn a_zone_is_enough_to_say_and_without_one_there_is_an_error() {
        let config = |json| serde_json::from_str::<LocalityConfig>(json);
        assert_eq!(
            config(r#"{"value": "a"}"#).unwrap(),
            LocalityConfig::zone("a")
        );
        assert_eq!(
            config(r#"{"key": "node", "value": "n1"}"#).unwrap(),
            LocalityConfig::node("n1")
        );
        let error = config(r#"{"slack": 0.5}"#).unwrap_err().to_string();
        assert!(error.contains("missing field `value`"), "{error}");
    }
}
