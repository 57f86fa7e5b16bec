//! `#[derive(kit::Message)]`: a struct as a message, an enum without data as an enum, a newtype as what it wraps.

mod settings;

use std::collections::BTreeMap;

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::{
    Data, DataEnum, DeriveInput, Error, Field, Fields, Ident, Result, ext::IdentExt, parse2,
    spanned::Spanned,
};

use self::settings::{Numbers, Settings, json_name};
use crate::{
    names::{lower_camel, rename_field, rename_variant, snake},
    rules::Rules,
};

pub(crate) fn expand(item: TokenStream) -> Result<TokenStream> {
    let item: DeriveInput = parse2(item)?;
    if let Some(generic) = item.generics.params.first() {
        return Err(Error::new_spanned(
            generic,
            "a message has no generics: it is one type of protobuf",
        ));
    }
    ascii(&item.ident)?;
    match &item.data {
        Data::Struct(data) => match &data.fields {
            Fields::Unnamed(fields) if fields.unnamed.len() == 1 => {
                let own = Settings::read_newtype(&item.attrs)?;
                let inner = Settings::read(&fields.unnamed[0].attrs)?;
                inner
                    .rules
                    .none("a struct around one value says its rules before itself")?;
                Ok(newtype(&item, &fields.unnamed[0], &own.rules))
            }
            Fields::Unnamed(fields) => Err(Error::new_spanned(
                fields,
                "the fields of a message have names; only a struct around one value may be a tuple",
            )),
            Fields::Named(fields) => message(&item, fields.named.iter().collect()),
            Fields::Unit => message(&item, Vec::new()),
        },
        Data::Enum(data) => enumeration(&item, data),
        Data::Union(data) => Err(Error::new(
            data.union_token.span,
            "a union cannot be a message",
        )),
    }
}

/// Protobuf has no other names.
fn ascii(name: &Ident) -> Result<()> {
    match name.unraw().to_string().is_ascii() {
        true => Ok(()),
        false => Err(Error::new(name.span(), "a name in protobuf is ASCII")),
    }
}

/// Tells where two names become one in protobuf, which `how` says.
#[derive(Default)]
struct Names(BTreeMap<String, Ident>);

impl Names {
    fn add(&mut self, name: &Ident, text: String, how: &str) -> Result<()> {
        ascii(name)?;
        match self.0.insert(text.clone(), name.clone()) {
            None => Ok(()),
            Some(other) => Err(Error::new(
                name.span(),
                format!("`{other}` and `{name}` are both `{text}` {how}"),
            )),
        }
    }
}

const NO_RULES: &str = "rules are those of a field or an argument, or of a struct around one value";

