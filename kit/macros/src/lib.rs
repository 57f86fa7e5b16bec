//! The attribute `#[kit::service]` and the derive `kit::Message`. Their documentation stands in the crate `kit`,
//! which everybody uses them through.

#[cfg(test)]
mod marked;
mod message;
mod names;
mod service;

use proc_macro::TokenStream;

/// Makes a server, a client, the request types, the list of methods, an OpenAPI document and the text of the
/// `.proto` from a trait.
///
/// ```text
/// #[kit::service]
/// pub trait Users {
///     /// Creates a user.
///     async fn create(&self, ctx: Context, email: String) -> Result<User, Error>;
///     #[kit(idempotent)]
///     async fn get(&self, ctx: Context, id: String) -> Result<User, Error>;
/// }
/// ```
/// The module `kit::service` has an example that runs.
///
/// # What it makes
/// For a trait `Users` with the method `create`:
/// - the trait itself, whose futures are `Send`; an implementation writes `async fn`;
/// - `UsersServer<T>`, a `tower` service over any `http` body: `POST /create` with JSON, whatever the content type
///   says, and gRPC's `/users.Users/Create`. Its clones share one `T`;
/// - `UsersClient<S>`, which implements `Users` over any tower stack: `UsersClient::json(stack)` or
///   `UsersClient::grpc(stack)`;
/// - the module `users` with `CreateRequest`, `METHODS`, `openapi()` and `proto()`.
///
/// # The methods
/// `&self`, then `ctx: Context`, then the arguments, which are owned and become the fields of the request in their
/// order; the result is `Result<T, Error>`, where `T` is `()`, or derives `kit::Message` and serde's two traits, or is a
/// stream. A method that is the same done twice as done once is marked `#[kit(idempotent)]`, and only such a method is
/// retried.
///
/// # Streams
/// A method that answers more than once returns `Result<impl Stream<Item = Result<T, Error>>, Error>`, and its
/// implementations may borrow from `self`. An error before the first item is the whole answer, and a later one is the
/// last item. On gRPC the items are messages, and as JSON they are lines of `application/x-ndjson`:
/// `{"result": ...}` for an item, `{"error": ...}` with a problem document for an error, which is the last line, and an
/// empty line where there was nothing to say for 30 s. A client gets `kit::service::client::Items`; dropping that cancels
/// the call on the other side. A call is made again only as long as there is no stream. The caller's deadline and the
/// method's timeout hold for the whole stream, and those of the stacks on both sides for the wait until it begins.
///
/// # Routes
/// JSON is asked for by `POST /name_of_the_method`, unless `#[kit(route(GET, "/users/{id}"))]` says another verb and
/// path. Arguments that the path names in braces are read from it; the others are in the query string for `GET` and
/// `DELETE`, and in the JSON body otherwise. What stands in a path or a query string is a single text: a number, a
/// boolean, a `String`, a `Uuid`, an enum, a newtype of one of these, or, in the query string, an `Option` of one.
/// A word in a path goes before an argument: `/users/me` before `/users/{id}`. The verb does not make a method
/// idempotent. gRPC has its own path and is as it was.
///
/// # Timeouts
/// `#[kit(timeout = "500ms")]` is the longest that a server takes for the method, where the caller does not wait for
/// less, and how long the client waits in all where its caller has set no deadline.
///
/// The trait stands in a module, not in a function.
///
/// `#[kit::service(package = "acme.users")]` sets protobuf's package, which is otherwise the name of the trait in
/// snake case.
#[proc_macro_attribute]
pub fn service(attribute: TokenStream, item: TokenStream) -> TokenStream {
    service::expand(attribute.into(), item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// Makes a type one that gRPC can carry.
///
/// A struct with named fields becomes a message; its fields are numbered from 1 in the order of their declaration,
/// so new ones go to the end, or say their number by `#[kit(tag = 7)]`. An enum without data becomes an enum, numbered
/// likewise; protobuf's 0 stands for "not said" and is refused. A struct around one value, such as
/// `struct UserId(String)`, travels as that value.
///
/// Names in OpenAPI follow serde: `rename`, `rename_all` and `default` are read.
#[proc_macro_derive(Message, attributes(kit))]
pub fn message(item: TokenStream) -> TokenStream {
    message::expand(item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
