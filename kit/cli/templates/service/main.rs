//! One instance of __name__, configured by the environment; see `__module__::Config`.

use kit::server::{Listeners, shutdown_signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config: __module__::Config = kit::config::load_with(__module__::DEFAULTS)?;
    kit::log::init(&config.log)?;
    let listeners = Listeners::bind(&config.server)?;
    __module__::run(config, listeners, shutdown_signal())
        .await
        .map_err(anyhow::Error::from_boxed)
}
