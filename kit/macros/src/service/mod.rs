//! `#[kit::service]`: reads a trait, and writes what serves and calls it.

mod client;
mod module;
mod parse;
mod route;
mod server;

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{Attribute, Error, Ident, ItemTrait, Result, TraitItem, ext::IdentExt, parse2};

use self::parse::{Method, methods, package};
use crate::names::snake;

pub(crate) fn expand(attribute: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let mut item: ItemTrait = parse2(item)?;
    let checked = package(attribute, &item.ident).and_then(|p| Ok((p, methods(&item)?)));
    let (package, methods) = match checked {
        Ok(checked) => checked,
        Err(mistakes) => return Ok(refuse(item, mistakes)),
    };
    declare(&mut item, &methods);

    let server = server::server(&item, &methods);
    let client = client::client(&item, &methods);
    let module = module::module(&item, &methods, &package);
    Ok(quote! { #item #server #client #module })
}

/// The mistakes, and the trait as it stands, so that its implementations are not told to be mistakes too.
fn refuse(mut item: ItemTrait, mistakes: Error) -> TokenStream {
    for item in &mut item.items {
        if let TraitItem::Fn(function) = item {
            function.attrs.retain(|a| !a.path().is_ident("kit"));
        }
    }
    let mistakes = mistakes.into_compile_error();
    quote! {
        #mistakes
        #[allow(async_fn_in_trait, dead_code, unused_variables, reason = "it is not what it should be")]
        #item
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
            function.attrs.retain(|a| !a.path().is_ident("kit"));
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

fn request_name(method: &Method) -> Ident {
    format_ident!("{}Request", method.camel, span = method.name.span())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told about a trait with this inside.
    fn told(attribute: TokenStream, inside: TokenStream) -> String {
        let item = quote!(pub trait Users { #inside });
        expand(attribute, item).unwrap().to_string()
    }

    #[test]
    fn each_misuse_of_a_method_is_told() {
        for (method, message) in [
            (
                quote!(
                    async fn a(ctx: Context) -> Result<(), Error>;
                ),
                "takes `&self` first",
            ),
            (
                quote!(
                    async fn a(self, ctx: Context) -> Result<(), Error>;
                ),
                "takes `&self`",
            ),
            (
                quote!(
                    async fn a(&mut self, ctx: Context) -> Result<(), Error>;
                ),
                "takes `&self`",
            ),
            (
                quote!(
                    fn a(&self, ctx: Context) -> Result<(), Error>;
                ),
                "is an `async fn`",
            ),
            (
                quote!(
                    async fn a(&self) -> Result<(), Error>;
                ),
                "takes `ctx: Context` after `&self`",
            ),
            (
                quote!(
                    async fn a(&self, x: u32) -> Result<(), Error>;
                ),
                "takes `ctx: Context` after `&self`",
            ),
            (
                quote!(
                    async fn a(&self, ctx: Context);
                ),
                "returns `Result<T, Error>`",
            ),
            (
                quote!(
                    async fn a(&self, ctx: Context) -> User;
                ),
                "returns `Result<T, Error>`",
            ),
            (
                quote!(
                    async fn a(&self, ctx: Context) -> Result;
                ),
                "returns `Result<T, Error>`",
            ),
            (
                quote!(
                    async fn a<T>(&self, ctx: Context, x: T) -> Result<(), Error>;
                ),
                "has no generics",
            ),
            (
                quote!(
                    async fn a(&self, ctx: Context, x: &str) -> Result<(), Error>;
                ),
                "an argument is owned",
            ),
            (
                quote!(
                    async fn a(&self, ctx: Context, x: impl Copy) -> Result<(), Error>;
                ),
                "has one type",
            ),
            (
                quote!(
                    async fn a(&self, ctx: Context, (x, y): (A, B)) -> Result<(), Error>;
                ),
                "has a name",
            ),
            (
                quote!(
                    async fn a(&self, ctx: Context) -> Result<(), Error> {
                        Ok(())
                    }
                ),
                "has no body here",
            ),
            (
                quote!(
                    async fn _a(&self, ctx: Context) -> Result<(), Error>;
                ),
                "part of its route",
            ),
            (
                quote!(
                    #[kit(retry)]
                    async fn a(&self, ctx: Context) -> Result<(), Error>;
                ),
                "may be `idempotent`",
            ),
            (
                quote!(
                    #[kit(route(FETCH, "/a"))]
                    async fn a(&self, ctx: Context) -> Result<(), Error>;
                ),
                "verb is one of",
            ),
            (
                quote!(
                    #[kit(route(GET, "a"))]
                    async fn a(&self, ctx: Context) -> Result<(), Error>;
                ),
                "begins with `/`",
            ),
            (
                quote!(
                    #[kit(route(GET, "/a/"))]
                    async fn a(&self, ctx: Context) -> Result<(), Error>;
                ),
                "between two `/`",
            ),
            (
                quote!(
                    #[kit(route(GET, "/a-{id}"))]
                    async fn a(&self, ctx: Context, id: u32) -> Result<(), Error>;
                ),
                "between two `/`",
            ),
            (
                quote!(
                    #[kit(route(GET, "/{id}/{id}"))]
                    async fn a(&self, ctx: Context, id: u32) -> Result<(), Error>;
                ),
                "stands in the path once",
            ),
            (
                quote!(
                    #[kit(route(GET, "/{id}"))]
                    async fn a(&self, ctx: Context) -> Result<(), Error>;
                ),
                "has no argument `id`",
            ),
            (
                quote!(
                    #[kit(route(GET, "/{id}"))]
                    async fn a(&self, ctx: Context, id: Option<u32>) -> Result<(), Error>;
                ),
                "is no `Option`",
            ),
            (
                quote!(
                    #[kit(route(GET, "/a"), route(PUT, "/a"))]
                    async fn a(&self, ctx: Context) -> Result<(), Error>;
                ),
                "has one route",
            ),
            (
                quote! {
                    #[kit(route(GET, "/a/{id}"))]
                    async fn a(&self, ctx: Context, id: u32) -> Result<(), Error>;
                    #[kit(route(GET, "/a/{no}"))]
                    async fn b(&self, ctx: Context, no: u32) -> Result<(), Error>;
                },
                "`a` and `b` are both `GET /a/{no}`",
            ),
            (
                quote! {
                    async fn a(&self, ctx: Context) -> Result<(), Error>;
                    #[kit(route(POST, "/a"))]
                    async fn b(&self, ctx: Context) -> Result<(), Error>;
                },
                "are both `POST /a`",
            ),
            (
                quote! {
                    #[kit(route(GET, "/a/{id}"))]
                    async fn a(&self, ctx: Context, id: u32) -> Result<(), Error>;
                    #[kit(route(PUT, "/a/{no}"))]
                    async fn b(&self, ctx: Context, no: u32) -> Result<(), Error>;
                },
                "one name for each argument",
            ),
            (
                quote!(
                    #[kit(timeout = "soon")]
                    async fn a(&self, ctx: Context) -> Result<(), Error>;
                ),
                "a time such as `500ms`",
            ),
            (
                quote!(
                    #[kit(timeout = "0s")]
                    async fn a(&self, ctx: Context) -> Result<(), Error>;
                ),
                "longer than nothing",
            ),
            (
                quote!(
                    #[kit(timeout = "1s", timeout = "2s")]
                    async fn a(&self, ctx: Context) -> Result<(), Error>;
                ),
                "has one timeout",
            ),
            (
                quote!(
                    type A;
                ),
                "methods only",
            ),
            (
                quote! {
                    async fn get_it(&self, ctx: Context) -> Result<(), Error>;
                    async fn get__it(&self, ctx: Context) -> Result<(), Error>;
                },
                "two methods answer at the same route",
            ),
        ] {
            let told = told(quote!(), method.clone());
            assert!(told.contains("compile_error"), "{method}");
            assert!(told.contains(message), "{method}: {told}");
        }
    }

    #[test]
    fn each_misuse_of_the_attribute_is_told() {
        for (attribute, message) in [
            (
                quote!(pakage = "users"),
                "the only setting here is `package",
            ),
            (quote!(package = "Users"), "lower-case words"),
            (quote!(package = "users."), "lower-case words"),
            (quote!(package = ""), "lower-case words"),
        ] {
            let told = told(attribute, quote!());
            assert!(told.contains(message), "{told}");
        }
        let generic = expand(
            quote!(),
            quote!(
                trait Users<T> {}
            ),
        )
        .unwrap();
        assert!(generic.to_string().contains("has no generics"));
    }

    #[test]
    fn all_mistakes_are_told_at_once_and_the_trait_stays() {
        let told = told(
            quote!(),
            quote! {
                #[kit(idempotent)]
                fn a(&self, ctx: Context) -> Result<(), Error>;
                async fn b(&self) -> Result<(), Error>;
            },
        );
        assert_eq!(told.matches("compile_error").count(), 2);
        assert!(told.contains("pub trait Users"));
        assert!(!told.contains("idempotent"));
    }
}
