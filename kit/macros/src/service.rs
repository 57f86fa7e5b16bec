//! `#[kit::service]`: reads a trait, and writes what serves and calls it.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::{
    Attribute, Error, FnArg, GenericArgument, Ident, ItemTrait, LitStr, Pat, PathArguments,
    ReceiverKind, Result, ReturnType, TraitItem, TraitItemFn, Type, ext::IdentExt, parse::Parser,
    parse2, spanned::Spanned,
};

use crate::names::{camel, doc, snake};

/// A method of the trait, checked.
struct Method {
    item: TraitItemFn,
    name: Ident,
    doc: String,
    /// Protobuf's name.
    camel: String,
    idempotent: bool,
    ctx: Ident,
    arguments: Vec<Argument>,
    /// What is returned when it goes well.
    reply: Reply,
    output: Type,
}

struct Argument {
    name: Ident,
    ty: Type,
}

enum Reply {
    Nothing,
    Message(Box<Type>),
}

pub(crate) fn expand(attribute: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let mut item: ItemTrait = parse2(item)?;
    let checked = package(attribute, &item.ident).and_then(|p| Ok((p, methods(&item)?)));
    let (package, methods) = match checked {
        Ok(checked) => checked,
        Err(mistakes) => return Ok(refuse(item, mistakes)),
    };
    declare(&mut item, &methods);

    let server = server(&item, &methods);
    let client = client(&item, &methods);
    let module = module(&item, &methods, &package);
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

/// `package = "..."`, or the trait's own name.
fn package(attribute: TokenStream, name: &Ident) -> Result<String> {
    let mut package = snake(&name.unraw().to_string());
    let parser = syn::meta::parser(|meta| {
        if !meta.path.is_ident("package") {
            return Err(meta.error("the only setting here is `package = \"...\"`"));
        }
        let text: LitStr = meta.value()?.parse()?;
        package = text.value();
        let is_word = |word: &str| {
            word.starts_with(|c: char| c.is_ascii_lowercase())
                && word
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        if package.split('.').all(is_word) {
            Ok(())
        } else {
            Err(Error::new(
                text.span(),
                "a package is made of lower-case words with dots between them",
            ))
        }
    });
    parser.parse2(attribute)?;
    Ok(package)
}

/// All methods, or all mistakes at once, each at its own token.
fn methods(item: &ItemTrait) -> Result<Vec<Method>> {
    let mut mistakes = Mistakes::default();
    if !item.generics.params.is_empty() || item.generics.where_clause.is_some() {
        mistakes.add(
            item.generics
                .params
                .first()
                .map_or(item.ident.span(), Spanned::span),
            "a service has no generics: its methods travel over a wire",
        );
    }
    let mut methods: Vec<Method> = Vec::new();
    for item in &item.items {
        let TraitItem::Fn(function) = item else {
            mistakes.add(item.span(), "a service has methods only");
            continue;
        };
        let Some(method) = mistakes.keep(method(function)) else {
            continue;
        };
        if let Some(other) = methods.iter().find(|other| other.camel == method.camel) {
            let message = format!(
                "two methods answer at the same route: `{}` and `{}` are both `{}` in gRPC",
                other.name, method.name, method.camel
            );
            mistakes.add(method.name.span(), &message);
        }
        methods.push(method);
    }
    mistakes.finish(methods)
}

/// Mistakes, gathered so that all are told at once.
#[derive(Default)]
struct Mistakes(Option<Error>);

impl Mistakes {
    fn add(&mut self, span: Span, message: &str) {
        self.keep::<()>(Err(Error::new(span, message)));
    }

    fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                match &mut self.0 {
                    Some(first) => first.combine(error),
                    none => *none = Some(error),
                }
                None
            }
        }
    }

    fn finish<T>(self, value: T) -> Result<T> {
        match self.0 {
            None => Ok(value),
            Some(error) => Err(error),
        }
    }
}

