//! How values stand in a message: alone, optional, repeated, or as a map.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    hash::{BuildHasher, Hash},
};

use super::{
    Alone, DecodeError, Reader, Value, WireType,
    reader::{delimited_len, key_len, write_key, write_varint},
};
use crate::service::{
    rules::{Measure, Measured, Violations},
    schema::{Shape, Types},
};

/// One field of a message: a [`Value`], or an `Option`, `Vec` or map of values. There is nothing to implement;
/// a type of one's own is a [`Value`].
#[diagnostic::on_unimplemented(
    message = "gRPC cannot carry a `{Self}`",
    label = "no protobuf field stands for this",
    note = "fields are bool, i32, i64, u32, u64, f32, f64, String, Vec<u8>, Bytes, Uuid, structs and enums with `#[derive(kit::Message)]`, these in a Box, and Option, Vec and maps of these"
)]
pub trait Field: Sized {
    /// Whether it may stand in a path or a query string: a single [text](Value::IS_TEXT), or an `Option` of one.
    const IS_TEXT: bool = false;
    /// How many bytes [`encode_field`](Self::encode_field) writes.
    fn field_len(&self, number: u32) -> usize;
    /// Appends the field, key and value, or nothing if its absence says the same.
    fn encode_field(&self, number: u32, out: &mut Vec<u8>);
    /// Reads what follows a key into `slot`, which holds what the same field said before.
    ///
    /// # Errors
    /// It is of another wire type, or breaks a rule.
    fn merge(
        slot: &mut Option<Self>,
        wire: WireType,
        reader: &mut Reader<'_>,
    ) -> Result<(), DecodeError>;
    /// The value when the message has ended.
    ///
    /// # Errors
    /// It was not sent and must be.
    fn finish(slot: Option<Self>) -> Result<Self, DecodeError>;
    /// Describes the type, for `.proto` and OpenAPI.
    fn shape(types: &mut Types) -> Shape;
    /// How it travels where nothing else does.
    const ALONE: Alone<Self> = Alone::WRAPPED;
    /// What rules can be about.
    const MEASURED: Measured;
    /// What rules are held against.
    fn measure(&self) -> Measure<'_>;
    /// Finds the rules that the value and its parts break.
    fn check(&self, violations: &mut Violations);
}

fn expect(wire: WireType, expected: WireType) -> Result<(), DecodeError> {
    if wire == expected {
        Ok(())
    } else {
        Err(DecodeError::new("is of another type"))
    }
}

impl<V: Value> Field for V {
    const IS_TEXT: bool = <V as Value>::IS_TEXT;
    const ALONE: Alone<Self> = <V as Value>::ALONE;

    fn field_len(&self, number: u32) -> usize {
        if self.is_absent() {
            0
        } else {
            key_len(number) + self.encoded_len()
        }
    }

    fn encode_field(&self, number: u32, out: &mut Vec<u8>) {
        if !self.is_absent() {
            write_key(number, V::WIRE, out);
            self.encode(out);
        }
    }

    fn merge(
        slot: &mut Option<Self>,
        wire: WireType,
        reader: &mut Reader<'_>,
    ) -> Result<(), DecodeError> {
        expect(wire, V::WIRE)?;
        *slot = Some(V::decode(reader)?);
        Ok(())
    }

    fn finish(slot: Option<Self>) -> Result<Self, DecodeError> {
        slot.or_else(V::absent)
            .ok_or_else(|| DecodeError::new("is required"))
    }

    fn shape(types: &mut Types) -> Shape {
        V::shape(types)
    }

    const MEASURED: Measured = V::MEASURED;

    fn measure(&self) -> Measure<'_> {
        V::measure(self)
    }

    fn check(&self, violations: &mut Violations) {
        V::check(self, violations);
    }
}

impl<V: Value> Field for Option<V> {
    const IS_TEXT: bool = <V as Value>::IS_TEXT;

    fn field_len(&self, number: u32) -> usize {
        self.as_ref()
            .map_or(0, |value| key_len(number) + value.encoded_len())
    }

    fn encode_field(&self, number: u32, out: &mut Vec<u8>) {
        if let Some(value) = self {
            write_key(number, V::WIRE, out);
            value.encode(out);
        }
    }

    fn merge(
        slot: &mut Option<Self>,
        wire: WireType,
        reader: &mut Reader<'_>,
    ) -> Result<(), DecodeError> {
        expect(wire, V::WIRE)?;
        *slot = Some(Some(V::decode(reader)?));
        Ok(())
    }

    fn finish(slot: Option<Self>) -> Result<Self, DecodeError> {
        Ok(slot.flatten())
    }

    fn shape(types: &mut Types) -> Shape {
        Shape::Optional(Box::new(V::shape(types)))
    }

    const MEASURED: Measured = V::MEASURED;

    fn measure(&self) -> Measure<'_> {
        self.as_ref().map_or(Measure::Nothing, V::measure)
    }

    fn check(&self, violations: &mut Violations) {
        if let Some(value) = self {
            value.check(violations);
        }
    }
}

