//! Calls that are made again, or twice.

use super::*;

#[tokio::test]
async fn what_never_arrived_is_sent_to_another_endpoint_whatever_it_does() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let peer = echo().await;
        let client = client([nobody().await, peer.authority(), nobody().await]);
        for _ in 0..50 {
            ask(&client, version).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_may_have_been_done_is_not_done_twice() {
    let arrived = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&arrived);
    let peer = Peer::raw(move |mut stream| {
        let count = Arc::clone(&count);
        async move {
            if stream.read(&mut [0; 1024]).await.is_ok_and(|n| n > 0) {
                count.fetch_add(1, SeqCst);
            }
        }
    })
    .await;
    let client = client([peer.authority()]);
    ask(&client, Version::HTTP_11).await.unwrap_err();
    assert_eq!(arrived.load(SeqCst), 1);
    client.clone().oneshot(get()).await.unwrap_err();
    assert_eq!(arrived.load(SeqCst), 1 + 3);
}

/// An endpoint that counts what it is asked, and never does it.
async fn busy() -> (Peer, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let peer = Peer::http(move |_| {
        count.fetch_add(1, SeqCst);
        let mut response = Response::new(Full::default());
        *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        response
    });
    (peer.await, asked)
}

#[tokio::test]
async fn a_retry_does_not_wait_behind_an_open_circuit() {
    let mut config = ClientConfig {
        // Whoever waits until the circuit lets a probe through is not answered in time.
        timeout: Duration::from_secs(10),
        ..ClientConfig::default()
    };
    config.circuit_breaker.consecutive_failures = NonZeroU32::MIN;
    config.circuit_breaker.open_for = Duration::from_secs(60);
    config.balance.panic_threshold = Ratio::ZERO;
    config.balance.penalty = Duration::ZERO;
    let ((failing, asked), well) = (busy().await, echo().await);
    let client = client_with([failing.authority(), well.authority()], config.clone());
    // So that it is a retry that comes to the open circuit, with the one endpoint tried and the other one not.
    for _ in 0..50 {
        let answer = client.clone().oneshot(get()).await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(asked.load(SeqCst), 1);

    // There is no other one: it is refused at once.
    let client = client_with([failing.authority()], config);
    let error = client.clone().oneshot(get()).await.unwrap_err();
    assert!(matches!(
        Rejection::find(&*error),
        Some(Rejection::CircuitOpen { .. })
    ));
    assert_eq!(asked.load(SeqCst), 2);
}

#[tokio::test]
async fn a_hedge_goes_to_another_endpoint() {
    let (silent, peer) = (Peer::silent().await, echo().await);
    let mut config = ClientConfig {
        attempt_timeout: Duration::from_secs(5),
        hedge: Some(HedgeConfig {
            delay: Some(Duration::from_millis(20)),
            ..HedgeConfig::default()
        }),
        ..ClientConfig::default()
    };
    config.balance.initial_latency = Duration::ZERO;
    for _ in 0..10 {
        let client = client_with([silent.authority(), peer.authority()], config.clone());
        for _ in 0..3 {
            client.clone().oneshot(get()).await.unwrap();
        }
    }
    assert!(silent.connections() > 0, "it was never asked");
}

#[tokio::test]
async fn a_grpc_error_before_the_first_message_is_seen_and_the_call_made_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let peer = Peer::http(move |_| {
        let status = match count.fetch_add(1, SeqCst) {
            0 => "14",
            _ => "0",
        };
        let response = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", status);
        response.body(Full::default()).unwrap()
    })
    .await;
    let mut request = request(Version::HTTP_2);
    let grpc = http::HeaderValue::from_static("application/grpc");
    request.headers_mut().insert("content-type", grpc);
    let key = "k".parse().unwrap();
    Context::of_mut(request.extensions_mut()).idempotency_key = Some(key);
    let answer = client([peer.authority()]).oneshot(request).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "0");
    assert_eq!(asked.load(SeqCst), 2);
}

#[tokio::test]
async fn one_deadline_covers_all_attempts() {
    let silent = Peer::silent().await;
    let config = ClientConfig {
        timeout: Duration::from_millis(150),
        attempt_timeout: Duration::from_millis(100),
        ..ClientConfig::default()
    };
    let client = client_with([silent.authority()], config);
    let error = client.clone().oneshot(get()).await.unwrap_err();
    assert_eq!(Rejection::find(&*error), Some(&Rejection::DeadlineExceeded));
    // A caller that waits for less gets less, and one that waits no longer is not answered late.
    let mut request = get();
    *Context::of_mut(request.extensions_mut()) = Context::with_timeout(Duration::ZERO);
    let error = client.clone().oneshot(request).await.unwrap_err();
    assert_eq!(Rejection::find(&*error), Some(&Rejection::DeadlineExceeded));
}

#[tokio::test]
async fn each_attempt_says_which_it_is_how_long_it_waits_and_where_in_the_trace_it_stands() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&seen);
    let peer = Peer::http(move |request| {
        heard.lock().unwrap().push(request.headers().clone());
        let mut response = Response::new(Full::default());
        *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        response
    })
    .await;
    let client = client([peer.authority()]);
    let mut request = get();
    let trace = kit::context::TraceContext::root();
    Context::of_mut(request.extensions_mut()).trace = Some(trace);
    let response = client.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 503);
    let seen = seen.lock().unwrap();
    let header = |attempt: usize, name: &str| {
        let value = seen[attempt].get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    assert_eq!(seen.len(), 3);
    let mut spans = Vec::new();
    for attempt in 0..3 {
        let previous = header(attempt, "grpc-previous-rpc-attempts");
        assert_eq!(previous, (attempt > 0).then(|| attempt.to_string()));
        let timeout = header(attempt, "request-timeout").unwrap();
        assert!(kit::deadline::parse_timeout(&timeout).unwrap() <= Duration::from_secs(2));
        let place = header(attempt, "traceparent").unwrap();
        assert!(place.contains(&trace.trace_id().to_string()));
        spans.push(place);
    }
    spans.dedup();
    assert_eq!(spans.len(), 3, "a span for each attempt");
}
