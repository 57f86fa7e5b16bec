//! One trait, served and called on both wires.

mod access;
mod answers;
mod assembled;
mod bad_input;
mod codec;
mod misuses;
mod reflection;
mod routes;
mod rules;
mod schema;
mod streams;
mod timeouts;
mod transports;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{HeaderMap, Request, Response, header};
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use kit::{
    Body, Code, Context, Error,
    context::{Deadline, IdempotencyKey},
    name::Method,
};
use serde::{Deserialize, Serialize};

/// Keeps what people lend.
#[kit::service(package = "acme.library")]
pub(crate) trait Library {
    /// Adds a book.
    async fn add(&self, ctx: Context, book: Book) -> Result<Book, Error>;
    /// Finds books.
    ///
    /// In the order of their titles.
    #[kit(idempotent)]
    async fn find_books(
        &self,
        ctx: Context,
        text: String,
        limit: Option<u32>,
    ) -> Result<Found, Error>;
    /// Forgets everything.
    async fn clear(&self, ctx: Context) -> Result<(), Error>;
}

/// A book.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, kit::Message)]
#[serde(deny_unknown_fields)]
pub(crate) struct Book {
    /// Its title.
    title: String,
    isbn: Option<Isbn>,
    state: State,
    #[serde(default)]
    copies: Vec<i32>,
    #[serde(default)]
    notes: BTreeMap<String, Note>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, kit::Message)]
pub(crate) struct Isbn(String);

/// Where it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, kit::Message)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    OnShelf,
    /// Somebody has it.
    LentOut,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, kit::Message)]
#[serde(deny_unknown_fields)]
pub(crate) struct Note {
    text: String,
    weight: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, kit::Message)]
pub(crate) struct Found {
    books: Vec<Book>,
}

/// Remembers the last context.
#[derive(Clone, Debug, Default)]
struct Shelf(Arc<Mutex<Vec<Context>>>);

impl Library for Shelf {
    async fn add(&self, ctx: Context, book: Book) -> Result<Book, Error> {
        self.0.lock().unwrap().push(ctx);
        if book.title.is_empty() {
            return Err(Error::invalid("book.title", "must not be empty"));
        }
        Ok(book)
    }

    async fn find_books(
        &self,
        _: Context,
        text: String,
        limit: Option<u32>,
    ) -> Result<Found, Error> {
        let books = (0..limit.unwrap_or(1)).map(|_| book(&text)).collect();
        Ok(Found { books })
    }

    async fn clear(&self, _: Context) -> Result<(), Error> {
        Err(Error::internal("the shelf is bolted to the wall"))
    }
}

fn book(title: &str) -> Book {
    Book {
        title: title.to_owned(),
        isbn: Some(Isbn("0-19-852663-6".to_owned())),
        state: State::LentOut,
        copies: vec![1, -1, 0],
        notes: BTreeMap::from_iter([(
            "spine".to_owned(),
            Note {
                text: String::new(),
                weight: 0.5,
            },
        )]),
    }
}

/// Calls a library that calls another, with the very context that it received.
#[derive(Debug)]
struct Branch<S>(LibraryClient<S>);

impl<S: kit::service::client::Stack> Library for Branch<S> {
    async fn add(&self, ctx: Context, book: Book) -> Result<Book, Error> {
        self.0.add(ctx, book).await
    }

    async fn find_books(
        &self,
        ctx: Context,
        text: String,
        limit: Option<u32>,
    ) -> Result<Found, Error> {
        self.0.find_books(ctx, text, limit).await
    }

    async fn clear(&self, ctx: Context) -> Result<(), Error> {
        self.0.clear(ctx).await
    }
}

fn clients(shelf: &Shelf) -> [LibraryClient<LibraryServer<Shelf>>; 2] {
    let server = LibraryServer::new(shelf.clone());
    [
        LibraryClient::json(server.clone()),
        LibraryClient::grpc(server),
    ]
}

