//! One instance of notificator, configured by the environment; see `notificator::Config`.

use kit::server::{Listeners, shutdown_signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config: notificator::Config = kit::config::load_with(notificator::DEFAULTS)?;
    kit::log::init(&config.log)?;
    let listeners = Listeners::bind(&config.server)?;
    notificator::run(config, listeners, shutdown_signal())
        .await
        .map_err(anyhow::Error::from_boxed)
}
