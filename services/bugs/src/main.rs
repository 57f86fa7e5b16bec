//! One instance of bugs, configured by the environment; see `bugs::Config`.

use kit::server::{Listeners, shutdown_signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config: bugs::Config = kit::config::load_with(bugs::DEFAULTS)?;
    kit::log::init(&config.log)?;
    let listeners = Listeners::bind(&config.server)?;
    bugs::run(config, listeners, shutdown_signal())
        .await
        .map_err(anyhow::Error::from_boxed)
}
