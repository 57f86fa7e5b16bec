//! Which instances of a service there are, and how they are: `/v1/health/service/NAME`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{AGE, CACHE_CONTROL},
};
use serde::{Deserialize, Serialize};

use super::{
    client::{Agent, ConsulError, TIMEOUT, read, read_list, segment},
    config::{Consistency, Query},
};
use crate::{
    endpoint::{Endpoint, Snapshot},
    name::{EndpointId, ServiceName},
};

pub(super) const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
const LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");
pub(super) const FILTERED: HeaderName =
    HeaderName::from_static("x-consul-results-filtered-by-acls");

/// When and how an agent is to answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    /// 0: at once; else when the instances are no longer what they were at this index.
    pub(super) index: u64,
    /// For how long it waits for that at most.
    pub(super) wait: Duration,
    /// Whether it is to name those too that are not wanted, so that they can be told from those that are gone.
    pub(super) all: bool,
    /// Whether the leader is to answer, whatever the query says.
    pub(super) fresh: bool,
}

/// The instances of a service, and the moment at which they were so.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) endpoints: Snapshot,
    /// Those that are registered and not well; whether that was found out, or they were not checked yet.
    unwell: BTreeMap<EndpointId, bool>,
    /// As [`index_of`] reads it.
    pub(super) index: u64,
    /// Whether it is older than the question's consistency allows.
    outdated: bool,
}

impl Answer {
    /// Whether an instance that was known, and is not named, may only not have been checked yet since the agent was
    /// started again; or not have registered again with an agent that has forgotten it.
    pub(super) fn may_be_back(&self, id: &EndpointId, forgotten: bool) -> bool {
        self.unwell
            .get(id)
            .map_or(forgotten, |found_out| !found_out)
    }
}

impl Agent {
    /// The instances of a service that `query` wants.
    pub(super) async fn instances(
        &self,
        service: &ServiceName,
        query: &Query,
        question: Question,
    ) -> Result<Answer, ConsulError> {
        let path = path(service, query, question.all);
        let mut headers = HeaderMap::new();
        let mode = match query.consistency {
            _ if question.fresh => "",
            Consistency::Default => "",
            Consistency::Consistent => "&consistent",
            Consistency::Stale { .. } => "&stale",
            Consistency::Cached {
                max_age,
                stale_if_error,
            } => {
                // Whole seconds only, and 0 says nothing at all.
                let [max_age, stale] = [max_age, stale_if_error].map(|age| age.as_secs().max(1));
                let control = format!("max-age={max_age}, stale-if-error={stale}");
                let control = HeaderValue::try_from(control).expect("digits and ASCII");
                headers.insert(CACHE_CONTROL, control);
                "&cached"
            }
        };
        let get = async |headers, path, timeout| {
            let (headers, body) = self
                .call_with(headers, Method::GET, path, Bytes::new(), timeout)
                .await?;
            decode(&headers, &body, query)
        };
        let answer = if question.index == 0 {
            get(headers, format!("{path}{mode}"), TIMEOUT).await?
        } else {
            let Question { index, wait, .. } = question;
            let wait = wait.as_millis().max(1);
            let path = format!("{path}&index={index}&wait={wait}ms{mode}");
            get(headers, path, self.config.answered_in()).await?
        };
        if !answer.outdated || mode.is_empty() {
            return Ok(answer);
        }
        // It has been waited for already.
        get(HeaderMap::new(), path, TIMEOUT).await
    }

    /// Whether the token may see the service on these nodes.
    pub(super) async fn may_see(
        &self,
        service: &ServiceName,
        nodes: &BTreeSet<&str>,
    ) -> Result<bool, ConsulError> {
        let nodes = nodes.iter().map(|node| Right::to_read("node", node));
        self.may(
            [Right::to_read("service", service.as_str())]
                .into_iter()
                .chain(nodes)
                .collect(),
        )
        .await
    }

