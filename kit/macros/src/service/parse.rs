//! Reads a trait, and tells every mistake at its token.

use std::time::Duration;

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{
    Attribute, Error, FnArg, GenericArgument, Ident, ItemTrait, LitStr, Pat, PatType,
    PathArguments, ReceiverKind, Result, ReturnType, TraitItem, TraitItemFn, Type, TypeImplTrait,
    TypeParamBound, ext::IdentExt, parse::Parser,
};

use super::request_name;
use super::route::{Access, Priority, Route, Settings, conflict};
use crate::{
    names::{camel, doc, snake, unknown},
    rules::{self, Rules},
};

/// A method of the trait, checked.
pub(super) struct Method {
    pub(super) item: TraitItemFn,
    pub(super) name: Ident,
    pub(super) doc: String,
    /// Protobuf's name.
    pub(super) camel: String,
    pub(super) idempotent: bool,
    pub(super) route: Route,
    /// Whether the route was said.
    has_route: bool,
    pub(super) timeout: Option<Duration>,
    pub(super) access: Access,
    pub(super) priority: Priority,
    pub(super) ctx: Ident,
    pub(super) arguments: Vec<Argument>,
    /// What is returned when it goes well.
    pub(super) reply: Reply,
    /// `Result<_, _>`, of futures and streams that may go from thread to thread.
    pub(super) output: Type,
}

impl Method {
    /// The arguments that travel as texts, outside the body.
    pub(super) fn texts(&self) -> impl Iterator<Item = &Argument> {
        self.arguments.iter().filter(|argument| {
            let name = argument.name.unraw().to_string();
            !self.route.has_body() || self.route.parameters().any(|parameter| parameter == name)
        })
    }
}

pub(super) struct Argument {
    pub(super) name: Ident,
    pub(super) ty: Type,
    pub(super) rules: Rules,
    /// Where its rules stand.
    pub(super) attributes: Vec<Attribute>,
}

pub(super) enum Reply {
    Nothing,
    Message(Box<Type>),
    /// Any number of the same.
    Stream(Box<Type>),
}

/// On which wires the service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Http,
    Grpc,
    Both,
}

impl Transport {
    pub(super) fn has_http(self) -> bool {
        self != Self::Grpc
    }

    pub(super) fn has_grpc(self) -> bool {
        self != Self::Http
    }
}

/// What is said of the whole service.
pub(super) struct Whole {
    /// Protobuf's.
    pub(super) package: String,
    pub(super) transport: Transport,
}

/// `package = "..."`, or the trait's own name; `transport = "..."`, or both.
pub(super) fn whole(attribute: TokenStream, name: &Ident) -> Result<Whole> {
    let (mut said_package, mut said_transport) = (None, None);
    let parser = syn::meta::parser(|meta| {
        let is_new = if meta.path.is_ident("package") {
            let package = package(&meta.value()?.parse()?)?;
            said_package.replace(package).is_none()
        } else if meta.path.is_ident("transport") {
            let transport = transport(&meta.value()?.parse()?)?;
            said_transport.replace(transport).is_none()
        } else {
            return Err(unknown(&meta.path, &["package", "transport"]));
        };
        match is_new {
            true => Ok(()),
            false => Err(Error::new_spanned(
                &meta.path,
                "it is said twice; a service has one of each",
            )),
        }
    });
    parser.parse2(attribute)?;
    Ok(Whole {
        package: said_package.unwrap_or_else(|| snake(&name.unraw().to_string())),
        transport: said_transport.unwrap_or(Transport::Both),
    })
}

fn package(text: &LitStr) -> Result<String> {
    let package = text.value();
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_lowercase())
            && word
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    if !package.split('.').all(is_word) {
        let message = "a package is made of lower-case words with dots between them";
        return Err(Error::new(text.span(), message));
    }
    Ok(package)
}

fn transport(text: &LitStr) -> Result<Transport> {
    match &*text.value() {
        "http" => Ok(Transport::Http),
        "grpc" => Ok(Transport::Grpc),
        "both" => Ok(Transport::Both),
        _ => Err(Error::new(
            text.span(),
            "a transport is `http`, `grpc` or `both`",
        )),
    }
}

/// All methods, or all mistakes at once, each at its own token.
pub(super) fn methods(item: &ItemTrait, transport: Transport) -> Result<Vec<Method>> {
    let mut mistakes = Mistakes::default();
    if !item.generics.params.is_empty() || item.generics.where_clause.is_some() {
        mistakes.add(
            (item.generics.params.first().map(ToTokens::to_token_stream))
                .unwrap_or_else(|| item.generics.where_clause.to_token_stream()),
            "a service has no generics: its methods travel over a wire",
        );
    }
    let mut methods: Vec<Method> = Vec::new();
    for item in &item.items {
        let TraitItem::Fn(function) = item else {
            mistakes.add(item, "a service has methods only");
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
            mistakes.add(&method.name, &message);
        }
        if transport.has_http()
            && let Some(message) = methods.iter().find_map(|other| conflict(other, &method))
        {
            mistakes.at(method.route.span, &message);
        }
        if !transport.has_http() && method.has_route {
            mistakes.at(method.route.span, "a service without HTTP has no routes");
        }
        methods.push(method);
    }
    own_names(&methods, &mut mistakes);
    mistakes.finish(methods)
}