#[tokio::test]
async fn a_call_comes_back_with_what_the_handler_returned_on_both_wires() {
    for client in clients(&Shelf::default()) {
        let ctx = Context::new();
        assert_eq!(
            client.add(ctx.clone(), book("Solaris")).await.unwrap(),
            book("Solaris")
        );
        let found = client
            .find_books(ctx.clone(), "Kim".into(), Some(2))
            .await
            .unwrap();
        assert_eq!(found.books, [book("Kim"), book("Kim")]);
        let found = client
            .find_books(ctx.clone(), String::new(), None)
            .await
            .unwrap();
        assert_eq!(found.books.len(), 1);

        let error = client.add(ctx.clone(), book("")).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert_eq!(error.violations()[0].field, "book.title");
        let error = client.clear(ctx).await.unwrap_err();
        assert_eq!(
            (error.code(), error.message()),
            (Code::Internal, "internal error")
        );
    }
}

async fn check(client: impl Library) {
    let add = |book| client.add(Context::new(), book);
    assert_eq!(add(book("Momo")).await.unwrap(), book("Momo"));
    // Longer than one frame of HTTP/2.
    let long = book(&"long".repeat(50_000));
    assert_eq!(add(long.clone()).await.unwrap(), long);
    let error = add(book("")).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_eq!(error.violations()[0].rule, "must not be empty");
}

#[tokio::test]
async fn both_wires_work_on_one_port() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = LibraryServer::new(Shelf::default());
    let accept = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(server.clone());
            tokio::spawn(async move {
                auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await
            });
        }
    });

    // A stack as small as can be: it adds the address.
    let stack = |http2: bool| {
        let client = legacy::Client::builder(TokioExecutor::new())
            .http2_only(http2)
            .build_http::<Body>();
        tower::service_fn(move |mut request: Request<Body>| {
            let path = request.uri().path();
            *request.uri_mut() = format!("http://{address}{path}").parse().unwrap();
            client.request(request)
        })
    };
    check(LibraryClient::json(stack(false))).await;
    check(LibraryClient::grpc(stack(true))).await;
    accept.abort();
}

#[tokio::test]
async fn what_the_layers_outside_know_reaches_the_handler() {
    let shelf = Shelf::default();
    for client in clients(&shelf) {
        let deadline = Deadline::after(Duration::from_secs(3));
        let ctx = Context {
            deadline: Some(deadline),
            ..Context::new()
        };
        client.add(ctx, book("Emma")).await.unwrap();
        let received = shelf.0.lock().unwrap().pop().unwrap();
        assert_eq!(received.deadline, Some(deadline));
        assert_eq!(received.method, Some(&library::METHODS[0]));
    }
}

#[tokio::test]
async fn an_idempotency_key_goes_with_the_call_that_it_names_and_no_further() {
    let key = || -> IdempotencyKey { "order-7".parse().unwrap() };
    let shelf = Shelf::default();
    let received = || shelf.0.lock().unwrap().pop().unwrap().idempotency_key;
    for client in clients(&shelf) {
        let ctx = Context::new().with_idempotency_key(key());
        client.add(ctx.clone(), book("Emma")).await.unwrap();
        assert_eq!(received(), Some(key()));

        let branch = LibraryClient::json(LibraryServer::new(Branch(client)));
        branch.add(ctx, book("Emma")).await.unwrap();
        assert_eq!(received(), None);
    }
}

#[tokio::test]
async fn a_handlers_own_key_for_a_call_that_it_makes_goes_with_that_call() {
    let handled = Context {
        method: Some(&library::METHODS[0]),
        idempotency_key: Some("theirs".parse().unwrap()),
        ..Context::new()
    };
    let shelf = Shelf::default();
    let [client, _] = clients(&shelf);
    let ctx = handled.with_idempotency_key("ours".parse().unwrap());
    client.add(ctx, book("Emma")).await.unwrap();
    let received = shelf.0.lock().unwrap().pop().unwrap();
    assert_eq!(received.idempotency_key.unwrap().as_str(), "ours");
}

