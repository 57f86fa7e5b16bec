//! What the macros themselves refuse.

use kit::{Context, Error, Stream};

#[kit::service]
pub trait Users {
    async fn without_self(ctx: Context) -> Result<(), Error>; //~ `ctx: Context` a method of a service takes `&self` first
    async fn without_result(&self, ctx: Context) -> Vec<String>; //~ `Vec<String>` a method of a service returns `Result<T, Error>`
    fn not_async(&self, ctx: Context) -> Result<(), Error>; //~ `fn` a method of a service is an `async fn`
    async fn generic<T: Clone>(&self, ctx: Context, it: T) -> Result<(), Error>; //~ `T: Clone` a method of a service has no generics
    async fn borrowed(&self, ctx: Context, it: &'static str) -> Result<(), Error>; //~ `&'static str` an argument is owned
    #[kit(idempotnet)] //~ `idempotnet` did you mean `idempotent`?
    async fn misspelled(&self, ctx: Context) -> Result<(), Error>;
    #[kit(timeout = "soon")] //~ `"soon"` a timeout is a time such as
    async fn late(&self, ctx: Context) -> Result<(), Error>;
    #[kit(route(GET, "/users/{id}"))] //~ `"/users/{id}"` the method has no argument `id`
    async fn missing(&self, ctx: Context, name: String) -> Result<(), Error>;
    async fn watch(&self, ctx: Context) -> Result<impl Iterator<Item = u32>, Error>; //~ `impl Iterator<Item = u32>` a method of a service that answers more than once
    async fn bare(&self, ctx: Context) -> impl Stream<Item = Result<u32, Error>>; //~ `impl Stream<Item = Result<u32, Error>>` a method of a service returns `Result
}

#[kit::service]
pub trait Routes {
    #[kit(route(GET, "/users/{id}"))]
    async fn one(&self, ctx: Context, id: u32) -> Result<(), Error>;
    #[kit(route(GET, "/users/{name}"))] //~ `"/users/{name}"` two methods answer at the same route: `one` and `other`
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
    #[kit(tag = 3)] //~ `3` `one` has the number 3 already
    other: u32,
}

#[derive(kit::Message)]
struct Reserved {
    #[kit(tag = 19000)] //~ `19000` a number of a field is between 1 and 536870911, and not between 19000 and 19999
    one: u32,
}
