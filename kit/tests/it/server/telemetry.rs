//! What a server tells about its requests.

use std::io;

use http::Request;
use kit::event::Event;

use super::*;
use crate::support::log::Kept;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test]
async fn each_request_has_one_line_in_the_access_log_with_its_trace_id() {
    let (kept, _guard) = Kept::begin("info");
    let config = config();
    let server = Running::start(config.clone(), "access", assembled(&config, "access"));
    let request = Request::post(format!("http://{}/echo?token=hunter2", server.address))
        .header("traceparent", PARENT)
        .header("authorization", "Bearer hunter2");
    ask(Version::HTTP_11, request, "hunter2").await;
    let grpc = Request::post(format!("http://{}/nothing", server.address))
        .header(header::CONTENT_TYPE, "application/grpc");
    ask(Version::HTTP_2, grpc, "").await;
    server.ended().await;

    let access = kept.access();
    assert_eq!(access.len(), 2, "{access:?}");
    let line = &access[0];
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["message"], "request");
    assert_eq!(line["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(line["method"], "POST /echo");
    assert_eq!(line["wire"], "json");
    assert_eq!(line["status"], 200);
    assert_eq!(line["outcome"], "success");
    assert!(line["duration_ms"].as_f64().unwrap() >= 0.0);
    let line = &access[1];
    assert_eq!(line["wire"], "grpc");
    assert_eq!(line["code"], "not_found");
    assert_eq!(line["outcome"], "caller_fault");
    assert_eq!(line["trace_id"].as_str().unwrap().len(), 32);
    assert!(!kept.text().contains("hunter2"), "{}", kept.text());
}

#[tokio::test]
async fn what_the_caller_did_wrong_is_no_error_of_the_server() {
    let (kept, _guard) = Kept::begin("info");
    let mut config = config();
    config.body_limit = 3;
    let server = Running::start(config.clone(), "caller", assembled(&config, "caller"));
    for path in ["/nothing", "/echo"] {
        let request = Request::post(format!("http://{}{path}", server.address));
        ask(Version::HTTP_11, request, "1234").await;
    }
    server.ended().await;
    for line in kept.lines() {
        assert_eq!(line["level"], "INFO", "{line}");
    }
    for line in kept.access() {
        assert_eq!(line["outcome"], "caller_fault", "{line}");
    }
}

#[tokio::test]
async fn an_internal_error_is_logged_with_its_sources_and_the_callers_trace_id() {
    // Even where no lines at level info are wanted the trace id is there.
    let (kept, _guard) = Kept::begin("warn");
    let config = config();
    let server = Running::start(config.clone(), "internal", assembled(&config, "internal"));
    for (path, cause) in [("/fail", "disk on fire"), ("/panic", "at the disco")] {
        let request = Request::post(format!("http://{}{path}", server.address));
        let request = request.header("traceparent", PARENT);
        let (parts, body) = ask(Version::HTTP_11, request, "").await;
        assert!(!body.contains(cause), "{body}");
        let response = parts.headers["traceresponse"].to_str().unwrap();
        assert!(response.starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
        let lines = kept.lines();
        let line = lines.last().unwrap();
        assert_eq!(line["level"], "ERROR");
        assert_eq!(line["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        assert!(line["error"].as_str().unwrap().contains(cause), "{line}");
    }
    server.ended().await;
}

#[tokio::test]
async fn a_caller_that_goes_away_is_logged_as_that() {
    let (kept, _guard) = Kept::begin("info");
    let config = config();
    let server = Running::start(config.clone(), "gone", assembled(&config, "gone"));
    drop(connect(server.address, "POST /wait HTTP/1.1\r\nhost: a\r\n\r\n").await);
    let logged = async {
        while kept.access().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, logged).await.unwrap();
    let access = kept.access();
    assert_eq!(access[0]["outcome"], "cancelled");
    assert_eq!(access[0]["method"], "POST /wait");
    server.ended().await;
}

/// The value of the one series that has all these labels.
fn value(metrics: &str, name: &str, labels: &[&str]) -> f64 {
    let mut found = metrics.lines().filter(|line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('{'))
            && labels.iter().all(|label| line.contains(label))
    });
    let line = found
        .next()
        .unwrap_or_else(|| panic!("no {name} {labels:?} in\n{metrics}"));
    assert_eq!(found.next(), None, "{name} {labels:?}");
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[tokio::test]
async fn requests_are_counted_under_opentelemetrys_names() {
    let mut config = config();
    config.rate_limit = Some(kit::rate_limit::Rate {
        burst: std::num::NonZeroU32::new(3).unwrap(),
        interval: Duration::from_secs(3600),
    });
    let server = Running::start(config.clone(), "counted", assembled(&config, "counted"));
    let waiting = connect(server.address, "POST /wait HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let scrape = || async { get(server.admin, "/metrics").await.1 };
    let active = async {
        let gauge = "http_server_active_requests{service_name=\"counted\"} 1\n";
        while !scrape().await.contains(gauge) {}
    };
    tokio::time::timeout(SOON, active).await.unwrap();
    let url = |path: &str| format!("http://{}{path}", server.address);
    ask(Version::HTTP_11, Request::post(url("/echo")), "").await;
    let grpc = |path| Request::post(url(path)).header(header::CONTENT_TYPE, "application/grpc");
    ask(Version::HTTP_2, grpc("/a-path-of-my-own"), "").await;
    let (parts, _) = ask(Version::HTTP_2, grpc("/echo"), "").await;
    assert_eq!(parts.headers["grpc-status"], "8");
    drop(waiting);

    let metrics = scrape().await;
    let ours = "service_name=\"counted\"";
    let http = "http_server_request_duration_seconds_count";
    let rpc = "rpc_server_call_duration_seconds_count";
    for (name, labels) in [
        (
            http,
            [
                "http_request_method=\"POST\"",
                "http_response_status_code=\"200\"",
                "outcome=\"success\"",
            ],
        ),
        (
            rpc,
            [
                "rpc_response_status_code=\"NOT_FOUND\"",
                "error_type=\"not_found\"",
                "outcome=\"caller_fault\"",
            ],
        ),
        (
            rpc,
            [
                "rpc_response_status_code=\"RESOURCE_EXHAUSTED\"",
                "error_type=\"rate_limited\"",
                "outcome=\"rejected\"",
            ],
        ),
    ] {
        let labels: Vec<_> = labels.into_iter().chain([ours]).collect();
        assert_eq!(value(&metrics, name, &labels), 1.0);
    }
    let rejected = value(
        &metrics,
        "kit_rejections_total",
        &[ours, "reason=\"rate_limited\""],
    );
    assert_eq!(rejected, 1.0);
    let build = value(
        &metrics,
        "kit_build_info",
        &[ours, "service_version=\"1.2.3\""],
    );
    assert_eq!(build, 1.0);
    assert!(!metrics.contains("a-path-of-my-own"));
    server.ended().await;
}

/// Tells the observer of everything that it can hear of.
fn events_of_all_kinds() {
    let observer = kit::metrics::observer();
    let service = &"observed".parse().unwrap();
    let id = &"observed-1".parse().unwrap();
    let error = &io::Error::other("no route");
    let retry_in = Duration::from_secs(1);
    for event in [
        Event::CircuitOpened {
            circuit: "observed/10.0.0.1:80",
            open_for: retry_in,
        },
        Event::CircuitHalfOpened {
            circuit: "observed",
        },
        Event::CircuitClosed {
            circuit: "observed",
        },
        Event::CircuitSpared {
            circuit: "observed/10.0.0.2:80",
        },
        Event::EndpointEjected {
            upstream: service,
            ejected: 1,
            total: 3,
        },
        Event::EndpointEjected {
            upstream: service,
            ejected: 2,
            total: 3,
        },
        Event::EndpointRestored {
            upstream: service,
            ejected: 1,
            total: 3,
        },
        Event::Retried {
            previous_attempts: 1,
            backoff: retry_in,
        },
        Event::RetryBudgetExhausted,
        Event::EndpointsChanged {
            service,
            query: "",
            total: 3,
            added: 2,
            removed: 1,
        },
        Event::DiscoveryFailed {
            service,
            error,
            retry_in,
        },
        Event::Registered { service, id },
        Event::RegistrationFailed {
            service,
            error,
            retry_in,
        },
        Event::Deregistered { service, id },
    ] {
        observer.observe(event);
    }
}

/// What `promtool check metrics` asks for, as far as it can be seen in one look.
#[tokio::test]
async fn every_metric_has_a_help_text_and_counters_end_in_total() {
    let config = config();
    let server = Running::start(config.clone(), "linted", assembled(&config, "linted"));
    get(server.address, "/echo").await;
    events_of_all_kinds();
    let (_, metrics) = get(server.admin, "/metrics").await;
    server.ended().await;
    let peer = "peer_service=\"observed\"";
    assert_eq!(value(&metrics, "kit_endpoints", &[peer]), 3.0);
    let removed = value(
        &metrics,
        "kit_endpoint_changes_total",
        &[peer, "change=\"removed\""],
    );
    assert_eq!(removed, 1.0);
    let opened = value(
        &metrics,
        "kit_circuit_transitions_total",
        &[peer, "to=\"open\""],
    );
    assert_eq!(opened, 1.0, "an endpoint is no label");
    assert_eq!(value(&metrics, "kit_endpoints_ejected", &[peer]), 1.0);
    assert_eq!(value(&metrics, "kit_circuits_spared_total", &[peer]), 1.0);
    let mut types = 0;
    for line in metrics.lines() {
        if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|line| line.split_once(' '))
        {
            types += 1;
            assert!(metrics.contains(&format!("# HELP {name} ")), "{name}");
            assert_eq!(
                kind == "counter",
                name.ends_with("_total"),
                "{name} is a {kind}"
            );
            assert_ne!(kind, "summary", "{name}");
        }
    }
    assert!(types > 5, "{metrics}");
}
