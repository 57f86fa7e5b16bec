//! Single values: what can stand alone, in an `Option`, in a list, or as a map's value.

use bytes::Bytes;
use uuid::Uuid;

use super::{
    Alone, DecodeError, Reader, WireType,
    reader::{delimited_len, varint_len, write_varint},
};
use crate::service::{
    rules::{Measure, Measured, Number, Violations},
    schema::{Scalar, Shape, Types},
};

/// A type that can be a field. Derive it with [`Message`](derive@crate::Message), or implement it by hand for a
/// type that checks what it is made from:
///
/// ```
/// use kit::service::{message::{DecodeError, Reader, Value, WireType}, schema::{Shape, Types}};
///
/// struct Even(u32);
///
/// impl Value for Even {
///     const WIRE: WireType = u32::WIRE;
///     fn absent() -> Option<Self> { Some(Self(0)) }
///     fn is_absent(&self) -> bool { self.0 == 0 }
///     fn encoded_len(&self) -> usize { self.0.encoded_len() }
///     fn encode(&self, out: &mut Vec<u8>) { self.0.encode(out) }
///     fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
///         match u32::decode(reader)? {
///             number if number % 2 == 0 => Ok(Self(number)),
///             _ => Err(DecodeError::new("must be even")),
///         }
///     }
///     fn shape(types: &mut Types) -> Shape { u32::shape(types) }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "gRPC cannot carry a `{Self}`",
    label = "no protobuf type stands for this",
    note = "fields are bool, i32, i64, u32, u64, f32, f64, String, Vec<u8>, Bytes, Uuid, structs and enums with `#[derive(kit::Message)]`, these in a Box, and Option, Vec and maps of these"
)]
pub trait Value: Sized {
    /// How the value is laid out.
    const WIRE: WireType;
    /// Whether JSON has the value as a single text, number or boolean, so that it may stand in a path or a query
    /// string. What is [delimited](WireType::Delimited) and is nevertheless one text says so itself.
    const IS_TEXT: bool = !matches!(Self::WIRE, WireType::Delimited);
    /// The value that is meant when nothing was sent, or `None` if something must be sent.
    fn absent() -> Option<Self>;
    /// Whether this is that value, so that nothing needs to be sent.
    fn is_absent(&self) -> bool;
    /// How many bytes [`encode`](Self::encode) writes.
    fn encoded_len(&self) -> usize;
    /// Appends the value, with its length before it if it is [delimited](WireType::Delimited).
    fn encode(&self, out: &mut Vec<u8>);
    /// Reads one value.
    ///
    /// # Errors
    /// There is none, or it breaks a rule.
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError>;
    /// Describes the type, for `.proto` and OpenAPI.
    fn shape(types: &mut Types) -> Shape;
    /// How it travels where nothing else does, see [`Alone`]; only messages say something else than this.
    const ALONE: Alone<Self> = Alone::WRAPPED;
    /// What rules, such as `#[kit(max_length = 254)]`, can be about; nothing, unless it says otherwise.
    const MEASURED: Measured = Measured::Nothing;
    /// What such rules are held against.
    fn measure(&self) -> Measure<'_> {
        Measure::Nothing
    }
    /// Finds the rules that the value and its parts break. What reads a value refuses it better in
    /// [`decode`](Self::decode); this is for what serde reads by itself.
    fn check(&self, _violations: &mut Violations) {}
}

/// Numbers that travel as a varint.
macro_rules! varint {
    ($($type:ty, $scalar:ident, $to:expr, $from:expr, $measured:ident $(($number:expr))?;)*) => {
        $(impl Value for $type {
            const WIRE: WireType = WireType::Varint;

            fn absent() -> Option<Self> {
                Some(Self::default())
            }

            fn is_absent(&self) -> bool {
                *self == Self::default()
            }

            fn encoded_len(&self) -> usize {
                varint_len(($to)(*self))
            }

            fn encode(&self, out: &mut Vec<u8>) {
                write_varint(($to)(*self), out);
            }

            fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                reader.varint().map($from)
            }

            fn shape(_: &mut Types) -> Shape {
                Shape::Scalar(Scalar::$scalar)
            }

            const MEASURED: Measured = Measured::$measured;

            fn measure(&self) -> Measure<'_> {
                Measure::$measured$((($number)(*self)))?
            }
        })*
    };
}
// A negative number is ten bytes long, and what is longer than the type is cut: both as the specification has it.
varint! {
    bool, Bool, u64::from, |value| value != 0, Nothing;
    i32, Int32, |value| i64::from(value) as u64, |value| value as i32, Number(integer);
    i64, Int64, |value| value as u64, |value| value as i64, Number(integer);
    u32, Uint32, u64::from, |value| value as u32, Number(integer);
    u64, Uint64, |value| value, |value| value, Number(integer);
}

