//! Writes the module of what travels: the requests, the list of methods, and the description of it all.

use proc_macro2::{Group, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::{Ident, ItemTrait, Type, ext::IdentExt, spanned::Spanned};

use super::{
    codec_name, module_name,
    parse::{Argument, Method, Reply, Transport, Whole},
    request_name,
    route::{Access, Priority},
    unused,
};
use crate::names::doc;

pub(super) fn module(item: &ItemTrait, methods: &[Method], whole: &Whole) -> TokenStream {
    let Whole { package, transport } = whole;
    let (vis, service, module) = (&item.vis, &item.ident, module_name(item));
    let about = format!("What [`{service}`](super::{service}) is made of on the wire.");
    let name = service.unraw().to_string();
    let full_name = format!("{package}.{name}");
    let service_doc = doc(&item.attrs);

    let requests = methods
        .iter()
        .map(|method| request(service, method, *transport));
    let codecs = methods
        .iter()
        .enumerate()
        .map(|(at, method)| codec(at, method, *transport));
    let texts = methods
        .iter()
        .filter(|_| *transport == Transport::Both)
        .flat_map(|method| method.texts().map(is_text));
    let table = methods
        .iter()
        .map(|method| entry(method, &full_name, *transport));
    let shapes = methods
        .iter()
        .enumerate()
        .map(|(at, method)| shape(at, method, *transport));
    let openapi = transport.has_http().then(|| {
        quote! {
            /// The OpenAPI 3.1 document of the JSON side.
            pub fn openapi() -> ::kit::service::generated::serde_json::Value {
                describe().openapi()
            }
        }
    });
    let proto = transport.has_grpc().then(|| {
        quote! {
            /// The text of the `.proto` file of the gRPC side.
            pub fn proto() -> ::std::string::String {
                describe().proto()
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
            #(#codecs)*
            #(#texts)*

            /// The methods, in the order of their declaration.
            pub static METHODS: &[::kit::name::Method] = &[#(#table),*];

            /// The service as others see it.
            pub fn describe() -> ::kit::service::schema::Service {
                #[allow(unused_mut, reason = "a service may have no methods")]
                let mut types = ::kit::service::schema::Types::of(#name);
                ::kit::service::schema::Service {
                    name: #name,
                    package: #package,
                    version: ::core::env!("CARGO_PKG_VERSION"),
                    doc: #service_doc,
                    methods: ::std::vec![#(#shapes),*],
                    types,
                }
            }

            #openapi
            #proto
        }
    }
}

/// A type of the trait as it is named in the module, which is one level deeper.
fn deeper(ty: &Type) -> Type {
    fn walk(tokens: TokenStream) -> TokenStream {
        let (mut out, mut in_path) = (TokenStream::new(), false);
        for token in tokens {
            // What follows `::` goes on with a path.
            let begins = !std::mem::replace(
                &mut in_path,
                matches!(&token, TokenTree::Punct(punct) if punct.as_char() == ':'),
            );
            out.extend(match token {
                TokenTree::Ident(word) if begins && word == "super" => {
                    quote_spanned!(word.span()=> super::super)
                }
                TokenTree::Ident(word) if begins && word == "self" => {
                    quote_spanned!(word.span()=> super)
                }
                TokenTree::Group(group) => {
                    let mut inner = Group::new(group.delimiter(), walk(group.stream()));
                    inner.set_span(group.span());
                    TokenTree::Group(inner).into()
                }
                token => token.into(),
            });
        }
        out
    }
    Type::Verbatim(walk(ty.to_token_stream()))
}

/// The struct of a method's arguments.
fn request(service: &Ident, method: &Method, transport: Transport) -> TokenStream {
    let request = request_name(method);
    let about = format!(
        "The arguments of [`{service}::{}`](super::{service}::{}).",
        method.name, method.name
    );
    let undocumented = transport.has_grpc().then(|| quote!(#[kit(undocumented)]));
    let fields = method.arguments.iter().map(|argument| {
        let (name, ty) = (&argument.name, deeper(&argument.ty));
        let about = format!("The argument `{}`.", name.unraw());
        let rules = transport.has_grpc().then_some(&argument.attributes);
        let rules = rules.into_iter().flatten();
        quote! {
            #[doc = #about]
            #undocumented
            #(#rules)*
            pub #name: #ty,
        }
    });
    let serde = transport.has_http().then(|| {
        quote! {
            #[derive(
                ::kit::service::generated::serde::Serialize,
                ::kit::service::generated::serde::Deserialize,
            )]
            #[serde(crate = "::kit::service::generated::serde", deny_unknown_fields)]
        }
    });
    let message = transport
        .has_grpc()
        .then(|| quote!(#[derive(::kit::Message)]));
    let checked = (!transport.has_grpc()).then(|| checked(method));
    quote! {
        #[doc = #about]
        #serde
        #message
        #undocumented
        #[allow(missing_debug_implementations, reason = "not every argument has one")]
        pub struct #request {
            #(#fields)*
        }

        #checked
    }
}

/// What a request of any types is held against. One that gRPC carries derives it.
fn checked(method: &Method) -> TokenStream {
    let request = request_name(method);
    let (mut functions, mut checks) = (Vec::new(), Vec::new());
    for (at, argument) in method.arguments.iter().enumerate() {
        let Argument { name, rules, .. } = argument;
        let ty = &deeper(&argument.ty);
        let text = name.unraw().to_string();
        let its_rules = rules_name(at);
        functions.push(rules.function(&its_rules, ty));
        let hold = rules.then(|| {
            let measure =
                quote_spanned!(ty.span()=> <#ty as ::kit::service::message::Field>::measure);
            quote!(violations.hold(Self::#its_rules(), #measure(&self.#name));)
        });
        let known = known(&quote!(#ty));
        checks.push(quote! {
            violations.within(#text, #text, |violations| {
                #known.check(&self.#name, violations);
                #hold
            });
        });
    }
    quote! {
        impl #request {
            #(#functions)*

            #[allow(unused_variables, reason = "a method may have no arguments")]
            fn kit_check(&self, violations: &mut ::kit::service::rules::Violations) {
                #[allow(unused_imports, reason = "one of them knows the type")]
                use ::kit::service::generated::{Unshaped as _, Shaped as _};
                #(#checks)*
            }
        }
    }
}

fn rules_name(at: usize) -> Ident {
    format_ident!("kit_rules_{at}")
}

/// How the method travels: the one place where a type that cannot is told.
fn codec(at: usize, method: &Method, transport: Transport) -> TokenStream {
    let (codec, request) = (codec_name(at), request_name(method));
    let answer = match &method.reply {
        Reply::Nothing => quote!(::kit::service::generated::Empty),
        Reply::Message(ty) | Reply::Stream(ty) => deeper(ty).into_token_stream(),
    };
    let (arguments, make, check, known) = match transport {
        Transport::Http => {
            let known = known(&answer);
            let shape = with_known(&quote!(#known.shape(types)));
            let check = with_known(&quote!(#known.check(value, violations)));
            (
                "http_arguments",
                "http_answer",
                Some(quote!(#request::kit_check)),
                Some(quote!(|types| #shape, |value, violations| #check)),
            )
        }
        Transport::Grpc => ("grpc_arguments", "grpc_answer", None, None),
        Transport::Both => ("both_arguments", "both_answer", None, None),
    };
    let (arguments, make) = (format_ident!("{arguments}"), format_ident!("{make}"));
    quote! {
        pub(super) static #codec: ::kit::service::codec::Codec<#request, #answer> =
            ::kit::service::codec::Codec::new(
                ::kit::service::codec::#arguments::<#request>(#check),
                ::kit::service::codec::#make::<#answer>(#known),
            );
    }
}

/// What is known of a type that need not be one of protobuf.
fn known(ty: &TokenStream) -> TokenStream {
    quote!((&::kit::service::generated::ShapeOf::<#ty>::NEW))
}

/// What asks for it.
fn with_known(asking: &TokenStream) -> TokenStream {
    quote!({
        #[allow(unused_imports, reason = "one of them knows the type")]
        use ::kit::service::generated::{Unshaped as _, Shaped as _};
        #asking
    })
}

fn is_text(Argument { name, ty, .. }: &Argument) -> TokenStream {
    let ty = deeper(ty);
    let message = format!(
        "`{name}` stands in the path or in the query string, so it is a number, a boolean, a text, an enum or a newtype of one of these"
    );
    quote_spanned! {ty.span()=>
        const _: () = ::core::assert!(<#ty as ::kit::service::message::Field>::IS_TEXT, #message);
    }
}

/// The method in the list of all.
fn entry(method: &Method, full_name: &str, transport: Transport) -> TokenStream {
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
    let transport = match transport {
        Transport::Http => quote!(Http),
        Transport::Grpc => quote!(Grpc),
        Transport::Both => quote!(Both),
    };
    let access = match &method.access {
        Access::Anyone => quote!(Anyone),
        Access::Authenticated => quote!(Authenticated),
        Access::Scope(scope) => quote!(Scope(#scope)),
    };
    let priority = match method.priority {
        Priority::Sheddable => quote!(Sheddable),
        Priority::Normal => quote!(Normal),
        Priority::Critical => quote!(Critical),
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
            transport: ::kit::name::Transport::#transport,
            access: ::kit::name::Access::#access,
            priority: ::kit::name::Priority::#priority,
            timeout: #timeout,
        }
    }
}

/// The method as others see it.
fn shape(at: usize, method: &Method, transport: Transport) -> TokenStream {
    let (doc, request, codec) = (&method.doc, request_name(method), codec_name(at));
    let name = method.name.unraw().to_string();
    let response = format!("{}Response", method.camel);
    let arguments = if transport.has_grpc() {
        quote!(<#request as ::kit::service::message::Message>::shape(&mut types))
    } else {
        let text = request.to_string();
        let fields = method.arguments.iter().enumerate().map(|(at, argument)| {
            let (number, ty) = (at as u32 + 1, deeper(&argument.ty));
            let name = argument.name.unraw().to_string();
            let known = known(&quote!(#ty));
            let shape = with_known(&quote!(#known.shape(types)));
            let its_rules = rules_name(at);
            let ruled = (argument.rules).then(|| quote!(.ruled(#request::#its_rules())));
            quote! {
                ::kit::service::schema::FieldShape {
                    name: #name,
                    json: #name,
                    number: #number,
                    doc: "",
                    shape: #shape #ruled,
                    has_default: false,
                }
            }
        });
        quote! {
            types.named::<#request>(#text, "", |types| {
                let _ = &types;
                ::kit::service::schema::Kind::Message {
                    fields: ::std::vec![#(#fields),*],
                    closed: true,
                }
            })
        }
    };
    quote!({
        let request = #arguments;
        let (reply, response) = #codec.shapes(&mut types, #response);
        ::kit::service::schema::MethodShape {
            name: #name,
            method: &METHODS[#at],
            doc: #doc,
            request,
            reply,
            response,
        }
    })
}
