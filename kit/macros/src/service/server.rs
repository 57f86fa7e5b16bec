//! Writes the tower service that answers calls.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::{Ident, ItemTrait, spanned::Spanned};

use super::{
    codec_name, module_name,
    parse::{Method, Reply, Transport},
    request_name, unused,
};

pub(super) fn server(item: &ItemTrait, methods: &[Method], transport: Transport) -> TokenStream {
    let (vis, service, module) = (&item.vis, &item.ident, module_name(item));
    let name = format_ident!("{}Server", service);
    let wires = match transport {
        Transport::Http => "as JSON over HTTP",
        Transport::Grpc => "as gRPC",
        Transport::Both => "as JSON over HTTP and as gRPC",
    };
    let about = format!("Serves [`{service}`] {wires}. Clones share one handler.");
    // Of the macro's own, so that an argument may have the same name.
    let [handler, ctx, incoming, items] =
        ["handler", "ctx", "incoming", "items"].map(|name| Ident::new(name, Span::mixed_site()));
    let calls = methods.iter().enumerate().map(|(at, method)| {
        let (function, request) = (&method.name, request_name(method));
        let fields: Vec<_> = method.arguments.iter().map(|a| &a.name).collect();
        let output = method.output.span();
        // Where the error type is not the kit's own, that is told at the type.
        let result = Ident::new("result", output.resolved_at(Span::mixed_site()));
        let [trait_, called] = [service, function].map(|name| {
            let mut name = name.clone();
            name.set_span(name.span().located_at(output));
            name
        });
        let call = quote_spanned! {output=> {
            let #result: ::core::result::Result<_, ::kit::Error> =
                #trait_::#called(&*#handler, #ctx, #(#fields),*).await;
            #result
        }};
        let codec = codec_name(at);
        let (answer, arguments, body) = match method.reply {
            Reply::Nothing => (
                quote!(unary),
                quote!(#ctx, #module::#request { #(#fields),* }),
                quote!(#call.map(|()| ::kit::service::generated::Empty {})),
            ),
            Reply::Message(_) => (
                quote!(unary),
                quote!(#ctx, #module::#request { #(#fields),* }),
                call,
            ),
            Reply::Stream(_) => (
                quote!(streaming),
                quote!(#ctx, #module::#request { #(#fields),* }, #items),
                quote!(#items.send(#call?).await),
            ),
        };
        let answered = quote! {
            ::kit::service::server::#answer(
                &#module::METHODS[#at],
                #module::#codec,
                #incoming,
                |#arguments| async move { #body },
            )
            .await
        };
        quote!(::core::result::Result::Ok(#at) => #answered,)
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
                                ::kit::service::server::other(
                                    #module::METHODS,
                                    #module::describe,
                                    #incoming,
                                    refusal,
                                )
                            }
                        },
                    )
                })
            }
        }
    }
}
