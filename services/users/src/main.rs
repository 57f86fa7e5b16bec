//! One instance of users, configured by the environment; see `users::Config`.

use kit::server::{Listeners, shutdown_signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config: users::Config = kit::config::load_with(users::DEFAULTS)?;
    kit::log::init(&config.log)?;
    let listeners = Listeners::bind(&config.server)?;
    users::run(config, listeners, shutdown_signal())
        .await
        .map_err(anyhow::Error::from_boxed)
}
