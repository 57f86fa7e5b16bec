//! What travels alone: all arguments of a call together, or its whole answer.

use super::{DecodeError, Field, Message, Reader};
use crate::service::schema::{Shape, Types};

/// How a type travels where nothing else does. gRPC knows messages only, so a [message](Self::MESSAGE) is itself, and
/// anything else is [the field `value`](Self::WRAPPED) of one.
#[derive(Debug)]
pub struct Alone<T> {
    /// How many bytes `encode` writes.
    pub len: fn(&T) -> usize,
    /// Appends the fields of the message.
    pub encode: fn(&T, &mut Vec<u8>),
    /// Reads the message to its end.
    pub decode: fn(Reader<'_>) -> Result<T, DecodeError>,
    /// Describes the message; what is none has the name that is given.
    pub shape: fn(&mut Types, &str) -> Shape,
}

// Derived, these would ask the same of `T`.
impl<T> Clone for Alone<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Alone<T> {}

impl<T: Message> Alone<T> {
    /// A message, as it is.
    pub const MESSAGE: Self = Self {
        len: T::encoded_len,
        encode: T::encode,
        decode: T::decode,
        shape: |types, _| T::shape(types),
    };
}

impl<T: Field> Alone<T> {
    /// The field `value`, number 1, of a message of its own.
    pub const WRAPPED: Self = Self {
        len: |value| value.field_len(1),
        encode: |value, out| value.encode_field(1, out),
        decode: |mut reader| {
            let mut slot = None;
            while let Some((number, wire)) = reader.key()? {
                match number {
                    1 => T::merge(&mut slot, wire, &mut reader)
                        .map_err(|error| error.within("value"))?,
                    _ => reader.skip(number, wire)?,
                }
            }
            T::finish(slot).map_err(|error| error.within("value"))
        },
        shape: |types, name| {
            let shape = T::shape(types);
            types.wrapped(name, shape)
        },
    };
}
