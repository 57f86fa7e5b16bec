//! What an agent demands for access: as a text, or in a file that is read again.

use std::{fmt, path::PathBuf};

use http::HeaderValue;
use serde::{Deserialize, Deserializer, de};

use super::{ConsulConfig, ConsulError};

/// An ACL token: goes into the header `X-Consul-Token` and is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(HeaderValue);

/// A text that cannot be sent as a header. Does not repeat it, for it may be a secret with a newline behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token must have visible ASCII characters only, and at least one")]
pub struct InvalidToken;

impl std::str::FromStr for Token {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidToken);
        }
        let mut value = HeaderValue::from_str(text).map_err(|_| InvalidToken)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Where the token of a request comes from.
#[derive(Debug)]
pub(super) enum Access {
    Free,
    Token(Token),
    /// Read for each request: they are few, and whoever renews the token need tell nobody.
    File(PathBuf),
}

impl Access {
    pub(super) fn from_config(config: &ConsulConfig) -> Result<Self, ConsulError> {
        match (&config.token, &config.token_file) {
            (Some(_), Some(_)) => Err(ConsulError::Config {
                field: "token_file",
                rule: "cannot be given beside `token`".to_owned(),
            }),
            (Some(token), None) => Ok(Self::Token(token.clone())),
            (None, Some(path)) => Ok(Self::File(path.clone())),
            (None, None) => Ok(Self::Free),
        }
    }

    /// The value of the header for a request that is made now.
    pub(super) async fn header(&self) -> Result<Option<HeaderValue>, ConsulError> {
        match self {
            Self::Free => Ok(None),
            Self::Token(token) => Ok(Some(token.0.clone())),
            Self::File(path) => {
                let unusable = |source| ConsulError::TokenFile {
                    path: path.clone(),
                    source,
                };
                let text = tokio::fs::read_to_string(path)
                    .await
                    .map_err(|error| unusable(error.into()))?;
                let token: Token = text
                    .trim()
                    .parse()
                    .map_err(|error: InvalidToken| unusable(error.into()))?;
                Ok(Some(token.0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_printed() {
        let config: ConsulConfig =
            serde_json::from_str(r#"{"token": "hush", "wait": "5s"}"#).unwrap();
        assert!(config.token.is_some());
        let consul = super::super::Consul::new(config.clone(), crate::event::nobody()).unwrap();
        assert!(!format!("{config:?} {consul:?}").contains("hush"));
        let access = Access::from_config(&config).unwrap();
        assert!(!format!("{access:?}").contains("hush"));
        let error = serde_json::from_str::<ConsulConfig>(r#"{"token": "hush\n"}"#).unwrap_err();
        assert!(!error.to_string().contains("hush"));
    }

    #[tokio::test]
    async fn a_token_in_a_file_is_read_each_time_and_an_unusable_one_is_named_without_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let access = Access::File(file.path().to_owned());
        for token in ["first\n", "  second  "] {
            std::fs::write(file.path(), token).unwrap();
            let header = access.header().await.unwrap().unwrap();
            assert_eq!(header, token.trim());
            assert!(header.is_sensitive());
        }
        for bad in ["", "two words"] {
            std::fs::write(file.path(), bad).unwrap();
            let error = access.header().await.unwrap_err();
            assert!(matches!(error, ConsulError::TokenFile { .. }));
            assert!(!format!("{error:?}").contains("words"));
        }
        let path = file.path().to_owned();
        drop(file);
        let error = access.header().await.unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }

    #[test]
    fn a_token_and_a_file_exclude_each_other() {
        let config: ConsulConfig =
            serde_json::from_str(r#"{"token": "a", "token_file": "/b"}"#).unwrap();
        let error = Access::from_config(&config).unwrap_err().to_string();
        assert!(error.contains("token_file"), "{error}");
    }
}
