//! The text of the `.proto` file (proto3).

use std::collections::BTreeSet;

use super::schema::{FieldShape, Kind, MethodShape, Scalar, Service, Shape, Type, Variant};

impl Service {
    /// The text of the `.proto` file (proto3), from which others make clients in their own language.
    pub fn proto(&self) -> String {
        let mut text = Text::default();
        text.line("syntax = \"proto3\";");
        text.line("");
        text.line(&format!("package {};", self.package));
        text.line("");
        text.comment(self.doc);
        text.block(&format!("service {}", self.name), |text| {
            self.methods
                .iter()
                .for_each(|method| self.rpc(text, method));
        });
        for (ty, names) in self.types.iter().zip(self.value_names()) {
            text.line("");
            text.comment(ty.doc);
            match &ty.kind {
                Kind::Message { fields, .. } => {
                    text.block(&format!("message {}", ty.name), |text| {
                        fields.iter().for_each(|field| message_field(text, field));
                    })
                }
                Kind::Enum(variants) => enumeration(&mut text, ty, variants, &names),
            }
        }
        text.0
    }
}

impl Service {
    fn rpc(&self, text: &mut Text, method: &MethodShape) {
        text.comment(method.doc);
        let name = method.method.name;
        // Inside of a service a name is that of a method first.
        let message = |shape: &Shape| {
            let name = type_name(shape);
            match self.methods.iter().any(|other| other.method.name == name) {
                true => format!(".{}.{name}", self.package),
                false => name,
            }
        };
        let (request, response) = (message(&method.request), message(&method.response));
        let stream = if method.method.streaming {
            "stream "
        } else {
            ""
        };
        let rpc = format!("rpc {name}({request}) returns ({stream}{response})");
        if method.method.idempotent {
            text.block(&rpc, |text| {
                text.line("option idempotency_level = IDEMPOTENT;");
            });
        } else {
            text.line(&format!("{rpc};"));
        }
    }
}

fn message_field(text: &mut Text, field: &FieldShape) {
    text.comment(field.doc);
    text.comment(&rules(&field.shape));
    let ty = type_name(&field.shape);
    text.line(&format!("{ty} {} = {};", field.name, field.number));
}

fn enumeration(text: &mut Text, ty: &Type, variants: &[Variant], names: &[String]) {
    text.block(&format!("enum {}", ty.name), |text| {
        text.line(&format!("{} = 0;", names[0]));
        for (variant, name) in variants.iter().zip(&names[1..]) {
            text.comment(variant.doc);
            text.line(&format!("{name} = {};", variant.number));
        }
    });
}

impl Service {
    /// The names of each enum's values, in the order of the types, zero first. They share one scope with those of all
    /// others, so they begin with the enum's own; and one that is taken gets a number, as a type does.
    pub(super) fn value_names(&self) -> Vec<Vec<String>> {
        let mut taken: BTreeSet<String> = self.types.iter().map(|ty| ty.name.clone()).collect();
        let names = |ty: &Type, taken: &mut BTreeSet<String>| match &ty.kind {
            Kind::Message { .. } => Vec::new(),
            Kind::Enum(variants) => {
                let words = variants.iter().map(|variant| screaming(variant.name));
                std::iter::once("UNSPECIFIED".to_owned())
                    .chain(words)
                    .map(|word| {
                        let name = format!("{}_{word}", screaming(&ty.name));
                        let numbered = (2..).map(|number| format!("{name}_{number}"));
                        let mut names = std::iter::once(name.clone()).chain(numbered);
                        names
                            .find(|name| taken.insert(name.clone()))
                            .expect("there are more numbers than values")
                    })
                    .collect()
            }
        };
        self.types.iter().map(|ty| names(ty, &mut taken)).collect()
    }
}

/// What protobuf has no words for.
fn rules(shape: &Shape) -> String {
    match shape {
        Shape::Ruled(inner, rules) => format!("{}Rules: {rules}.\n", self::rules(inner)),
        Shape::Optional(inner) => rules(inner),
        Shape::List(inner) | Shape::Map(_, inner) => {
            rules(inner).replace("Rules: ", "Rules of each: ")
        }
        Shape::Scalar(_) | Shape::Named(_) | Shape::Any => String::new(),
    }
}

fn type_name(shape: &Shape) -> String {
    match shape {
        Shape::Ruled(inner, _) => type_name(inner),
        Shape::Named(name) => name.clone(),
        Shape::Optional(inner) => format!("optional {}", type_name(inner)),
        Shape::List(inner) => format!("repeated {}", type_name(inner)),
        Shape::Map(key, value) => format!("map<{}, {}>", type_name(key), type_name(value)),
        Shape::Any => unreachable!("on gRPC each type has a shape"),
        Shape::Scalar(scalar) => match scalar {
            Scalar::Bool => "bool",
            Scalar::Int32 => "int32",
            Scalar::Int64 => "int64",
            Scalar::Uint32 => "uint32",
            Scalar::Uint64 => "uint64",
            Scalar::Float => "float",
            Scalar::Double => "double",
            Scalar::String | Scalar::Uuid => "string",
            Scalar::Bytes => "bytes",
        }
        .to_owned(),
    }
}

/// `InProgress` as `IN_PROGRESS`.
fn screaming(camel: &str) -> String {
    let chars: Vec<_> = camel.chars().collect();
    let mut out = String::new();
    for (at, c) in chars.iter().enumerate() {
        let begins = c.is_ascii_uppercase()
            && at > 0
            && (!chars[at - 1].is_ascii_uppercase()
                || chars.get(at + 1).is_some_and(char::is_ascii_lowercase));
        if begins && chars[at - 1] != '_' {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

/// Lines, each as deep as the blocks it stands in.
#[derive(Default)]
struct Text(String, usize);

impl Text {
    fn line(&mut self, line: &str) {
        if !line.is_empty() {
            self.0.push_str(&"  ".repeat(self.1));
            self.0.push_str(line);
        }
        self.0.push('\n');
    }

    fn comment(&mut self, doc: &str) {
        for line in doc.lines() {
            self.line(format!("// {line}").trim_end());
        }
    }

    fn block(&mut self, head: &str, body: impl FnOnce(&mut Self)) {
        self.line(&format!("{head} {{"));
        self.1 += 1;
        body(self);
        self.1 -= 1;
        self.line("}");
    }
}
