//! Methods that answer with a stream.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::BodyExt;
use kit::{
    Body, Code, Context, Error, Stream,
    client::ClientConfig,
    context::Deadline,
    event,
    server::{Inbound, ServerConfig},
    testing::Instance,
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, advance, sleep};
use tower::{Layer, ServiceExt};

/// Counts.
#[kit::service]
pub(crate) trait Counter {
    /// Counts from a number on.
    #[kit(idempotent, route(GET, "/count/{from}"))]
    async fn count(
        &self,
        ctx: Context,
        from: u64,
        how: Option<How>,
    ) -> Result<impl Stream<Item = Result<Number, Error>>, Error>;
    #[kit(timeout = "3s")]
    async fn quiet(&self, ctx: Context)
    -> Result<impl Stream<Item = Result<Number, Error>>, Error>;
}

/// What happens at 3.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, kit::Message)]
#[serde(rename_all = "snake_case")]
pub(crate) enum How {
    End,
    Fail,
    FailAtOnce,
    NeverBegin,
    Panic,
    Wait,
    Long,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, kit::Message)]
pub(crate) struct Number {
    value: u64,
    text: String,
}

fn number(value: u64) -> Number {
    let text = String::new();
    Number { value, text }
}

/// Knows how often it was called, how many numbers it made, and how many streams of it there are.
#[derive(Clone, Debug, Default)]
struct Numbers {
    calls: Arc<AtomicUsize>,
    made: Arc<AtomicUsize>,
    streams: Arc<AtomicUsize>,
}

/// Counts itself out.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Counter for Numbers {
    async fn count(
        &self,
        _: Context,
        from: u64,
        how: Option<How>,
    ) -> Result<impl Stream<Item = Result<Number, Error>>, Error> {
        let calls = self.calls.fetch_add(1, Relaxed);
        match how {
            Some(How::FailAtOnce) if calls == 0 => return Err(Error::unavailable("not yet")),
            Some(How::NeverBegin) => std::future::pending().await,
            _ => {}
        }
        self.streams.fetch_add(1, Relaxed);
        // It borrows the handler.
        let counted = Counted(&self.streams);
        Ok(stream::unfold(
            (from, counted),
            move |(value, counted)| async move {
                let item = match how {
                    Some(how) if value == 3 => match how {
                        How::End => return None,
                        How::Fail => Err(Error::invalid("from", "must not pass 3")),
                        How::Panic => panic!("at 3"),
                        How::Wait => std::future::pending().await,
                        How::Long => Ok(Number {
                            value,
                            text: "x".repeat(5 * 1024 * 1024),
                        }),
                        How::FailAtOnce | How::NeverBegin => Ok(number(value)),
                    },
                    _ => Ok(number(value)),
                };
                self.made.fetch_add(1, Relaxed);
                Some((item, (value + 1, counted)))
            },
        ))
    }

    async fn quiet(
        &self,
        ctx: Context,
    ) -> Result<impl Stream<Item = Result<Number, Error>>, Error> {
        let left = ctx
            .deadline
            .map_or(Duration::MAX, |d| d.remaining(Instant::now()));
        let first = left.as_secs();
        Ok(stream::iter([Ok(number(first))]).chain(stream::pending()))
    }
}

fn clients(numbers: &Numbers) -> [CounterClient<CounterServer<Numbers>>; 2] {
    let server = CounterServer::new(numbers.clone());
    [
        CounterClient::json(server.clone()),
        CounterClient::grpc(server),
    ]
}

/// The values, and the code of the error at the end.
async fn all(items: impl Stream<Item = Result<Number, Error>>) -> (Vec<u64>, Option<Code>) {
    let mut items = pin!(items);
    let mut values = Vec::new();
    while let Some(item) = items.next().await {
        match item {
            Ok(number) => values.push(number.value),
            Err(error) => {
                assert!(items.next().await.is_none(), "an error is the last item");
                return (values, Some(error.code()));
            }
        }
    }
    (values, None)
}

#[tokio::test]
async fn items_arrive_in_their_order_until_the_stream_ends_on_both_wires() {
    let numbers = Numbers::default();
    for client in clients(&numbers) {
        let items = client
            .count(Context::new(), 0, Some(How::End))
            .await
            .unwrap();
        assert_eq!(all(items).await, (vec![0, 1, 2], None));
        // And without a single item.
        let items = client
            .count(Context::new(), 3, Some(How::End))
            .await
            .unwrap();
        assert_eq!(all(items).await, (vec![], None));
    }
    assert_eq!(numbers.streams.load(Relaxed), 0);
}

