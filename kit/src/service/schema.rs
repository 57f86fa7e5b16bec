//! What a service looks like from outside: the words from which the `.proto` text and the OpenAPI document are
//! made. Generated code describes each type by these; nobody writes them by hand.

use std::{any::type_name, collections::BTreeMap};

use super::rules::Rules;
use crate::name::Method;

/// A type of protobuf that is not made of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// `bool`.
    Bool,
    /// `int32`.
    Int32,
    /// `int64`.
    Int64,
    /// `uint32`.
    Uint32,
    /// `uint64`.
    Uint64,
    /// `float`.
    Float,
    /// `double`.
    Double,
    /// `string`.
    String,
    /// `bytes`.
    Bytes,
    /// `string`, in the form of a UUID.
    Uuid,
}

/// A type.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// Not made of others.
    Scalar(Scalar),
    /// A message or an enum, by its name among the [`Types`].
    Named(String),
    /// Or nothing.
    Optional(Box<Shape>),
    /// Any number of the same.
    List(Box<Shape>),
    /// Values under keys.
    Map(Box<Shape>, Box<Shape>),
    /// Not any value of it.
    Ruled(Box<Shape>, &'static Rules),
    /// Whatever serde makes of it: a type that gRPC cannot carry, in a service without gRPC.
    Any,
}

impl Shape {
    /// The same, for a value with rules; what is optional has them where it is there.
    #[must_use]
    pub fn ruled(self, rules: &'static Rules) -> Self {
        match self {
            Self::Optional(inner) => Self::Optional(Box::new(inner.ruled(rules))),
            shape => Self::Ruled(Box::new(shape), rules),
        }
    }

    /// The type, without rules of its own.
    pub fn bare(&self) -> &Self {
        match self {
            Self::Ruled(shape, _) => shape.bare(),
            shape => shape,
        }
    }
}

/// A message or an enum.
#[derive(Clone, Debug, PartialEq)]
pub struct Type {
    /// The name, unique among the types of a service.
    pub name: String,
    /// The doc comment.
    pub doc: &'static str,
    /// What it is made of.
    pub kind: Kind,
    /// Whether JSON does without it: the message around an answer that is none.
    pub is_wrapper: bool,
}

/// What a type is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Fields.
    Message {
        /// In the order of their declaration.
        fields: Vec<FieldShape>,
        /// Whether JSON may have no others (`#[serde(deny_unknown_fields)]`).
        closed: bool,
    },
    /// One of these.
    Enum(Vec<Variant>),
}

/// A field of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldShape {
    /// Its name in protobuf.
    pub name: &'static str,
    /// Its name in JSON.
    pub json: &'static str,
    /// Its number.
    pub number: u32,
    /// The doc comment.
    pub doc: &'static str,
    /// Its type.
    pub shape: Shape,
    /// Whether JSON may leave it out though its type is not optional (`#[serde(default)]`).
    pub has_default: bool,
}

/// One value of an enum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Its name in Rust.
    pub name: &'static str,
    /// Its name in JSON.
    pub json: &'static str,
    /// Its number; 0 stands for "not said" and is no variant.
    pub number: u32,
    /// The doc comment.
    pub doc: &'static str,
}

/// The named types that a service speaks of, each once, in the order in which they were met.
#[derive(Clone, Debug, Default)]
pub struct Types {
    list: Vec<Type>,
    /// Rust's own name of each type, and its place in the list.
    met: BTreeMap<&'static str, usize>,
    /// The name of the service, which stands beside those of its types.
    reserved: Option<&'static str>,
}

impl Types {
    /// None yet, of the service with this name.
    pub fn of(service: &'static str) -> Self {
        Self {
            reserved: Some(service),
            ..Self::default()
        }
    }

    /// The types met so far.
    pub fn iter(&self) -> impl Iterator<Item = &Type> {
        self.list.iter()
    }

    /// Speaks of `T` by `name`, and describes it when it is met for the first time. Where another type has that
    /// name already, a number is added.
    pub fn named<T>(
        &mut self,
        name: &str,
        doc: &'static str,
        kind: impl FnOnce(&mut Self) -> Kind,
    ) -> Shape {
        let rust = type_name::<T>();
        if let Some(at) = self.met.get(rust) {
            return Shape::Named(self.list[*at].name.clone());
        }
        let unique = self.unique(name);
        let at = self.list.len();
        self.met.insert(rust, at);
        // Its name is taken before its parts are described, for a type may be made of itself.
        self.list.push(Type {
            name: unique.clone(),
            doc,
            kind: Kind::Enum(Vec::new()),
            is_wrapper: false,
        });
        self.list[at].kind = kind(self);
        Shape::Named(unique)
    }

    /// Describes the message around an answer that is none, which looks like `shape`.
    pub fn wrapped(&mut self, name: &str, shape: Shape) -> Shape {
        let name = self.unique(name);
        let value = FieldShape {
            name: "value",
            json: "value",
            number: 1,
            doc: "",
            shape,
            has_default: false,
        };
        self.list.push(Type {
            name: name.clone(),
            doc: "",
            kind: Kind::Message {
                fields: vec![value],
                closed: false,
            },
            is_wrapper: true,
        });
        Shape::Named(name)
    }

    fn unique(&self, name: &str) -> String {
        let taken = |name: &str| {
            self.reserved == Some(name) || self.list.iter().any(|other| other.name == name)
        };
        let numbered = (2..).map(|number| format!("{name}{number}"));
        let mut names = std::iter::once(name.to_owned()).chain(numbered);
        names
            .find(|name| !taken(name))
            .expect("there are more numbers than types")
    }
}

/// A service: its methods and the types that they speak of.
#[derive(Clone, Debug)]
pub struct Service {
    /// The name of the trait.
    pub name: &'static str,
    /// The package of protobuf.
    pub package: &'static str,
    /// The version of the crate that the trait stands in.
    pub version: &'static str,
    /// The doc comment.
    pub doc: &'static str,
    /// In the order of their declaration.
    pub methods: Vec<MethodShape>,
    /// All types, those of the methods and those that they are made of.
    pub types: Types,
}

impl Service {
    /// Package and name, such as `users.Users`.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.package, self.name)
    }
}

/// A method.
#[derive(Clone, Debug)]
pub struct MethodShape {
    /// Its name in Rust.
    pub name: &'static str,
    /// Its names on the wires.
    pub method: &'static Method,
    /// The doc comment.
    pub doc: &'static str,
    /// What it takes.
    pub request: Shape,
    /// What it returns, as JSON has it.
    pub reply: Shape,
    /// What it returns, as gRPC has it: a message.
    pub response: Shape,
}
