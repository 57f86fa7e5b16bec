//! __name__ as others meet it: over a socket, through the client that they would use.

use __module__::Config;
use kit::testing::Instance;

#[tokio::test]
async fn it_answers_and_ends_when_it_is_told_to() -> anyhow::Result<()> {
    let running = Instance::start(|server, listeners, stop| {
        let config = Config { server, ..Config::default() };
        __module__::run(config, listeners, stop)
    });
    // Methods are called through `__Trait__Client::__wire__(running.client())`.
    let answer = running.post("/", "{}").await;
    assert_eq!(answer.status, 404, "nothing is offered at /");
    running.stop().await.map_err(anyhow::Error::from_boxed)
}