#[tokio::test]
async fn an_error_in_mid_stream_is_the_last_item_and_names_field_and_rule() {
    for client in clients(&Numbers::default()) {
        let mut items = client
            .count(Context::new(), 1, Some(How::Fail))
            .await
            .unwrap();
        assert_eq!(items.next().await.unwrap().unwrap(), number(1));
        assert_eq!(items.next().await.unwrap().unwrap(), number(2));
        let error = items.next().await.unwrap().unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert_eq!(error.violations()[0].rule, "must not pass 3");
        assert!(items.next().await.is_none());
    }
}

#[tokio::test]
async fn an_error_before_the_first_item_is_the_whole_answer() {
    let numbers = Numbers::default();
    for client in clients(&numbers) {
        numbers.calls.store(0, Relaxed);
        let error = client.count(Context::new(), 0, Some(How::FailAtOnce)).await;
        assert_eq!(error.unwrap_err().code(), Code::Unavailable);
        let error = client.count(Context::new(), 3, Some(How::Fail)).await;
        assert_eq!(error.unwrap_err().code(), Code::InvalidArgument);
    }
}

/// A service that streams, and has said with a failure that it was tried as often as it may be.
#[derive(Clone)]
struct Spent;

impl Counter for Spent {
    async fn count(
        &self,
        _: Context,
        _: u64,
        _: Option<How>,
    ) -> Result<impl Stream<Item = Result<Number, Error>>, Error> {
        Err::<stream::Empty<_>, _>(Error::unavailable("not now").with_retries_spent())
    }

    async fn quiet(&self, _: Context) -> Result<impl Stream<Item = Result<Number, Error>>, Error> {
        Ok(stream::empty())
    }
}

#[tokio::test]
async fn of_a_stream_too_it_is_heard_that_it_was_tried_often_enough() {
    let server = CounterServer::new(Spent);
    for client in [
        CounterClient::json(server.clone()),
        CounterClient::grpc(server),
    ] {
        let error = client.count(Context::new(), 0, None).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        assert!(error.retries_spent());
    }
    let [client, _] = clients(&Numbers::default());
    let error = client.count(Context::new(), 0, Some(How::FailAtOnce)).await;
    assert!(!error.unwrap_err().retries_spent());
}

async fn raw(uri: &str, grpc: Option<Vec<u8>>) -> Response<Body> {
    let request = match grpc {
        None => Request::get(uri).body(Body::empty()),
        Some(body) => Request::post(uri)
            .header("content-type", "application/grpc")
            .body(Body::full(body)),
    };
    let server = CounterServer::new(Numbers::default());
    server.oneshot(request.unwrap()).await.unwrap()
}

#[tokio::test]
async fn as_json_a_stream_is_lines_of_which_the_last_one_tells_of_an_error() {
    let response = raw("/count/2?how=fail", None).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let lines: Vec<serde_json::Value> = std::str::from_utf8(&body)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(
        lines[0],
        serde_json::json!({"result": {"value": 2, "text": ""}})
    );
    assert_eq!(lines[1]["error"]["status"], 400);
    assert_eq!(lines[1]["error"]["code"], "invalid_argument");
    assert_eq!(lines[1]["error"]["errors"][0]["field"], "from");
}

#[tokio::test]
async fn in_grpc_a_stream_is_messages_and_its_end_stands_in_the_trailers() {
    // from: 2, and how: END or FAIL.
    for (how, status, field) in [(1, "0", ""), (2, "3", "from")] {
        let frame = vec![0, 0, 0, 0, 4, 0x08, 2, 0x10, how];
        let response = raw("/counter.Counter/Count", Some(frame)).await;
        assert_eq!(response.headers()["content-type"], "application/grpc");
        let body = response.into_body().collect().await.unwrap();
        let trailers = body.trailers().unwrap();
        assert_eq!(trailers["grpc-status"], status);
        let told = tonic::Status::from_header_map(trailers).unwrap();
        let details = tonic_types::StatusExt::get_details_bad_request(&told);
        let fields = details.map(|bad| bad.field_violations).unwrap_or_default();
        assert_eq!(fields.first().map_or("", |bad| &bad.field), field);
        assert_eq!(&body.to_bytes()[..], [0, 0, 0, 0, 2, 0x08, 2]);
    }
}

#[tokio::test]
async fn little_is_made_that_nobody_asks_for() {
    let numbers = Numbers::default();
    for client in clients(&numbers) {
        numbers.made.store(0, Relaxed);
        let mut items = client.count(Context::new(), 0, None).await.unwrap();
        for value in 0..3 {
            assert_eq!(items.next().await.unwrap().unwrap().value, value);
        }
        // 8 KiB of them.
        assert!((4..2048).contains(&numbers.made.load(Relaxed)));
        assert_eq!(numbers.streams.load(Relaxed), 1);
        drop(items);
        assert_eq!(numbers.streams.load(Relaxed), 0);
    }
}

