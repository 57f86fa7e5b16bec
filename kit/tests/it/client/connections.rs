//! What travels over which connection, and what is known of it when that breaks.

use super::*;

#[tokio::test]
async fn the_version_of_a_request_says_how_it_travels() {
    let peer = Peer::http(|request| {
        let host = request
            .uri()
            .authority()
            .map(ToString::to_string)
            .or_else(|| Some(request.headers().get("host")?.to_str().unwrap().to_owned()));
        let seen = format!(
            "{:?} {} {}",
            request.version(),
            host.unwrap(),
            request.uri().path()
        );
        Response::new(seen.into())
    })
    .await;
    let client = client([peer.authority()]);
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let response = ask(&client, version).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, format!("{version:?} {} /echo", peer.address));
    }
}

#[tokio::test]
async fn connections_are_used_again_by_all_clones() {
    let peer = Peer::http(|_| Response::new(Full::default())).await;
    let client = client([peer.authority()]);
    for version in [Version::HTTP_11, Version::HTTP_2] {
        for _ in 0..5 {
            let response = ask(&client, version).await.unwrap();
            response.into_body().collect().await.unwrap();
        }
    }
    assert_eq!(peer.connections(), 2);
}

#[tokio::test]
async fn a_refused_connection_says_that_the_request_never_arrived() {
    let client = once([nobody().await]);
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let error = ask(&client, version).await.unwrap_err();
        assert!(find_cause::<NotSent>(&*error).is_some(), "{error:?}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_request_says_that_the_peer_may_have_acted() {
    let http1 = Peer::raw(|mut stream| async move {
        // Takes something of the request and hangs up.
        let _ = stream.read(&mut [0; 64]).await;
    })
    .await;
    let http2 = Peer::raw(|stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let _request = connection.accept().await;
    })
    .await;
    for (peer, version) in [(http1, Version::HTTP_11), (http2, Version::HTTP_2)] {
        let client = once([peer.authority()]);
        let error = ask(&client, version).await.unwrap_err();
        assert_eq!(
            classify_error(&error).retry,
            Retry::IfIdempotent,
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_stream_that_the_peer_refused_never_arrived() {
    let peer = Peer::raw(|stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
        }
    })
    .await;
    let error = ask(&once([peer.authority()]), Version::HTTP_2)
        .await
        .unwrap_err();
    assert_eq!(classify_error(&error).retry, Retry::Always, "{error:?}");
}

#[tokio::test]
async fn a_request_behind_the_last_one_that_the_peer_looked_at_never_arrived() {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // GOAWAY: the last stream is 0, and there is no error.
    const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let peer = Peer::raw(|mut stream| async move {
        stream.write_all(&SETTINGS).await.unwrap();
        // The preface, then frames: length, type, flags and stream; then what the length says.
        stream.read_exact(&mut [0; 24]).await.unwrap();
        let mut head = [0; 9];
        while stream.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut frame = vec![0; length as usize];
            stream.read_exact(&mut frame).await.unwrap();
            if head[3] == 1 {
                stream.write_all(&GOAWAY).await.unwrap();
            }
        }
    })
    .await;
    let error = ask(&once([peer.authority()]), Version::HTTP_2)
        .await
        .unwrap_err();
    assert_eq!(classify_error(&error).retry, Retry::Always, "{error:?}");
}

#[tokio::test]
async fn what_waited_for_a_connection_says_how_much_time_is_left_when_it_leaves() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    let peer = Peer::http(move |request| {
        let timeout = request.headers()["request-timeout"].to_str().unwrap();
        let timeout = kit::deadline::parse_timeout(timeout).unwrap();
        heard.lock().unwrap().push(timeout);
        Response::new(Full::default())
    })
    .await;
    let (second, nine) = (Duration::from_secs(1), Duration::from_secs(9));
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let connection = Connector::default().to::<Body>(&Endpoint::at(peer.authority()));
        // On a new connection, and on the same one again; it was said before that there are so many seconds.
        for said in ["9S", "9S", "500m"] {
            let mut request = request(version);
            let timeout = said.parse().unwrap();
            request.headers_mut().insert("request-timeout", timeout);
            *Context::of_mut(request.extensions_mut()) = Context::with_timeout(second);
            let response = connection.clone().oneshot(request).await.unwrap();
            response.into_body().collect().await.unwrap();
        }
        let said = std::mem::take(&mut *told.lock().unwrap());
        assert!(said[0] <= second, "{said:?}");
        assert_eq!(said[1..], [nine, second / 2]);
        // It is never made longer.
        let connection = Connector::default().to::<Body>(&Endpoint::at(peer.authority()));
        let mut request = request(version);
        let timeout = "10m".parse().unwrap();
        request.headers_mut().insert("request-timeout", timeout);
        *Context::of_mut(request.extensions_mut()) = Context::with_timeout(second * 60);
        connection.oneshot(request).await.unwrap();
        assert_eq!(std::mem::take(&mut *told.lock().unwrap()), [second / 100]);
    }
}

/// Picks this one at first, and then one after the other.
struct Prefer(Authority);

impl Picker for Prefer {
    fn pick(&self, candidates: &mut Candidates<'_>, _: &Call<'_>, turn: usize) -> usize {
        let mut indices = 0..candidates.len();
        match turn {
            0 => indices.find(|index| candidates.endpoint(*index).address == self.0),
            _ => None,
        }
        .unwrap_or(turn)
    }
}

#[tokio::test]
async fn a_call_without_a_place_at_the_endpoint_that_was_picked_goes_to_another() {
    let (silent, peer) = (Peer::silent().await, echo().await);
    let config = ClientConfig {
        max_connections: NonZeroUsize::MIN,
        attempt_timeout: Duration::from_secs(60),
        timeout: Duration::from_secs(60),
        ..ClientConfig::default()
    };
    let addresses = [silent.authority(), peer.authority()];
    let client = client_with(addresses, config).with_picker(Prefer(silent.authority()));
    let mut holds = Box::pin(ask(&client, Version::HTTP_11));
    tokio::select! {
        answer = &mut holds => panic!("it was answered: {answer:?}"),
        answer = async {
            while silent.connections() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // Not one that may be made twice.
            ask(&client, Version::HTTP_11).await
        } => assert_eq!(answer.unwrap().status(), 200),
    }
    assert_eq!(silent.connections(), 1);
}
