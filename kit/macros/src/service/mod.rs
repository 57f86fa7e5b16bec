//! `#[kit::service]`: reads a trait, and writes what serves and calls it.

mod client;
mod module;
mod parse;
mod route;
mod server;

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{
    Attribute, Error, FnArg, Ident, ItemTrait, Result, TraitItem, TraitItemFn, ext::IdentExt,
    parse2,
};

use self::parse::{Method, methods, whole};
use crate::names::snake;

pub(crate) fn expand(attribute: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let mut item: ItemTrait = parse2(item)?;
    let checked = whole(attribute, &item.ident)
        .and_then(|whole| Ok((methods(&item, whole.transport)?, whole)));
    let (methods, whole) = match checked {
        Ok(checked) => checked,
        Err(mistakes) => return Ok(refuse(item, mistakes)),
    };
    declare(&mut item, &methods);

    let server = server::server(&item, &methods, whole.transport);
    let client = client::client(&item, &methods, whole.transport);
    let module = module::module(&item, &methods, &whole);
    Ok(quote! { #item #server #client #module })
}

/// The mistakes, and the trait as it stands, so that its implementations are not told to be mistakes too.
fn refuse(mut item: ItemTrait, mistakes: Error) -> TokenStream {
    for item in &mut item.items {
        if let TraitItem::Fn(function) = item {
            strip(function);
        }
    }
    let mistakes = mistakes.into_compile_error();
    quote! {
        #mistakes
        #[allow(async_fn_in_trait, dead_code, unused_variables, reason = "it is not what it should be")]
        #item
    }
}

/// Takes away what nobody but the macro understands.
fn strip(function: &mut TraitItemFn) {
    let is_foreign = |attribute: &Attribute| !attribute.path().is_ident("kit");
    function.attrs.retain(is_foreign);
    for input in &mut function.sig.inputs {
        if let FnArg::Typed(typed) = input {
            typed.attrs.retain(is_foreign);
        }
    }
}

/// Makes the trait one whose futures may go from thread to thread.
fn declare(item: &mut ItemTrait, methods: &[Method]) {
    item.supertraits
        .push(syn::parse_quote!(::core::marker::Send));
    item.supertraits
        .push(syn::parse_quote!(::core::marker::Sync));
    item.supertraits.push(syn::parse_quote!('static));
    item.colon_token.get_or_insert_default();
    item.attrs.push(unused());
    item.items = methods
        .iter()
        .map(|method| {
            let mut function = method.item.clone();
            strip(&mut function);
            function.sig.asyncness = None;
            let output = &method.output;
            function.sig.output = syn::parse_quote! {
                -> impl ::core::future::Future<Output = #output> + ::core::marker::Send
            };
            TraitItem::Fn(function)
        })
        .collect();
}

/// A crate that only serves has no use for the client, and the other way round.
fn unused() -> Attribute {
    syn::parse_quote!(#[allow(dead_code, reason = "one trait makes both sides, and few crates use both")])
}

fn module_name(item: &ItemTrait) -> Ident {
    format_ident!("{}", snake(&item.ident.unraw().to_string()))
}

/// How the method at this place in the list travels.
fn codec_name(at: usize) -> Ident {
    format_ident!("CODEC_{at}")
}

fn request_name(method: &Method) -> Ident {
    format_ident!("{}Request", method.camel, span = method.name.span())
}

#[cfg(test)]
mod tests;