#[tokio::test]
async fn an_item_that_is_too_long_ends_the_stream() {
    let numbers = Numbers::default();
    for client in clients(&numbers) {
        let items = client
            .count(Context::new(), 2, Some(How::Long))
            .await
            .unwrap();
        assert_eq!(all(items).await, (vec![2], Some(Code::Internal)));
        assert_eq!(numbers.streams.load(Relaxed), 0);
    }
}

#[tokio::test]
async fn a_panic_in_mid_stream_is_an_internal_error() {
    let numbers = Numbers::default();
    for client in clients(&numbers) {
        let items = client
            .count(Context::new(), 2, Some(How::Panic))
            .await
            .unwrap();
        assert_eq!(all(items).await, (vec![2], Some(Code::Internal)));
        assert_eq!(numbers.streams.load(Relaxed), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_callers_deadline_holds_for_the_whole_stream() {
    let numbers = Numbers::default();
    for client in clients(&numbers) {
        // For one that waits, and for one that always has something to say.
        for how in [Some(How::Wait), None] {
            let ctx = Context::with_timeout(Duration::from_secs(2));
            let mut items = client.count(ctx, 2, how).await.unwrap();
            assert_eq!(items.next().await.unwrap().unwrap().value, 2);
            if how.is_none() {
                advance(Duration::from_millis(2001)).await;
            }
            let error = loop {
                match items.next().await.unwrap() {
                    Ok(_) => {}
                    Err(error) => break error,
                }
            };
            assert_eq!(error.code(), Code::DeadlineExceeded);
            assert_eq!(numbers.streams.load(Relaxed), 0);
        }
        let ctx = Context::with_timeout(Duration::from_secs(2));
        let error = client.count(ctx, 2, Some(How::NeverBegin)).await;
        assert_eq!(error.unwrap_err().code(), Code::DeadlineExceeded);
    }
}

/// Asks a whole server for a stream, over no network, and says when it ended and how.
async fn ended(uri: &str, timeout: Option<&str>) -> (Duration, String) {
    kit::metrics::install();
    let inbound = Inbound::from_config(&ServerConfig::default(), &"counter".parse().unwrap());
    let service = inbound.layer(CounterServer::new(Numbers::default()));
    let mut request = match uri {
        "/quiet" => Request::post(uri),
        _ => Request::get(uri),
    };
    if let Some(timeout) = timeout {
        request = request.header("request-timeout", timeout);
    }
    let began = Instant::now();
    let response = service.oneshot(request.body(Body::empty()).unwrap()).await;
    let collected = response.unwrap().into_body().collect();
    let body = tokio::select! {
        body = collected => body.unwrap().to_bytes(),
        () = sleep(Duration::from_secs(100)) => bytes::Bytes::new(),
    };
    (began.elapsed(), String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_a_server_adds_to_the_deadline_bounds_the_beginning_of_a_stream_only() {
    // The server's own 5 s do not end it.
    assert_eq!(
        ended("/count/2?how=wait", None).await.0,
        Duration::from_secs(100)
    );
    let (time, body) = ended("/count/2?how=never_begin", None).await;
    assert_eq!(time, Duration::from_secs(5));
    assert!(body.contains(r#""code":"deadline_exceeded""#), "{body}");
    // The caller's 7 s and the method's 3 s do, and the handler sees them.
    let (time, body) = ended("/count/2?how=wait", Some("7S")).await;
    assert_eq!(time, Duration::from_secs(7));
    assert!(
        body.ends_with("}}\n") && body.contains("deadline_exceeded"),
        "{body}"
    );
    let (time, body) = ended("/quiet", Some("7S")).await;
    assert_eq!(time, Duration::from_secs(3));
    assert!(body.starts_with(r#"{"result":{"value":3,"#), "{body}");
    let (time, body) = ended("/quiet", Some("2S")).await;
    assert_eq!(time, Duration::from_secs(2));
    assert!(body.starts_with(r#"{"result":{"value":2,"#), "{body}");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_of_json_says_that_it_is_still_there() {
    let began = Instant::now();
    let mut body = raw("/count/3?how=wait", None).await.into_body();
    for beat in 1..=3 {
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "\n");
        assert_eq!(began.elapsed(), Duration::from_secs(30 * beat));
    }
    // Which a client does not take for an item.
    let [client, _] = clients(&Numbers::default());
    let ctx = Context::with_timeout(Duration::from_secs(70));
    let items = client.count(ctx, 3, Some(How::Wait)).await.unwrap();
    assert_eq!(all(items).await, (vec![], Some(Code::DeadlineExceeded)));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_told_as_what_it_is() {
    let peer = |content_type: &'static str, body: &'static [u8]| {
        tower::service_fn(move |_: Request<Body>| async move {
            let response = Response::builder().header("content-type", content_type);
            response.body(Body::full(body))
        })
    };
    for (body, values, code) in [
        (&b""[..], vec![], None),
        (
            b"{\"result\":{\"value\":1,\"text\":\"\"}}\n\n",
            vec![1],
            None,
        ),
        (
            b"{\"result\":{\"value\":1,\"text\":\"\"}}\n{\"res",
            vec![1],
            Some(Code::Internal),
        ),
        (b"{\"value\":1}\n", vec![], Some(Code::Internal)),
        (b"<html>\n", vec![], Some(Code::Internal)),
    ] {
        let client = CounterClient::json(peer("application/x-ndjson", body));
        let items = client.count(Context::new(), 0, None).await.unwrap();
        assert_eq!(all(items).await, (values, code));
    }
    for body in [
        &b""[..],
        b"\0\0\0\0",
        b"\0\0\0\0\x02\x08",
        b"\x01\0\0\0\0",
        b"\0\xff\xff\xff\xff",
    ] {
        let client = CounterClient::grpc(peer("application/grpc", body));
        let items = client.count(Context::new(), 0, None).await.unwrap();
        assert_eq!(all(items).await, (vec![], Some(Code::Internal)), "{body:?}");
    }
}

#[tokio::test]
async fn through_both_stacks_a_stream_is_made_again_only_until_it_begins_and_dropping_it_ends_it() {
    let numbers = Numbers::default();
    let running = Instance::serve("counter", CounterServer::new(numbers.clone()));
    let stack = running.client();
    for client in [
        CounterClient::json(stack.clone()),
        CounterClient::grpc(stack),
    ] {
        let calls = || numbers.calls.swap(0, Relaxed);
        // It failed before it began, and the method is idempotent.
        calls();
        let items = client.count(Context::new(), 0, Some(How::FailAtOnce)).await;
        assert_eq!(items.unwrap().take(9).count().await, 9);
        assert_eq!(calls(), 2);
        // It failed later.
        let items = client.count(Context::new(), 0, Some(How::Fail)).await;
        let (values, code) = all(items.unwrap()).await;
        assert_eq!((values, code), (vec![0, 1, 2], Some(Code::InvalidArgument)));
        assert_eq!(calls(), 1);
        let items = client.count(Context::new(), 0, Some(How::Panic)).await;
        assert_eq!(all(items.unwrap()).await.1, Some(Code::Internal));
        assert_eq!(calls(), 1);

        // The named stream outlives the client and goes to other tasks.
        let other = client.clone();
        let items = other.count(Context::new(), 0, None).await.unwrap();
        drop(other);
        let reading = tokio::spawn(items.take(100).count());
        assert_eq!(reading.await.unwrap(), 100);
        // Nobody reads on, so the server lets go of it.
        while numbers.streams.load(Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
        calls();
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_stream_only_the_callers_own_deadline_goes_over_the_wire() {
    let sent = |ctx: Context| async move {
        kit::metrics::install();
        let peer = tower::service_fn(|request: Request<kit::retry::Replay<Body>>| async move {
            let header = request.headers().get("request-timeout").cloned();
            let mut response = Response::new(Body::empty());
            if let Some(header) = header {
                response.headers_mut().insert("seen", header);
            }
            Ok::<_, kit::BoxError>(response)
        });
        let name = "counter".parse().unwrap();
        let outbound =
            kit::client::Outbound::from_config(&ClientConfig::default(), &name, event::nobody());
        let mut request = Request::new(Body::empty());
        request.extensions_mut().insert(Context {
            method: Some(&counter::METHODS[0]),
            ..ctx
        });
        let response = outbound.layer(peer).oneshot(request).await.unwrap();
        response.headers().get("seen").cloned()
    };
    assert_eq!(sent(Context::new()).await, None);
    let ctx = Context {
        deadline: Some(Deadline::after(Duration::from_secs(60))),
        ..Context::new()
    };
    assert_eq!(sent(ctx).await.unwrap(), "60000000u");
}

#[test]
fn proto_and_openapi_say_that_it_is_a_stream() {
    let proto = counter::proto();
    assert!(
        proto.contains("rpc Count(CountRequest) returns (stream Number) {"),
        "{proto}"
    );
    let document = counter::openapi();
    let content = &document["paths"]["/count/{from}"]["get"]["responses"]["200"]["content"];
    let line = &content["application/x-ndjson"]["schema"]["oneOf"];
    let item = &line[0]["properties"]["result"]["$ref"];
    assert_eq!(item, "#/components/schemas/Number");
    let error = &line[1]["properties"]["error"]["$ref"];
    assert_eq!(error, "#/components/schemas/problem-document");
    assert!(content.get("application/json").is_none());
}
