//! A generated client calls a generated server through both assembled stacks, over sockets.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use kit::{
    Code, Context, Error,
    coalesce::{CoalesceLayer, CollectLayer},
    context::TraceContext,
    testing::Instance,
};
use tower::ServiceBuilder;

use super::{Book, Found, Library, LibraryClient, LibraryServer, book};

/// Cannot do what it is asked the first time, and remembers the contexts of all calls.
#[derive(Clone, Debug, Default)]
struct Shaky(Arc<Mutex<Vec<Context>>>);

impl Shaky {
    fn answer<T>(&self, ctx: Context, value: T) -> Result<T, Error> {
        let mut calls = self.0.lock().unwrap();
        calls.push(ctx);
        if calls.len() == 1 {
            Err(Error::unavailable("the shelf is being moved"))
        } else {
            Ok(value)
        }
    }

    fn calls(&self) -> Vec<Context> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Library for Shaky {
    async fn add(&self, ctx: Context, book: Book) -> Result<Book, Error> {
        self.answer(ctx, book)
    }

    async fn find_books(&self, ctx: Context, _: String, _: Option<u32>) -> Result<Found, Error> {
        self.answer(ctx, Found { books: Vec::new() })
    }

    async fn clear(&self, ctx: Context) -> Result<(), Error> {
        self.answer(ctx, ())
    }
}

#[tokio::test]
async fn what_the_trait_says_of_a_method_decides_what_the_stacks_do() {
    let shaky = Shaky::default();
    let running = Instance::serve("library", LibraryServer::new(shaky.clone()));
    let stack = running.client();
    for client in [
        LibraryClient::json(stack.clone()),
        LibraryClient::grpc(stack),
    ] {
        let trace = TraceContext::root();
        let ctx = || Context {
            trace: Some(trace),
            ..Context::with_timeout(Duration::from_secs(20))
        };

        // Idempotent: made again.
        client.find_books(ctx(), "Kim".into(), None).await.unwrap();
        let calls = shaky.calls();
        assert_eq!(calls.len(), 2);
        assert_eq!(calls[1].previous_attempts, 1);
        for call in calls {
            assert!(call.deadline.is_some());
            let id = call.trace.unwrap().trace_id().to_string();
            assert_eq!(id, trace.trace_id().to_string());
        }

        // Not idempotent: not made again, and told as what it was.
        let error = client.add(ctx(), book("Kim")).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        assert_eq!(error.message(), "the shelf is being moved");
        assert_eq!(shaky.calls().len(), 1);

        // Not idempotent, but with a key that says that it is one call.
        let key = "order-7".parse().unwrap();
        let added = client
            .add(ctx().with_idempotency_key(key), book("Kim"))
            .await;
        assert_eq!(added.unwrap(), book("Kim"));
        let keys = shaky
            .calls()
            .into_iter()
            .map(|call| call.idempotency_key.unwrap());
        assert_eq!(
            keys.map(|key| key.to_string()).collect::<Vec<_>>(),
            ["order-7"; 2]
        );
    }
}

/// Takes its time, and counts how often it is asked.
#[derive(Clone, Debug, Default)]
struct Slow(Arc<Mutex<Vec<String>>>);

impl Library for Slow {
    async fn add(&self, _: Context, book: Book) -> Result<Book, Error> {
        self.asked(&book.title).await?;
        Ok(book)
    }

    async fn find_books(&self, _: Context, text: String, _: Option<u32>) -> Result<Found, Error> {
        self.asked(&text).await?;
        Ok(Found {
            books: vec![book(&text)],
        })
    }

    async fn clear(&self, _: Context) -> Result<(), Error> {
        Ok(())
    }
}

impl Slow {
    async fn asked(&self, text: &str) -> Result<(), Error> {
        self.0.lock().unwrap().push(text.to_owned());
        tokio::time::sleep(Duration::from_millis(200)).await;
        match text {
            "" => Err(Error::invalid("text", "must not be empty")),
            _ => Ok(()),
        }
    }

    fn asked_for(&self) -> Vec<String> {
        let mut asked = std::mem::take(&mut *self.0.lock().unwrap());
        asked.sort_unstable();
        asked
    }
}

#[tokio::test]
async fn calls_that_are_the_same_are_one_call_through_all_of_both_stacks() {
    let slow = Slow::default();
    let running = Instance::serve("library", LibraryServer::new(slow.clone()));
    let stack = ServiceBuilder::new()
        .layer(CoalesceLayer::same(Default::default()))
        .layer(CollectLayer::new(1024))
        .service(running.client());
    for client in [
        LibraryClient::json(stack.clone()),
        LibraryClient::grpc(stack),
    ] {
        let find = |text: &str| client.find_books(Context::new(), text.into(), None);
        let (kim, again, emma) = tokio::join!(find("Kim"), find("Kim"), find("Emma"));
        for found in [kim, again] {
            assert_eq!(found.unwrap().books, [book("Kim")]);
        }
        assert_eq!(emma.unwrap().books, [book("Emma")]);
        assert_eq!(slow.asked_for(), ["Emma", "Kim"]);

        // What went wrong is for all of them too: of gRPC, it is in the trailers or in a head without a body.
        let (one, other) = tokio::join!(find(""), find(""));
        for error in [one.unwrap_err(), other.unwrap_err()] {
            assert_eq!(error.code(), Code::InvalidArgument);
        }
        assert_eq!(slow.asked_for(), [""]);

        // What is not idempotent is made as often as it is asked for.
        let add = || client.add(Context::new(), book("Kim"));
        let (one, other) = tokio::join!(add(), add());
        assert_eq!((one.unwrap(), other.unwrap()), (book("Kim"), book("Kim")));
        assert_eq!(slow.asked_for(), ["Kim", "Kim"]);

        // And what is too long for all is an error.
        let long = "x".repeat(2000);
        let error = find(&long).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        slow.asked_for();
    }
}
