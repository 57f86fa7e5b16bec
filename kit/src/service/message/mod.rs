//! Protocol Buffers (proto3) for plain Rust types.
//!
//! [`Message`] is what gRPC carries; deriving it numbers a struct's fields in the order of their declaration. A
//! type of one's own becomes a field by [`Value`]: an enum or a newtype derives it with
//! [`Message`](derive@crate::Message), others implement it by hand.
//!
//! Two things differ from prost's messages. A value without a default, such as an enum or a nested message that is
//! not in an `Option`, must be there: its absence is the caller's mistake and not silently something else. And an
//! error names the field and the rule, as it does for JSON. The bytes are the same; tests hold them against prost.

mod alone;
mod field;
mod reader;
mod value;

use std::{borrow::Cow, fmt};

pub use alone::Alone;
pub use field::{Field, Key};
pub use reader::{Reader, WireType};
pub use value::Value;

use crate::{
    Error,
    service::{
        rules::inside,
        schema::{Shape, Types},
    },
};

/// What gRPC carries as a whole: a struct whose fields are numbered. Derive it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a message, so gRPC cannot carry it",
    label = "not a message",
    note = "a method takes any fields and returns `()` or a struct with `#[derive(kit::Message)]`; wrap other types in one"
)]
pub trait Message: Sized {
    /// How many bytes [`encode`](Self::encode) writes.
    fn encoded_len(&self) -> usize;
    /// Appends the fields.
    fn encode(&self, out: &mut Vec<u8>);
    /// Reads the fields until there are none; what it does not know it skips.
    ///
    /// # Errors
    /// The bytes are no protobuf, or a field breaks a rule of its type.
    fn decode(reader: Reader<'_>) -> Result<Self, DecodeError>;
    /// Describes the type, for `.proto` and OpenAPI.
    fn shape(types: &mut Types) -> Shape;
}

/// Why bytes are not the message that they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    field: String,
    rule: Cow<'static, str>,
}

impl DecodeError {
    /// A value that breaks a rule, such as `must be an e-mail address`.
    pub fn new(rule: impl Into<Cow<'static, str>>) -> Self {
        Self {
            field: String::new(),
            rule: rule.into(),
        }
    }

    /// Bytes that end too early or say what cannot be.
    pub(crate) fn malformed() -> Self {
        Self::new("must be valid protobuf")
    }

    /// The same, for a value inside of `field`.
    #[must_use]
    pub fn within(mut self, field: &str) -> Self {
        self.field = inside(field, &self.field);
        self
    }

    /// The same, for a value that is an item of a list.
    #[must_use]
    pub fn within_item(self, index: usize) -> Self {
        self.within(&format!("[{index}]"))
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.field, self.rule)
    }
}

impl std::error::Error for DecodeError {}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        Self::invalid(error.field, error.rule)
    }
}

/// What derived code calls.
pub(crate) mod generated {
    use std::marker::PhantomData;

    use serde::{Deserialize, Serialize};

    use super::{
        Field, Message,
        reader::{delimited_len, write_varint},
    };
    use crate::service::{
        rules::Violations,
        schema::{Shape, Types},
    };

    /// Nothing.
    // What a method gives back that returns `()`.
    #[derive(Clone, Copy, Debug, Serialize, Deserialize, crate::Message)]
    pub struct Empty {}

    /// Asks for the shape of a type that need not have one, and what rules it has: of [`Shaped`] and [`Unshaped`] the
    /// compiler takes the first that fits, for that needs no reference more.
    #[derive(Debug)]
    pub struct ShapeOf<T>(PhantomData<fn() -> T>);

    impl<T> ShapeOf<T> {
        /// The question.
        pub const NEW: Self = Self(PhantomData);
    }

    /// A type that can be a field.
    pub trait Shaped<T> {
        /// Its shape.
        fn shape(&self, types: &mut Types) -> Shape;
        /// Which rules a value breaks.
        fn check(&self, value: &T, violations: &mut Violations);
    }

    impl<T: Field> Shaped<T> for ShapeOf<T> {
        fn shape(&self, types: &mut Types) -> Shape {
            T::shape(types)
        }

        fn check(&self, value: &T, violations: &mut Violations) {
            value.check(violations);
        }
    }

    /// Any other type.
    pub trait Unshaped<T> {
        /// That nothing is known.
        fn shape(&self, types: &mut Types) -> Shape;
        /// That nothing is asked.
        fn check(&self, value: &T, violations: &mut Violations);
    }

    impl<T> Unshaped<T> for &ShapeOf<T> {
        fn shape(&self, _: &mut Types) -> Shape {
            Shape::Any
        }

        fn check(&self, _: &T, _: &mut Violations) {}
    }

    /// The length of a message that is a field of another.
    pub fn nested_len<M: Message>(message: &M) -> usize {
        delimited_len(message.encoded_len())
    }

    /// Appends a message that is a field of another.
    pub fn encode_nested<M: Message>(message: &M, out: &mut Vec<u8>) {
        write_varint(message.encoded_len() as u64, out);
        message.encode(out);
    }
}

/// The bytes of `message`.
pub fn to_vec<M: Message>(message: &M) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.encoded_len());
    message.encode(&mut out);
    out
}

/// The message in `bytes`.
///
/// # Errors
/// As [`Message::decode`].
pub fn from_slice<M: Message>(bytes: &[u8]) -> Result<M, DecodeError> {
    M::decode(Reader::new(bytes))
}
