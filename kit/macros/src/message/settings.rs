//! What stands in attributes: numbers, and the names that serde gives.

use std::collections::BTreeMap;

use proc_macro2::Span;
use syn::{Attribute, Error, Ident, LitInt, LitStr, Result, meta::ParseNestedMeta};

use crate::{
    names::{doc, unknown},
    rules::{self, Rules},
};

/// Words of serde by which JSON becomes something else than the fields say, so that what others read of a type would not
/// be true any more.
const MISLEADING: [&str; 15] = [
    "content",
    "deserialize_with",
    "flatten",
    "from",
    "into",
    "other",
    "serialize_with",
    "skip",
    "skip_deserializing",
    "skip_serializing",
    "tag",
    "transparent",
    "try_from",
    "untagged",
    "with",
];

/// What a type around one value may say: it is that value whatever happens.
const HARMLESS_AROUND: [&str; 4] = ["from", "into", "transparent", "try_from"];

/// What `#[kit(...)]` and `#[serde(...)]` say about a type, a field or a variant.
#[derive(Default)]
pub(super) struct Settings {
    tag: Option<(u32, Span)>,
    /// Generated, with a doc comment that says nothing to others.
    undocumented: bool,
    rename: Option<String>,
    rename_all: Option<String>,
    pub(super) default: bool,
    pub(super) closed: bool,
    pub(super) rules: Rules,
}

impl Settings {
    pub(super) fn read(attributes: &[Attribute]) -> Result<Self> {
        Self::read_but(attributes, &[])
    }

    /// Of a type around one value.
    pub(super) fn read_newtype(attributes: &[Attribute]) -> Result<Self> {
        Self::read_but(attributes, &HARMLESS_AROUND)
    }

    fn read_but(attributes: &[Attribute], harmless: &[&str]) -> Result<Self> {
        let mut settings = Self::default();
        let mut misled = None;
        for attribute in attributes {
            if attribute.path().is_ident("kit") {
                attribute.parse_nested_meta(|meta| {
                    if meta.path.is_ident("tag") {
                        let tag: LitInt = meta.value()?.parse()?;
                        let number = (check_tag(&tag)?, tag.span());
                        if settings.tag.replace(number).is_some() {
                            let message = "the number is said twice";
                            return Err(Error::new_spanned(&meta.path, message));
                        }
                    } else if meta.path.is_ident("undocumented") {
                        settings.undocumented = true;
                    } else if !settings.rules.read(&meta)? {
                        let mut known = rules::WORDS.to_vec();
                        known.push("tag");
                        return Err(unknown(&meta.path, &known));
                    }
                    Ok(())
                })?;
            } else if attribute.path().is_ident("serde") {
                // Serde itself tells what is wrong here; this only listens.
                let _ = attribute.parse_nested_meta(|meta| {
                    let word = meta.path.get_ident().map(Ident::to_string);
                    if let Some(word) = &word
                        && let Some(mistake) = misleading(word, &meta, harmless)
                    {
                        misled.get_or_insert(mistake);
                    }
                    match word.as_deref() {
                        Some("rename") if meta.input.peek(syn::Token![=]) => {
                            settings.rename = Some(meta.value()?.parse::<LitStr>()?.value());
                        }
                        Some("rename_all") if meta.input.peek(syn::Token![=]) => {
                            settings.rename_all = Some(meta.value()?.parse::<LitStr>()?.value());
                        }
                        word => {
                            // What may be left out when it is written is not always there.
                            settings.default |=
                                matches!(word, Some("default" | "skip_serializing_if"));
                            settings.closed |= word == Some("deny_unknown_fields");
                            skip(&meta)?;
                        }
                    }
                    Ok(())
                });
            }
        }
        match misled {
            None => Ok(settings),
            Some(mistake) => Err(mistake),
        }
    }

    pub(super) fn doc(&self, attributes: &[Attribute]) -> String {
        if self.undocumented {
            String::new()
        } else {
            doc(attributes)
        }
    }
}

/// What is told of a word of serde that would mislead others, if it does.
fn misleading(word: &str, meta: &ParseNestedMeta<'_>, harmless: &[&str]) -> Option<Error> {
    let is_split = matches!(word, "rename" | "rename_all") && meta.input.peek(syn::token::Paren);
    let message = if is_split {
        format!("what is read and what is written has one name here: `{word} = \"...\"`")
    } else if MISLEADING.contains(&word) && !harmless.contains(&word) {
        format!(
            "serde's `{word}` makes something else of this than `.proto` and OpenAPI say; a service with `transport = \"http\"` needs no `kit::Message`"
        )
    } else {
        return None;
    };
    Some(Error::new_spanned(&meta.path, message))
}

/// Passes over what follows a word: `= value`, `(...)`, or nothing.
fn skip(meta: &ParseNestedMeta<'_>) -> Result<()> {
    if meta.input.peek(syn::Token![=]) {
        meta.value()?.parse::<syn::Expr>()?;
    } else if meta.input.peek(syn::token::Paren) {
        meta.input.parse::<proc_macro2::Group>()?;
    }
    Ok(())
}

/// Protobuf's range, without the numbers that it keeps for itself.
fn check_tag(tag: &LitInt) -> Result<u32> {
    match tag.base10_parse::<u32>()? {
        number @ (1..19_000 | 20_000..=0x1fff_ffff) => Ok(number),
        _ => Err(Error::new(
            tag.span(),
            "a number of a field is between 1 and 536870911, and not between 19000 and 19999",
        )),
    }
}

/// Numbers in the order of declaration: each the one after that before it, unless it says its own.
pub(super) struct Numbers {
    next: u32,
    taken: BTreeMap<u32, Ident>,
}

impl Numbers {
    pub(super) fn new() -> Self {
        Self {
            next: 1,
            taken: BTreeMap::new(),
        }
    }

    pub(super) fn give(&mut self, name: &Ident, settings: &Settings) -> Result<u32> {
        let (number, span) = settings.tag.unwrap_or((self.next, name.span()));
        self.next = number + 1;
        match self.taken.insert(number, name.clone()) {
            None => Ok(number),
            Some(other) => Err(Error::new(
                span,
                format!("`{other}` has the number {number} already"),
            )),
        }
    }
}

/// The name in JSON, as serde gives it.
pub(super) fn json_name(
    settings: &Settings,
    own: &Settings,
    name: &str,
    rename: fn(&str, &str) -> Option<String>,
) -> String {
    let by_rule = || rename(own.rename_all.as_ref()?, name);
    settings
        .rename
        .clone()
        .or_else(by_rule)
        .unwrap_or_else(|| name.to_owned())
}