fn message(item: &DeriveInput, fields: Vec<&Field>) -> Result<TokenStream> {
    let name = &item.ident;
    let own = Settings::read(&item.attrs)?;
    own.rules.none(NO_RULES)?;
    let (mut numbers, mut names) = (Numbers::new(), Names::default());
    let (mut lens, mut encodes, mut slots, mut merges, mut finishes, mut shapes) =
        (vec![], vec![], vec![], vec![], vec![], vec![]);
    let (mut rules, mut checks) = (vec![], vec![]);
    for (at, field) in fields.into_iter().enumerate() {
        let ident = field.ident.as_ref().expect("fields are named");
        let settings = Settings::read(&field.attrs)?;
        let number = numbers.give(ident, &settings)?;
        let camel = lower_camel(&ident.unraw().to_string());
        names.add(ident, camel, "in the JSON of protobuf")?;
        let (ty, text) = (&field.ty, ident.unraw().to_string());
        let json = json_name(&settings, &own, &text, rename_field);
        let doc = settings.doc(&field.attrs);
        let has_default = settings.default || own.default;
        let slot = format_ident!("slot{at}");
        let trait_ = quote_spanned!(ty.span()=> <#ty as ::kit::service::message::Field>);
        lens.push(quote!(+ #trait_::field_len(&self.#ident, #number)));
        encodes.push(quote!(#trait_::encode_field(&self.#ident, #number, out);));
        slots.push(quote!(let mut #slot = ::core::option::Option::None;));
        merges.push(quote! {
            #number => #trait_::merge(&mut #slot, wire, &mut reader)
                .map_err(|error| error.within(#text))?,
        });
        let its_rules = format_ident!("kit_rules_{at}");
        rules.push(settings.rules.function(&its_rules, ty));
        let hold = settings
            .rules
            .then(|| quote!(violations.hold(Self::#its_rules(), #trait_::measure(&self.#ident));));
        checks.push(quote! {
            violations.within(#text, #json, |violations| {
                #trait_::check(&self.#ident, violations);
                #hold
            });
        });
        let ruled = (settings.rules).then(|| quote!(.ruled(Self::#its_rules())));
        finishes.push(quote! {
            #ident: #trait_::finish(#slot).map_err(|error| error.within(#text))?,
        });
        shapes.push(quote! {
            ::kit::service::schema::FieldShape {
                name: #text,
                json: #json,
                number: #number,
                doc: #doc,
                shape: #trait_::shape(types)#ruled,
                has_default: #has_default,
            }
        });
    }
    let (text, doc, closed) = (name.unraw().to_string(), own.doc(&item.attrs), own.closed);
    Ok(quote! {
        #[automatically_derived]
        impl #name {
            #(#rules)*
        }

        #[automatically_derived]
        impl ::kit::service::message::Message for #name {
            fn encoded_len(&self) -> usize {
                0 #(#lens)*
            }

            #[allow(unused_variables, reason = "a message may have no fields")]
            fn encode(&self, out: &mut ::std::vec::Vec<u8>) {
                #(#encodes)*
            }

            fn decode(
                mut reader: ::kit::service::message::Reader<'_>,
            ) -> ::core::result::Result<Self, ::kit::service::message::DecodeError> {
                #(#slots)*
                while let ::core::option::Option::Some((number, wire)) = reader.key()? {
                    match number {
                        #(#merges)*
                        _ => reader.skip(number, wire)?,
                    }
                }
                ::core::result::Result::Ok(Self { #(#finishes)* })
            }

            fn shape(
                types: &mut ::kit::service::schema::Types,
            ) -> ::kit::service::schema::Shape {
                types.named::<Self>(#text, #doc, |types| {
                    let _ = &types;
                    ::kit::service::schema::Kind::Message {
                        fields: ::std::vec![#(#shapes),*],
                        closed: #closed,
                    }
                })
            }
        }

        #[automatically_derived]
        impl ::kit::service::message::Value for #name {
            const WIRE: ::kit::service::message::WireType =
                ::kit::service::message::WireType::Delimited;
            const ALONE: ::kit::service::message::Alone<Self> =
                ::kit::service::message::Alone::MESSAGE;

            fn absent() -> ::core::option::Option<Self> {
                ::core::option::Option::None
            }

            fn is_absent(&self) -> bool {
                false
            }

            fn encoded_len(&self) -> usize {
                ::kit::service::generated::nested_len(self)
            }

            fn encode(&self, out: &mut ::std::vec::Vec<u8>) {
                ::kit::service::generated::encode_nested(self, out);
            }

            fn decode(
                reader: &mut ::kit::service::message::Reader<'_>,
            ) -> ::core::result::Result<Self, ::kit::service::message::DecodeError> {
                <Self as ::kit::service::message::Message>::decode(reader.delimited()?)
            }

            fn shape(
                types: &mut ::kit::service::schema::Types,
            ) -> ::kit::service::schema::Shape {
                <Self as ::kit::service::message::Message>::shape(types)
            }

            #[allow(unused_variables, reason = "a message may have no fields")]
            fn check(&self, violations: &mut ::kit::service::rules::Violations) {
                #(#checks)*
            }
        }
    })
}

fn enumeration(item: &DeriveInput, data: &DataEnum) -> Result<TokenStream> {
    let name = &item.ident;
    if data.variants.is_empty() {
        return Err(Error::new(name.span(), "an enum needs a variant"));
    }
    let own = Settings::read(&item.attrs)?;
    own.rules.none(NO_RULES)?;
    let (mut numbers, mut names) = (Numbers::new(), Names::default());
    let (mut tos, mut froms, mut shapes) = (vec![], vec![], vec![]);
    for variant in &data.variants {
        if !matches!(variant.fields, Fields::Unit) {
            return Err(Error::new_spanned(
                &variant.fields,
                "the variants of an enum that gRPC carries have no data",
            ));
        }
        let settings = Settings::read(&variant.attrs)?;
        settings.rules.none(NO_RULES)?;
        let number = numbers.give(&variant.ident, &settings)?;
        let word = snake(&variant.ident.unraw().to_string()).to_ascii_uppercase();
        if word == "UNSPECIFIED" {
            return Err(Error::new(
                variant.ident.span(),
                "so protobuf calls 0, which stands for \"not said\" and is refused",
            ));
        }
        names.add(&variant.ident, word, "in protobuf")?;
        let (ident, text) = (&variant.ident, variant.ident.unraw().to_string());
        let json = json_name(&settings, &own, &text, rename_variant);
        let doc = settings.doc(&variant.attrs);
        tos.push(quote!(Self::#ident => #number,));
        froms.push(quote!(#number => ::core::result::Result::Ok(Self::#ident),));
        shapes.push(quote! {
            ::kit::service::schema::Variant {
                name: #text,
                json: #json,
                number: #number,
                doc: #doc,
            }
        });
    }
    let (text, doc) = (name.unraw().to_string(), own.doc(&item.attrs));
    Ok(quote! {
        #[automatically_derived]
        impl #name {
            #[doc(hidden)]
            fn kit_number(&self) -> u32 {
                match self {
                    #(#tos)*
                }
            }
        }

        #[automatically_derived]
        impl ::kit::service::message::Value for #name {
            const WIRE: ::kit::service::message::WireType =
                ::kit::service::message::WireType::Varint;

            fn absent() -> ::core::option::Option<Self> {
                ::core::option::Option::None
            }

            fn is_absent(&self) -> bool {
                false
            }

            fn encoded_len(&self) -> usize {
                ::kit::service::message::Value::encoded_len(&self.kit_number())
            }

            fn encode(&self, out: &mut ::std::vec::Vec<u8>) {
                ::kit::service::message::Value::encode(&self.kit_number(), out);
            }

            fn decode(
                reader: &mut ::kit::service::message::Reader<'_>,
            ) -> ::core::result::Result<Self, ::kit::service::message::DecodeError> {
                match <u32 as ::kit::service::message::Value>::decode(reader)? {
                    #(#froms)*
                    0 => ::core::result::Result::Err(
                        ::kit::service::message::DecodeError::new("is required"),
                    ),
                    _ => ::core::result::Result::Err(
                        ::kit::service::message::DecodeError::new("must be a known value"),
                    ),
                }
            }

            fn shape(
                types: &mut ::kit::service::schema::Types,
            ) -> ::kit::service::schema::Shape {
                types.named::<Self>(#text, #doc, |_| {
                    ::kit::service::schema::Kind::Enum(::std::vec![#(#shapes),*])
                })
            }
        }
    })
}

fn newtype(item: &DeriveInput, field: &Field, rules: &Rules) -> TokenStream {
    let (name, ty) = (&item.ident, &field.ty);
    let inner = quote_spanned!(ty.span()=> <#ty as ::kit::service::message::Value>);
    let function = rules.function(&format_ident!("kit_rules"), ty);
    let ruled = rules.then(|| quote!(.ruled(Self::kit_rules())));
    let hold = rules.then(|| quote!(violations.hold(Self::kit_rules(), #inner::measure(&self.0));));
    quote! {
        #[automatically_derived]
        impl #name {
            #function
        }

        #[automatically_derived]
        impl ::kit::service::message::Value for #name {
            const WIRE: ::kit::service::message::WireType = #inner::WIRE;
            const IS_TEXT: bool = #inner::IS_TEXT;
            const ALONE: ::kit::service::message::Alone<Self> = ::kit::service::message::Alone {
                len: |value| (#inner::ALONE.len)(&value.0),
                encode: |value, out| (#inner::ALONE.encode)(&value.0, out),
                decode: |reader| (#inner::ALONE.decode)(reader).map(Self),
                shape: #inner::ALONE.shape,
            };

            fn absent() -> ::core::option::Option<Self> {
                #inner::absent().map(Self)
            }

            fn is_absent(&self) -> bool {
                #inner::is_absent(&self.0)
            }

            fn encoded_len(&self) -> usize {
                #inner::encoded_len(&self.0)
            }

            fn encode(&self, out: &mut ::std::vec::Vec<u8>) {
                #inner::encode(&self.0, out);
            }

            fn decode(
                reader: &mut ::kit::service::message::Reader<'_>,
            ) -> ::core::result::Result<Self, ::kit::service::message::DecodeError> {
                #inner::decode(reader).map(Self)
            }

            fn shape(
                types: &mut ::kit::service::schema::Types,
            ) -> ::kit::service::schema::Shape {
                #inner::shape(types)#ruled
            }

            const MEASURED: ::kit::service::rules::Measured = #inner::MEASURED;

            fn measure(&self) -> ::kit::service::rules::Measure<'_> {
                #inner::measure(&self.0)
            }

            fn check(&self, violations: &mut ::kit::service::rules::Violations) {
                #inner::check(&self.0, violations);
                #hold
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marked;

    #[test]
    fn each_misuse_is_told_at_its_token() {
        for (item, message) in [
            ("struct A<«T»> { x: T }", "a message has no generics"),
            (
                "struct A«(u32, u32)»;",
                "the fields of a message have names",
            ),
            ("enum A { B«(u32)» }", "have no data"),
            ("enum A { B «{ x: u32 }» }", "have no data"),
            ("enum «A» {}", "needs a variant"),
            ("«union» A { x: u32 }", "a union cannot be a message"),
            (
                "struct A { #[kit(tag = «0»)] x: u32 }",
                "between 1 and 536870911",
            ),
            (
                "struct A { #[kit(tag = «19_500»)] x: u32 }",
                "not between 19000",
            ),
            (
                "struct A { #[kit(tag = «536870912»)] x: u32 }",
                "between 1 and 536870911",
            ),
            (
                "struct A { #[kit(tag = «\"3\"»)] x: u32 }",
                "expected integer literal",
            ),
            ("struct A { #[kit(tag = «-1»)] x: u32 }", "invalid digit"),
            (
                "struct A { #[kit(«tga» = 1)] x: u32 }",
                "did you mean `tag`?",
            ),
            ("enum A { #[kit(«colour» = 1)] B }", "`tag`"),
            (
                "struct A { #[kit(tag = 1, «tag» = 2)] x: u32 }",
                "said twice",
            ),
            (
                "struct A { #[kit(tag = 1)] #[kit(«tag» = 2)] x: u32 }",
                "said twice",
            ),
            (
                "struct A { x: u32, #[kit(tag = «1»)] y: u32 }",
                "`x` has the number 1 already",
            ),
            (
                "struct A { #[kit(tag = 2)] x: u32, y: u32, #[kit(tag = «3»)] z: u32 }",
                "`y` has the number 3 already",
            ),
            (
                "struct A { #[kit(tag = 2)] x: u32, #[kit(tag = 1)] y: u32, «z»: u32 }",
                "`x` has the number 2 already",
            ),
            (
                "enum A { B, #[kit(tag = «1»)] C }",
                "`B` has the number 1 already",
            ),
            ("enum A { «Unspecified» }", "so protobuf calls 0"),
            (
                "enum A { OnShelf, «On_Shelf» }",
                "both `ON_SHELF` in protobuf",
            ),
            ("struct A { a_b: u32, «aB»: u32 }", "both `aB` in the JSON"),
            ("struct A { «größe»: u32 }", "is ASCII"),
            ("enum A { «Größe» }", "is ASCII"),
            ("struct «Größe»(u32);", "is ASCII"),
            (
                "struct A { #[serde(default, «flatten»)] x: B }",
                "serde's `flatten`",
            ),
            ("struct A { #[serde(«skip»)] x: u32 }", "serde's `skip`"),
            (
                "struct A { #[serde(«with» = \"hex\")] x: u32 }",
                "serde's `with`",
            ),
            ("#[serde(«transparent»)] struct A { x: u32 }", "serde's"),
            ("#[serde(«untagged»)] enum A { B }", "serde's `untagged`"),
            ("struct A(#[serde(«with» = \"hex\")] u32);", "serde's"),
            (
                "struct A { #[serde(«rename»(serialize = \"y\"))] x: u32 }",
                "one name here",
            ),
            (
                "#[serde(«rename_all»(serialize = \"UPPERCASE\"))] struct A { x: u32 }",
                "one name here",
            ),
        ] {
            marked::check(item, message, |item| expand(item).map(drop));
        }
    }

    #[test]
    fn a_rule_that_nothing_can_keep_is_told_at_its_token() {
        for (item, message) in [
            (
                "struct A { #[kit(«min_lenght» = 1)] x: String }",
                "did you mean `min_length`?",
            ),
            (
                "struct A { #[kit(min_length = «-1»)] x: String }",
                "invalid digit",
            ),
            (
                "struct A { #[kit(min_length = 2, «max_length» = 1)] x: String }",
                "nothing is as long",
            ),
            (
                "struct A { #[kit(maximum = 1, «minimum» = 1.5)] x: f64 }",
                "no number is between",
            ),
            (
                "struct A { #[kit(maximum = 1, «maximum» = 2)] x: u32 }",
                "said twice",
            ),
            (
                "struct A { #[kit(maximum = «\"1\"»)] x: u32 }",
                "a bound is a number",
            ),
            (
                "struct A { #[kit(pattern = «\"(\"»)] x: String }",
                "not a regular expression",
            ),
            (
                r#"struct A { #[kit(pattern = «r"\d"»)] x: String }"#,
                "`[0-9]`",
            ),
            (
                r#"struct A { #[kit(pattern = «r"[\w-]"»)] x: String }"#,
                "`[0-9A-Za-z_]`",
            ),
            (
                r#"struct A { #[kit(pattern = «r"\bx"»)] x: String }"#,
                "an assertion",
            ),
            (
                r#"struct A { #[kit(pattern = «"(?i)x"»)] x: String }"#,
                "a flag",
            ),
            (
                r#"struct A { #[kit(pattern = «"(?P<y>x)"»)] x: String }"#,
                "a group with a name",
            ),
            (
                r#"struct A { #[kit(pattern = «r"\p{L}"»)] x: String }"#,
                "property of Unicode",
            ),
            (
                r#"struct A { #[kit(pattern = «"[[:alpha:]]"»)] x: String }"#,
                "[:alpha:]",
            ),
            (
                r#"struct A { #[kit(pattern = «"[a-z&&b]"»)] x: String }"#,
                "operation on classes",
            ),
            (
                r#"struct A { #[kit(pattern = «"(a|b)*a(a|b){30}"»)] x: String }"#,
                "in good time",
            ),
            (
                "#[kit(«max_length» = 1)] struct A { x: String }",
                "rules are those",
            ),
            ("#[kit(«maximum» = 1)] enum A { B }", "rules are those"),
            ("enum A { #[kit(«maximum» = 1)] B }", "rules are those"),
            ("struct A(#[kit(«maximum» = 1)] u32);", "before itself"),
        ] {
            marked::check(item, message, |item| expand(item).map(drop));
        }
    }

    #[test]
    fn words_of_serde_that_mislead_nobody_are_let_pass() {
        for item in [
            "#[serde(try_from = \"String\", into = \"String\")] struct A(String);",
            "#[serde(transparent)] struct A(String);",
            "struct A { #[serde(alias = \"z\", skip_serializing_if = \"Vec::is_empty\", default)] x: Vec<u32> }",
            "#[serde(bound = \"\", crate = \"serde\")] struct A { x: u32 }",
        ] {
            expand(item.parse().unwrap()).unwrap();
        }
    }
}
