//! Writes the client, which is an implementation of the trait.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::{Ident, ItemTrait, parse_quote, spanned::Spanned};

use super::{
    codec_name, module_name,
    parse::{Method, Reply, Transport, replied},
    request_name, unused,
};

pub(super) fn client(item: &ItemTrait, methods: &[Method], transport: Transport) -> TokenStream {
    let (vis, service, module) = (&item.vis, &item.ident, module_name(item));
    let name = format_ident!("{}Client", service);
    let about = format!("Calls a [`{service}`] elsewhere, through any tower stack.");
    let functions = methods.iter().enumerate().map(|(at, method)| {
        let (function, request) = (&method.name, request_name(method));
        let (ctx, output) = (&method.ctx, &method.output);
        let names: Vec<_> = method.arguments.iter().map(|a| &a.name).collect();
        let types = method.arguments.iter().map(|a| &a.ty);
        let mut output = output.clone();
        let (unary, codec) = (quote!(unary), codec_name(at));
        let (call, reply, refine) = match &method.reply {
            Reply::Nothing => (
                unary,
                quote!(.map(|::kit::service::generated::Empty {}| ())),
                quote!(),
            ),
            Reply::Message(_) => (unary, quote!(), quote!()),
            Reply::Stream(item) => {
                // Named, so that who has the client itself may keep the stream for longer than the client.
                if let Some(replied) = replied(&mut output) {
                    *replied = parse_quote!(::kit::service::client::Items<#item>);
                }
                let refine = quote!(#[allow(refining_impl_trait, reason = "it is named")]);
                (quote!(stream), quote!(), refine)
            }
        };
        // Where the error type is not the kit's own, that is told at the type.
        let answer = Ident::new("answer", output.span().resolved_at(Span::mixed_site()));
        quote_spanned! {output.span()=>
            #refine
            async fn #function(&self, #ctx: ::kit::Context, #(#names: #types),*) -> #output {
                let #answer: ::core::result::Result<_, ::kit::Error> = self
                    .caller
                    .#call(&#module::METHODS[#at], #module::#codec, #ctx, #module::#request { #(#names),* })
                    .await
                    #reply;
                #answer
            }
        }
    });
    let json = transport.has_http().then(|| {
        quote! {
            /// Calls through `stack` as JSON over HTTP.
            pub fn json(stack: KitStack) -> Self {
                Self { caller: ::kit::service::client::Caller::new(stack, ::kit::wire::Wire::Json) }
            }
        }
    });
    let grpc = transport.has_grpc().then(|| {
        quote! {
            /// Calls through `stack` as gRPC, which needs HTTP/2.
            pub fn grpc(stack: KitStack) -> Self {
                Self { caller: ::kit::service::client::Caller::new(stack, ::kit::wire::Wire::Grpc) }
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
            #json
            #grpc
        }

        impl<KitStack: ::kit::service::client::Stack> #service for #name<KitStack> {
            #(#functions)*
        }
    }
}