/// A type that has the name of what is made here would be taken for that.
fn own_names(methods: &[Method], mistakes: &mut Mistakes) {
    let requests: Vec<_> = methods.iter().map(request_name).collect();
    for method in methods {
        let reply = match &method.reply {
            Reply::Nothing => None,
            Reply::Message(ty) | Reply::Stream(ty) => Some(&**ty),
        };
        for ty in method.arguments.iter().map(|a| &a.ty).chain(reply) {
            let Some(name) = first_names(ty.to_token_stream())
                .into_iter()
                .find(|name| requests.contains(name))
            else {
                continue;
            };
            let message = format!(
                "`{name}` is what the arguments of a method here are called together; give the type another name"
            );
            mistakes.add(ty, &message);
        }
    }
}

/// The names in a type at which its paths begin.
fn first_names(tokens: TokenStream) -> Vec<Ident> {
    let (mut names, mut behind_colon) = (Vec::new(), false);
    for token in tokens {
        match token {
            TokenTree::Ident(name) if !behind_colon => names.push(name),
            TokenTree::Group(group) => names.extend(first_names(group.stream())),
            TokenTree::Punct(punct) if punct.as_char() == ':' => {
                behind_colon = true;
                continue;
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
        behind_colon = false;
    }
    names
}

/// Mistakes, gathered so that all are told at once.
#[derive(Default)]
struct Mistakes(Option<Error>);

impl Mistakes {
    fn at(&mut self, span: Span, message: &str) {
        self.keep::<()>(Err(Error::new(span, message)));
    }

    /// Both ends are kept: the span of a node alone is that of its first token.
    fn add(&mut self, at: impl ToTokens, message: &str) {
        self.keep::<()>(Err(Error::new_spanned(at, message)));
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
            &name,
            "the name of a method is part of its route: ASCII, and not with `_` first",
        );
    }
    if signature.asyncness.is_none() {
        mistakes.add(signature.fn_token, "a method of a service is an `async fn`");
    }
    if let Some(generic) = signature.generics.params.first() {
        mistakes.add(
            generic,
            "a method of a service has no generics: its arguments travel over a wire",
        );
    }
    if let Some(body) = &item.default {
        mistakes.add(
            body,
            "a method of a service has no body here; implementations have it",
        );
    }
    let settings = mistakes
        .keep(Settings::read(&item.attrs))
        .unwrap_or_default();

    let mut inputs = signature.inputs.iter();
    match inputs.next() {
        Some(FnArg::Receiver(receiver))
            if matches!(receiver.kind, ReceiverKind::Reference(_, _, None)) => {}
        Some(FnArg::Receiver(receiver)) => {
            mistakes.add(receiver, "a method of a service takes `&self`");
        }
        first => mistakes.add(
            first.map_or_else(|| name.to_token_stream(), ToTokens::to_token_stream),
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
            let message = "a method of a service takes `ctx: Context` after `&self`";
            match first {
                Some(first) => mistakes.add(first, message),
                None => mistakes.at(signature.paren_token.span.close(), message),
            }
            None
        }
    };
    let arguments: Vec<_> = typed
        .filter_map(|typed| mistakes.keep(argument(typed)))
        .collect();
    let has_route = settings.route.is_some();
    let route = settings.route.unwrap_or_else(|| Route {
        verb: Ident::new("POST", name.span()),
        path: format!("/{plain}"),
        span: name.span(),
    });
    for parameter in route.parameters() {
        match arguments.iter().find(|a| a.name.unraw() == parameter) {
            Some(argument) if is_named(&argument.ty, "Option") => mistakes.add(
                &argument.ty,
                "an argument in the path is always there: it is no `Option`",
            ),
            Some(_) => {}
            None => mistakes.at(
                route.span,
                &format!("the method has no argument `{parameter}`, which the path names"),
            ),
        }
    }
    let reply = mistakes.keep(reply(&signature.output, &name));

    mistakes.finish(())?;
    let (reply, output) = reply.expect("checked, without a mistake");
    Ok(Method {
        item: item.clone(),
        doc: doc(&item.attrs),
        camel: camel(&plain),
        name,
        idempotent: settings.idempotent.is_some(),
        route,
        has_route,
        timeout: settings.timeout,
        access: settings.access.unwrap_or_default(),
        priority: settings.priority.unwrap_or_default(),
        ctx: ctx.expect("checked, without a mistake"),
        arguments,
        reply,
        output,
    })
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
        _ => Err(Error::new_spanned(
            pattern,
            "an argument has a name, which is the name of its field in the request",
        )),
    }
}

