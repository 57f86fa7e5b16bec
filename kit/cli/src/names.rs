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

/// What would stand for two things where a service or a middleware has this name.
const RESERVED: &[&str] = &[
    // Crates that services and their clients need, or that cargo has already.
    "alloc",
    "anyhow",
    "build",
    "clap",
    "core",
    "deps",
    "examples",
    "http",
    "incremental",
    "kit",
    "proc-macro",
    "serde",
    "serde-json",
    "std",
    "test",
    "tokio",
    "tower",
    "tracing",
    // Modules and files that every service has.
    "api",
    "app",
    "config",
    "endpoints",
    "lib",
    "logging",
    "main",
    "mod",
    // Types and traits that generated code speaks of, beside the one that would be called like them.
    "box",
    "clone",
    "code",
    "context",
    "copy",
    "debug",
    "default",
    "drop",
    "error",
    "future",
    "handler",
    "layer",
    "option",
    "poll",
    "result",
    "send",
    "service",
    "sized",
    "stream",
    "string",
    "sync",
    "vec",
    // What stands beside services in docker-compose.yml and in Kubernetes.
    "consul",
    "prometheus",
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

    /// As the module that `#[kit::service]` writes beside the trait: what it makes of the trait's name. Not always
    /// [`snake`](Self::snake): `log-2` has the trait `Log2` and the module `log2`.
    pub(crate) fn module(&self) -> String {
        let camel = self.camel();
        let letters: Vec<_> = camel.chars().collect();
        let begins = |at: usize| {
            letters[at].is_ascii_uppercase()
                && at > 0
                && (!letters[at - 1].is_ascii_uppercase()
                    || letters.get(at + 1).is_some_and(char::is_ascii_lowercase))
        };
        let words = (0..letters.len()).map(|at| match begins(at) {
            true => format!("_{}", letters[at].to_ascii_lowercase()),
            false => letters[at].to_ascii_lowercase().to_string(),
        });
        words.collect()
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
            "", "Users", "-a", "a-", "a--b", "2a", "a_b", "ä", "struct", "../a", "a b",
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
        for taken in RESERVED {
            let error = taken.parse::<Name>().unwrap_err().to_string();
            assert!(error.contains("has another meaning"), "{taken}: {error}");
        }
    }

    #[test]
    fn a_name_is_written_as_rust_writes_types_and_modules() {
        for (name, camel, snake, module) in [
            ("users", "Users", "users", "users"),
            ("bug-reports", "BugReports", "bug_reports", "bug_reports"),
            ("log-2", "Log2", "log_2", "log2"),
            ("v2-a", "V2A", "v2_a", "v2_a"),
            ("a-b-c", "ABC", "a_b_c", "abc"),
            ("a-bug", "ABug", "a_bug", "a_bug"),
            ("x-1-y", "X1Y", "x_1_y", "x1_y"),
        ] {
            let name: Name = name.parse().unwrap();
            let made = (name.camel(), name.snake(), name.module());
            let made = (made.0.as_str(), made.1.as_str(), made.2.as_str());
            assert_eq!(made, (camel, snake, module), "{}", name.as_str());
        }
    }
}