/// Numbers are packed into one value, as proto3 does by default; both forms are read.
impl<V: Value> Field for Vec<V> {
    fn field_len(&self, number: u32) -> usize {
        let values = self.iter().map(Value::encoded_len).sum();
        match V::WIRE {
            _ if self.is_empty() => 0,
            WireType::Delimited => key_len(number) * self.len() + values,
            _ => key_len(number) + delimited_len(values),
        }
    }

    fn encode_field(&self, number: u32, out: &mut Vec<u8>) {
        match V::WIRE {
            _ if self.is_empty() => {}
            WireType::Delimited => {
                for value in self {
                    write_key(number, V::WIRE, out);
                    value.encode(out);
                }
            }
            _ => {
                let values: usize = self.iter().map(Value::encoded_len).sum();
                write_key(number, WireType::Delimited, out);
                write_varint(values as u64, out);
                self.iter().for_each(|value| value.encode(out));
            }
        }
    }

    fn merge(
        slot: &mut Option<Self>,
        wire: WireType,
        reader: &mut Reader<'_>,
    ) -> Result<(), DecodeError> {
        let values = slot.get_or_insert_default();
        let push = |values: &mut Self, reader: &mut Reader<'_>| {
            let value = V::decode(reader).map_err(|error| error.within_item(values.len()))?;
            values.push(value);
            Ok(())
        };
        if wire == WireType::Delimited && V::WIRE != WireType::Delimited {
            let mut packed = reader.delimited()?;
            while !packed.is_empty() {
                push(values, &mut packed)?;
            }
            return Ok(());
        }
        expect(wire, V::WIRE)?;
        push(values, reader)
    }

    fn finish(slot: Option<Self>) -> Result<Self, DecodeError> {
        Ok(slot.unwrap_or_default())
    }

    fn shape(types: &mut Types) -> Shape {
        Shape::List(Box::new(V::shape(types)))
    }

    const MEASURED: Measured = Measured::Items;

    fn measure(&self) -> Measure<'_> {
        Measure::Items(self.len())
    }

    fn check(&self, violations: &mut Violations) {
        violations.within_each(self.iter().enumerate(), |at| format!("[{at}]"));
    }
}

/// What protobuf allows as the key of a map.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the key of a map over gRPC",
    note = "keys are bool, i32, i64, u32, u64 and String"
)]
pub trait Key: Value + fmt::Display {}

impl Key for bool {}
impl Key for i32 {}
impl Key for i64 {}
impl Key for u32 {}
impl Key for u64 {}
impl Key for String {}

/// The key and the value of an entry are the fields 1 and 2 of a message.
fn entry_len<K: Field, V: Field>(key: &K, value: &V) -> usize {
    key.field_len(1) + value.field_len(2)
}

fn read_entry<K: Field, V: Field>(
    wire: WireType,
    reader: &mut Reader<'_>,
) -> Result<(K, V), DecodeError> {
    expect(wire, WireType::Delimited)?;
    let mut reader = reader.delimited()?;
    let (mut key, mut value) = (None, None);
    while let Some((number, wire)) = reader.key()? {
        match number {
            1 => K::merge(&mut key, wire, &mut reader)?,
            2 => V::merge(&mut value, wire, &mut reader)?,
            _ => reader.skip(number, wire)?,
        }
    }
    Ok((K::finish(key)?, V::finish(value)?))
}

macro_rules! map {
    ($(($map:ty, [$($generics:tt)*]);)*) => {
        $(impl<$($generics)*> Field for $map {
            fn field_len(&self, number: u32) -> usize {
                self.iter()
                    .map(|(key, value)| key_len(number) + delimited_len(entry_len(key, value)))
                    .sum()
            }

            fn encode_field(&self, number: u32, out: &mut Vec<u8>) {
                for (key, value) in self {
                    write_key(number, WireType::Delimited, out);
                    write_varint(entry_len(key, value) as u64, out);
                    key.encode_field(1, out);
                    value.encode_field(2, out);
                }
            }

            fn merge(
                slot: &mut Option<Self>,
                wire: WireType,
                reader: &mut Reader<'_>,
            ) -> Result<(), DecodeError> {
                let (key, value) = read_entry(wire, reader)?;
                slot.get_or_insert_default().insert(key, value);
                Ok(())
            }

            fn finish(slot: Option<Self>) -> Result<Self, DecodeError> {
                Ok(slot.unwrap_or_default())
            }

            fn shape(types: &mut Types) -> Shape {
                Shape::Map(
                    Box::new(<K as Value>::shape(types)),
                    Box::new(<V as Value>::shape(types)),
                )
            }

            const MEASURED: Measured = Measured::Items;

            fn measure(&self) -> Measure<'_> {
                Measure::Items(self.len())
            }

            fn check(&self, violations: &mut Violations) {
                violations.within_each(self.iter(), K::to_string);
            }
        })*
    };
}
map! {
    (BTreeMap<K, V>, [K: Key + Ord, V: Value]);
    (HashMap<K, V, S>, [K: Key + Eq + Hash, V: Value, S: BuildHasher + Default]);
}