fn argument(typed: &PatType) -> Result<Argument> {
    let ty = &*typed.ty;
    let refused = match ty {
        Type::Reference(_) => "an argument is owned, for it arrives over a wire",
        Type::ImplTrait(_) => "an argument has one type, for it arrives over a wire",
        _ => {
            let name = binding(&typed.pat, "")?;
            if !name.unraw().to_string().is_ascii() {
                let message = "the name of an argument is that of its field in the request: ASCII";
                return Err(Error::new(name.span(), message));
            }
            let is_ours = |attribute: &&Attribute| attribute.path().is_ident("kit");
            let attributes: Vec<_> = typed.attrs.iter().filter(is_ours).cloned().collect();
            let mut rules = Rules::default();
            for attribute in &attributes {
                attribute.parse_nested_meta(|meta| match rules.read(&meta)? {
                    true => Ok(()),
                    false => Err(unknown(&meta.path, &rules::WORDS)),
                })?;
            }
            return Ok(Argument {
                name,
                ty: ty.clone(),
                rules,
                attributes,
            });
        }
    };
    Err(Error::new_spanned(ty, refused))
}

/// What stands in `Result<_, _>`.
fn reply(output: &ReturnType, name: &Ident) -> Result<(Reply, Type)> {
    const MISTAKE: &str = "a method of a service returns `Result<T, Error>`";

    let ReturnType::Type(_, output) = output else {
        return Err(Error::new_spanned(name, MISTAKE));
    };
    let segment = match &**output {
        Type::Path(path) => path.path.segments.last(),
        _ => None,
    };
    let Some(segment) = segment.filter(|segment| segment.ident == "Result") else {
        return Err(Error::new_spanned(output, MISTAKE));
    };
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else {
        return Err(Error::new_spanned(output, MISTAKE));
    };
    let reply = match arguments.args.first() {
        Some(GenericArgument::Type(Type::Tuple(tuple))) if tuple.elems.is_empty() => Reply::Nothing,
        Some(GenericArgument::Type(Type::ImplTrait(bounds))) => {
            Reply::Stream(Box::new(item_of(bounds)?))
        }
        Some(GenericArgument::Type(ty)) => Reply::Message(Box::new(ty.clone())),
        _ => return Err(Error::new_spanned(output, MISTAKE)),
    };
    // An alias may name one type only.
    if let Some(GenericArgument::Type(error)) = arguments.args.iter().nth(1)
        && !is_named(error, "Error")
    {
        let message = "the error of a method is `kit::Error`, which has a code for each wire";
        return Err(Error::new_spanned(error, message));
    }
    let mut output = (**output).clone();
    if let Some(Type::ImplTrait(bounds)) = replied(&mut output) {
        bounds.bounds.push(syn::parse_quote!(::core::marker::Send));
    }
    Ok((reply, output))
}

/// What stands first in a checked `Result<_, _>`.
pub(super) fn replied(output: &mut Type) -> Option<&mut Type> {
    let Type::Path(path) = output else {
        return None;
    };
    let PathArguments::AngleBracketed(arguments) = &mut path.path.segments.last_mut()?.arguments
    else {
        return None;
    };
    match arguments.args.first_mut()? {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    }
}

/// The `T` of `impl Stream<Item = Result<T, Error>>`.
fn item_of(stream: &TypeImplTrait) -> Result<Type> {
    const MISTAKE: &str = "a method of a service that answers more than once returns `Result<impl Stream<Item = Result<T, Error>>, Error>`";

    let arguments = stream.bounds.iter().find_map(|bound| match bound {
        TypeParamBound::Trait(bound) => {
            let segment = bound.path.segments.last()?;
            (segment.ident == "Stream").then_some(&segment.arguments)
        }
        _ => None,
    });
    let Some(arguments) = arguments else {
        return Err(Error::new_spanned(stream, MISTAKE));
    };
    let item = match arguments {
        PathArguments::AngleBracketed(arguments) => {
            arguments.args.iter().find_map(|argument| match argument {
                GenericArgument::AssocType(ty) if ty.ident == "Item" => Some(&ty.ty),
                _ => None,
            })
        }
        PathArguments::None | PathArguments::Parenthesized(_) => None,
    };
    let Some(item) = item else {
        return Err(Error::new_spanned(stream, MISTAKE));
    };
    let mut result = item.clone();
    match replied(&mut result) {
        Some(Type::Tuple(tuple)) if tuple.elems.is_empty() => Err(Error::new_spanned(
            tuple,
            "an item of a stream is a message, of which there is none here",
        )),
        Some(ty) if is_named(item, "Result") => Ok(ty.clone()),
        _ => Err(Error::new_spanned(item, MISTAKE)),
    }
}
