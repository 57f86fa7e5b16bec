//! What [`#[kit::service]`](macro@crate::service) and [`kit::Message`](derive@crate::Message) make code for: one
//! trait, served and called as JSON over HTTP and as gRPC, on one port.
//!
//! ```
//! use kit::{Context, Error};
//!
//! /// Greets people.
//! #[kit::service]
//! pub trait Greeter {
//!     /// Says hello.
//!     #[kit(idempotent)]
//!     async fn hello(&self, ctx: Context, name: String) -> Result<Greeting, Error>;
//! }
//!
//! #[derive(Debug, serde::Serialize, serde::Deserialize, kit::Message)]
//! pub struct Greeting {
//!     pub text: String,
//! }
//!
//! struct Polite;
//!
//! impl Greeter for Polite {
//!     async fn hello(&self, _: Context, name: String) -> Result<Greeting, Error> {
//!         Ok(Greeting { text: format!("Good day, {name}.") })
//!     }
//! }
//!
//! # fn main() -> Result<(), Error> {
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! // The server is a tower service, and any tower service is a client's way to its server.
//! let server = GreeterServer::new(Polite);
//! let client = GreeterClient::grpc(server);
//! let greeting = client.hello(Context::new(), "Ada".into()).await?;
//! assert_eq!(greeting.text, "Good day, Ada.");
//! assert!(greeter::proto().contains("rpc Hello(HelloRequest) returns (Greeting)"));
//! # Ok(()) }) }
//! ```
//!
//! A method may have an HTTP verb and a path of its own. What stands in a path or a query string is a single text,
//! and anything else is told at its type:
//!
//! ```compile_fail,E0080
//! # use kit::{Context, Error};
//! #[kit::service]
//! pub trait Greeter {
//!     #[kit(route(GET, "/greetings/{name}"))]
//!     async fn hello(&self, ctx: Context, name: String, titles: Vec<String>) -> Result<(), Error>;
//! }
//! # fn main() {}
//! ```
//!
//! With `title: Option<String>`, it is `GET /greetings/Ada?title=Lady`:
//!
//! ```
//! # use kit::{Context, Error};
//! #[kit::service]
//! pub trait Greeter {
//!     #[kit(route(GET, "/greetings/{name}"))]
//!     async fn hello(&self, ctx: Context, name: String, title: Option<String>) -> Result<(), Error>;
//! }
//! # fn main() {}
//! ```
//!
//! The macro emits little. What is the same for every service is here: [`server`] and [`client`] do one call each
//! way, [`message`] is protobuf, [`schema`] describes a service, and the `.proto` text and the OpenAPI document are
//! made from that description.

pub mod client;
pub mod codec;
mod descriptor;
pub(crate) mod grpc;
mod json;
pub mod message;
mod openapi;
mod params;
mod proto;
mod received;
mod reflection;
pub mod rules;
pub mod schema;
mod sent;
pub mod server;
mod whole;

use bytes::Bytes;
use http_body::Body;
use http_body_util::{BodyExt, Collected, LengthLimitError, Limited};

use crate::{BoxError, body::TooLarge, rejection::find_cause};

/// What generated code names; not for anybody else.
#[doc(hidden)]
pub mod generated {
    pub use http;
    pub use http_body;
    pub use serde;
    pub use serde_json;
    pub use tower_service;

    pub use super::message::generated::*;
}

/// Why a body was not read to its end.
pub(crate) enum Unread {
    /// It has more bytes than this.
    TooLong { limit: usize },
    /// It broke off.
    Broken(BoxError),
}

/// Reads a whole body of at most `limit` bytes.
pub(crate) async fn collect<B>(body: B, limit: usize) -> Result<Collected<Bytes>, Unread>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    // What says that it is too long is not read at all.
    if body.size_hint().lower() > limit as u64 {
        return Err(Unread::TooLong { limit });
    }
    let body = std::pin::pin!(body);
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected),
        Err(error) if error.is::<LengthLimitError>() => Err(Unread::TooLong { limit }),
        // A layer outside has set a lower limit.
        Err(error) => Err(match find_cause::<TooLarge>(&*error) {
            Some(TooLarge { limit }) => Unread::TooLong { limit: *limit },
            None => Unread::Broken(error),
        }),
    }
}