/// A stack that shows each request to `look` and answers it with `answer`.
fn peer(
    look: impl Fn(&Request<Body>) + Clone + Send + Sync + 'static,
    answer: fn() -> Response<Body>,
) -> impl kit::service::client::Stack {
    tower::service_fn(move |request: Request<Body>| {
        look(&request);
        std::future::ready(Ok::<_, Infallible>(answer()))
    })
}

#[tokio::test]
async fn a_request_says_what_it_is_to_the_layers_that_it_passes() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let look = {
        let seen = Arc::clone(&seen);
        move |request: &Request<Body>| {
            let method = Context::of(request.extensions()).method;
            let length = http_body::Body::size_hint(request.body()).exact();
            assert!(length.is_some(), "so that it can be sent again");
            seen.lock()
                .unwrap()
                .push((request.version(), request.uri().path().to_owned(), method));
        }
    };
    let stack = peer(look, || Response::new(Body::empty()));
    let _ = LibraryClient::json(stack.clone())
        .clear(Context::new())
        .await;
    let _ = LibraryClient::grpc(stack).clear(Context::new()).await;
    let method: Option<&'static Method> = Some(&library::METHODS[2]);
    assert_eq!(
        *seen.lock().unwrap(),
        [
            (http::Version::HTTP_11, "/clear".to_owned(), method),
            (
                http::Version::HTTP_2,
                "/acme.library.Library/Clear".to_owned(),
                method
            ),
        ]
    );
}

#[tokio::test]
async fn an_answer_that_is_none_is_the_peers_mistake() {
    let stack = |answer| peer(|_| {}, answer);
    let not_json = stack(|| Response::new(Body::full("<html>")));
    let error = LibraryClient::json(not_json.clone())
        .clear(Context::new())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    let error = LibraryClient::grpc(not_json)
        .clear(Context::new())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Internal);

    let gateway = stack(|| {
        let mut response = Response::new(Body::full("<html>"));
        *response.status_mut() = http::StatusCode::BAD_GATEWAY;
        let headers = HeaderMap::from_iter([(header::RETRY_AFTER, "7".parse().unwrap())]);
        *response.headers_mut() = headers;
        response
    });
    let error = LibraryClient::json(gateway.clone())
        .clear(Context::new())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    let error = LibraryClient::grpc(gateway)
        .clear(Context::new())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_refusal_of_the_stack_is_told_as_what_it_is() {
    let stack = tower::service_fn(|_: Request<Body>| {
        std::future::ready(Err::<Response<Body>, kit::BoxError>(
            kit::Rejection::Overloaded { limit: 3 }.into(),
        ))
    });
    let error = LibraryClient::json(stack)
        .clear(Context::new())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(
        error.rejection(),
        Some(&kit::Rejection::Overloaded { limit: 3 })
    );
}

/// Arguments with the names that generated code might use for itself.
#[kit::service]
pub(crate) trait Names {
    async fn take(
        &self,
        _: Context,
        request: String,
        handler: String,
        ctx: String,
        incoming: String,
        answer: String,
    ) -> Result<Note, Error>;
}

struct Joined;

impl Names for Joined {
    async fn take(
        &self,
        _: Context,
        request: String,
        handler: String,
        ctx: String,
        incoming: String,
        answer: String,
    ) -> Result<Note, Error> {
        let text = request + &handler + &ctx + &incoming + &answer;
        Ok(Note { text, weight: 0.0 })
    }
}

#[tokio::test]
async fn an_argument_may_have_any_name() {
    let server = NamesServer::new(Joined);
    for client in [NamesClient::json(server.clone()), NamesClient::grpc(server)] {
        let [a, b, c, d, e] = ["a", "b", "c", "d", "e"].map(str::to_owned);
        let note = client.take(Context::new(), a, b, c, d, e).await;
        assert_eq!(note.unwrap().text, "abcde");
    }
}