fn method(item: &TraitItemFn) -> Result<Method> {
    let mut mistakes = Mistakes::default();
    let signature = &item.sig;
    let name = signature.ident.clone();
    let plain = name.unraw().to_string();
    if !plain.is_ascii() || plain.starts_with('_') {
        mistakes.add(
            name.span(),
            "the name of a method is part of its route: ASCII, and not with `_` first",
        );
    }
    if signature.asyncness.is_none() {
        mistakes.add(
            signature.fn_token.span,
            "a method of a service is an `async fn`",
        );
    }
    if let Some(generic) = signature.generics.params.first() {
        mistakes.add(
            generic.span(),
            "a method of a service has no generics: its arguments travel over a wire",
        );
    }
    if let Some(body) = &item.default {
        mistakes.add(
            body.span(),
            "a method of a service has no body here; implementations have it",
        );
    }
    let idempotent = mistakes.keep(attributes(&item.attrs)).unwrap_or_default();

    let mut inputs = signature.inputs.iter();
    match inputs.next() {
        Some(FnArg::Receiver(receiver))
            if matches!(receiver.kind, ReceiverKind::Reference(_, _, None)) => {}
        Some(FnArg::Receiver(receiver)) => {
            mistakes.add(receiver.span(), "a method of a service takes `&self`");
        }
        first => mistakes.add(
            first.map_or(name.span(), Spanned::span),
            "a method of a service takes `&self` first",
        ),
    }
    // Without `&self` the context is where `&self` should be.
    let mut typed = signature.inputs.iter().filter_map(|input| match input {
        FnArg::Typed(typed) => Some(typed),
        FnArg::Receiver(_) => None,
    });
    let ctx = match typed.next() {
        Some(first) if is_named(&first.ty, "Context") => mistakes.keep(binding(&first.pat, "ctx")),
        first => {
            let span = first.map_or(signature.paren_token.span.close(), Spanned::span);
            mistakes.add(
                span,
                "a method of a service takes `ctx: Context` after `&self`",
            );
            None
        }
    };
    let arguments = typed
        .filter_map(|typed| mistakes.keep(argument(&typed.pat, &typed.ty)))
        .collect();
    let reply = mistakes.keep(reply(&signature.output, name.span()));

    mistakes.finish(())?;
    let (reply, output) = reply.expect("checked, without a mistake");
    Ok(Method {
        item: item.clone(),
        doc: doc(&item.attrs),
        camel: camel(&plain),
        name,
        idempotent,
        ctx: ctx.expect("checked, without a mistake"),
        arguments,
        reply,
        output,
    })
}

/// Whether the method is `#[kit(idempotent)]`.
fn attributes(attributes: &[Attribute]) -> Result<bool> {
    let mut idempotent = false;
    for attribute in attributes.iter().filter(|a| a.path().is_ident("kit")) {
        attribute.parse_nested_meta(|meta| {
            if !meta.path.is_ident("idempotent") {
                return Err(meta.error("a method may be `idempotent`; nothing else is known here"));
            }
            idempotent = true;
            Ok(())
        })?;
    }
    Ok(idempotent)
}

/// Whether the last word of a type's path is `name`.
fn is_named(ty: &Type, name: &str) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == name))
}

/// The name that a pattern binds; `_` binds none and gets `otherwise`.
fn binding(pattern: &Pat, otherwise: &str) -> Result<Ident> {
    match pattern {
        Pat::Ident(pat) if pat.subpat.is_none() && pat.by_ref.is_none() => Ok(pat.ident.clone()),
        Pat::Wild(_) if !otherwise.is_empty() => Ok(Ident::new(otherwise, Span::mixed_site())),
        _ => Err(Error::new(
            pattern.span(),
            "an argument has a name, which is the name of its field in the request",
        )),
    }
}

fn argument(pattern: &Pat, ty: &Type) -> Result<Argument> {
    let refused = match ty {
        Type::Reference(_) => "an argument is owned, for it arrives over a wire",
        Type::ImplTrait(_) => "an argument has one type, for it arrives over a wire",
        _ => {
            return Ok(Argument {
                name: binding(pattern, "")?,
                ty: ty.clone(),
            });
        }
    };
    Err(Error::new(ty.span(), refused))
}

