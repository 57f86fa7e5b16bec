//! The attribute `#[kit::service]` and the derive `kit::Message`. Their documentation stands in the crate `kit`,
//! which everybody uses them through.

#[cfg(test)]
mod marked;
mod message;
mod names;
mod rules;
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
///   says, and gRPC's `/users.Users/Create`. Its clones share one `T`. Who has no `.proto` file reads by server
///   reflection what it is made of;
/// - `UsersClient<S>`, which implements `Users` over any tower stack: `UsersClient::json(stack)` or
///   `UsersClient::grpc(stack)`;
/// - the module `users` with `CreateRequest`, `METHODS`, `openapi()` and `proto()`.
///
/// # The methods
/// `&self`, then `ctx: Context`, then the arguments, which are owned and become the fields of the request in their
/// order; the result is `Result<T, Error>`, where `T` is `()`, whatever may be an argument, or a stream of that. JSON has
/// it as it is. gRPC knows messages only, so what is no struct is the field `value` of one there, `GetResponse`.
///
/// Arguments and results are `bool`, `i32`, `i64`, `u32`, `u64`, `f32`, `f64`, `String`, bytes (`Vec<u8>` or `Bytes`),
/// `Uuid`, and what derives `kit::Message`; and `Box`, `Option`, `Vec` and maps of these. JSON has no number that is not
/// finite: a client refuses to send one, and an answer with one is an internal error; gRPC carries it.
///
/// # Rules
/// An argument may say what it has to be, in the words of JSON Schema:
/// ```text
/// async fn create(
///     &self,
///     ctx: Context,
///     #[kit(min_length = 1, max_length = 254, pattern = r"^\S+$")] email: String,
///     #[kit(minimum = 1, maximum = 1000)] page_size: Option<u32>,
/// ) -> Result<User, Error>;
/// ```
/// Lengths are those of texts, in characters, and of bytes, lists and maps. A pattern is a regular expression in what
/// Rust and ECMA-262 have in common, and is looked for anywhere in a text; where it does not mean the same to both, that
/// is told. An `Option` has its rules where it is there. Fields of structs say theirs likewise, and a struct around one
/// value says them before itself: `#[kit(max_length = 254)] struct Email(String);` for each `Email` that there is.
///
/// The server refuses what breaks a rule, on both wires, before the handler sees it, and names all fields and their
/// rules; OpenAPI has the rules, and the `.proto` tells them in comments. They hold for what is asked, not for answers.
///
/// A method that is the same done twice as done once is marked `#[kit(idempotent)]`. Only a call of such a method is
/// made again when it may have been done already; a call of any other is when it has an idempotency key, or never
/// reached its peer.
///
/// # Who may call
/// `#[kit(auth)]` is for callers that say who they are, and `#[kit(auth = "users:write")]` for those of them that were
/// given this scope; see `kit::authenticate`. Others are told UNAUTHENTICATED or PERMISSION_DENIED (401, 403) before
/// anything of their request is read. A server that asks nobody who it is keeps such methods closed.
///
/// # Priority
/// `#[kit(priority = "sheddable")]` or `"critical"`, where a method is not `"normal"`: what a server that has too much to
/// do refuses first or last, see `kit::concurrency`. The client says it in the header `request-priority`, and what a
/// handler calls has the priority of the call that it handles.
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
/// # The service
/// `#[kit::service(package = "acme.users")]` sets protobuf's package, which is otherwise the name of the trait in
/// snake case.
///
/// `#[kit::service(transport = "http")]` or `"grpc"` leaves the other wire out; without it, or with `"both"`, there are
/// both. Over HTTP alone, arguments and results are any types of serde, with what OpenAPI can tell of them; over gRPC
/// alone, they need nothing of serde. A request on the wire that is not there is refused: UNIMPLEMENTED over gRPC, 415 as
/// JSON.
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
/// `struct UserId(String)`, travels as that value. What fields and such a value may be is said as for the arguments of
/// [a service](macro@service): `#[kit(max_length = 254)]`.
///
/// Names in OpenAPI follow serde: `rename`, `rename_all`, `default` and `skip_serializing_if` are read. What makes JSON
/// something else than the fields say, such as `flatten` or `with`, is refused.
#[proc_macro_derive(Message, attributes(kit))]
pub fn message(item: TokenStream) -> TokenStream {
    message::expand(item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
