//! The whole client stack with a list of endpoints: deadline, retries, circuit breakers, balancing, connections.

use http::{Request, uri::Authority};
use http_body_util::BodyExt;
use kit::{
    Body, BoxError,
    client::{Client, ClientConfig},
    discovery::Fixed,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tower::ServiceExt;

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address: Authority = listener.local_addr()?.to_string().parse()?;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let _request = stream.read(&mut [0; 4096]).await?;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
            .await
    });

    // Nobody listens at the other address: what never arrived there is sent here.
    let addresses = vec![Authority::from_static("127.0.0.1:1"), address];
    let discovery = Fixed::new([("users".parse()?, addresses)]);
    let (config, observer) = (ClientConfig::default(), kit::event::nobody());
    let client = Client::new(&discovery, "users".parse()?, config, observer);
    let request = Request::post("/hello").body(Body::empty())?;
    let response = client.oneshot(request).await?;
    let body = response.into_body().collect().await?.to_bytes();
    println!("the answer is {body:?}");
    assert_eq!(body, "hello");
    Ok(server.await??)
}