/// What stands in `Result<_, _>`.
fn reply(output: &ReturnType, name: Span) -> Result<(Reply, Type)> {
    const MISTAKE: &str = "a method of a service returns `Result<T, Error>`";

    let ReturnType::Type(_, output) = output else {
        return Err(Error::new(name, MISTAKE));
    };
    let segment = match &**output {
        Type::Path(path) => path.path.segments.last(),
        _ => None,
    };
    let Some(segment) = segment.filter(|segment| segment.ident == "Result") else {
        return Err(Error::new(output.span(), MISTAKE));
    };
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else {
        return Err(Error::new(output.span(), MISTAKE));
    };
    let reply = match arguments.args.first() {
        Some(GenericArgument::Type(Type::Tuple(tuple))) if tuple.elems.is_empty() => Reply::Nothing,
        Some(GenericArgument::Type(ty)) => Reply::Message(Box::new(ty.clone())),
        _ => return Err(Error::new(output.span(), MISTAKE)),
    };
    Ok((reply, (**output).clone()))
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

fn server(item: &ItemTrait, methods: &[Method]) -> TokenStream {
    let (vis, service, module) = (&item.vis, &item.ident, module_name(item));
    let name = format_ident!("{}Server", service);
    let about =
        format!("Serves [`{service}`] as JSON over HTTP and as gRPC. Clones share one handler.");
    // Of the macro's own, so that an argument may have the same name.
    let [handler, ctx, incoming] =
        ["handler", "ctx", "incoming"].map(|name| Ident::new(name, Span::mixed_site()));
    let calls = methods.iter().enumerate().map(|(at, method)| {
        let (function, request) = (&method.name, request_name(method));
        let fields: Vec<_> = method.arguments.iter().map(|a| &a.name).collect();
        let reply = match method.reply {
            Reply::Nothing => {
                quote!(.map(|()| ::kit::service::generated::Empty {}))
            }
            Reply::Message(_) => quote!(),
        };
        quote! {
            ::core::result::Result::Ok(#at) => {
                ::kit::service::server::unary(
                    &#module::METHODS[#at],
                    #incoming,
                    |#ctx, #module::#request { #(#fields),* }| async move {
                        #service::#function(&*#handler, #ctx, #(#fields),*).await #reply
                    },
                )
                .await
            }
        }
    });
    let unused = unused();
    quote! {
        #[doc = #about]
        #unused
        #[derive(Debug)]
        #vis struct #name<KitHandler> {
            handler: ::std::sync::Arc<KitHandler>,
        }

        impl<KitHandler> ::core::clone::Clone for #name<KitHandler> {
            fn clone(&self) -> Self {
                Self { handler: ::std::sync::Arc::clone(&self.handler) }
            }
        }

        #unused
        impl<KitHandler: #service> #name<KitHandler> {
            /// Serves `handler`.
            pub fn new(handler: KitHandler) -> Self {
                Self { handler: ::std::sync::Arc::new(handler) }
            }
        }

        impl<KitHandler, KitBody> ::kit::service::generated::tower_service::Service<::kit::service::generated::http::Request<KitBody>>
            for #name<KitHandler>
        where
            KitHandler: #service,
            KitBody: ::kit::service::server::RequestBody,
        {
            type Response = ::kit::service::generated::http::Response<::kit::Body>;
            type Error = ::core::convert::Infallible;
            type Future = ::kit::service::server::Answer;

            fn poll_ready(
                &mut self,
                _: &mut ::core::task::Context<'_>,
            ) -> ::core::task::Poll<::core::result::Result<(), Self::Error>> {
                ::core::task::Poll::Ready(::core::result::Result::Ok(()))
            }

            fn call(
                &mut self,
                #incoming: ::kit::service::generated::http::Request<KitBody>,
            ) -> Self::Future {
                let #handler = ::std::sync::Arc::clone(&self.handler);
                ::std::boxed::Box::pin(async move {
                    ::core::result::Result::Ok(
                        match ::kit::service::server::route(#module::METHODS, &#incoming) {
                            #(#calls)*
                            ::core::result::Result::Ok(_) => {
                                ::core::unreachable!("a route is one of the methods")
                            }
                            ::core::result::Result::Err(refusal) => {
                                refusal.into_response(::kit::wire::Wire::of(#incoming.headers()))
                            }
                        },
                    )
                })
            }
        }
    }
}

