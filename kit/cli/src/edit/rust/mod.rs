//! Reading Rust to learn what is there, and adding text between what stands there. Nothing is printed again from
//! its syntax tree: what is added is put at a place in the text, and all else stays as it is, byte by byte.

mod insert;
mod scope;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use quote::ToTokens;
use syn::{
    FnArg, ImplItem, ImplItemFn, Item, ItemImpl, ItemTrait, ReturnType, Signature, TraitItem, Type,
    spanned::Spanned, visit::Visit,
};

pub(crate) use self::insert::Insertions;

/// A file of Rust.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    /// The path of its module within the crate, such as `crate::api`.
    pub(crate) module: String,
    pub(crate) text: String,
    pub(crate) file: syn::File,
}

/// A method, as far as its callers and its author agree on it.
#[derive(Clone, Debug)]
pub(crate) struct Method {
    pub(crate) name: String,
    /// As it is written, from `async` on, without `;`.
    pub(crate) signature: String,
    /// The names of the arguments after `&self`.
    pub(crate) arguments: Vec<String>,
    /// The types of the arguments after `&self`, and what is returned, in a form that can be compared.
    types: Vec<String>,
    /// Names of types that the signature takes from the file in which it stands.
    mentions: BTreeSet<String>,
    /// The number of its line.
    pub(crate) line: usize,
}

/// Types out of the standard library that have a default.
const HAVE_DEFAULTS: &[&str] = &[
    "String", "bool", "i32", "i64", "u32", "u64", "f32", "f64", "Option", "Vec", "HashMap",
    "BTreeMap",
];

impl Source {
    /// Reads the text of the file at `path`, which is one of the crate whose sources are in `folder`.
    pub(crate) fn parse(folder: &Path, path: &Path, text: String) -> Result<Self> {
        if text.starts_with(['\u{feff}', '#'])
            && !text.starts_with("#![")
            && !text.starts_with("#[")
        {
            bail!("{} does not begin with Rust", path.display());
        }
        let file = syn::parse_file(&text).map_err(|error| {
            let at = error.span().start();
            anyhow::anyhow!("{}:{}:{}: {error}", path.display(), at.line, at.column + 1)
        })?;
        Ok(Self {
            module: module(folder, path),
            path: path.to_owned(),
            text,
            file,
        })
    }

    /// The trait `name`, if it stands here with `#[kit::service]` before it.
    pub(crate) fn service(&self, name: &str) -> Option<&ItemTrait> {
        self.services().find(|item| item.ident == name)
    }

    /// All traits with `#[kit::service]` before them.
    pub(crate) fn services(&self) -> impl Iterator<Item = &ItemTrait> {
        self.file.items.iter().filter_map(|item| match item {
            Item::Trait(item) => {
                let is_service = |attribute: &syn::Attribute| {
                    let last = attribute.path().segments.last();
                    last.is_some_and(|last| last.ident == "service")
                };
                item.attrs.iter().any(is_service).then_some(item)
            }
            _ => None,
        })
    }

