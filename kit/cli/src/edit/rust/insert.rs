//! Adding text between what stands in a file of Rust.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use quote::ToTokens;
use syn::{ExprLit, Item, ItemImpl, Lit, Pat, spanned::Spanned};

use super::{Method, Source, functions};

/// Text to be put in, by place.
#[derive(Debug, Default)]
pub(crate) struct Insertions(BTreeMap<usize, Vec<String>>);

impl Insertions {
    fn add(&mut self, at: usize, text: String) {
        if text.is_empty() {
            return;
        }
        self.0.entry(at).or_default().push(text);
    }

    /// Adds what another has, behind what is at the same places.
    pub(crate) fn append(&mut self, other: Self) {
        for (at, texts) in other.0 {
            self.0.entry(at).or_default().extend(texts);
        }
    }

    /// Whether there is nothing to insert.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Source {
    /// Adds methods to an implementation: each after the one that comes before it in `order`, if that is there,
    /// else at the end. `body` writes one.
    pub(crate) fn add_methods(
        &self,
        item: &ItemImpl,
        order: &[Method],
        body: impl Fn(&Method) -> String,
    ) -> Result<Insertions> {
        let mut insertions = Insertions::default();
        let present: BTreeMap<_, _> = functions(item)
            .map(|function| (function.sig.ident.to_string(), function))
            .collect();
        let mut place = None;
        for method in order {
            match present.get(&method.name) {
                Some(function) => place = self.end_of_line(function.span().byte_range().end),
                None => {
                    let is_first = item.items.is_empty() && insertions.0.is_empty();
                    let (at, text) = match place {
                        Some(at) => (at, format!("\n{}", body(method))),
                        None if is_first => (self.last_line(item)?, body(method)),
                        None => (self.last_line(item)?, format!("\n{}", body(method))),
                    };
                    insertions.add(at, text);
                }
            }
        }
        Ok(insertions)
    }

    /// Adds `use` lines, after those of the same kind: the crate's own, and all others.
    pub(crate) fn add_uses(&self, paths: impl IntoIterator<Item = String>, into: &mut Insertions) {
        let (mut last_own, mut last_other) = (None, None);
        for item in &self.file.items {
            if let Item::Use(item) = item {
                let is_own = item.tree.to_token_stream().to_string().starts_with("crate");
                let last = if is_own {
                    &mut last_own
                } else {
                    &mut last_other
                };
                *last = self.end_of_line(item.span().byte_range().end).or(*last);
            }
        }
        let (own, other): (Vec<_>, Vec<_>) = paths
            .into_iter()
            .partition(|path| path.starts_with("crate::"));
        let lines = |paths: Vec<String>| -> String {
            paths.iter().map(|path| format!("use {path};\n")).collect()
        };
        let (own, other) = (lines(own), lines(other));
        match (last_other, last_own) {
            (None, None) => {
                let groups = [other, own];
                let groups = groups.iter().filter(|group| !group.is_empty());
                let text: String = groups.map(|group| format!("{group}\n")).collect();
                into.add(self.before_items(), text);
            }
            (Some(at), None) => {
                into.add(at, other);
                if !own.is_empty() {
                    into.add(at, format!("\n{own}"));
                }
            }
            (other_at, Some(own_at)) => {
                into.add(own_at, own);
                match other_at {
                    Some(at) => into.add(at, other),
                    None if other.is_empty() => {}
                    None => into.add(self.before_items(), format!("{other}\n")),
                }
            }
        }
    }

    /// Declares a module, after those that there are.
    pub(crate) fn add_module(&self, vis: &str, name: &str, into: &mut Insertions) {
        let name = format!("{vis} mod {name};");
        let name = name.trim();
        let last = self
            .file
            .items
            .iter()
            .rfind(|item| matches!(item, Item::Mod(module) if module.content.is_none()));
        let at = last.and_then(|item| self.end_of_line(item.span().byte_range().end));
        match at {
            Some(at) => into.add(at, format!("{name}\n")),
            None => into.add(self.before_items(), format!("{name}\n\n")),
        }
    }

