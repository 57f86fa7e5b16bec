//! Configuration, from a file and the environment, into plain structs with defaults.
//!
//! A key of the environment begins with `KIT_`, and `__` leads one level deeper: `KIT_SERVER__LISTEN` is the key
//! `server.listen`. `KIT_CONFIG` names an optional TOML file with the same keys; the environment wins over it,
//! and both win over the defaults. Durations are texts such as `30s` or `1m 30s`.
//!
//! Nothing is guessed: a key that nobody knows, or a value that breaks a rule, is an error which names the key,
//! where it came from, and the rule.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use config::{Config, Environment, File, FileFormat};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    client::ClientConfig, discovery::DiscoveryConfig, log::LogConfig, server::ServerConfig,
};

const PREFIX: &str = "KIT_";
/// Names the file, so it is no key itself.
const FILE: &str = "KIT_CONFIG";

/// What every service has to be told. A service that needs more writes a struct of its own with these fields
/// among others.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceConfig {
    /// Where it listens, what a peer may do, how it ends.
    pub server: ServerConfig,
    /// Where other services are.
    pub discovery: DiscoveryConfig,
    /// How they are called.
    pub client: ClientConfig,
    /// How logs are written.
    pub log: LogConfig,
    /// The folder for what it keeps. Default `./data`.
    pub data: PathBuf,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            server: ServerConfig::default(),
            discovery: DiscoveryConfig::default(),
            client: ClientConfig::default(),
            log: LogConfig::default(),
            data: "./data".into(),
        }
    }
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file that `KIT_CONFIG` names cannot be read, or is not TOML.
    #[error("the configuration file {path} (KIT_CONFIG) cannot be used: {reason}")]
    File {
        /// Which file.
        path: String,
        /// Why.
        reason: String,
    },
    /// A value is missing, unknown, or breaks a rule.
    #[error("configuration: {key}{origin}: {rule}")]
    Key {
        /// Where: the key with dots.
        key: String,
        /// Where it came from, such as ` (KIT_SERVER__LISTEN)`; empty where that is not known.
        origin: String,
        /// The rule that it breaks.
        rule: String,
    },
    /// A variable of the environment is not UTF-8.
    #[error("the environment variable {0} is not UTF-8")]
    NotUtf8(String),
}

/// Reads the configuration of this process.
pub fn load<T: DeserializeOwned>() -> Result<T, ConfigError> {
    load_with(&[])
}

/// The same, with defaults that are not those of the type, each a key with dots and its value: a service has a
/// port of its own.
///
/// ```no_run
/// use kit::config::{ServiceConfig, load_with};
///
/// let config: ServiceConfig = load_with(&[("server.listen", "127.0.0.1:8801")])?;
/// # Ok::<(), kit::config::ConfigError>(())
/// ```
pub fn load_with<T: DeserializeOwned>(defaults: &[(&str, &str)]) -> Result<T, ConfigError> {
    from_environment(env::vars_os(), defaults)
}

