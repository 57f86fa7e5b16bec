//! A generated client calls a generated server through both assembled stacks, over sockets.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use kit::{Code, Context, Error, context::TraceContext, testing::Instance};

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
