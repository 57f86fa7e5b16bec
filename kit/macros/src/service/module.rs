//! Writes the module of what travels: the requests, the list of methods, and the description of it all.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{ItemTrait, ext::IdentExt, spanned::Spanned};

use super::{
    module_name,
    parse::{Argument, Method, Reply},
    request_name, unused,
};
use crate::names::doc;

pub(super) fn module(item: &ItemTrait, methods: &[Method], package: &str) -> TokenStream {
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
    let texts = methods.iter().flat_map(|method| {
        method.texts().map(|Argument { name, ty }| {
            let message = format!(
                "`{name}` stands in the path or in the query string, so it is a number, a boolean, a text, an enum or a newtype of one of these"
            );
            quote_spanned! {ty.span()=>
                const _: () = ::core::assert!(<#ty as ::kit::service::message::Field>::IS_TEXT, #message);
            }
        })
    });
    let table = methods.iter().map(|method| {
        let name = &method.camel;
        let grpc_path = format!("/{full_name}/{name}");
        let (verb, http_path) = (&method.route.verb, &method.route.path);
        let idempotent = method.idempotent;
        let streaming = matches!(method.reply, Reply::Stream(_));
        let timeout = match method
            .timeout
            .map(|time| (time.as_secs(), time.subsec_nanos()))
        {
            None => quote!(::core::option::Option::None),
            Some((secs, nanos)) => quote! {
                ::core::option::Option::Some(::core::time::Duration::new(#secs, #nanos))
            },
        };
        quote! {
            ::kit::name::Method {
                service: #full_name,
                name: #name,
                grpc_path: #grpc_path,
                http_method: ::kit::service::generated::http::Method::#verb,
                http_path: #http_path,
                idempotent: #idempotent,
                streaming: #streaming,
                timeout: #timeout,
            }
        }
    });
    let shapes = methods.iter().enumerate().map(|(at, method)| {
        let (doc, request) = (&method.doc, request_name(method));
        let name = method.name.unraw().to_string();
        let reply = match &method.reply {
            Reply::Nothing => quote! {
                <::kit::service::generated::Empty as ::kit::service::message::Message>
            },
            Reply::Message(ty) | Reply::Stream(ty) => {
                quote_spanned!(ty.span()=> <#ty as ::kit::service::message::Message>)
            }
        };
        quote! {
            ::kit::service::schema::MethodShape {
                name: #name,
                method: &METHODS[#at],
                doc: #doc,
                request: <#request as ::kit::service::message::Message>::shape(&mut types),
                response: #reply::shape(&mut types),
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
            #(#texts)*

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
