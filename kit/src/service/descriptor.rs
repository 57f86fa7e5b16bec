//! A service as reflection tells of it: the same as the `.proto` text, in the messages of
//! `google/protobuf/descriptor.proto`, which that text compiles to.

use super::{
    message::to_vec,
    schema::{FieldShape, Kind, MethodShape, Scalar, Service, Shape, Type, Variant},
};

#[derive(crate::Message)]
struct File {
    name: String,
    package: String,
    #[kit(tag = 4)]
    messages: Vec<Message>,
    enums: Vec<Enum>,
    services: Vec<ServiceDescriptor>,
    #[kit(tag = 12)]
    syntax: String,
}

#[derive(crate::Message)]
struct Message {
    name: String,
    fields: Vec<Field>,
    nested: Vec<Message>,
    #[kit(tag = 7)]
    options: Option<MessageOptions>,
    oneofs: Vec<Oneof>,
}

#[derive(crate::Message)]
struct MessageOptions {
    #[kit(tag = 7)]
    map_entry: bool,
}

#[derive(crate::Message)]
struct Oneof {
    name: String,
}

#[derive(crate::Message)]
struct Field {
    name: String,
    #[kit(tag = 3)]
    number: u32,
    label: u32,
    kind: u32,
    type_name: Option<String>,
    #[kit(tag = 9)]
    oneof: Option<u32>,
    json_name: String,
    #[kit(tag = 17)]
    proto3_optional: Option<bool>,
}

#[derive(crate::Message)]
struct Enum {
    name: String,
    values: Vec<EnumValue>,
}

#[derive(crate::Message)]
struct EnumValue {
    name: String,
    // Zero is said too: there is no default of a number here.
    number: Option<u32>,
}

#[derive(crate::Message)]
struct ServiceDescriptor {
    name: String,
    methods: Vec<MethodDescriptor>,
}

#[derive(crate::Message)]
struct MethodDescriptor {
    name: String,
    input: String,
    output: String,
    options: Option<MethodOptions>,
    #[kit(tag = 6)]
    server_streaming: bool,
}

#[derive(crate::Message)]
struct MethodOptions {
    #[kit(tag = 34)]
    idempotency_level: u32,
}

const OPTIONAL: u32 = 1;
const REPEATED: u32 = 3;
const MESSAGE: u32 = 11;
const ENUM: u32 = 14;
const IDEMPOTENT: u32 = 2;

impl Service {
    /// The name of the file that its `.proto` text would stand in.
    pub(super) fn file_name(&self) -> String {
        format!("{}.proto", self.package)
    }

    /// Whether the file has this symbol: the service, a method of it, or a type.
    pub(super) fn has_symbol(&self, symbol: &str) -> bool {
        let Some(name) = symbol
            .strip_prefix(self.package)
            .and_then(|rest| rest.strip_prefix('.'))
        else {
            return false;
        };
        let is_type = |name: &str| self.types.iter().any(|ty| ty.name == name);
        match name.split_once('.') {
            None => name == self.name || is_type(name),
            Some((service, method)) if service == self.name => {
                self.methods.iter().any(|m| m.method.name == method)
            }
            // A field, or the entry of a map.
            Some((ty, _)) => is_type(ty),
        }
    }

    /// The bytes of its `FileDescriptorProto`.
    pub(super) fn file_descriptor(&self) -> Vec<u8> {
        let names = self.value_names();
        let (mut messages, mut enums) = (Vec::new(), Vec::new());
        for (ty, names) in self.types.iter().zip(&names) {
            match &ty.kind {
                Kind::Message { fields, .. } => messages.push(self.message(ty, fields)),
                Kind::Enum(variants) => enums.push(enumeration(ty, variants, names)),
            }
        }
        let methods = self.methods.iter().map(|method| self.method(method));
        to_vec(&File {
            name: self.file_name(),
            package: self.package.to_owned(),
            messages,
            enums,
            services: vec![ServiceDescriptor {
                name: self.name.to_owned(),
                methods: methods.collect(),
            }],
            syntax: "proto3".to_owned(),
        })
    }

    fn full_type_name(&self, name: &str) -> String {
        format!(".{}.{name}", self.package)
    }

