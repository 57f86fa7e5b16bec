//! What `#[kit(...)]` says of a method.

use std::time::Duration;

use proc_macro2::Span;
use syn::{
    Attribute, Error, Ident, LitStr, Result, Token, ext::IdentExt, meta::ParseNestedMeta,
    parenthesized,
};

use super::parse::Method;
use crate::names::unknown;

/// The verbs that a route may have.
const VERBS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/// The settings of a method.
#[derive(Default)]
pub(super) struct Settings {
    pub(super) idempotent: Option<()>,
    pub(super) route: Option<Route>,
    pub(super) timeout: Option<Duration>,
    pub(super) access: Option<Access>,
    pub(super) priority: Option<Priority>,
}

/// Who may call a method.
#[derive(Default)]
pub(super) enum Access {
    #[default]
    Anyone,
    Authenticated,
    Scope(String),
}

impl Access {
    /// Nothing, or `= "scope"`.
    fn read(meta: &ParseNestedMeta<'_>) -> Result<Self> {
        if !meta.input.peek(Token![=]) {
            return Ok(Self::Authenticated);
        }
        let text: LitStr = meta.value()?.parse()?;
        let scope = text.value();
        // RFC 6749, section 3.3.
        let is_scope = !scope.is_empty()
            && scope
                .bytes()
                .all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
        match is_scope {
            true => Ok(Self::Scope(scope)),
            false => Err(Error::new(
                text.span(),
                "a scope is a word of visible ASCII characters without `\"` and `\\`, such as `users:write`",
            )),
        }
    }
}

/// What a server sheds first.
#[derive(Clone, Copy, Default)]
pub(super) enum Priority {
    Sheddable,
    #[default]
    Normal,
    Critical,
}

impl Priority {
    /// `= "critical"`.
    fn read(meta: &ParseNestedMeta<'_>) -> Result<Self> {
        let text: LitStr = meta.value()?.parse()?;
        match &*text.value() {
            "sheddable" => Ok(Self::Sheddable),
            "normal" => Ok(Self::Normal),
            "critical" => Ok(Self::Critical),
            _ => Err(Error::new(
                text.span(),
                "a priority is `sheddable`, `normal` or `critical`",
            )),
        }
    }
}

impl Settings {
    pub(super) fn read(attributes: &[Attribute]) -> Result<Self> {
        let mut settings = Self::default();
        for attribute in attributes.iter().filter(|a| a.path().is_ident("kit")) {
            attribute.parse_nested_meta(|meta| {
                let word = meta.path.get_ident().map(Ident::to_string);
                match word.as_deref() {
                    Some("idempotent") => once(&meta, &mut settings.idempotent, |_| Ok(())),
                    Some("route") => once(&meta, &mut settings.route, Route::read),
                    Some("timeout") => once(&meta, &mut settings.timeout, timeout),
                    Some("auth") => once(&meta, &mut settings.access, Access::read),
                    Some("priority") => once(&meta, &mut settings.priority, Priority::read),
                    _ => Err(unknown(
                        &meta.path,
                        &["auth", "idempotent", "priority", "route", "timeout"],
                    )),
                }
            })?;
        }
        Ok(settings)
    }
}

/// Reads a setting that a method has at most once.
fn once<T>(
    meta: &ParseNestedMeta<'_>,
    slot: &mut Option<T>,
    read: fn(&ParseNestedMeta<'_>) -> Result<T>,
) -> Result<()> {
    if slot.replace(read(meta)?).is_some() {
        let message = "it is said twice; a method has one of each";
        return Err(Error::new_spanned(&meta.path, message));
    }
    Ok(())
}

/// `= "500ms"`.
fn timeout(meta: &ParseNestedMeta<'_>) -> Result<Duration> {
    let text: LitStr = meta.value()?.parse()?;
    match humantime::parse_duration(&text.value()) {
        Ok(Duration::ZERO) => Err(Error::new(text.span(), "a timeout is longer than nothing")),
        Ok(timeout) => Ok(timeout),
        Err(error) => {
            let message = format!("a timeout is a time such as `500ms` or `1m 30s`: {error}");
            Err(Error::new(text.span(), message))
        }
    }
}

/// Where a method answers JSON over HTTP.
pub(super) struct Route {
    pub(super) verb: Ident,
    /// With `{name}` for each argument in it.
    pub(super) path: String,
    /// Where mistakes in it are told.
    pub(super) span: Span,
}

impl Route {
    fn read(meta: &ParseNestedMeta<'_>) -> Result<Self> {
        let content;
        parenthesized!(content in meta.input);
        let verb: Ident = content.call(Ident::parse_any)?;
        if !VERBS.iter().any(|known| verb == known) {
            let message = format!("a route's verb is one of {}", VERBS.join(", "));
            return Err(Error::new(verb.span(), message));
        }
        content.parse::<Token![,]>()?;
        let path: LitStr = content.parse()?;
        content.parse::<Option<Token![,]>>()?;
        if !content.is_empty() {
            return Err(content.error("a route is a verb and a path"));
        }
        let route = Self {
            verb,
            path: path.value(),
            span: path.span(),
        };
        match route.mistake() {
            Some(message) => Err(Error::new(route.span, message)),
            None => Ok(route),
        }
    }

    fn mistake(&self) -> Option<&'static str> {
        let Some(path) = self.path.strip_prefix('/') else {
            return Some("a path begins with `/`");
        };
        let is_word = |part: &str| {
            !part.is_empty()
                && !matches!(part, "." | "..")
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
        };
        if !path.is_empty()
            && !path
                .split('/')
                .all(|p| parameter(p).is_some() || is_word(p))
        {
            return Some(
                "between two `/` stands a word of ASCII letters, digits, `-`, `.`, `_` and `~`, or a whole `{argument}`",
            );
        }
        let names: Vec<_> = self.parameters().collect();
        if (1..names.len()).any(|at| names[..at].contains(&names[at])) {
            return Some("an argument stands in the path once");
        }
        None
    }

    /// The arguments that are in the path.
    pub(super) fn parameters(&self) -> impl Iterator<Item = &str> {
        self.path.split('/').filter_map(parameter)
    }

    /// Whether the arguments that are not in the path are in a body, and not in the query string.
    pub(super) fn has_body(&self) -> bool {
        self.verb != "GET" && self.verb != "DELETE"
    }
}

fn parameter(part: &str) -> Option<&str> {
    let name = part.strip_prefix('{')?.strip_suffix('}')?;
    syn::parse_str::<Ident>(name)
        .or_else(|_| syn::parse_str(&format!("r#{name}")))
        .is_ok()
        .then_some(name)
}

/// Why two methods cannot have their routes in one service.
pub(super) fn conflict(one: &Method, other: &Method) -> Option<String> {
    let same = one.route.path.split('/').count() == other.route.path.split('/').count()
        && one
            .route
            .path
            .split('/')
            .zip(other.route.path.split('/'))
            .all(|(a, b)| a == b || (parameter(a).is_some() && parameter(b).is_some()));
    let (verb, path) = (&other.route.verb, &other.route.path);
    if !same {
        None
    } else if one.route.verb == *verb {
        Some(format!(
            "two methods answer at the same route: `{}` and `{}` are both `{verb} {path}`",
            one.name, other.name
        ))
    } else if one.route.path != *path {
        Some(format!(
            "one path has one name for each argument in it: `{}` has `{}`",
            one.name, one.route.path
        ))
    } else {
        None
    }
}
