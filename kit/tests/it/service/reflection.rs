//! What a running server tells over gRPC of itself: what it is made of, and whether it is well. Python's grpcio reads the
//! same in `interoperation`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use kit::{
    Body,
    server::{Check, Inbound, Listeners, RunOptions, ServerConfig, run},
    service::message::{from_slice, to_vec},
};
use tokio::sync::oneshot;
use tower::{Layer, ServiceExt};

use super::{LibraryServer, Shelf};

fn frame(message: &[u8]) -> Bytes {
    let mut out = BytesMut::from(&[0][..]);
    out.extend_from_slice(&(message.len() as u32).to_be_bytes());
    out.extend_from_slice(message);
    out.freeze()
}

fn request(path: &str, body: Body) -> Request<Body> {
    Request::post(path)
        .version(http::Version::HTTP_2)
        .header(header::CONTENT_TYPE, "application/grpc")
        .body(body)
        .unwrap()
}

/// A question about one thing, by its number.
fn question(number: u32, name: &str) -> Bytes {
    let mut out = vec![(number << 3 | 2) as u8, name.len() as u8];
    out.extend_from_slice(name.as_bytes());
    frame(&out)
}

#[derive(kit::Message)]
struct Answer {
    #[kit(tag = 4)]
    files: Option<Files>,
    extension_numbers: Option<Name>,
    services: Option<Services>,
    error: Option<Failure>,
}

#[derive(kit::Message)]
struct Files {
    descriptors: Vec<Vec<u8>>,
}

#[derive(kit::Message)]
struct Services {
    names: Vec<Name>,
}

#[derive(kit::Message)]
struct Name {
    name: String,
}

#[derive(kit::Message)]
struct Failure {
    code: i32,
}

const V1: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const V1_ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

/// What is answered to each of the questions.
async fn reflected(path: &str, questions: Vec<Bytes>) -> Vec<Answer> {
    // Each in two frames, as it may come.
    let frames = questions.into_iter().flat_map(|question| {
        let (one, other) = (question.slice(..3), question.slice(3..));
        [one, other].map(|data| Ok::<_, kit::BoxError>(Frame::data(data)))
    });
    let body = Body::stream(StreamBody::new(stream::iter(frames.collect::<Vec<_>>())));
    let server = LibraryServer::new(Shelf::default());
    let response = server.oneshot(request(path, body)).await.unwrap();
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    let mut bytes = collected.to_bytes();
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes.get_u8(), 0);
        let len = bytes.get_u32() as usize;
        answers.push(from_slice(&bytes.split_to(len)).unwrap());
    }
    answers
}

#[tokio::test]
async fn a_service_tells_what_it_is_made_of() {
    for path in [V1, V1_ALPHA] {
        let questions = vec![
            question(7, ""),
            question(4, "acme.library.Library"),
            question(4, "acme.library.Library.FindBooks"),
            question(4, "acme.library.Book"),
            question(3, "acme.library.proto"),
            question(6, "acme.library.Book"),
            question(4, "acme.library.Nobody"),
            question(4, "acme.libraryLibrary"),
            question(3, "else.proto"),
        ];
        let [services, files @ .., extensions, nobody, joined, other] =
            &reflected(path, questions).await[..]
        else {
            panic!("as many answers as questions");
        };
        let names = services.services.as_ref().unwrap();
        assert_eq!(names.names[0].name, "acme.library.Library");
        assert_eq!(files.len(), 4);
        for file in files {
            let [file] = &file.files.as_ref().unwrap().descriptors[..] else {
                panic!("one file");
            };
            // Held against protoc's in `interoperation`.
            let text = String::from_utf8_lossy(file);
            for name in [
                "acme.library.proto",
                "FindBooksRequest",
                "STATE_LENT_OUT",
                "NotesEntry",
            ] {
                assert!(text.contains(name), "{name}");
            }
        }
        let numbers = extensions.extension_numbers.as_ref().unwrap();
        assert_eq!(numbers.name, "acme.library.Book");
        for nothing in [nobody, joined, other] {
            assert_eq!(nothing.error.as_ref().unwrap().code, 5);
        }
    }
}

#[tokio::test]
async fn what_is_no_question_is_refused() {
    for (body, code) in [
        (Body::full(&b"\0\0\0\0"[..]), "3"),
        (Body::full(&b"\0\x7f\0\0\0"[..]), "11"),
        (Body::full(&b"\x01\0\0\0\0"[..]), "12"),
        (Body::full(frame(b"\xff")), "3"),
    ] {
        let server = LibraryServer::new(Shelf::default());
        let response = server.oneshot(request(V1, body)).await.unwrap();
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], code);
    }
}

/// A library that runs, and that says whether it is well.
struct Running {
    stack: kit::client::Client,
    admin: kit::client::Client,
    well: Arc<AtomicBool>,
    shutdown: oneshot::Sender<()>,
}

fn start() -> Running {
    start_with(ServerConfig::on_port(0))
}

