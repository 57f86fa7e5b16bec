//! What a value may be, beside what its type says: `min_length`, `pattern`, `maximum`, ...

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use regex_automata::dfa::{StartKind, dense};
use regex_syntax::ast;
use syn::{Error, Ident, Lit, LitInt, LitStr, Result, Token, Type, meta::ParseNestedMeta};

/// The words that say rules.
pub(crate) const WORDS: [&str; 5] = ["max_length", "maximum", "min_length", "minimum", "pattern"];

/// How much memory a pattern may take when it is held against texts.
const PATTERN_LIMIT: usize = 1 << 20;

/// The rules of one value.
#[derive(Clone, Default)]
pub(crate) struct Rules {
    min_length: Option<Said<u64>>,
    max_length: Option<Said<u64>>,
    pattern: Option<Said<String>>,
    minimum: Option<Said<Number>>,
    maximum: Option<Said<Number>>,
}

/// What a word says, and where it stands.
#[derive(Clone)]
struct Said<T> {
    word: Ident,
    value: T,
}

#[derive(Clone, Copy, PartialEq)]
enum Number {
    Integer(i128),
    Float(f64),
}

impl Rules {
    /// Reads a word that says a rule; whether it is one.
    pub(crate) fn read(&mut self, meta: &ParseNestedMeta<'_>) -> Result<bool> {
        let Some(word) = meta.path.get_ident() else {
            return Ok(false);
        };
        match word.to_string().as_str() {
            "min_length" => say(&mut self.min_length, word, length(meta)?)?,
            "max_length" => say(&mut self.max_length, word, length(meta)?)?,
            "pattern" => say(&mut self.pattern, word, pattern(meta)?)?,
            "minimum" => say(&mut self.minimum, word, number(meta)?)?,
            "maximum" => say(&mut self.maximum, word, number(meta)?)?,
            _ => return Ok(false),
        }
        if let (Some(least), Some(most)) = (&self.min_length, &self.max_length)
            && least.value > most.value
        {
            return Err(Error::new(
                word.span(),
                "nothing is as long as both rules say",
            ));
        }
        if let (Some(least), Some(most)) = (&self.minimum, &self.maximum)
            && least.value.float() > most.value.float()
        {
            return Err(Error::new(word.span(), "no number is between the two"));
        }
        Ok(true)
    }

    /// # Errors
    /// There is a rule, where none may be.
    pub(crate) fn none(&self, message: &str) -> Result<()> {
        match self.words().next() {
            None => Ok(()),
            Some((word, _)) => Err(Error::new(word.span(), message)),
        }
    }