/// The same from an environment that is not this process's own.
pub fn from_environment<T: DeserializeOwned>(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    defaults: &[(&str, &str)],
) -> Result<T, ConfigError> {
    let mut variables = BTreeMap::new();
    for (name, value) in environment {
        let Ok(name) = name.into_string() else {
            continue;
        };
        if name.starts_with(PREFIX) {
            let value = value
                .into_string()
                .map_err(|_| ConfigError::NotUtf8(name.clone()))?;
            variables.insert(name, value);
        }
    }
    let file = variables.remove(FILE);
    let mut config = Config::builder();
    for (key, value) in defaults {
        config = config
            .set_default(*key, *value)
            .map_err(|error| whole(&error))?;
    }
    if let Some(path) = &file {
        let text = std::fs::read_to_string(Path::new(path)).map_err(|error| ConfigError::File {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        config = config.add_source(File::from_str(&text, FileFormat::Toml));
    }
    let environment = Environment::with_prefix("KIT")
        .prefix_separator("_")
        .separator("__")
        .source(Some(
            variables
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        ));
    let config = config
        .add_source(environment)
        .build()
        .map_err(|error| match &file {
            Some(path) => ConfigError::File {
                path: path.clone(),
                reason: error.to_string(),
            },
            None => whole(&error),
        })?;
    serde_path_to_error::deserialize(config).map_err(|error| {
        let key = error.path().to_string();
        let name = format!("{PREFIX}{}", key.to_uppercase().replace('.', "__"));
        let below = format!("{name}__");
        let mut named: Vec<_> = variables
            .keys()
            .map(String::as_str)
            .filter(|variable| *variable == name || variable.starts_with(&below))
            .collect();
        if named.is_empty() {
            named.extend(file.as_deref());
        }
        let origin = if named.is_empty() {
            String::new()
        } else {
            format!(" ({})", named.join(", "))
        };
        let rule = error.inner().to_string();
        // The path says it already, and better.
        let rule = match rule.rsplit_once(" for key `") {
            Some((rule, _)) => rule.to_owned(),
            None => rule,
        };
        ConfigError::Key { key, origin, rule }
    })
}

fn whole(error: &config::ConfigError) -> ConfigError {
    ConfigError::Key {
        key: ".".into(),
        origin: String::new(),
        rule: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(environment: &[(&str, &str)]) -> Result<ServiceConfig, ConfigError> {
        let environment = environment
            .iter()
            .map(|(name, value)| (name.into(), value.into()));
        from_environment(environment, &[])
    }

    fn refused(variable: &str, value: &str) -> String {
        read(&[(variable, value)]).unwrap_err().to_string()
    }

    #[test]
    fn the_environment_wins_over_the_file_and_both_over_the_defaults() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "data = '/file'\n[server]\nidle = '1m 30s'\nmax_streams = 7\n[discovery.fixed]\nusers = ['a:1', 'b:2']\n",
        )
        .unwrap();
        let environment = [
            ("KIT_CONFIG", file.path().to_str().unwrap()),
            ("KIT_SERVER__MAX_STREAMS", "8"),
            ("KIT_SERVER__ADVERTISE", "users.example:80"),
            ("KIT_SERVER__RATE_LIMIT__BURST", "10"),
            ("KIT_SERVER__RATE_LIMIT__INTERVAL", "100ms"),
            ("KIT_SERVER__FAULT__ERROR__RATIO", "0.5"),
            ("KIT_SERVER__FAULT__ERROR__CODE", "unavailable"),
            ("PATH", "/bin"),
        ]
        .map(|(name, value)| (name.into(), value.into()));
        let defaults = [
            ("server.listen", "127.0.0.1:8801"),
            ("server.max_streams", "9"),
        ];
        let config: ServiceConfig = from_environment(environment, &defaults).unwrap();
        assert_eq!(config.server.listen.port(), 8801);
        assert_eq!(config.server.max_streams.get(), 8);
        assert_eq!(config.server.idle.as_secs(), 90);
        assert_eq!(config.data, PathBuf::from("/file"));
        assert_eq!(config.discovery.fixed[&"users".parse().unwrap()].len(), 2);
        assert_eq!(
            config.server.advertise.unwrap().as_str(),
            "users.example:80"
        );
        assert_eq!(config.server.rate_limit.unwrap().burst.get(), 10);
        assert!(config.server.fault.error.is_some());
    }

    #[test]
    fn an_error_names_the_key_where_it_came_from_and_the_rule() {
        for (variable, value, error) in [
            (
                "KIT_SERVER__LISTEN",
                "nonsense",
                "configuration: server.listen (KIT_SERVER__LISTEN): invalid socket address syntax",
            ),
            (
                "KIT_SERVER__IDLE",
                "1 banana",
                r#"configuration: server.idle (KIT_SERVER__IDLE): invalid value: string "1 banana", expected a duration"#,
            ),
            (
                "KIT_SERVER__MAX_CONNECTIONS",
                "0",
                "configuration: server.max_connections (KIT_SERVER__MAX_CONNECTIONS): invalid value: integer `0`, expected a nonzero usize",
            ),
            (
                "KIT_BOGUS",
                "1",
                "configuration: bogus (KIT_BOGUS): unknown field `bogus`, expected one of `server`, `discovery`, `client`, `log`, `data`",
            ),
            (
                "KIT_DISCOVERY__FIXED__USERS",
                "127.0.0.1",
                r#"configuration: discovery.fixed.users (KIT_DISCOVERY__FIXED__USERS): "127.0.0.1" is not an address of the form host:port"#,
            ),
        ] {
            assert_eq!(refused(variable, value), error);
        }
        let unknown = refused("KIT_SERVER__LISSTEN", "127.0.0.1:1");
        assert!(
            unknown.starts_with(
                "configuration: server.lissten (KIT_SERVER__LISSTEN): unknown field `lissten`"
            ),
            "{unknown}"
        );
    }

    #[test]
    fn a_file_that_is_named_must_be_there_and_be_toml() {
        let missing = refused("KIT_CONFIG", "/nowhere/kit.toml");
        assert!(
            missing.contains("/nowhere/kit.toml (KIT_CONFIG)"),
            "{missing}"
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "server = [").unwrap();
        let path = file.path().to_str().unwrap();
        let broken = refused("KIT_CONFIG", path);
        assert!(broken.contains(path), "{broken}");
        std::fs::write(file.path(), "[server]\nidle = 'x'").unwrap();
        let wrong = refused("KIT_CONFIG", path);
        assert!(wrong.contains(&format!("server.idle ({path})")), "{wrong}");
    }

    #[test]
    fn a_token_is_not_repeated() {
        let error = refused("KIT_DISCOVERY__CONSUL__TOKEN", "hunter2\n");
        assert!(error.contains("discovery.consul.token"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
        let config = read(&[("KIT_DISCOVERY__CONSUL__TOKEN", "hunter2")]).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
