//! One trait: a server and a client, as JSON over HTTP and as gRPC. Both are plain tower services.

use kit::{BoxError, Context, Error};

#[kit::service]
pub(crate) trait Adder {
    #[kit(idempotent)]
    async fn add(&self, ctx: Context, left: u32, right: u32) -> Result<Sum, Error>;
}

#[derive(Debug, serde::Serialize, serde::Deserialize, kit::Message)]
pub(crate) struct Sum {
    sum: u32,
}

struct Careful;

impl Adder for Careful {
    async fn add(&self, _: Context, left: u32, right: u32) -> Result<Sum, Error> {
        let sum = left.checked_add(right);
        let sum = sum.ok_or_else(|| Error::invalid("right", "must not be so large"))?;
        Ok(Sum { sum })
    }
}

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    // Any stack of layers may stand between them; `kit::client::Client` leads to servers elsewhere.
    let server = AdderServer::new(Careful);
    let json = AdderClient::json(server.clone());
    assert_eq!(json.add(Context::new(), 2, 3).await?.sum, 5);
    let grpc = AdderClient::grpc(server);
    assert_eq!(grpc.add(Context::new(), 2, 3).await?.sum, 5);

    let error = grpc.add(Context::new(), 1, u32::MAX).await;
    println!("{}", error.expect_err("refused").message());
    Ok(())
}