    /// Whether the token has all of these rights. An agent without access lists hides nothing, and one before 1.7 does
    /// not tell; since 1.12 the answer itself tells.
    pub(super) async fn may(&self, asked: Vec<Right<'_>>) -> Result<bool, ConsulError> {
        let body = serde_json::to_vec(&asked).expect("texts only").into();
        let path = "/v1/internal/acl/authorize".to_owned();
        match self.call(Method::POST, path, body, TIMEOUT).await {
            Ok((_, body)) => Ok(read::<Vec<Answered>>(&body)?
                .iter()
                .all(|right| right.allow)),
            Err(ConsulError::Refused { status, .. })
                if [401, 404, 405].contains(&status.as_u16()) =>
            {
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }
}

/// What a token may do, as a question about it has it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Right<'a> {
    resource: &'static str,
    access: &'static str,
    segment: &'a str,
}

impl<'a> Right<'a> {
    pub(super) fn to_read(resource: &'static str, segment: &'a str) -> Self {
        Self {
            resource,
            access: "read",
            segment,
        }
    }
}

/// One element of the answer to it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answered {
    allow: bool,
}

/// `X-Consul-Index`, or 0 where it is missing or no number.
pub(super) fn index_of(headers: &HeaderMap) -> u64 {
    number(headers, &INDEX).unwrap_or(0)
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// The question without what says when to answer it. Begins with a parameter, so that others follow with `&`.
fn path(service: &ServiceName, query: &Query, all: bool) -> String {
    // Instances with a warning cannot be asked for apart from those that fail.
    let passing = !query.warnings && !all;
    let mut path = format!("/v1/health/service/{service}?passing={passing}");
    for (name, value) in [("dc", &query.datacenter), ("near", &query.near)] {
        if let Some(value) = value {
            write(&mut path, format_args!("&{name}={}", segment(value)));
        }
    }
    if !query.tags.is_empty() {
        let tags: Vec<_> = query
            .tags
            .iter()
            .map(|tag| format!("{} in Service.Tags", literal(tag)))
            .collect();
        write(
            &mut path,
            format_args!("&filter={}", segment(&tags.join(" and "))),
        );
    }
    path
}

fn write(path: &mut String, text: std::fmt::Arguments<'_>) {
    path.write_fmt(text).expect("a text that grows takes all");
}

/// A text as a literal of Consul's filter expressions, which are Go's but know no `\"`: whatever is not plain is
/// written by its number, so that no text ends the literal.
pub(super) fn literal(text: &str) -> String {
    let mut literal = String::from('"');
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || " -._~=/:".contains(c) {
            literal.push(c);
        } else {
            write(&mut literal, format_args!("\\U{:08x}", u32::from(c)));
        }
    }
    literal.push('"');
    literal
}

/// What an agent answered, as what was asked for. Agents that do not know a parameter ignore it, so whatever can be
/// seen in the answer is checked again.
fn decode(headers: &HeaderMap, body: &[u8], query: &Query) -> Result<Answer, ConsulError> {
    let entries: Vec<Entry> = read_list(body)?;
    if entries.is_empty() && headers.get(FILTERED).is_some_and(|value| value == "true") {
        return Err(ConsulError::Hidden);
    }
    let outdated = match query.consistency {
        Consistency::Default | Consistency::Consistent => false,
        Consistency::Stale { max_stale } => number(headers, &LAST_CONTACT)
            .is_none_or(|millis| Duration::from_millis(millis) > max_stale),
        // Without the header it did not come out of the cache.
        Consistency::Cached {
            max_age,
            stale_if_error,
        } => number(headers, &AGE)
            .is_some_and(|age| Duration::from_secs(age) > max_age.max(stale_if_error)),
    };
    let mut unwell = BTreeMap::new();
    let endpoints = entries.into_iter().enumerate().filter_map(|(rank, entry)| {
        let (id, found_unwell) = (entry.id(), entry.is_found_unwell());
        let endpoint = entry.endpoint(query);
        if endpoint.is_none() {
            unwell.extend(id.map(|id| (id, found_unwell)));
        }
        let mut endpoint = endpoint?;
        if query.near.is_some() {
            say(&mut endpoint, "near", rank.to_string());
        }
        Some(endpoint)
    });
    Ok(Answer {
        endpoints: endpoints.collect(),
        unwell,
        index: index_of(headers),
        outdated,
    })
}

