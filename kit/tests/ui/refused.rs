//! What the macros themselves refuse.

use kit::{Context, Error, Stream};

#[kit::service]
pub trait Users {
    async fn without_self(ctx: Context) -> Result<(), Error>;
    async fn without_result(&self, ctx: Context) -> Vec<String>;
    fn not_async(&self, ctx: Context) -> Result<(), Error>;
    async fn generic<T: Clone>(&self, ctx: Context, it: T) -> Result<(), Error>;
    async fn borrowed(&self, ctx: Context, it: &'static str) -> Result<(), Error>;
    #[kit(idempotnet)]
    async fn misspelled(&self, ctx: Context) -> Result<(), Error>;
    #[kit(timeout = "soon")]
    async fn late(&self, ctx: Context) -> Result<(), Error>;
    #[kit(route(GET, "/users/{id}"))]
    async fn missing(&self, ctx: Context, name: String) -> Result<(), Error>;
    async fn watch(&self, ctx: Context) -> Result<impl Iterator<Item = u32>, Error>;
    async fn bare(&self, ctx: Context) -> impl Stream<Item = Result<u32, Error>>;
}

#[kit::service]
pub trait Routes {
    #[kit(route(GET, "/users/{id}"))]
    async fn one(&self, ctx: Context, id: u32) -> Result<(), Error>;
    #[kit(route(GET, "/users/{name}"))]
    async fn other(&self, ctx: Context, name: String) -> Result<(), Error>;
}

struct Implementation;

// It is not told to be a mistake too.
impl Routes for Implementation {
    async fn one(&self, _: Context, _: u32) -> Result<(), Error> {
        Ok(())
    }

    async fn other(&self, _: Context, _: String) -> Result<(), Error> {
        Ok(())
    }
}

#[derive(kit::Message)]
struct Numbers {
    #[kit(tag = 3)]
    one: u32,
    #[kit(tag = 3)]
    other: u32,
}

#[derive(kit::Message)]
struct Reserved {
    #[kit(tag = 19000)]
    one: u32,
}

fn main() {}
