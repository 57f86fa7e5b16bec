//! The text of the `.proto` file (proto3).

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
            self.methods.iter().for_each(|method| rpc(text, method));
        });
        for ty in self.types.iter() {
            text.line("");
            text.comment(ty.doc);
            match &ty.kind {
                Kind::Message { fields, .. } => {
                    text.block(&format!("message {}", ty.name), |text| {
                        fields.iter().for_each(|field| message_field(text, field));
                    })
                }
                Kind::Enum(variants) => enumeration(&mut text, ty, variants),
            }
        }
        text.0
    }
}

fn rpc(text: &mut Text, method: &MethodShape) {
    text.comment(method.doc);
    let name = method.method.name;
    let (request, response) = (type_name(&method.request), type_name(&method.response));
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

fn message_field(text: &mut Text, field: &FieldShape) {
    text.comment(field.doc);
    let ty = type_name(&field.shape);
    text.line(&format!("{ty} {} = {};", field.name, field.number));
}

/// The names of an enum's values share one scope with those of all others, so they begin with the enum's own; and
/// the first is zero.
fn enumeration(text: &mut Text, ty: &Type, variants: &[Variant]) {
    let prefix = screaming(&ty.name);
    text.block(&format!("enum {}", ty.name), |text| {
        text.line(&format!("{prefix}_UNSPECIFIED = 0;"));
        for variant in variants {
            text.comment(variant.doc);
            let name = screaming(variant.name);
            text.line(&format!("{prefix}_{name} = {};", variant.number));
        }
    });
}

fn type_name(shape: &Shape) -> String {
    match shape {
        Shape::Named(name) => name.clone(),
        Shape::Optional(inner) => format!("optional {}", type_name(inner)),
        Shape::List(inner) => format!("repeated {}", type_name(inner)),
        Shape::Map(key, value) => format!("map<{}, {}>", type_name(key), type_name(value)),
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
