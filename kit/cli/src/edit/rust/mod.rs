//! Reading Rust to learn what is there, and adding text between what stands there. Nothing is printed again from
//! its syntax tree: what is added is put at a place in the text, and all else stays as it is, byte by byte.

mod insert;
mod scope;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::{
    Expr, ExprLit, FnArg, ImplItem, ImplItemFn, Item, ItemImpl, ItemTrait, Lit, Meta, ReturnType,
    Signature, Token, TraitItem, Type, parse::Parser, punctuated::Punctuated, spanned::Spanned,
    visit::Visit,
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
    /// The types of the arguments after `&self`, in a form that can be compared.
    types: Vec<String>,
    /// What is returned, likewise.
    output: String,
    /// Names of types that the signature takes from the file in which it stands.
    mentions: BTreeSet<String>,
    /// Whether it has a verb and a path of its own.
    pub(crate) has_route: bool,
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
            Item::Trait(item) => service_attribute(item).map(|_| item),
            _ => None,
        })
    }

    /// The line of `#[kit::service]` before a trait, and what it is with `setting` put in.
    pub(crate) fn with_setting(&self, item: &ItemTrait, setting: &str) -> Option<(&str, String)> {
        let attribute = service_attribute(item)?;
        let (at, piece) = match &attribute.meta {
            Meta::List(list) => {
                let end = list.delimiter.span().close().byte_range().start;
                let is_first = list.tokens.is_empty();
                (
                    end,
                    if is_first {
                        setting.to_owned()
                    } else {
                        format!(", {setting}")
                    },
                )
            }
            _ => {
                let end = attribute.meta.span().byte_range().end;
                (end, format!("({setting})"))
            }
        };
        let begin = self.text[..at].rfind('\n').map_or(0, |end| end + 1);
        let end = self.text[at..]
            .find('\n')
            .map_or(self.text.len(), |end| at + end);
        let line = self.text[begin..end].trim_end_matches('\r');
        let mut grown = line.to_owned();
        grown.insert_str(at - begin, &piece);
        Some((line, grown))
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

    /// Whether a function that stands here is a test.
    pub(crate) fn has_test(&self) -> bool {
        #[derive(Default)]
        struct Tests(bool);
        impl Visit<'_> for Tests {
            fn visit_attribute(&mut self, attribute: &syn::Attribute) {
                let last = attribute.path().segments.last();
                self.0 |= last.is_some_and(|last| last.ident == "test");
            }
        }
        let mut tests = Tests::default();
        tests.visit_file(&self.file);
        tests.0
    }

    /// Whether the module `name` is declared here.
    pub(crate) fn has_module(&self, name: &str) -> bool {
        let is_it = |item: &Item| matches!(item, Item::Mod(module) if module.ident == name);
        self.file.items.iter().any(is_it)
    }

    /// Whether something that is no comment says `word`.
    pub(crate) fn says(&self, word: &str) -> bool {
        says(self.file.to_token_stream(), word)
    }

    /// The methods of a trait that stands here.
    pub(crate) fn trait_methods(&self, item: &ItemTrait) -> Vec<Method> {
        let functions = item.items.iter().filter_map(|item| match item {
            TraitItem::Fn(function) => Some(function),
            _ => None,
        });
        let has_route = |attribute: &syn::Attribute| match &attribute.meta {
            Meta::List(list) => says(list.tokens.clone(), "route"),
            _ => false,
        };
        functions
            .map(|function| Method {
                has_route: function.attrs.iter().any(has_route),
                ..self.method(&function.sig)
            })
            .collect()
    }

    /// The methods of an implementation that stands here.
    pub(crate) fn implemented(&self, item: &ItemImpl) -> Vec<Method> {
        functions(item)
            .map(|function| self.method(&function.sig))
            .collect()
    }

    fn method(&self, signature: &Signature) -> Method {
        let typed = signature.inputs.iter().filter_map(typed);
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
        let mut output = String::new();
        if let ReturnType::Type(_, ty) = &signature.output {
            output = comparable(ty);
            mentions.visit_type(ty);
        }
        Method {
            name: signature.ident.to_string(),
            signature: self.signature(signature),
            arguments,
            types,
            output,
            mentions: mentions.0,
            has_route: false,
            line: signature.ident.span().start().line,
        }
    }

    /// The text of a signature, without what the trait says before its arguments.
    fn signature(&self, signature: &Signature) -> String {
        let whole = signature.span().byte_range();
        let (mut text, mut end) = (String::new(), whole.start);
        for typed in signature.inputs.iter().filter_map(typed) {
            if let Some(first) = typed.attrs.first() {
                text.push_str(&self.text[end..first.span().byte_range().start]);
                end = typed.pat.span().byte_range().start;
            }
        }
        text + &self.text[end..whole.end]
    }
}

