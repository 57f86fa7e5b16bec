//! What stands in a path or a query string is one text.

use kit::{Context, Error};

#[kit::service]
pub trait Users {
    #[kit(route(GET, "/users/{ids}"))]
    async fn find(&self, ctx: Context, ids: Vec<u32>) -> Result<(), Error>;
}

fn main() {}
