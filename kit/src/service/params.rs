//! Arguments outside the body: in the path of a route such as `/users/{id}`, and in the query string.
//!
//! A route is matched segment by segment against the few templates of one service, which needs neither a tree nor
//! an allocation.

use std::{borrow::Cow, cmp::Ordering, fmt, marker::PhantomData, slice};

use http::{Method as HttpMethod, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{
    de::{
        DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Unexpected, Visitor,
        value::StrDeserializer,
    },
    forward_to_deserialize_any,
};
use serde_json::Value;

use crate::{Error, name::Method};

/// All but what RFC 3986 calls unreserved.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Names of arguments, and what was sent for them.
pub(super) type Texts<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// Whether arguments travel in the body of a request with this verb; otherwise they are in the query string.
pub(super) fn has_body(verb: &HttpMethod) -> bool {
    !matches!(
        *verb,
        HttpMethod::GET | HttpMethod::DELETE | HttpMethod::HEAD
    )
}

/// The name of a segment that is a parameter.
pub(super) fn parameter(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

/// Whether `path` is one of those that `template` stands for. A parameter is one segment that is not empty.
pub(super) fn fits(template: &str, path: &str) -> bool {
    let mut segments = path.split('/');
    template
        .split('/')
        .all(|part| match (segments.next(), parameter(part)) {
            (Some(segment), Some(_)) => !segment.is_empty(),
            (Some(segment), None) => segment == part,
            (None, _) => false,
        })
        && segments.next().is_none()
}

/// Which of two templates that fit one path says more of it, the greater being the one that says less: the first
/// segment in which they differ decides, and there a word says more than a parameter.
pub(super) fn by_precision<'a>(one: &'a str, other: &'a str) -> Ordering {
    let parameters = |template: &'a str| template.split('/').map(|part| parameter(part).is_some());
    parameters(one).cmp(parameters(other))
}

/// What `uri` says of the arguments of `method`.
///
/// # Errors
/// [`Code::InvalidArgument`](crate::Code::InvalidArgument): something is not UTF-8.
pub(super) fn read<'a>(method: &Method, uri: &'a Uri) -> Result<Texts<'a>, Error> {
    let mut texts = Texts::new();
    let segments = method.http_path.split('/').zip(uri.path().split('/'));
    for (part, segment) in segments {
        if let Some(name) = parameter(part) {
            let text = percent_decode_str(segment)
                .decode_utf8()
                .map_err(|_| Error::invalid(name, "must be UTF-8"))?;
            texts.push((name.into(), text));
        }
    }
    if !has_body(&method.http_method) {
        let pairs = uri.query().unwrap_or_default().split('&');
        for pair in pairs.filter(|pair| !pair.is_empty()) {
            let (name, text) = pair.split_once('=').unwrap_or((pair, ""));
            let name = query_text(name)
                .ok_or_else(|| Error::invalid("", "the query string must be UTF-8"))?;
            let text = query_text(text).ok_or_else(|| Error::invalid(&*name, "must be UTF-8"))?;
            texts.push((name, text));
        }
    }
    Ok(texts)
}

/// A name or a value in a query string, where `+` is a space.
fn query_text(raw: &str) -> Option<Cow<'_, str>> {
    if raw.contains('+') {
        let spaced = raw.replace('+', " ");
        let text = percent_decode_str(&spaced).decode_utf8().ok()?;
        Some(text.into_owned().into())
    } else {
        percent_decode_str(raw).decode_utf8().ok()
    }
}

