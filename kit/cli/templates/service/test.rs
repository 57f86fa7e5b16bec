//! __name__ as others meet it: over a socket, through the client that they would use.

use kit::{client::Client, discovery::Fixed, metrics::observer, server::Listeners};
use tower::ServiceExt;

#[tokio::test]
async fn it_answers_and_ends_when_it_is_told_to() -> anyhow::Result<()> {
    let mut config = __module__::Config::default();
    config.server.listen = "127.0.0.1:0".parse()?;
    config.server.admin = Some("127.0.0.1:0".parse()?);
    config.server.drain.watchers = std::time::Duration::ZERO;
    let listeners = Listeners::bind(&config.server)?;
    let address = listeners.address().to_string().parse()?;
    let fixed = Fixed::new([("__name__".parse()?, vec![address])]);
    let client = Client::new(&fixed, "__name__".parse()?, Default::default(), observer());
    // It runs until these calls are over. Methods are called through `__Trait__Client::__wire__(client)`.
    let calls = async {
        let answer = client.oneshot(Default::default()).await;
        let status = answer.expect("it answers").status();
        assert_eq!(status, 404, "nothing is offered at /");
    };
    let running = __module__::run(config, listeners, calls);
    running.await.map_err(anyhow::Error::from_boxed)
}
