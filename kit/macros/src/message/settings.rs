//! What stands in attributes: numbers, and the names that serde gives.

use std::collections::BTreeMap;

use proc_macro2::Span;
use syn::{Attribute, Error, Ident, LitInt, LitStr, Result};

use crate::names::{doc, unknown};

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
}

impl Settings {
    pub(super) fn read(attributes: &[Attribute]) -> Result<Self> {
        let mut settings = Self::default();
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
                    } else {
                        return Err(unknown(&meta.path, &["tag"]));
                    }
                    Ok(())
                })?;
            } else if attribute.path().is_ident("serde") {
                // Serde itself tells what is wrong here; this only listens.
                let _ = attribute.parse_nested_meta(|meta| {
                    let word = meta.path.get_ident().map(Ident::to_string);
                    match word.as_deref() {
                        Some("rename") if meta.input.peek(syn::Token![=]) => {
                            settings.rename = Some(meta.value()?.parse::<LitStr>()?.value());
                        }
                        Some("rename_all") if meta.input.peek(syn::Token![=]) => {
                            settings.rename_all = Some(meta.value()?.parse::<LitStr>()?.value());
                        }
                        word => {
                            settings.default |= word == Some("default");
                            settings.closed |= word == Some("deny_unknown_fields");
                            skip(&meta)?;
                        }
                    }
                    Ok(())
                });
            }
        }
        Ok(settings)
    }

    pub(super) fn doc(&self, attributes: &[Attribute]) -> String {
        if self.undocumented {
            String::new()
        } else {
            doc(attributes)
        }
    }
}

/// Passes over what follows a word: `= value`, `(...)`, or nothing.
fn skip(meta: &syn::meta::ParseNestedMeta<'_>) -> Result<()> {
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
