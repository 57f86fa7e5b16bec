//! Names of services, and what they become in Rust.

use std::str::FromStr;

use anyhow::{Result, bail};

/// A service's name: one DNS label that begins with a letter, so that it is a crate's name too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name(String);

impl FromStr for Name {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if text.is_empty() || text.len() > 63 || !text.chars().all(allowed) {
            bail!("a name has 1 to 63 of a-z, 0-9 and -, such as users or bug-reports");
        }
        if !text.starts_with(|c: char| c.is_ascii_lowercase())
            || text.ends_with('-')
            || text.contains("--")
        {
            bail!("a name begins with a letter, and single dashes stand between its words");
        }
        if RESERVED.contains(&text)
            || syn::parse_str::<syn::Ident>(&text.replace('-', "_")).is_err()
        {
            bail!(
                "a package cannot be called {text}: the word has another meaning in Rust or here"
            );
        }
        Ok(Self(text.to_owned()))
    }
}

/// Crates that every service needs or that cargo has already, and modules that every service has.
const RESERVED: &[&str] = &[
    "alloc",
    "anyhow",
    "api",
    "app",
    "build",
    "config",
    "core",
    "deps",
    "examples",
    "incremental",
    "kit",
    "main",
    "proc-macro",
    "std",
    "test",
    "tokio",
    "tower",
    "tracing",
];

impl Name {
    /// As it was given: the package, the folder, and what is discovered.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// As a module, a crate in code, or a variable: `bug_reports`.
    pub(crate) fn snake(&self) -> String {
        self.0.replace('-', "_")
    }

    /// As a trait or another type: `BugReports`.
    pub(crate) fn camel(&self) -> String {
        camel(&self.0)
    }
}

/// `bug-reports` or `bug_reports` as `BugReports`.
pub(crate) fn camel(text: &str) -> String {
    text.split(['-', '_'])
        .map(|word| {
            let mut letters = word.chars();
            let first = letters.next().map(|letter| letter.to_ascii_uppercase());
            first.into_iter().chain(letters).collect::<String>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_dns_label_and_a_crate() {
        for good in ["users", "bug-reports", "a", "v2"] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in [
            "", "Users", "-a", "a-", "a--b", "2a", "a_b", "ä", "struct", "kit", "../a", "a b",
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_is_written_as_rust_writes_types_and_modules() {
        let name: Name = "bug-reports".parse().unwrap();
        assert_eq!(
            (name.camel().as_str(), name.snake().as_str()),
            ("BugReports", "bug_reports")
        );
    }
}