    /// The blocks that implement the trait `name`, those of tests left out.
    pub(crate) fn implementations<'a>(
        &'a self,
        name: &'a str,
    ) -> impl Iterator<Item = &'a ItemImpl> {
        self.file.items.iter().filter_map(move |item| match item {
            Item::Impl(item) => {
                let of = &item.trait_.as_ref()?.0;
                let is_test = item
                    .attrs
                    .iter()
                    .any(|attribute| attribute.path().is_ident("cfg"));
                (of.segments.last()?.ident == name && !is_test).then_some(item)
            }
            _ => None,
        })
    }

    /// Whether the module `name` is declared here.
    pub(crate) fn has_module(&self, name: &str) -> bool {
        let is_it = |item: &Item| matches!(item, Item::Mod(module) if module.ident == name);
        self.file.items.iter().any(is_it)
    }

    /// Whether something that is no comment says `word`.
    pub(crate) fn says(&self, word: &str) -> bool {
        fn within(stream: proc_macro2::TokenStream, word: &str) -> bool {
            stream.into_iter().any(|token| match token {
                proc_macro2::TokenTree::Ident(ident) => ident == word,
                proc_macro2::TokenTree::Group(group) => within(group.stream(), word),
                _ => false,
            })
        }
        within(self.file.to_token_stream(), word)
    }

    /// The methods of a trait that stands here.
    pub(crate) fn trait_methods(&self, item: &ItemTrait) -> Vec<Method> {
        let functions = item.items.iter().filter_map(|item| match item {
            TraitItem::Fn(function) => Some(&function.sig),
            _ => None,
        });
        functions.map(|signature| self.method(signature)).collect()
    }

    /// The methods of an implementation that stands here.
    pub(crate) fn implemented(&self, item: &ItemImpl) -> Vec<Method> {
        functions(item)
            .map(|function| self.method(&function.sig))
            .collect()
    }

    fn method(&self, signature: &Signature) -> Method {
        let typed = signature.inputs.iter().filter_map(|input| match input {
            FnArg::Typed(typed) => Some(typed),
            FnArg::Receiver(_) => None,
        });
        let mut mentions = Mentions::default();
        let (mut arguments, mut types) = (Vec::new(), Vec::new());
        for typed in typed {
            arguments.push(match &*typed.pat {
                syn::Pat::Ident(name) => name.ident.to_string(),
                other => other.to_token_stream().to_string(),
            });
            types.push(comparable(&typed.ty));
            mentions.visit_type(&typed.ty);
        }
        if let ReturnType::Type(_, output) = &signature.output {
            types.push(comparable(output));
            mentions.visit_type(output);
        }
        Method {
            name: signature.ident.to_string(),
            signature: self.slice(signature).to_owned(),
            arguments,
            types,
            mentions: mentions.0,
            line: signature.ident.span().start().line,
        }
    }

    /// The text of a part.
    pub(crate) fn slice(&self, part: &impl Spanned) -> &str {
        &self.text[part.span().byte_range()]
    }
}

impl Method {
    /// Whether the signature says this name of a type.
    pub(crate) fn mentions(&self, name: &str) -> bool {
        self.mentions.contains(name)
    }

    /// Whether another of this name takes and returns the same, as far as can be seen without resolving names.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        self.types == other.types
    }

    /// Whether all arguments after the context are of types that have a default, whatever stands in the file.
    pub(crate) fn takes_defaults(&self) -> bool {
        let own = &self.types[..self.arguments.len().min(self.types.len())];
        own.iter().skip(1).all(|ty| {
            let first: String = ty
                .chars()
                .take_while(|letter| letter.is_alphanumeric())
                .collect();
            HAVE_DEFAULTS.contains(&&*first)
        })
    }
}

fn functions(item: &ItemImpl) -> impl Iterator<Item = &ImplItemFn> {
    item.items.iter().filter_map(|item| match item {
        ImplItem::Fn(function) => Some(function),
        _ => None,
    })
}

/// `crate::a::b` for `src/a/b.rs` and `src/a/b/mod.rs`.
fn module(folder: &Path, path: &Path) -> String {
    let inner = path.strip_prefix(folder).unwrap_or(path).with_extension("");
    let mut words: Vec<_> = inner
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    if matches!(
        words.last().map(String::as_str),
        Some("mod" | "lib" | "main")
    ) {
        words.pop();
    }
    words.insert(0, "crate".to_owned());
    words.join("::")
}

/// A type without the modules before its names.
fn comparable(ty: &Type) -> String {
    let text = ty.to_token_stream().to_string();
    let mut words: Vec<&str> = Vec::new();
    for word in text.split_whitespace() {
        match (word, words.last()) {
            ("::", Some(last)) if last.chars().all(|c| c.is_alphanumeric() || c == '_') => {
                words.pop();
            }
            ("::" | ",", _) => {}
            _ => words.push(word),
        }
    }
    words.concat()
}

/// The first words of the paths of types.
#[derive(Default)]
struct Mentions(BTreeSet<String>);

impl<'ast> Visit<'ast> for Mentions {
    fn visit_type_path(&mut self, path: &'ast syn::TypePath) {
        if path.qself.is_none()
            && let Some(first) = path.path.segments.first()
        {
            self.0.insert(first.ident.to_string());
        }
        syn::visit::visit_type_path(self, path);
    }
}

/// All sources of a crate, below `folder`.
pub(crate) fn sources(folder: &Path) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inner) = folders.pop() {
        let entries = std::fs::read_dir(&inner)
            .with_context(|| format!("{} cannot be read", inner.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path)
                    .with_context(|| format!("{} cannot be read", path.display()))?;
                found.push(Source::parse(folder, &path, text)?);
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}