impl Method {
    /// Whether the signature says this name of a type.
    pub(crate) fn mentions(&self, name: &str) -> bool {
        self.mentions.contains(name)
    }

    /// Whether another of this name takes and returns the same, as far as can be seen without resolving names.
    ///
    /// Where the trait promises some stream, an implementation may name its own.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        let may_differ = self.streams() && other.output.starts_with("Result<");
        self.types == other.types && (self.output == other.output || may_differ)
    }

    /// A request of it in JSON, whose arguments are made up; `None` if they cannot be.
    pub(crate) fn example(&self) -> Option<String> {
        let arguments = self.arguments.iter().zip(&self.types).skip(1);
        let fields = arguments.filter_map(|(name, ty)| {
            let value = match &*first_word(ty) {
                "Option" => return None,
                "String" => "\"test\"",
                "bool" => "true",
                "i32" | "i64" | "u32" | "u64" | "f32" | "f64" => "1",
                "Vec" => "[]",
                "HashMap" | "BTreeMap" => "{}",
                _ => return Some(None),
            };
            Some(Some(format!("\"{}\": {value}", plain(name))))
        });
        let fields: Option<Vec<_>> = fields.collect();
        Some(format!("{{{}}}", fields?.join(", ")))
    }

    /// Whether it answers with a stream.
    pub(crate) fn streams(&self) -> bool {
        self.output.starts_with("Result<impl")
    }

    /// Whether all arguments after the context are of types that have a default, whatever stands in the file.
    pub(crate) fn takes_defaults(&self) -> bool {
        let mut own = self.types.iter().skip(1);
        own.all(|ty| HAVE_DEFAULTS.contains(&&*first_word(ty)))
    }
}

/// `#[kit::service]`, where it stands before a trait.
fn service_attribute(item: &ItemTrait) -> Option<&syn::Attribute> {
    item.attrs.iter().find(|attribute| {
        let last = attribute.path().segments.last();
        last.is_some_and(|last| last.ident == "service")
    })
}

/// What `#[kit::service(key = "...")]` says before a trait.
pub(crate) fn setting(item: &ItemTrait, key: &str) -> Option<String> {
    let Meta::List(list) = &service_attribute(item)?.meta else {
        return None;
    };
    let settings = Punctuated::<Meta, Token![,]>::parse_terminated;
    let settings = settings.parse2(list.tokens.clone()).ok()?;
    settings.iter().find_map(|setting| match setting {
        Meta::NameValue(pair) if pair.path.is_ident(key) => match &pair.value {
            Expr::Lit(ExprLit {
                lit: Lit::Str(text),
                ..
            }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    })
}

/// Whether an implementation of the trait `name` is one for whatever implements that trait, as a middleware is.
pub(crate) fn is_around(item: &ItemImpl, name: &str) -> bool {
    let is_trait = |bound: &syn::TypeParamBound| match bound {
        syn::TypeParamBound::Trait(bound) => {
            let last = bound.path.segments.last();
            last.is_some_and(|last| last.ident == name)
        }
        _ => false,
    };
    let generics = &item.generics;
    let clauses = generics.where_clause.iter().flat_map(|all| &all.predicates);
    let mut clauses = clauses.filter_map(|clause| match clause {
        syn::WherePredicate::Type(clause) => Some(&clause.bounds),
        _ => None,
    });
    let mut parameters = generics.type_params().map(|parameter| &parameter.bounds);
    parameters.any(|bounds| bounds.iter().any(is_trait))
        || clauses.any(|bounds| bounds.iter().any(is_trait))
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

fn says(stream: TokenStream, word: &str) -> bool {
    stream.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident == word,
        TokenTree::Group(group) => says(group.stream(), word),
        _ => false,
    })
}

/// The name of an argument or a method, without the `r#` that lets it be a word of the language.
pub(crate) fn plain(name: &str) -> &str {
    name.strip_prefix("r#").unwrap_or(name)
}

fn first_word(ty: &str) -> String {
    ty.chars()
        .take_while(|letter| letter.is_alphanumeric())
        .collect()
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

/// An argument that is not `self`.
fn typed(input: &FnArg) -> Option<&syn::PatType> {
    match input {
        FnArg::Typed(typed) => Some(typed),
        FnArg::Receiver(_) => None,
    }
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

    // What stands after `impl` is no type but a trait: `impl Stream<Item = ...>`.
    fn visit_trait_bound(&mut self, bound: &'ast syn::TraitBound) {
        if let Some(first) = bound.path.segments.first() {
            self.0.insert(first.ident.to_string());
        }
        syn::visit::visit_trait_bound(self, bound);
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