/// The address of a call, and its body if it has one.
///
/// # Errors
/// [`Code::InvalidArgument`](crate::Code::InvalidArgument), naming what cannot stand in a path.
pub(super) fn write(method: &Method, arguments: Value) -> Result<(Uri, Option<Vec<u8>>), Error> {
    let Value::Object(mut rest) = arguments else {
        return Err(Error::internal("the arguments are not an object"));
    };
    let mut uri = String::new();
    for (at, part) in method.http_path.split('/').enumerate() {
        if at > 0 {
            uri.push('/');
        }
        let Some(name) = parameter(part) else {
            uri.push_str(part);
            continue;
        };
        // Two dots are taken away on the way, even in their escaped form.
        let text = rest.remove(name).and_then(text);
        let text = text
            .filter(|text| !matches!(&**text, "" | "." | ".."))
            .ok_or_else(|| Error::invalid(name, "must not be empty, `.` or `..`"))?;
        uri.extend(utf8_percent_encode(&text, ESCAPED));
    }
    let body = if has_body(&method.http_method) {
        Some(serde_json::to_vec(&rest).map_err(Error::internal)?)
    } else {
        let mut separator = '?';
        for (name, value) in rest.into_iter().filter(|(_, value)| !value.is_null()) {
            let text = text(value)
                .ok_or_else(|| Error::internal(format!("`{name}` is no text, as a query needs")))?;
            uri.push(separator);
            uri.extend(utf8_percent_encode(&name, ESCAPED));
            uri.push('=');
            uri.extend(utf8_percent_encode(&text, ESCAPED));
            separator = '&';
        }
        None
    };
    let uri = Uri::try_from(uri)
        .map_err(|_| Error::invalid("", "the arguments must not be too long for an address"))?;
    Ok((uri, body))
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Reads a struct whose first fields are texts and whose others stand in a body.
pub(super) struct Joined<'a, D> {
    pub(super) texts: &'a [(Cow<'a, str>, Cow<'a, str>)],
    pub(super) body: D,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Joined<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let texts = self.texts;
        self.body.deserialize_any(Join { texts, visitor })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let texts = self.texts;
        self.body
            .deserialize_struct(name, fields, Join { texts, visitor })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

struct Join<'a, V> {
    texts: &'a [(Cow<'a, str>, Cow<'a, str>)],
    visitor: V,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Join<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, body: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(JoinedFields {
            texts: self.texts.iter(),
            value: None,
            body,
        })
    }
}

struct JoinedFields<'a, A> {
    texts: slice::Iter<'a, (Cow<'a, str>, Cow<'a, str>)>,
    /// What belongs to the name that was read last, if that was a text's.
    value: Option<&'a str>,
    body: A,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for JoinedFields<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        let Some((name, text)) = self.texts.next() else {
            return self.body.next_key_seed(seed);
        };
        self.value = Some(text);
        let name: StrDeserializer<'_, A::Error> = (&**name).into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        match self.value.take() {
            Some(text) => seed.deserialize(Text {
                text,
                error: PhantomData,
            }),
            None => self.body.next_value_seed(seed),
        }
    }
}

/// One value, which is whatever its text can be read as.
struct Text<'a, E> {
    text: &'a str,
    error: PhantomData<E>,
}

/// Reads the text by `FromStr`.
macro_rules! parse {
    ($($method:ident, $visit:ident, $type:ty, $expected:literal;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
            match self.text.parse::<$type>() {
                Ok(value) => visitor.$visit(value),
                Err(_) => Err(E::invalid_value(Unexpected::Str(self.text), &$expected)),
            }
        })*
    };
}

impl<'de, E: serde::de::Error> Deserializer<'de> for Text<'_, E> {
    type Error = E;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_str(self.text)
    }

    parse! {
        deserialize_bool, visit_bool, bool, "a boolean";
        deserialize_i8, visit_i8, i8, "i8";
        deserialize_i16, visit_i16, i16, "i16";
        deserialize_i32, visit_i32, i32, "i32";
        deserialize_i64, visit_i64, i64, "i64";
        deserialize_u8, visit_u8, u8, "u8";
        deserialize_u16, visit_u16, u16, "u16";
        deserialize_u32, visit_u32, u32, "u32";
        deserialize_u64, visit_u64, u64, "u64";
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        self.deserialize_f64(visitor)
    }

    // As in JSON, where infinity is no number.
    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        match self.text.parse::<f64>() {
            Ok(value) if value.is_finite() => visitor.visit_f64(value),
            _ => Err(E::invalid_value(Unexpected::Str(self.text), &"f64")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, E> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, E> {
        let variant: StrDeserializer<'_, E> = self.text.into_deserializer();
        visitor.visit_enum(variant)
    }

    forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier
        ignored_any
    }
}