fn start_with(mut config: ServerConfig) -> Running {
    config.drain.watchers = Duration::from_millis(300);
    config.drain.in_flight = Duration::from_secs(20);
    let name = || "library".parse().unwrap();
    let listeners = Listeners::bind(&config).unwrap();
    let address = listeners.address().to_string().parse().unwrap();
    let admin = listeners.admin_address().to_string().parse().unwrap();
    let app = Inbound::from_config(&config, &name()).layer(LibraryServer::new(Shelf::default()));
    let well = Arc::new(AtomicBool::new(true));
    let probe = Arc::clone(&well);
    let options = RunOptions {
        service: name(),
        version: env!("CARGO_PKG_VERSION"),
        config,
        registration: None,
        readiness: vec![Check::new("well", move || {
            let well = probe.load(Relaxed);
            async move { well.then_some(()).ok_or_else(|| "ill".into()) }
        })],
    };
    let (shutdown, stopped) = oneshot::channel::<()>();
    tokio::spawn(run(listeners, app, options, async move {
        let _ = stopped.await;
    }));
    let client = |address| {
        let fixed = kit::discovery::Fixed::new([(name(), vec![address])]);
        let config = kit::client::ClientConfig::default();
        kit::client::Client::new(&fixed, name(), config, kit::event::nobody())
    };
    Running {
        stack: client(address),
        admin: client(admin),
        well,
        shutdown,
    }
}

#[derive(kit::Message)]
struct Health {
    status: u32,
}

async fn asked(stack: &kit::client::Client, method: &str, service: &str) -> Response<Body> {
    let name = Name {
        name: service.to_owned(),
    };
    let path = format!("/grpc.health.v1.Health/{method}");
    let body = Body::full(frame(&to_vec(&name)));
    let response = stack.clone().oneshot(request(&path, body)).await.unwrap();
    response.map(Body::stream)
}

fn status(bytes: &[u8]) -> u32 {
    from_slice::<Health>(&bytes[5..]).unwrap().status
}

#[tokio::test]
async fn the_health_of_a_server_is_what_its_readiness_says() {
    let running = start();
    for service in ["", "acme.library.Library"] {
        for (well, expected) in [(true, 1), (false, 2)] {
            running.well.store(well, Relaxed);
            let response = asked(&running.stack, "Check", service).await;
            let collected = response.into_body().collect().await.unwrap();
            assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
            assert_eq!(status(&collected.to_bytes()), expected, "{service:?}");
        }
    }
    let response = asked(&running.stack, "Check", "acme.library.Nobody").await;
    assert_eq!(response.headers()["grpc-status"], "5");
}

#[tokio::test]
async fn who_watches_is_told_of_each_change_and_of_the_end() {
    let running = start();
    let mut known = asked(&running.stack, "Watch", "acme.library.Library")
        .await
        .into_body();
    let mut unknown = asked(&running.stack, "Watch", "acme.library.Nobody")
        .await
        .into_body();
    async fn next(body: &mut Body) -> Result<u32, HeaderMap> {
        let frame = body.frame().await.unwrap().unwrap();
        match frame.into_data() {
            Ok(data) => Ok(status(&data)),
            Err(frame) => Err(frame.into_trailers().unwrap()),
        }
    }
    assert_eq!(next(&mut known).await.unwrap(), 1);
    assert_eq!(next(&mut unknown).await.unwrap(), 3);
    running.well.store(false, Relaxed);
    assert_eq!(next(&mut known).await.unwrap(), 2);
    running.well.store(true, Relaxed);
    assert_eq!(next(&mut known).await.unwrap(), 1);
    running.shutdown.send(()).unwrap();
    assert_eq!(next(&mut known).await.unwrap(), 2);
    // It does not hold the drain.
    for body in [&mut known, &mut unknown] {
        assert_eq!(next(body).await.unwrap_err()["grpc-status"], "14");
    }
}

async fn document(running: &Running) -> Response<bytes::Bytes> {
    let request = Request::get("/openapi.json").body(Body::empty()).unwrap();
    let response = running.admin.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn a_server_tells_the_operator_what_it_offers_as_json() {
    let running = start();
    for _ in 0..2 {
        let response = document(&running).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        let told: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(told, super::library::openapi());
    }
}

#[tokio::test]
async fn what_a_server_is_made_of_can_be_kept_from_others() {
    for describe in [true, false] {
        let running = start_with(ServerConfig {
            describe,
            ..ServerConfig::on_port(0)
        });
        for path in [V1, V1_ALPHA] {
            let body = Body::full(question(7, ""));
            let response = running.stack.clone().oneshot(request(path, body)).await;
            let refused = response.unwrap().headers().get("grpc-status").cloned();
            let expected = (!describe).then_some("12");
            assert_eq!(
                refused.as_ref().map(|code| code.to_str().unwrap()),
                expected
            );
        }
        let told = if describe { 200 } else { 404 };
        assert_eq!(document(&running).await.status(), told);
        // Whether it is well is told all the same.
        let response = asked(&running.stack, "Check", "acme.library.Library").await;
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(status(&collected.to_bytes()), 1);
    }
}
