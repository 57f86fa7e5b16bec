//! Typed names. Each is valid by construction and doubles as a metric label, so label sets stay bounded.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use crate::wire::Wire;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {rule}")]
pub struct InvalidName {
    what: &'static str,
    text: String,
    rule: &'static str,
}

/// The name under which a service is registered and discovered: one DNS label (RFC 1123), that is 1 to 63 of
/// `a-z`, `0-9` and `-`, neither first nor last a `-`.
///
/// Cloning copies a pointer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Arc<str>);

impl FromStr for ServiceName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = |rule| InvalidName {
            what: "service name",
            text: text.chars().take(80).collect(),
            rule,
        };
        if text.is_empty() || text.len() > 63 {
            return Err(invalid("it must have 1 to 63 characters"));
        }
        if !text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        {
            return Err(invalid("only a-z, 0-9 and - may stand in it"));
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(invalid("it must begin and end with a letter or a digit"));
        }
        Ok(Self(text.into()))
    }
}

/// Tells one instance of a service from all others, for as long as it is registered: 1 to 255 visible ASCII
/// characters.
///
/// Cloning copies a pointer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(Arc<str>);

impl FromStr for EndpointId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = |rule| InvalidName {
            what: "endpoint id",
            text: text.chars().take(80).collect(),
            rule,
        };
        if text.is_empty() || text.len() > 255 {
            return Err(invalid("it must have 1 to 255 characters"));
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(invalid("only visible ASCII characters may stand in it"));
        }
        Ok(Self(text.into()))
    }
}

/// What both names can do: print, compare and (de)serialize as the text they are.
macro_rules! text {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
text!(ServiceName);
text!(EndpointId);

/// One method of a service trait. Generated once per method by [`macro@crate::service`], as a `static`.
///
/// A generated client puts it into the outgoing request's [`Context`](crate::Context); a generated server puts
/// it as `&'static Method` into the extensions of its response, where the layers outside read it for labels: a
/// path that somebody sent never becomes a label.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Method {
    /// Package and service in protobuf's words, such as `users.Users`.
    pub service: &'static str,
    /// The method in protobuf's words, such as `Create`.
    pub name: &'static str,
    /// Both as gRPC's path, such as `/users.Users/Create`.
    pub grpc_path: &'static str,
    /// How it is asked for as JSON over HTTP: `POST` where its route says nothing else. Over gRPC it is always
    /// `POST`.
    pub http_method: http::Method,
    /// Where it answers JSON over HTTP, such as `/create` or, with the argument `id` in it, `/users/{id}`.
    pub http_path: &'static str,
    /// Whether calling it twice is the same as calling it once, so that it may be retried and hedged.
    pub idempotent: bool,
    /// Whether it answers with any number of messages, one after the other. Then what the stacks on both sides bound is
    /// the time to the first word of the answer, and the timeout here bounds all of it.
    pub streaming: bool,
    /// On which wires it is served.
    pub transport: Transport,
    /// Who may call it.
    pub access: Access,
    /// What a server sheds first when it has too much to do.
    pub priority: Priority,
    /// The longest that a server takes for it, and what a client waits whose caller sets no deadline. `None`: as
    /// long as the stacks on both sides allow. Neither is ever made longer by it.
    pub timeout: Option<Duration>,
}

/// On which wires a service is served and called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// As JSON over HTTP.
    Http,
    /// Over gRPC.
    Grpc,
    /// Over either, on one port.
    Both,
}

impl Transport {
    /// Whether it has this wire.
    pub fn has(self, wire: Wire) -> bool {
        match self {
            Self::Http => wire == Wire::Json,
            Self::Grpc => wire == Wire::Grpc,
            Self::Both => true,
        }
    }
}

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Whoever reaches it.
    Anyone,
    /// Who has said who it is, see [`crate::authenticate`].
    Authenticated,
    /// Who has, and was given this scope.
    Scope(&'static str),
}

/// What a server sheds first when it has too much to do, see [`crate::concurrency`]. The greater, the longer it is
/// served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Can wait or be left out: what runs by night, what fills a cache.
    Sheddable,
    /// What most calls are.
    #[default]
    Normal,
    /// What people or money wait for, when all else has to stand back.
    Critical,
}

impl Priority {
    /// The word, as in the header and in the attribute.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sheddable => "sheddable",
            Self::Normal => "normal",
            Self::Critical => "critical",
        }
    }

    /// What `word` stands for.
    pub fn from_word(word: &[u8]) -> Option<Self> {
        [Self::Sheddable, Self::Normal, Self::Critical]
            .into_iter()
            .find(|priority| priority.as_str().as_bytes() == word)
    }
}

impl Method {
    /// The name as it stands in labels and span names, such as `users.Users/Create`.
    pub fn full_name(&self) -> &'static str {
        &self.grpc_path[1..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_name_is_one_dns_label() {
        for good in ["users", "a", "bug-tracker-2", &"x".repeat(63)] {
            assert_eq!(good.parse::<ServiceName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "Users",
            "users.prod",
            "-users",
            "users-",
            "us ers",
            "üsers",
            &"x".repeat(64),
        ] {
            assert!(bad.parse::<ServiceName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_error_says_which_rule_was_broken() {
        let error = "Users".parse::<ServiceName>().unwrap_err().to_string();
        assert_eq!(
            error,
            "service name \"Users\" is not valid: only a-z, 0-9 and - may stand in it"
        );
        let error = "".parse::<EndpointId>().unwrap_err().to_string();
        assert_eq!(
            error,
            "endpoint id \"\" is not valid: it must have 1 to 255 characters"
        );
    }
}
