//! A service in the process of a test: the real one, over real sockets, on ports that the system chooses; and a program of it,
//! for what only a process can do, such as being killed. What a test cannot go on without makes it panic.
//!
//! ```
//! use kit::{Context, Error, testing::Instance};
//!
//! /// Adds.
//! #[kit::service]
//! pub trait Sums {
//!     /// The sum.
//!     async fn add(&self, ctx: Context, left: i32, right: i32) -> Result<i32, Error>;
//! }
//!
//! #[derive(Clone)]
//! struct Handler;
//!
//! impl Sums for Handler {
//!     async fn add(&self, _: Context, left: i32, right: i32) -> Result<i32, Error> {
//!         Ok(left + right)
//!     }
//! }
//!
//! # #[tokio::main]
//! # async fn main() {
//! let sums = Instance::serve("sums", SumsServer::new(Handler));
//! let client = SumsClient::grpc(sums.client());
//! assert_eq!(client.add(Context::new(), 1, 2).await.unwrap(), 3);
//! sums.stop().await.unwrap();
//! # }
//! ```

mod answer;
mod instance;
mod process;

pub use self::{
    answer::Answer,
    instance::{Instance, Stop, server_config},
    process::Process,
};
