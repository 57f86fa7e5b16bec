//! __name__ as others meet it: over a socket, through the client that they would use.

use std::time::Duration;

use anyhow::Result;
use kit::{
    Body,
    client::{Client, ClientConfig},
    discovery::Fixed,
    metrics,
    server::{DrainConfig, Listeners, ServerConfig},
};
use tokio::sync::oneshot;
use tower::ServiceExt;
use __module__::Config;

#[tokio::test]
async fn it_answers_and_ends_when_it_is_told_to() -> Result<()> {
    let config = Config {
        server: ServerConfig {
            admin: Some("127.0.0.1:0".parse()?),
            drain: DrainConfig {
                watchers: Duration::ZERO,
                ..DrainConfig::default()
            },
            ..ServerConfig::on_port(0)
        },
        ..Config::default()
    };
    let listeners = Listeners::bind(&config.server)?;
    let address = listeners.address().to_string().parse()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(__module__::run(config, listeners, async {
        let _ = stopped.await;
    }));

    // Methods are called through `__Trait__Client::json(client)` or `__Trait__Client::grpc(client)`.
    let fixed = Fixed::new([("__name__".parse()?, vec![address])]);
    let client = Client::new(
        &fixed,
        "__name__".parse()?,
        ClientConfig::default(),
        metrics::observer(),
    );
    let request = http::Request::post("/no-such-method").body(Body::empty())?;
    let response = client.oneshot(request).await.map_err(anyhow::Error::from_boxed)?;
    assert_eq!(response.status(), http::StatusCode::NOT_FOUND);

    drop(stop);
    running.await?.map_err(anyhow::Error::from_boxed)
}