    fn method(&self, method: &MethodShape) -> MethodDescriptor {
        let name = |shape: &Shape| match shape {
            Shape::Named(name) => self.full_type_name(name),
            _ => unreachable!("arguments and answers are messages"),
        };
        MethodDescriptor {
            name: method.method.name.to_owned(),
            input: name(&method.request),
            output: name(&method.response),
            options: method.method.idempotent.then_some(MethodOptions {
                idempotency_level: IDEMPOTENT,
            }),
            server_streaming: method.method.streaming,
        }
    }

    fn message(&self, ty: &Type, shapes: &[FieldShape]) -> Message {
        let (mut fields, mut nested, mut oneofs) = (Vec::new(), Vec::new(), Vec::new());
        for FieldShape {
            name,
            number,
            shape,
            ..
        } in shapes
        {
            let mut field = self.field(name, *number, shape);
            match shape.bare() {
                // As protoc does it: a oneof of one field, so that its absence is seen.
                Shape::Optional(_) => {
                    field.proto3_optional = Some(true);
                    field.oneof = u32::try_from(oneofs.len()).ok();
                    oneofs.push(Oneof {
                        name: format!("_{name}"),
                    });
                }
                Shape::Map(key, value) => {
                    let entry = format!("{}Entry", camel(name, true));
                    field.type_name = Some(self.full_type_name(&format!("{}.{entry}", ty.name)));
                    nested.push(Message {
                        name: entry,
                        fields: vec![self.field("key", 1, key), self.field("value", 2, value)],
                        nested: Vec::new(),
                        options: Some(MessageOptions { map_entry: true }),
                        oneofs: Vec::new(),
                    });
                }
                _ => {}
            }
            fields.push(field);
        }
        Message {
            name: ty.name.clone(),
            fields,
            nested,
            options: None,
            oneofs,
        }
    }

    fn field(&self, name: &str, number: u32, shape: &Shape) -> Field {
        let (label, one) = match shape.bare() {
            Shape::List(item) => (REPEATED, &**item),
            Shape::Map(..) => (REPEATED, shape),
            Shape::Optional(inner) => (OPTIONAL, &**inner),
            _ => (OPTIONAL, shape),
        };
        let (kind, type_name) = match one.bare() {
            Shape::Scalar(scalar) => (kind(*scalar), None),
            Shape::Named(name) => {
                let ty = self.types.iter().find(|ty| ty.name == *name);
                let is_enum = ty.is_some_and(|ty| matches!(ty.kind, Kind::Enum(_)));
                let kind = if is_enum { ENUM } else { MESSAGE };
                (kind, Some(self.full_type_name(name)))
            }
            // The entry of a map is named by whoever has the field.
            _ => (MESSAGE, None),
        };
        Field {
            name: name.to_owned(),
            number,
            label,
            kind,
            type_name,
            oneof: None,
            json_name: camel(name, false),
            proto3_optional: None,
        }
    }
}

fn enumeration(ty: &Type, variants: &[Variant], names: &[String]) -> Enum {
    let numbers = std::iter::once(0).chain(variants.iter().map(|variant| variant.number));
    let values = names.iter().zip(numbers).map(|(name, number)| EnumValue {
        name: name.clone(),
        number: Some(number),
    });
    Enum {
        name: ty.name.clone(),
        values: values.collect(),
    }
}

/// `FieldDescriptorProto.Type`.
fn kind(scalar: Scalar) -> u32 {
    match scalar {
        Scalar::Double => 1,
        Scalar::Float => 2,
        Scalar::Int64 => 3,
        Scalar::Uint64 => 4,
        Scalar::Int32 => 5,
        Scalar::Bool => 8,
        Scalar::String | Scalar::Uuid => 9,
        Scalar::Bytes => 12,
        Scalar::Uint32 => 13,
    }
}

/// `page_size` as `pageSize`, as protoc does it: what follows a `_` is a capital, and the `_` goes.
fn camel(name: &str, from_first: bool) -> String {
    let mut capital = from_first;
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        if c == '_' {
            capital = true;
        } else if std::mem::take(&mut capital) {
            out.push(c.to_ascii_uppercase());
        } else {
            out.push(c);
        }
    }
    out
}
