//! Reads a trait, and tells every mistake at its token.

use std::time::Duration;

use proc_macro2::{Span, TokenStream};
use syn::{
    Error, FnArg, GenericArgument, Ident, ItemTrait, LitStr, Pat, PathArguments, ReceiverKind,
    Result, ReturnType, TraitItem, TraitItemFn, Type, ext::IdentExt, parse::Parser,
    spanned::Spanned,
};

use super::route::{Route, Settings, conflict};
use crate::names::{camel, doc, snake};

/// A method of the trait, checked.
pub(super) struct Method {
    pub(super) item: TraitItemFn,
    pub(super) name: Ident,
    pub(super) doc: String,
    /// Protobuf's name.
    pub(super) camel: String,
    pub(super) idempotent: bool,
    pub(super) route: Route,
    pub(super) timeout: Option<Duration>,
    pub(super) ctx: Ident,
    pub(super) arguments: Vec<Argument>,
    /// What is returned when it goes well.
    pub(super) reply: Reply,
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
}

pub(super) enum Reply {
    Nothing,
    Message(Box<Type>),
}

/// `package = "..."`, or the trait's own name.
pub(super) fn package(attribute: TokenStream, name: &Ident) -> Result<String> {
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
pub(super) fn methods(item: &ItemTrait) -> Result<Vec<Method>> {
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
        if let Some(message) = methods.iter().find_map(|other| conflict(other, &method)) {
            mistakes.add(method.route.span, &message);
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
    let settings = mistakes
        .keep(Settings::read(&item.attrs))
        .unwrap_or_default();

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
    let arguments: Vec<_> = typed
        .filter_map(|typed| mistakes.keep(argument(&typed.pat, &typed.ty)))
        .collect();
    let route = settings.route.unwrap_or_else(|| Route {
        verb: Ident::new("POST", name.span()),
        path: format!("/{plain}"),
        span: name.span(),
    });
    for parameter in route.parameters() {
        match arguments.iter().find(|a| a.name.unraw() == parameter) {
            Some(argument) if is_named(&argument.ty, "Option") => mistakes.add(
                argument.ty.span(),
                "an argument in the path is always there: it is no `Option`",
            ),
            Some(_) => {}
            None => mistakes.add(
                route.span,
                &format!("the method has no argument `{parameter}`, which the path names"),
            ),
        }
    }
    let reply = mistakes.keep(reply(&signature.output, name.span()));

    mistakes.finish(())?;
    let (reply, output) = reply.expect("checked, without a mistake");
    Ok(Method {
        item: item.clone(),
        doc: doc(&item.attrs),
        camel: camel(&plain),
        name,
        idempotent: settings.idempotent,
        route,
        timeout: settings.timeout,
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