fn client(item: &ItemTrait, methods: &[Method]) -> TokenStream {
    let (vis, service, module) = (&item.vis, &item.ident, module_name(item));
    let name = format_ident!("{}Client", service);
    let about = format!("Calls a [`{service}`] elsewhere, through any tower stack.");
    let functions = methods.iter().enumerate().map(|(at, method)| {
        let (function, request) = (&method.name, request_name(method));
        let (ctx, output) = (&method.ctx, &method.output);
        let names: Vec<_> = method.arguments.iter().map(|a| &a.name).collect();
        let types = method.arguments.iter().map(|a| &a.ty);
        let reply = match method.reply {
            Reply::Nothing => quote! {
                .map(|::kit::service::generated::Empty {}| ())
            },
            Reply::Message(_) => quote!(),
        };
        // Where the error type is not the kit's own, that is told at the type.
        let answer = Ident::new("answer", output.span().resolved_at(Span::mixed_site()));
        quote_spanned! {output.span()=>
            async fn #function(&self, #ctx: ::kit::Context, #(#names: #types),*) -> #output {
                let #answer: ::core::result::Result<_, ::kit::Error> = self
                    .caller
                    .unary(&#module::METHODS[#at], #ctx, #module::#request { #(#names),* })
                    .await
                    #reply;
                #answer
            }
        }
    });
    let unused = unused();
    quote! {
        #[doc = #about]
        #unused
        #[derive(Clone, Debug)]
        #vis struct #name<KitStack> {
            caller: ::kit::service::client::Caller<KitStack>,
        }

        #unused
        impl<KitStack: ::kit::service::client::Stack> #name<KitStack> {
            /// Calls through `stack` as JSON over HTTP.
            pub fn json(stack: KitStack) -> Self {
                Self { caller: ::kit::service::client::Caller::new(stack, ::kit::wire::Wire::Json) }
            }

            /// Calls through `stack` as gRPC, which needs HTTP/2.
            pub fn grpc(stack: KitStack) -> Self {
                Self { caller: ::kit::service::client::Caller::new(stack, ::kit::wire::Wire::Grpc) }
            }
        }

        impl<KitStack: ::kit::service::client::Stack> #service for #name<KitStack> {
            #(#functions)*
        }
    }
}

fn module(item: &ItemTrait, methods: &[Method], package: &str) -> TokenStream {
    let (vis, service, module) = (&item.vis, &item.ident, module_name(item));
    let about = format!("What [`{service}`](super::{service}) is made of on the wire.");
    let name = service.unraw().to_string();
    let full_name = format!("{package}.{name}");
    let service_doc = doc(&item.attrs);

    let requests = methods.iter().map(|method| {
        let request = request_name(method);
        let about = format!(
            "The arguments of [`{service}::{}`](super::{service}::{}).",
            method.name, method.name
        );
        let fields = method.arguments.iter().map(|Argument { name, ty }| {
            let about = format!("The argument `{}`.", name.unraw());
            quote! {
                #[doc = #about]
                #[kit(undocumented)]
                pub #name: #ty,
            }
        });
        quote! {
            #[doc = #about]
            #[derive(
                ::kit::service::generated::serde::Serialize,
                ::kit::service::generated::serde::Deserialize,
                ::kit::Message,
            )]
            #[serde(crate = "::kit::service::generated::serde", deny_unknown_fields)]
            #[kit(undocumented)]
            #[allow(missing_debug_implementations, reason = "not every argument has one")]
            pub struct #request {
                #(#fields)*
            }
        }
    });
    let table = methods.iter().map(|method| {
        let name = &method.camel;
        let grpc_path = format!("/{full_name}/{name}");
        let http_path = format!("/{}", method.name.unraw());
        let idempotent = method.idempotent;
        quote! {
            ::kit::name::Method {
                service: #full_name,
                name: #name,
                grpc_path: #grpc_path,
                http_path: #http_path,
                idempotent: #idempotent,
            }
        }
    });
    let shapes = methods.iter().enumerate().map(|(at, method)| {
        let (doc, request) = (&method.doc, request_name(method));
        let reply = match &method.reply {
            Reply::Nothing => quote!(::kit::service::generated::Empty),
            Reply::Message(ty) => quote!(#ty),
        };
        quote! {
            ::kit::service::schema::MethodShape {
                method: &METHODS[#at],
                doc: #doc,
                request: <#request as ::kit::service::message::Message>::shape(&mut types),
                response: <#reply as ::kit::service::message::Message>::shape(&mut types),
            }
        }
    });
    let unused = unused();
    quote! {
        #[doc = #about]
        #unused
        #vis mod #module {
            #[allow(unused_imports, reason = "the types of the arguments, if there are any")]
            use super::*;

            #(#requests)*

            /// The methods, in the order of their declaration.
            pub static METHODS: &[::kit::name::Method] = &[#(#table),*];

            /// The service as others see it.
            pub fn describe() -> ::kit::service::schema::Service {
                #[allow(unused_mut, reason = "a service may have no methods")]
                let mut types = ::kit::service::schema::Types::default();
                ::kit::service::schema::Service {
                    name: #name,
                    package: #package,
                    version: ::core::env!("CARGO_PKG_VERSION"),
                    doc: #service_doc,
                    methods: ::std::vec![#(#shapes),*],
                    types,
                }
            }

            /// The OpenAPI 3.1 document of the JSON side.
            pub fn openapi() -> ::kit::service::generated::serde_json::Value {
                describe().openapi()
            }

            /// The text of the `.proto` file of the gRPC side.
            pub fn proto() -> ::std::string::String {
                describe().proto()
            }
        }
    }
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
