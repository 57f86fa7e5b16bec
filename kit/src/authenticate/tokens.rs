//! Callers by secrets out of a file.

use std::{fmt, fs, hint::black_box, io, path::Path, sync::Arc};

use http::{header, request};
use serde::{Deserialize, Deserializer, de};

use super::{Authenticate, Refused};
use crate::context::Identity;

/// Knows callers by bearer tokens (RFC 6750) out of a TOML file, which a secret store mounts and nobody else reads:
///
/// ```toml
/// [[tokens]]
/// name = "nightly-report"
/// token = "9c41f0a2d3b8..."       # openssl rand -hex 32
/// scopes = ["users:read"]
/// ```
///
/// It is read once, when the server starts. In a configuration it is the path of the file. Clones share the tokens, and
/// how long it takes to find one says nothing about the others.
#[derive(Clone)]
pub struct StaticTokens(Arc<[Token]>);

struct Token {
    secret: Box<str>,
    identity: Identity,
}

/// Why a file of tokens cannot be used. It never says what stands in it.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTokens {
    /// It cannot be read.
    #[error("the file of tokens cannot be read")]
    Unreadable(#[from] io::Error),
    /// It is not what it should be.
    #[error("the file of tokens is not valid: {0}")]
    Malformed(String),
    /// A token has fewer than 16 characters, or some that no header can hold.
    #[error("the token of {name:?} must have at least 16 visible ASCII characters")]
    Guessable {
        /// Whose it is.
        name: String,
    },
    /// Two callers have the same token.
    #[error("{name:?} has the same token as another")]
    Doubled {
        /// Whose it is.
        name: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    tokens: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    token: String,
    #[serde(default)]
    scopes: Vec<Box<str>>,
}

impl StaticTokens {
    /// Those in the file at `path`.
    ///
    /// # Errors
    /// It cannot be read, or is not what it should be.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, InvalidTokens> {
        Self::parse(&fs::read_to_string(path)?)
    }

    /// Those in a text in the form of such a file.
    ///
    /// # Errors
    /// It is not what it should be.
    pub fn parse(text: &str) -> Result<Self, InvalidTokens> {
        // What toml shows of the text around a mistake may be a secret.
        let file: File = toml::from_str(text)
            .map_err(|error| InvalidTokens::Malformed(error.message().to_owned()))?;
        let mut tokens: Vec<Token> = Vec::new();
        for Entry {
            name,
            token,
            scopes,
        } in file.tokens
        {
            if token.len() < 16 || !token.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(InvalidTokens::Guessable { name });
            }
            if tokens.iter().any(|other| *other.secret == *token) {
                return Err(InvalidTokens::Doubled { name });
            }
            tokens.push(Token {
                secret: token.into(),
                identity: Identity {
                    name: name.into(),
                    scopes: scopes.into(),
                },
            });
        }
        Ok(Self(tokens.into()))
    }
}

impl Authenticate for StaticTokens {
    fn authenticate(&self, head: &request::Parts) -> Result<Option<Identity>, Refused> {
        let Some(credentials) = head.headers.get(header::AUTHORIZATION) else {
            return Ok(None);
        };
        let shown = bearer(credentials.as_bytes()).ok_or(Refused::Malformed)?;
        // All are looked at, whichever it is.
        let found = self.0.iter().fold(None, |found, token| {
            let is_same = same(token.secret.as_bytes(), shown);
            if is_same { Some(token) } else { found }
        });
        match found {
            Some(token) => Ok(Some(token.identity.clone())),
            None => Err(Refused::Invalid),
        }
    }
}

/// What follows the scheme, whose case does not matter.
fn bearer(credentials: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = credentials.split_at_checked(7)?;
    let token = token.trim_ascii_start();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

/// Whether two texts are the same, in a time that only depends on how long they are.
fn same(one: &[u8], other: &[u8]) -> bool {
    let differences = one
        .iter()
        .zip(other)
        .fold(0, |all, (a, b)| black_box(all | (a ^ b)));
    one.len() == other.len() && black_box(differences) == 0
}

impl fmt::Debug for StaticTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|token| &token.identity.name);
        f.debug_list().entries(names).finish()
    }
}

impl PartialEq for StaticTokens {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<'de> Deserialize<'de> for StaticTokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = String::deserialize(deserializer)?;
        Self::read(&path).map_err(|error| {
            let error = crate::error::Chain(&error);
            de::Error::custom(format!("{path}: {error}"))
        })
    }
}