/// Adds to the metadata of an instance what it does not say itself.
fn say(endpoint: &mut Endpoint, key: &str, value: String) {
    endpoint.metadata.entry(key.to_owned()).or_insert(value);
}

/// One element of the answer.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    node: Node,
    service: Service,
    checks: Option<Vec<Check>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    node: String,
    address: String,
    meta: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    address: String,
    // Consul takes any number here, and one wrong instance must not hide the others.
    port: i64,
    tags: Option<Vec<String>>,
    meta: Option<BTreeMap<String, String>>,
    weights: Option<Weights>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Weights {
    passing: i64,
    warning: i64,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            passing: 1,
            warning: 1,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    #[serde(rename = "CheckID", default)]
    id: String,
    status: String,
    output: Option<String>,
}

impl Check {
    /// Whether somebody has found out that it is not well. A check that has not been made yet is critical too, but has
    /// nothing to say; that of an operator, who took an instance out of service, need not say anything.
    fn is_found_unwell(&self) -> bool {
        let said = self
            .output
            .as_ref()
            .is_some_and(|output| !output.is_empty());
        self.status != "passing" && (said || self.id.contains("_maintenance"))
    }
}

/// The worst state of an instance's checks, those of its node among them; ordered from good to bad.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    Passing,
    Warning,
    Critical,
}

impl Entry {
    fn health(&self) -> Health {
        let checks = self.checks.iter().flatten();
        let states = checks.map(|check| match check.status.as_str() {
            "passing" => Health::Passing,
            "warning" => Health::Warning,
            // Maintenance is critical too.
            _ => Health::Critical,
        });
        states.max().unwrap_or(Health::Passing)
    }

    /// Also for one that is well and not wanted for another reason, its tags or its address.
    fn is_found_unwell(&self) -> bool {
        self.health() == Health::Passing || self.checks.iter().flatten().any(Check::is_found_unwell)
    }

    /// An id is unique on one agent only: wherever it defaults to the service's name, all instances have it. `None` for
    /// a name with spaces in it.
    fn id(&self) -> Option<EndpointId> {
        format!("{}@{}", self.service.id, self.node.node)
            .parse()
            .ok()
    }

    /// `None` for what is not wanted, and for what cannot be called: an instance without a port, or with an address
    /// that is none.
    fn endpoint(self, query: &Query) -> Option<Endpoint> {
        let (health, id) = (self.health(), self.id());
        let Self { node, service, .. } = self;
        let tags = service.tags.unwrap_or_default();
        if !query.tags.iter().all(|tag| tags.contains(tag)) {
            return None;
        }
        let weights = service.weights.unwrap_or_default();
        let weight = match health {
            Health::Passing => weights.passing.max(1),
            Health::Warning if query.warnings && weights.warning > 0 => weights.warning,
            Health::Warning | Health::Critical => return None,
        };
        let host = if service.address.is_empty() {
            node.address
        } else {
            service.address
        };
        let port = u16::try_from(service.port).ok().filter(|port| *port > 0)?;
        let address = super::super::registration::authority(&host, port)?;
        let mut endpoint = Endpoint {
            weight: u32::try_from(weight).unwrap_or(u32::MAX),
            metadata: service.meta.unwrap_or_default(),
            ..match id {
                Some(id) => Endpoint {
                    id,
                    ..Endpoint::at(address)
                },
                // The address tells it from the others too.
                None => Endpoint::at(address),
            }
        };
        say(&mut endpoint, "node", node.node);
        if let Some(zone) = node.meta.and_then(|mut meta| meta.remove("zone")) {
            say(&mut endpoint, "zone", zone);
        }
        Some(endpoint)
    }
}

