//! How the arguments and the answer of one method travel on the wires of its service.
//!
//! Generated code makes one [`Codec`] for each method, at the types that it names. So a type that cannot travel is told
//! at its own token and nowhere else, and what serves and calls asks nothing of types any more.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    grpc, json,
    message::{Alone, Field},
    params::Texts,
    rules::Violations,
    schema::{Shape, Types},
};
use crate::{Error, wire::Wire};

/// How a method's arguments `Q` and its answer `P` travel, or each item of it, if it streams.
pub struct Codec<Q, P> {
    pub(super) arguments: Arguments<Q>,
    pub(super) answer: Answer<P>,
}

/// How arguments travel.
pub struct Arguments<Q> {
    check: fn(&Q, &mut Violations),
    pub(super) json: Option<JsonArguments<Q>>,
    pub(super) grpc: Option<Alone<Q>>,
}

pub(super) struct JsonArguments<Q> {
    pub(super) decode: fn(&Texts<'_>, &[u8]) -> Result<Q, Error>,
    pub(super) encode: fn(&Q) -> Result<Vec<u8>, Error>,
    pub(super) value: fn(&Q) -> serde_json::Result<Value>,
}

/// How an answer travels.
pub struct Answer<P> {
    check: fn(&P, &mut Violations),
    pub(super) json: Option<JsonAnswer<P>>,
    pub(super) grpc: Option<Alone<P>>,
    shape: fn(&mut Types) -> Shape,
}

pub(super) struct JsonAnswer<P> {
    pub(super) encode: fn(&P) -> Result<Vec<u8>, Error>,
    pub(super) decode: fn(&[u8]) -> serde_json::Result<P>,
    pub(super) write_line: fn(&P, &mut Vec<u8>) -> Result<(), Error>,
    pub(super) read_line: fn(&[u8]) -> serde_json::Result<Result<P, Error>>,
}

/// All of them are pointers to functions.
macro_rules! pointers {
    ($($name:ident<$($type:ident),*>),*) => {
        $(impl<$($type),*> Clone for $name<$($type),*> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<$($type),*> Copy for $name<$($type),*> {}

        impl<$($type),*> fmt::Debug for $name<$($type),*> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        })*
    };
}
pointers!(Codec<Q, P>, Arguments<Q>, JsonArguments<Q>, Answer<P>, JsonAnswer<P>);

impl<Q, P> Codec<Q, P> {
    /// Both together.
    pub const fn new(arguments: Arguments<Q>, answer: Answer<P>) -> Self {
        Self { arguments, answer }
    }

    /// The answer as JSON has it, and as gRPC does, where what is no message is wrapped in one of this name.
    pub fn shapes(&self, types: &mut Types, name: &str) -> (Shape, Shape) {
        let reply = (self.answer.shape)(types);
        let response = match self.answer.grpc {
            Some(alone) => (alone.shape)(types, name),
            None => reply.clone(),
        };
        (reply, response)
    }
}

const fn json_arguments<Q: Serialize + DeserializeOwned>() -> JsonArguments<Q> {
    JsonArguments {
        decode: json::decode,
        encode: json::encode,
        value: |arguments| serde_json::to_value(arguments),
    }
}

const fn json_answer<P: Serialize + DeserializeOwned>() -> JsonAnswer<P> {
    JsonAnswer {
        encode: json::encode,
        decode: |bytes| serde_json::from_slice(bytes),
        write_line: json::line,
        read_line: json::read_line,
    }
}

/// On both wires.
pub const fn both_arguments<Q: Serialize + DeserializeOwned + Field>() -> Arguments<Q> {
    Arguments {
        check: Q::check,
        json: Some(json_arguments()),
        grpc: Some(Q::ALONE),
    }
}

/// On both wires.
pub const fn both_answer<P: Serialize + DeserializeOwned + Field>() -> Answer<P> {
    Answer {
        check: P::check,
        json: Some(json_answer()),
        grpc: Some(P::ALONE),
        shape: P::shape,
    }
}

/// As JSON over HTTP only; `check` is what is asked of them.
pub const fn http_arguments<Q: Serialize + DeserializeOwned>(
    check: fn(&Q, &mut Violations),
) -> Arguments<Q> {
    Arguments {
        check,
        json: Some(json_arguments()),
        grpc: None,
    }
}

/// As JSON over HTTP only; `shape` and `check` are what is known of it.
pub const fn http_answer<P: Serialize + DeserializeOwned>(
    shape: fn(&mut Types) -> Shape,
    check: fn(&P, &mut Violations),
) -> Answer<P> {
    Answer {
        check,
        json: Some(json_answer()),
        grpc: None,
        shape,
    }
}

/// Over gRPC only.
pub const fn grpc_arguments<Q: Field>() -> Arguments<Q> {
    Arguments {
        check: Q::check,
        json: None,
        grpc: Some(Q::ALONE),
    }
}

/// Over gRPC only.
pub const fn grpc_answer<P: Field>() -> Answer<P> {
    Answer {
        check: P::check,
        json: None,
        grpc: Some(P::ALONE),
        shape: P::shape,
    }
}

/// What is told where a codec is asked for a wire that its service does not have. A generated server has no route
/// there, and a generated client no constructor.
fn missing(wire: Wire) -> Error {
    Error::internal(format!("the service has no {}", wire.as_str()))
}

fn hold_json<T>(check: fn(&T, &mut Violations), value: &T) -> Result<(), Error> {
    let mut violations = Violations::of_json();
    check(value, &mut violations);
    violations.finish()
}

impl<Q> Arguments<Q> {
    /// Holds what was asked on `wire` against the rules that it has.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`](crate::Code::InvalidArgument), naming the fields and the rules.
    pub(super) fn hold(&self, wire: Wire, arguments: &Q) -> Result<(), Error> {
        let mut violations = Violations::of_arguments(wire);
        (self.check)(arguments, &mut violations);
        violations.finish()
    }

    /// The same for what JSON cannot say.
    pub(super) fn hold_json(&self, arguments: &Q) -> Result<(), Error> {
        hold_json(self.check, arguments)
    }

    pub(super) fn json(&self) -> Result<JsonArguments<Q>, Error> {
        self.json.ok_or_else(|| missing(Wire::Json))
    }

    pub(super) fn grpc(&self) -> Result<Alone<Q>, Error> {
        self.grpc.ok_or_else(|| missing(Wire::Grpc))
    }
}

impl<P> Answer<P> {
    /// Whether JSON can say it all.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`](crate::Code::InvalidArgument), naming the fields that it cannot.
    pub(super) fn hold_json(&self, answer: &P) -> Result<(), Error> {
        hold_json(self.check, answer)
    }

    pub(super) fn json(&self) -> Result<JsonAnswer<P>, Error> {
        self.json.ok_or_else(|| missing(Wire::Json))
    }

    pub(super) fn grpc(&self) -> Result<Alone<P>, Error> {
        self.grpc.ok_or_else(|| missing(Wire::Grpc))
    }

    /// Appends one item of a stream.
    pub(super) fn write_item(&self, wire: Wire, item: &P, out: &mut Vec<u8>) -> Result<(), Error> {
        match wire {
            Wire::Json => {
                self.hold_json(item).map_err(Error::internal)?;
                (self.json()?.write_line)(item, out)
            }
            Wire::Grpc => grpc::append(self.grpc()?, item, out),
        }
    }
}