fn integer(value: impl Into<i128>) -> Number {
    Number::Integer(value.into())
}

/// Numbers that travel as they are in memory.
macro_rules! float {
    ($($type:ty, $scalar:ident, $wire:ident, $len:literal;)*) => {
        $(impl Value for $type {
            const WIRE: WireType = WireType::$wire;

            fn absent() -> Option<Self> {
                Some(0.0)
            }

            // By bits: -0.0 is not absent.
            fn is_absent(&self) -> bool {
                self.to_bits() == 0
            }

            fn encoded_len(&self) -> usize {
                $len
            }

            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                reader.fixed().map(Self::from_le_bytes)
            }

            fn shape(_: &mut Types) -> Shape {
                Shape::Scalar(Scalar::$scalar)
            }

            const MEASURED: Measured = Measured::Number;

            fn measure(&self) -> Measure<'_> {
                Measure::Number(Number::Float((*self).into()))
            }

            fn check(&self, violations: &mut Violations) {
                violations.hold_finite((*self).into());
            }
        })*
    };
}
float! {
    f32, Float, Fixed32, 4;
    f64, Double, Fixed64, 8;
}

/// Appends a length and the bytes.
fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    write_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn read_str<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    std::str::from_utf8(reader.delimited()?.rest()).map_err(|_| DecodeError::new("must be UTF-8"))
}

impl Value for String {
    const WIRE: WireType = WireType::Delimited;
    const IS_TEXT: bool = true;

    fn absent() -> Option<Self> {
        Some(Self::new())
    }

    fn is_absent(&self) -> bool {
        self.is_empty()
    }

    fn encoded_len(&self) -> usize {
        delimited_len(self.len())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        write_bytes(self.as_bytes(), out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        read_str(reader).map(str::to_owned)
    }

    fn shape(_: &mut Types) -> Shape {
        Shape::Scalar(Scalar::String)
    }

    const MEASURED: Measured = Measured::Text;

    fn measure(&self) -> Measure<'_> {
        Measure::Text(self)
    }
}

impl Value for Vec<u8> {
    const WIRE: WireType = WireType::Delimited;

    fn absent() -> Option<Self> {
        Some(Self::new())
    }

    fn is_absent(&self) -> bool {
        self.is_empty()
    }

    fn encoded_len(&self) -> usize {
        delimited_len(self.len())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        write_bytes(self, out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(reader.delimited()?.rest().to_vec())
    }

    fn shape(_: &mut Types) -> Shape {
        Shape::Scalar(Scalar::Bytes)
    }

    const MEASURED: Measured = Measured::Items;

    fn measure(&self) -> Measure<'_> {
        Measure::Items(self.len())
    }
}

impl Value for Bytes {
    const WIRE: WireType = WireType::Delimited;

    fn absent() -> Option<Self> {
        Some(Self::new())
    }

    fn is_absent(&self) -> bool {
        self.is_empty()
    }

    fn encoded_len(&self) -> usize {
        delimited_len(self.len())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        write_bytes(self, out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self::copy_from_slice(reader.delimited()?.rest()))
    }

    fn shape(_: &mut Types) -> Shape {
        Shape::Scalar(Scalar::Bytes)
    }

    const MEASURED: Measured = Measured::Items;

    fn measure(&self) -> Measure<'_> {
        Measure::Items(self.len())
    }
}

/// As what is in it; so a message may be made of itself.
impl<V: Value> Value for Box<V> {
    const WIRE: WireType = V::WIRE;
    const IS_TEXT: bool = V::IS_TEXT;
    const ALONE: Alone<Self> = Alone {
        len: |value| (V::ALONE.len)(value),
        encode: |value, out| (V::ALONE.encode)(value, out),
        decode: |reader| (V::ALONE.decode)(reader).map(Self::new),
        shape: V::ALONE.shape,
    };

    fn absent() -> Option<Self> {
        V::absent().map(Self::new)
    }

    fn is_absent(&self) -> bool {
        V::is_absent(self)
    }

    fn encoded_len(&self) -> usize {
        V::encoded_len(self)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        V::encode(self, out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        V::decode(reader).map(Self::new)
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

/// As text, as in JSON; it must be sent.
impl Value for Uuid {
    const WIRE: WireType = WireType::Delimited;
    const IS_TEXT: bool = true;

    fn absent() -> Option<Self> {
        None
    }

    fn is_absent(&self) -> bool {
        false
    }

    fn encoded_len(&self) -> usize {
        delimited_len(uuid::fmt::Hyphenated::LENGTH)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        write_bytes(self.hyphenated().encode_lower(&mut text).as_bytes(), out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        read_str(reader)?
            .parse()
            .map_err(|_| DecodeError::new("must be a UUID"))
    }

    fn shape(_: &mut Types) -> Shape {
        Shape::Scalar(Scalar::Uuid)
    }
}