    /// Adds text after the last `let name = ...;` of the function `function`, in a line of its own; `false` if there
    /// is none.
    pub(crate) fn add_after_let(
        &self,
        function: &str,
        name: &str,
        text: &str,
        into: &mut Insertions,
    ) -> bool {
        let function = self.file.items.iter().find_map(|item| match item {
            Item::Fn(item) if item.sig.ident == function => Some(item),
            _ => None,
        });
        let statements = function.iter().flat_map(|function| &function.block.stmts);
        let is_it = |statement: &&syn::Stmt| match statement {
            syn::Stmt::Local(local) => {
                matches!(&local.pat, syn::Pat::Ident(pat) if pat.ident == name)
            }
            _ => false,
        };
        let last = statements.filter(is_it).reduce(|_, later| later);
        let at = last.and_then(|last| self.end_of_line(last.span().byte_range().end));
        if let Some(at) = at {
            into.add(at, format!("    {text}\n"));
        }
        at.is_some()
    }

    /// The texts that the `match` at the end of a function knows.
    pub(crate) fn known(&self, function: &str) -> Vec<String> {
        let arms = self.arms(function).unwrap_or_default();
        let text = |arm: &syn::Arm| match &arm.pat {
            Pat::Lit(ExprLit {
                lit: Lit::Str(text),
                ..
            }) => Some(text.value()),
            _ => None,
        };
        arms.iter().filter_map(text).collect()
    }

    /// Adds arms before the last one of the `match` at the end of a function; `false` if there is none.
    pub(crate) fn add_arms(&self, function: &str, arms: &str, into: &mut Insertions) -> bool {
        let last = self.arms(function).and_then(<[_]>::last);
        let at = last.and_then(|last| {
            let begin = last.span().byte_range().start;
            let line = self.text[..begin].rfind('\n').map_or(0, |end| end + 1);
            self.text[line..begin].trim().is_empty().then_some(line)
        });
        if let Some(at) = at {
            into.add(at, arms.to_owned());
        }
        at.is_some()
    }

    fn arms(&self, function: &str) -> Option<&[syn::Arm]> {
        let block = self.file.items.iter().find_map(|item| match item {
            Item::Fn(item) if item.sig.ident == function => Some(&item.block),
            _ => None,
        });
        match block?.stmts.last()? {
            syn::Stmt::Expr(syn::Expr::Match(item), _) => Some(&item.arms),
            _ => None,
        }
    }

    /// Adds text at the end.
    pub(crate) fn add_at_end(&self, text: &str, into: &mut Insertions) {
        into.add(self.text.len(), text.to_owned());
    }

    /// The text with what was inserted.
    pub(crate) fn with(&self, insertions: Insertions) -> String {
        let newline = if self.text.contains("\r\n") {
            "\r\n"
        } else {
            "\n"
        };
        let mut text = self.text.clone();
        for (at, parts) in insertions.0.into_iter().rev() {
            let part = parts.concat().replace('\n', newline);
            // A file whose last line is not ended.
            let part = match at > 0 && text[..at].ends_with('\n') || at == 0 {
                true => part,
                false => format!("{newline}{part}"),
            };
            text.insert_str(at, &part);
        }
        text
    }

    /// Where the line after `from` begins, if nothing but a comment follows `from` in its line.
    fn end_of_line(&self, from: usize) -> Option<usize> {
        let rest = &self.text[from..];
        let (line, end) = match rest.find('\n') {
            Some(end) => (&rest[..end], from + end + 1),
            None => (rest, self.text.len()),
        };
        let line = line.trim();
        (line.is_empty() || line.starts_with("//")).then_some(end)
    }

    /// Where the line of the closing brace begins.
    fn last_line(&self, item: &ItemImpl) -> Result<usize> {
        let brace = item.brace_token.span.close().byte_range().start;
        let line = self.text[..brace].rfind('\n').map_or(0, |end| end + 1);
        if !self.text[line..brace].trim().is_empty() {
            bail!(
                "{}:{}: the brace that closes this `impl` has to stand in a line of its own, for lines that exist are not changed",
                self.path.display(),
                item.brace_token.span.close().start().line
            );
        }
        Ok(line)
    }

