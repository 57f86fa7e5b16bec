//! One trait, served and called on both wires.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use kit::{Code, Context, Error};
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
