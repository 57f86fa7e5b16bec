//! Endpoints that fail or hang are left alone, until they are back.

use super::*;

#[tokio::test]
async fn an_endpoint_that_does_not_answer_in_time_is_left_alone() {
    let (silent, peer) = (Peer::silent().await, echo().await);
    let mut config = ClientConfig {
        attempt_timeout: Duration::from_millis(100),
        ..ClientConfig::default()
    };
    config.circuit_breaker.open_for = Duration::from_secs(60);
    config.balance.forgiveness = Duration::from_secs(60);
    // What is not known yet looks best, so each is asked once.
    config.balance.initial_latency = Duration::ZERO;
    let client = client_with([silent.authority(), peer.authority()], config);
    for _ in 0..100 {
        client.clone().oneshot(get()).await.unwrap();
    }
    // As long as its silence is remembered, which is for longer than this test.
    assert_eq!(silent.connections(), 1);
}

#[tokio::test]
async fn attempts_that_time_out_open_the_circuit_of_their_endpoint() {
    let silent = Peer::silent().await;
    let mut config = ClientConfig {
        attempt_timeout: Duration::from_millis(20),
        ..ClientConfig::default()
    };
    config.retry.attempts = NonZeroU32::MIN;
    config.balance.panic_threshold = Ratio::ZERO;
    let client = client_with([silent.authority()], config.clone());
    for attempt in 0..=config.circuit_breaker.consecutive_failures.get() {
        let error = client.clone().oneshot(get()).await.unwrap_err();
        let rejection = Rejection::find(&*error).unwrap();
        let open = attempt == config.circuit_breaker.consecutive_failures.get();
        assert_eq!(
            matches!(rejection, Rejection::CircuitOpen { .. }),
            open,
            "{rejection}"
        );
    }
}

#[tokio::test]
async fn streams_that_do_not_begin_in_time_open_the_circuit_of_their_endpoint() {
    static STREAM: Method = Method {
        service: "users.Users",
        name: "Follow",
        grpc_path: "/users.Users/Follow",
        http_method: http::Method::POST,
        http_path: "/follow",
        idempotent: true,
        streaming: true,
        transport: kit::name::Transport::Both,
        access: kit::name::Access::Anyone,
        priority: kit::name::Priority::Normal,
        timeout: None,
    };
    let silent = Peer::silent().await;
    let mut config = ClientConfig {
        attempt_timeout: Duration::from_millis(20),
        ..ClientConfig::default()
    };
    config.retry.attempts = NonZeroU32::MIN;
    config.balance.panic_threshold = Ratio::ZERO;
    let failures = config.circuit_breaker.consecutive_failures.get();
    // The one who bounds the wait is the one or the other.
    let hurried = ClientConfig {
        timeout: Duration::from_millis(20),
        attempt_timeout: Duration::from_secs(2),
        ..config.clone()
    };
    for config in [config, hurried] {
        let client = client_with([silent.authority()], config);
        for attempt in 0..=failures {
            let mut request = get();
            request.extensions_mut().insert(Context {
                // The stream may go on for longer.
                deadline: Some(Deadline::after(Duration::from_secs(60))),
                method: Some(&STREAM),
                ..Context::default()
            });
            let error = client.clone().oneshot(request).await.unwrap_err();
            let rejection = Rejection::find(&*error).unwrap();
            assert_eq!(
                matches!(rejection, Rejection::CircuitOpen { .. }),
                attempt == failures,
                "{rejection}"
            );
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_fails_again_and_again_is_not_asked_any_more() {
    let failing = Peer::http(|_| {
        let mut response = Response::new(Full::default());
        *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
    .await;
    let [first, second] = [echo().await, echo().await];
    let mut config = ClientConfig::default();
    config.circuit_breaker.open_for = Duration::from_secs(60);
    // So that only its circuit breaker speaks against it.
    config.balance.penalty = Duration::ZERO;
    config.balance.initial_latency = Duration::from_secs(1);
    let addresses = [&failing, &first, &second].map(Peer::authority);
    let client = client_with(addresses, config);
    let mut failures = 0;
    for _ in 0..200 {
        let response = ask(&client, Version::HTTP_11).await.unwrap();
        failures += u32::from(response.status().is_server_error());
    }
    assert!(failures <= 5, "{failures}");
}

#[tokio::test]
async fn an_endpoint_that_comes_back_is_asked_again() {
    let answer = |stream| async move {
        let service = hyper::service::service_fn(|_| async {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        });
        let _ = auto::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    };
    let peer = echo().await;
    let address = nobody().await;
    let mut config = ClientConfig::default();
    config.circuit_breaker.open_for = Duration::from_millis(20);
    config.circuit_breaker.max_open_for = Duration::from_millis(50);
    config.balance.forgiveness = Duration::from_millis(20);
    let client = client_with([address.clone(), peer.authority()], config);
    for _ in 0..20 {
        client.clone().oneshot(get()).await.unwrap();
    }
    let back = Peer::on(TcpListener::bind(address.as_str()).await.unwrap(), answer);
    let asked = tokio::time::timeout(Duration::from_secs(20), async {
        while back.connections() == 0 {
            client.clone().oneshot(get()).await.unwrap();
        }
    });
    asked.await.unwrap();
}