    /// Where the first item begins: after inner comments and attributes.
    fn before_items(&self) -> usize {
        let first = self.file.items.first();
        let at = first.map_or(self.text.len(), |item| item.span().byte_range().start);
        // Comments before an item belong to it.
        let mut line = self.text[..at].rfind('\n').map_or(0, |end| end + 1);
        while let Some(end) = self.text[..line].strip_suffix('\n') {
            let start = end.rfind('\n').map_or(0, |end| end + 1);
            let text = self.text[start..end.len()].trim();
            if !text.starts_with("//") || text.starts_with("//!") {
                break;
            }
            line = start;
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn source(text: &str) -> Source {
        let folder = Path::new("/src");
        Source::parse(folder, &folder.join("users.rs"), text.to_owned()).unwrap()
    }

    /// The text with what its implementation of `Users` lacks of these methods.
    fn completed(text: &str, methods: &str) -> Result<String> {
        let api = source(&format!("#[kit::service]\ntrait Users {{\n{methods}}}\n"));
        let order = api.trait_methods(api.service("Users").unwrap());
        let source = source(text);
        let item = source.implementations("Users").next().unwrap();
        let body = |method: &Method| format!("    {} {{}}\n", method.signature);
        Ok(source.with(source.add_methods(item, &order, body)?))
    }

    const METHODS: &str =
        "    async fn a(&self);\n    async fn b(&self);\n    async fn c(&self);\n";

    #[test]
    fn a_method_goes_where_the_trait_has_it() {
        let text = "impl Users for X {\n    async fn b(&self) { 1 } // b\n    // between\n    fn z() {}\n}\n";
        assert_eq!(
            completed(text, METHODS).unwrap(),
            "impl Users for X {\n    async fn b(&self) { 1 } // b\n\n    async fn c(&self) {}\n    // between\n    fn z() {}\n\n    async fn a(&self) {}\n}\n"
        );
    }

    #[test]
    fn an_implementation_without_methods_gets_them_all() {
        let after = completed("impl Users for X {\n}\n", METHODS).unwrap();
        assert_eq!(
            after,
            "impl Users for X {\n    async fn a(&self) {}\n\n    async fn b(&self) {}\n\n    async fn c(&self) {}\n}\n"
        );
    }

    #[test]
    fn a_line_that_would_have_to_be_split_is_left_alone_and_told() {
        let error = completed("\nimpl Users for X {}\n", METHODS).unwrap_err();
        let error = error.to_string();
        assert!(
            error.starts_with("/src/users.rs:2: the brace that closes"),
            "{error}"
        );
    }

    #[test]
    fn letters_of_more_than_a_byte_and_other_line_ends_do_not_move_the_place() {
        let text = "// ü — 日本\r\nimpl Users for X {\r\n    async fn a(&self) { \"ä\" }\r\n    async fn b(&self) {}\r\n}\r\n";
        let after = completed(text, METHODS).unwrap();
        assert!(
            after.ends_with("    async fn b(&self) {}\r\n\r\n    async fn c(&self) {}\r\n}\r\n"),
            "{after:?}"
        );
    }

    #[test]
    fn arms_go_before_the_last_one_of_the_match() {
        let source = source(
            "fn call(name: &str) -> u8 {\n    match name {\n        \"a\" => 1,\n        _ => 0,\n    }\n}\n",
        );
        assert_eq!(source.known("call"), ["a"]);
        let mut insertions = Insertions::default();
        assert!(source.add_arms("call", "        \"b\" => 2,\n", &mut insertions));
        assert!(!source.add_arms("other", "", &mut insertions));
        assert!(
            source
                .with(insertions)
                .contains("        \"a\" => 1,\n        \"b\" => 2,\n        _ => 0,\n")
        );
    }

    #[test]
    fn uses_and_modules_join_their_kind() {
        let source = source(
            "//! Doc.\n\nmod b;\n\nuse kit::Error;\n\nuse crate::api::Users;\n\n// About X.\nstruct X;\n",
        );
        let mut insertions = Insertions::default();
        source.add_uses(
            ["kit::Code".to_owned(), "crate::api::User".to_owned()],
            &mut insertions,
        );
        source.add_module("pub", "c", &mut insertions);
        assert_eq!(
            source.with(insertions),
            "//! Doc.\n\nmod b;\npub mod c;\n\nuse kit::Error;\nuse kit::Code;\n\nuse crate::api::Users;\nuse crate::api::User;\n\n// About X.\nstruct X;\n"
        );
    }

    #[test]
    fn the_first_use_goes_between_the_documentation_and_the_first_item() {
        let source = source("//! Doc.\n\n// About X.\n/// More.\nstruct X;\n");
        let mut insertions = Insertions::default();
        source.add_uses(["kit::Code".to_owned()], &mut insertions);
        assert_eq!(
            source.with(insertions),
            "//! Doc.\n\nuse kit::Code;\n\n// About X.\n/// More.\nstruct X;\n"
        );
    }
}