#[cfg(test)]
#[path = "health_fuzz.rs"]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(query: &Query, body: &str) -> Snapshot {
        let answer = decode(&HeaderMap::new(), body.as_bytes(), query);
        answer.unwrap().endpoints
    }

    fn entry(service: &str, states: &[&str]) -> String {
        let checks: Vec<_> = states
            .iter()
            .map(|s| format!(r#"{{"Status": "{s}"}}"#))
            .collect();
        format!(
            r#"{{"Node": {{"Node": "n1", "Address": "10.0.0.1", "Meta": {{"zone": "a", "rack": "1"}}}},
                 "Service": {service}, "Checks": [{}]}}"#,
            checks.join(",")
        )
    }

    #[test]
    fn an_instance_without_an_address_has_that_of_its_node() {
        let set = endpoints(
            &Query::default(),
            r#"[{"Node": {"Node": "n1", "Address": "10.0.0.1"},
                 "Service": {"ID": "users", "Address": "", "Port": 80, "Meta": null,
                             "Weights": {"Passing": 3, "Warning": 1}}},
                {"Node": {"Node": "n2", "Address": "::1"},
                 "Service": {"ID": "users", "Port": 81, "Meta": {"zone": "a"}}}]"#,
        );
        assert_eq!(set[0].address, "10.0.0.1:80");
        assert_eq!(set[0].weight, 3);
        assert_eq!(set[1].address, "[::1]:81");
        assert_eq!(set[1].metadata["zone"], "a");
        assert_ne!(set[0].id, set[1].id);
    }

    #[test]
    fn what_cannot_be_called_is_left_out_and_hides_no_other() {
        let bad = [
            r#"{"ID": "a", "Address": "not a host", "Port": 80}"#,
            r#"{"ID": "b", "Port": 0}"#,
            r#"{"ID": "c", "Port": -1}"#,
            r#"{"ID": "d", "Port": 70000}"#,
        ];
        let good = r#"{"ID": "e", "Port": 80}"#;
        let entries = bad.iter().chain([&good]).map(|service| entry(service, &[]));
        let body = format!("[{}]", entries.collect::<Vec<_>>().join(","));
        let set = endpoints(&Query::default(), &body);
        assert_eq!(set.len(), 1);
        assert_eq!(set[0].id.as_str(), "e@n1");
    }

    #[test]
    fn the_weight_is_that_of_the_worst_check() {
        let weigh = |warnings, weights: &str, states: &[&str]| {
            let query = Query {
                warnings,
                ..Query::default()
            };
            let service = format!(r#"{{"ID": "a", "Port": 80, "Weights": {weights}}}"#);
            let set = endpoints(&query, &format!("[{}]", entry(&service, states)));
            set.first().map(|endpoint| endpoint.weight)
        };
        let weights = r#"{"Passing": 8, "Warning": 2}"#;
        assert_eq!(weigh(false, weights, &["passing", "passing"]), Some(8));
        assert_eq!(weigh(false, weights, &["passing", "warning"]), None);
        assert_eq!(weigh(true, weights, &["passing", "warning"]), Some(2));
        assert_eq!(weigh(true, weights, &["warning", "critical"]), None);
        assert_eq!(weigh(true, weights, &["who knows"]), None);
        assert_eq!(
            weigh(true, r#"{"Passing": 8, "Warning": 0}"#, &["warning"]),
            None
        );
        assert_eq!(
            weigh(true, r#"{"Passing": -8, "Warning": 99999999999}"#, &[]),
            Some(1)
        );
        assert_eq!(weigh(true, "null", &["warning"]), Some(1));
    }

    #[test]
    fn the_metadata_tell_the_node_and_the_zone_but_the_instances_own_words_go_first() {
        let near = Query {
            near: Some("_agent".into()),
            ..Query::default()
        };
        let body = format!(
            "[{},{}]",
            entry(r#"{"ID": "a", "Port": 80, "Meta": {"version": "2"}}"#, &[]),
            entry(
                r#"{"ID": "b", "Port": 80, "Meta": {"zone": "b", "node": "x"}}"#,
                &[]
            ),
        );
        let set = endpoints(&near, &body);
        let metadata = |index: usize| format!("{:?}", set[index].metadata);
        assert_eq!(
            metadata(0),
            r#"{"near": "0", "node": "n1", "version": "2", "zone": "a"}"#
        );
        assert_eq!(metadata(1), r#"{"near": "1", "node": "x", "zone": "b"}"#);
        assert!(
            !endpoints(&Query::default(), &body)[0]
                .metadata
                .contains_key("near")
        );
    }

    #[test]
    fn every_tag_must_be_there_also_where_the_agent_knows_no_filter() {
        let query = Query {
            tags: vec!["a".into(), "b".into()],
            ..Query::default()
        };
        let body = format!(
            "[{},{},{}]",
            entry(r#"{"ID": "ab", "Port": 80, "Tags": ["b", "c", "a"]}"#, &[]),
            entry(r#"{"ID": "a", "Port": 80, "Tags": ["a"]}"#, &[]),
            entry(r#"{"ID": "none", "Port": 80, "Tags": null}"#, &[]),
        );
        let set = endpoints(&query, &body);
        assert_eq!(set.len(), 1);
        assert_eq!(set[0].id.as_str(), "ab@n1");
    }

    #[test]
    fn an_answer_that_is_older_than_was_asked_for_is_not_taken() {
        let second = Duration::from_secs(1);
        let stale = Consistency::Stale {
            max_stale: 5 * second,
        };
        let cached = Consistency::Cached {
            max_age: second,
            stale_if_error: 60 * second,
        };
        for (consistency, header, value, outdated) in [
            (stale, LAST_CONTACT, "5000", false),
            (stale, LAST_CONTACT, "5001", true),
            // A server that does not say when it last heard of a leader may never have.
            (stale, LAST_CONTACT, "lately", true),
            (stale, AGE, "0", true),
            (cached, AGE, "60", false),
            (cached, AGE, "61", true),
            (cached, LAST_CONTACT, "999999", false),
            (Consistency::Default, AGE, "999999", false),
            (Consistency::Consistent, LAST_CONTACT, "999999", false),
        ] {
            let query = Query {
                consistency,
                ..Query::default()
            };
            let headers = HeaderMap::from_iter([(header.clone(), HeaderValue::from_static(value))]);
            let answer = decode(&headers, b"[]", &query).unwrap();
            assert_eq!(
                answer.outdated, outdated,
                "{consistency:?} {header}: {value}"
            );
        }
    }

    #[test]
    fn who_was_not_checked_yet_is_told_from_who_was_found_unwell() {
        let check = |status: &str, more: &str| {
            format!(
                r#"{{"Node": {{"Node": "n1", "Address": "10.0.0.1"}}, "Service": {{"ID": "a", "Port": 80}},
                     "Checks": [{{"Status": "{status}"{more}}}]}}"#
            )
        };
        let id: EndpointId = "a@n1".parse().unwrap();
        for (entry, forgotten, may_be_back) in [
            (check("critical", r#", "Output": """#), false, true),
            (
                check("critical", r#", "Output": "connection refused""#),
                true,
                false,
            ),
            (
                check(
                    "critical",
                    r#", "Output": "", "CheckID": "_node_maintenance""#,
                ),
                true,
                false,
            ),
        ] {
            let answer = decode(
                &HeaderMap::new(),
                format!("[{entry}]").as_bytes(),
                &Query::default(),
            );
            let answer = answer.unwrap();
            assert!(answer.endpoints.is_empty());
            assert_eq!(answer.may_be_back(&id, forgotten), may_be_back, "{entry}");
        }
        let nobody = decode(&HeaderMap::new(), b"[]", &Query::default()).unwrap();
        assert!(nobody.may_be_back(&id, true) && !nobody.may_be_back(&id, false));
    }

    #[test]
    fn no_text_ends_its_literal_or_its_parameter() {
        assert_eq!(literal("v1.2-x"), r#""v1.2-x""#);
        assert_eq!(literal("a\"\\`"), r#""a\U00000022\U0000005c\U00000060""#);
        let query = Query {
            tags: vec!["a&b".into()],
            datacenter: Some("x&near=y".into()),
            ..Query::default()
        };
        let path = path(&"users".parse().unwrap(), &query, false);
        assert_eq!(path.matches('&').count(), 2, "{path}");
        assert!(path.parse::<http::uri::PathAndQuery>().is_ok());
    }
}