    /// The words, each with what it can be about.
    fn words(&self) -> impl Iterator<Item = (&Ident, TokenStream)> {
        let lengths = [&self.min_length, &self.max_length].into_iter().flatten();
        let numbers = [&self.minimum, &self.maximum].into_iter().flatten();
        let [text, items, number] = ["Text", "Items", "Number"].map(|kind| {
            let kind = Ident::new(kind, Span::call_site());
            quote!(::kit::service::rules::Measured::#kind)
        });
        let long = quote!(#text | #items);
        (lengths.map(move |said| (&said.word, long.clone())))
            .chain(
                self.pattern
                    .iter()
                    .map(move |said| (&said.word, text.clone())),
            )
            .chain(numbers.map(move |said| (&said.word, number.clone())))
    }

    /// The function `name`, which gives the rules of a value of the type `ty`, and what tells of a word that cannot be
    /// about it; nothing where there are no rules.
    pub(crate) fn function(&self, name: &Ident, ty: &Type) -> TokenStream {
        if self.words().next().is_none() {
            return TokenStream::new();
        }
        let checks = self.words().map(|(word, about)| {
            let message = format!("`{word}` says nothing of this type: {ABOUT}");
            quote_spanned! {word.span()=>
                const _: () = ::core::assert!(
                    ::core::matches!(<#ty as ::kit::service::message::Field>::MEASURED, #about),
                    #message
                );
            }
        });
        let lengths = [&self.min_length, &self.max_length]
            .map(|said| option(said.as_ref().map(|Said { value, .. }| quote!(#value))));
        let [min_length, max_length] = lengths;
        let [minimum, maximum] = [&self.minimum, &self.maximum].map(|said| {
            option(said.as_ref().map(|said| match said.value {
                Number::Integer(value) => quote!(::kit::service::rules::Number::Integer(#value)),
                Number::Float(value) => quote!(::kit::service::rules::Number::Float(#value)),
            }))
        });
        let pattern = option(
            self.pattern
                .as_ref()
                .map(|Said { value, .. }| quote!(::kit::service::rules::Pattern::new(#value))),
        );
        quote! {
            #[doc(hidden)]
            fn #name() -> &'static ::kit::service::rules::Rules {
                #(#checks)*
                static RULES: ::kit::service::rules::Rules = ::kit::service::rules::Rules {
                    min_length: #min_length,
                    max_length: #max_length,
                    pattern: #pattern,
                    minimum: #minimum,
                    maximum: #maximum,
                };
                &RULES
            }
        }
    }

    /// Where there are rules, what `make` makes of them.
    pub(crate) fn then(&self, make: impl FnOnce() -> TokenStream) -> Option<TokenStream> {
        self.words().next().map(|_| make())
    }
}

const ABOUT: &str = "lengths are those of texts, bytes, lists and maps, a pattern is that of a text, and `minimum` and `maximum` are about numbers";

impl Number {
    fn float(self) -> f64 {
        match self {
            Self::Integer(number) => number as f64,
            Self::Float(number) => number,
        }
    }
}

fn option(value: Option<TokenStream>) -> TokenStream {
    match value {
        Some(value) => quote!(::core::option::Option::Some(#value)),
        None => quote!(::core::option::Option::None),
    }
}

fn say<T>(slot: &mut Option<Said<T>>, word: &Ident, value: T) -> Result<()> {
    let said = Said {
        word: word.clone(),
        value,
    };
    match slot.replace(said) {
        None => Ok(()),
        Some(_) => Err(Error::new(
            word.span(),
            "it is said twice; a value has one of each",
        )),
    }
}

fn length(meta: &ParseNestedMeta<'_>) -> Result<u64> {
    meta.value()?.parse::<LitInt>()?.base10_parse()
}

/// An integer or a float, with a sign or without.
fn number(meta: &ParseNestedMeta<'_>) -> Result<Number> {
    let value = meta.value()?;
    let is_negative = value.parse::<Option<Token![-]>>()?.is_some();
    match value.parse()? {
        Lit::Int(number) => {
            let size: u64 = number.base10_parse()?;
            Ok(Number::Integer(match is_negative {
                true => -i128::from(size),
                false => size.into(),
            }))
        }
        Lit::Float(number) => {
            let size: f64 = number.base10_parse()?;
            Ok(Number::Float(if is_negative { -size } else { size }))
        }
        other => Err(Error::new_spanned(other, "a bound is a number")),
    }
}

/// A regular expression that means the same to Rust and to ECMA-262, which JSON Schema follows.
fn pattern(meta: &ParseNestedMeta<'_>) -> Result<String> {
    let literal: LitStr = meta.value()?.parse()?;
    let text = literal.value();
    let refuse = |message: String| Err(Error::new(literal.span(), message));
    let parsed = match ast::parse::Parser::new().parse(&text) {
        Ok(parsed) => parsed,
        Err(error) => return refuse(format!("not a regular expression: {}", error.kind())),
    };
    if let Err(what) = ast::visit(&parsed, Common) {
        return refuse(format!(
            "{what} means something else in JSON Schema than in Rust"
        ));
    }
    let config = dense::Config::new()
        .start_kind(StartKind::Unanchored)
        .dfa_size_limit(Some(PATTERN_LIMIT))
        .determinize_size_limit(Some(PATTERN_LIMIT));
    match dense::Builder::new().configure(config).build(&text) {
        Ok(_) => Ok(text),
        Err(error) => refuse(format!(
            "no pattern that can be held against a text in good time: {error}"
        )),
    }
}

/// Finds what is not the same everywhere.
struct Common;

impl ast::Visitor for Common {
    type Output = ();
    type Err = &'static str;

    fn finish(self) -> std::result::Result<(), Self::Err> {
        Ok(())
    }

    fn visit_pre(&mut self, ast: &ast::Ast) -> std::result::Result<(), Self::Err> {
        use ast::{AssertionKind, Ast, GroupKind};
        match ast {
            Ast::Flags(_) => Err("a flag"),
            Ast::Group(group) => match &group.kind {
                GroupKind::CaptureName { .. } => Err("a group with a name"),
                GroupKind::NonCapturing(flags) if !flags.items.is_empty() => Err("a flag"),
                GroupKind::NonCapturing(_) | GroupKind::CaptureIndex(_) => Ok(()),
            },
            Ast::Assertion(assertion) => match assertion.kind {
                AssertionKind::StartLine | AssertionKind::EndLine => Ok(()),
                _ => Err("an assertion other than `^` and `$`"),
            },
            Ast::ClassPerl(class) => perl(class),
            Ast::ClassUnicode(_) => Err("a class by a property of Unicode"),
            Ast::Literal(literal) => plain(literal),
            _ => Ok(()),
        }
    }

    fn visit_class_set_item_pre(
        &mut self,
        item: &ast::ClassSetItem,
    ) -> std::result::Result<(), Self::Err> {
        use ast::ClassSetItem;
        match item {
            ClassSetItem::Ascii(_) => Err("a class such as `[:alpha:]`"),
            ClassSetItem::Unicode(_) => Err("a class by a property of Unicode"),
            ClassSetItem::Perl(class) => perl(class),
            ClassSetItem::Bracketed(_) => Err("a class within a class"),
            ClassSetItem::Literal(literal) => plain(literal),
            ClassSetItem::Range(range) => plain(&range.start).and_then(|()| plain(&range.end)),
            ClassSetItem::Empty(_) | ClassSetItem::Union(_) => Ok(()),
        }
    }

    fn visit_class_set_binary_op_pre(
        &mut self,
        _: &ast::ClassSetBinaryOp,
    ) -> std::result::Result<(), Self::Err> {
        Err("an operation on classes")
    }
}

/// `\d` is any digit of Unicode in Rust and one of ten elsewhere, and `\w` likewise.
fn perl(class: &ast::ClassPerl) -> std::result::Result<(), &'static str> {
    match class.kind {
        ast::ClassPerlKind::Space => Ok(()),
        ast::ClassPerlKind::Digit => Err("`\\d`, which is `[0-9]` there,"),
        ast::ClassPerlKind::Word => Err("`\\w`, which is `[0-9A-Za-z_]` there,"),
    }
}

fn plain(literal: &ast::Literal) -> std::result::Result<(), &'static str> {
    match &literal.kind {
        ast::LiteralKind::HexBrace(ast::HexLiteralKind::X) => Err("`\\x{...}`"),
        ast::LiteralKind::HexFixed(ast::HexLiteralKind::UnicodeLong) => Err("`\\U`"),
        ast::LiteralKind::Special(ast::SpecialLiteralKind::Bell) => Err("`\\a`"),
        _ => Ok(()),
    }
}
