//! One instance of __name__, configured by the environment: see [`kit::config`].

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config: __module__::Config = kit::config::load_with(__module__::DEFAULTS)?;
    kit::log::init(&config.log)?;
    let listeners = kit::server::Listeners::bind(&config.server)?;
    let running = __module__::run(config, listeners, kit::server::shutdown_signal());
    running.await.map_err(anyhow::Error::from_boxed)
}
