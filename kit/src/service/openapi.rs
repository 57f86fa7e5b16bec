//! The OpenAPI document (3.1, whose schemas are JSON Schema 2020-12).

use serde_json::{Map, Value, json};

use super::{
    params,
    rules::{Number, Rules},
    schema::{FieldShape, Kind, MethodShape, Scalar, Service, Shape, Type},
    sent::NDJSON,
};
use crate::{error::Problem, name::Access, wire::IDEMPOTENCY_KEY};

impl Service {
    /// The OpenAPI document of the JSON side: every method, every type, and the problem document in which every
    /// error travels.
    pub fn openapi(&self) -> Value {
        let mut paths = Map::new();
        for method in &self.methods {
            let verb = method.method.http_method.as_str().to_ascii_lowercase();
            let path = paths
                .entry(method.method.http_path)
                .or_insert_with(|| json!({}));
            path[verb] = self.operation(method);
        }
        let mut schemas: Map<_, _> = self
            .types
            .iter()
            .filter(|ty| !ty.is_wrapper)
            .map(|ty| (ty.name.clone(), schema_of_type(ty)))
            .collect();
        // Nobody's type has a name with a dash.
        schemas.insert(PROBLEM.to_owned(), problem());
        let mut info = json!({ "title": self.name, "version": self.version });
        describe(&mut info, self.doc);
        let mut components = json!({ "schemas": schemas });
        let is_closed = |method: &MethodShape| method.method.access != Access::Anyone;
        if self.methods.iter().any(is_closed) {
            components["securitySchemes"] =
                json!({ BEARER: { "type": "http", "scheme": "bearer" } });
        }
        json!({
            "openapi": "3.1.0",
            "info": info,
            "paths": paths,
            "components": components,
        })
    }

    fn operation(&self, method: &MethodShape) -> Value {
        let fields = self.types.iter().find_map(|ty| match &ty.kind {
            Kind::Message { fields, .. } if Shape::Named(ty.name.clone()) == method.request => {
                Some(&**fields)
            }
            _ => None,
        });
        let fields = fields.unwrap_or_default();
        let in_path = |field: &&FieldShape| {
            let mut parts = method.method.http_path.split('/');
            parts.any(|part| params::parameter(part) == Some(field.json))
        };
        let (in_path, rest): (Vec<_>, Vec<_>) = fields.iter().partition(in_path);
        let mut parameters = vec![json!({
            "name": IDEMPOTENCY_KEY.as_str(),
            "in": "header",
            "description": "Calls with the same key are one call.",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$" },
        })];
        parameters.extend(in_path.iter().map(|field| parameter("path", field)));
        let error = json!({
            "description": "What went wrong, and which fields broke which rules.",
            "content": { Problem::CONTENT_TYPE: { "schema": reference(PROBLEM) } },
        });
        let content = if method.method.streaming {
            json!({ NDJSON: { "schema": line(schema(&method.reply)) } })
        } else {
            json!({ "application/json": { "schema": schema(&method.reply) } })
        };
        let mut operation = json!({
            "operationId": method.name,
            "responses": {
                "200": {
                    "description": "It was done.",
                    "content": content,
                },
                "400": error,
                "default": error,
            },
            "x-idempotent": method.method.idempotent,
        });
        if params::has_body(&method.method.http_method) {
            let body = if in_path.is_empty() {
                schema(&method.request)
            } else {
                object(&rest, true)
            };
            operation["requestBody"] = json!({
                "required": rest.iter().any(|field| is_required(field)),
                "content": { "application/json": { "schema": body } },
            });
        } else {
            parameters.extend(rest.iter().map(|field| parameter("query", field)));
        }
        // Of a scheme that is not OAuth's these are roles, since OpenAPI 3.1.
        let scopes = match method.method.access {
            Access::Anyone => None,
            Access::Authenticated => Some(json!([])),
            Access::Scope(scope) => Some(json!([scope])),
        };
        if let Some(scopes) = scopes {
            operation["security"] = json!([{ BEARER: scopes }]);
            operation["responses"]["401"] = error.clone();
            operation["responses"]["403"] = error.clone();
        }
        operation["parameters"] = parameters.into();
        let mut lines = method.doc.splitn(2, '\n');
        if let Some(summary) = lines.next().filter(|line| !line.is_empty()) {
            operation["summary"] = summary.into();
        }
        describe(&mut operation, lines.next().unwrap_or_default().trim());
        operation
    }
}

/// One line of a stream, which OpenAPI 3.1 cannot tell from the whole of it.
fn line(item: Value) -> Value {
    let only = |name: &str, schema: Value| {
        json!({
            "type": "object",
            "properties": { name: schema },
            "required": [name],
            "additionalProperties": false,
        })
    };
    json!({
        "description": "Each line is one of these; an `error` is the last one, and an empty line says nothing.",
        "oneOf": [only("result", item), only("error", reference(PROBLEM))],
    })
}

const PROBLEM: &str = "problem-document";
const BEARER: &str = "bearer";

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn describe(value: &mut Value, doc: &str) {
    if !doc.is_empty() {
        value["description"] = doc.into();
    }
}

fn schema_of_type(ty: &Type) -> Value {
    let mut schema = match &ty.kind {
        Kind::Message { fields, closed } => object(&fields.iter().collect::<Vec<_>>(), *closed),
        Kind::Enum(variants) => {
            let names: Vec<_> = variants.iter().map(|variant| variant.json).collect();
            json!({ "type": "string", "enum": names })
        }
    };
    let mut doc = ty.doc.to_owned();
    if let Kind::Enum(variants) = &ty.kind {
        for variant in variants.iter().filter(|variant| !variant.doc.is_empty()) {
            doc += &format!("\n- `{}`: {}", variant.json, variant.doc);
        }
    }
    describe(&mut schema, doc.trim());
    schema
}

/// An argument that is not in the body.
fn parameter(place: &str, field: &FieldShape) -> Value {
    let shape = match &field.shape {
        Shape::Optional(inner) => inner,
        shape => shape,
    };
    let mut value = schema(shape);
    // An empty segment is not there.
    if place == "path" && value["type"] == "string" && value["minLength"].is_null() {
        value["minLength"] = 1.into();
    }
    json!({ "name": field.json, "in": place, "required": is_required(field), "schema": value })
}

fn is_required(field: &FieldShape) -> bool {
    !field.has_default && !matches!(field.shape.bare(), Shape::Optional(_))
}

fn object(fields: &[&FieldShape], closed: bool) -> Value {
    let properties: Map<_, _> = fields.iter().map(|field| property(field)).collect();
    let required = fields.iter().filter(|field| is_required(field));
    let required: Vec<_> = required.map(|field| field.json).collect();
    let mut schema = json!({ "type": "object", "properties": properties });
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    if closed {
        schema["additionalProperties"] = false.into();
    }
    schema
}

fn property(field: &FieldShape) -> (String, Value) {
    let mut schema = schema(&field.shape);
    describe(&mut schema, field.doc);
    (field.json.to_owned(), schema)
}

fn schema(shape: &Shape) -> Value {
    match shape {
        Shape::Named(name) => reference(name),
        Shape::Optional(inner) => json!({ "anyOf": [schema(inner), { "type": "null" }] }),
        Shape::List(inner) => json!({ "type": "array", "items": schema(inner) }),
        Shape::Map(_, value) => {
            json!({ "type": "object", "additionalProperties": schema(value) })
        }
        Shape::Ruled(inner, rules) => ruled(schema(inner), inner, rules),
        Shape::Any => json!({}),
        Shape::Scalar(scalar) => match scalar {
            Scalar::Bool => json!({ "type": "boolean" }),
            Scalar::Int32 => {
                json!({ "type": "integer", "format": "int32", "minimum": i32::MIN, "maximum": i32::MAX })
            }
            Scalar::Int64 => {
                json!({ "type": "integer", "format": "int64", "minimum": i64::MIN, "maximum": i64::MAX })
            }
            Scalar::Uint32 => json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX }),
            Scalar::Uint64 => json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX }),
            Scalar::Float => {
                json!({ "type": "number", "format": "float", "minimum": f32::MIN, "maximum": f32::MAX })
            }
            Scalar::Double => json!({ "type": "number", "format": "double" }),
            Scalar::String => json!({ "type": "string" }),
            Scalar::Uuid => json!({ "type": "string", "format": "uuid" }),
            // As serde writes it.
            Scalar::Bytes => json!({
                "type": "array",
                "items": { "type": "integer", "minimum": 0, "maximum": 255 },
            }),
        },
    }
}

/// A schema with rules beside what the type says.
fn ruled(mut schema: Value, shape: &Shape, rules: &Rules) -> Value {
    let [least, most] = match shape.bare() {
        Shape::List(_) | Shape::Scalar(Scalar::Bytes) => ["minItems", "maxItems"],
        Shape::Map(..) => ["minProperties", "maxProperties"],
        _ => ["minLength", "maxLength"],
    };
    for (word, value) in [
        (least, rules.min_length.map(Value::from)),
        (most, rules.max_length.map(Value::from)),
        (
            "pattern",
            rules
                .pattern
                .as_ref()
                .map(|pattern| pattern.as_str().into()),
        ),
        ("minimum", rules.minimum.map(number)),
        ("maximum", rules.maximum.map(number)),
    ] {
        // The bounds of a type hold too.
        let is_narrower = match (word, schema[word].as_f64(), &value) {
            ("minimum", Some(own), Some(value)) => value.as_f64() > Some(own),
            ("maximum", Some(own), Some(value)) => value.as_f64() < Some(own),
            _ => true,
        };
        if let Some(value) = value.filter(|_| is_narrower) {
            schema[word] = value;
        }
    }
    schema
}

fn number(number: Number) -> Value {
    match number {
        Number::Integer(number) => match u64::try_from(number) {
            Ok(number) => number.into(),
            Err(_) => i64::try_from(number).map_or(Value::Null, Value::from),
        },
        Number::Float(number) => number.into(),
    }
}

/// [`Problem`], which is not derived, for gRPC does not carry it.
fn problem() -> Value {
    let text = || json!({ "type": "string" });
    json!({
        "type": "object",
        "description": "A problem document (RFC 9457).",
        "properties": {
            "type": text(),
            "title": text(),
            "status": { "type": "integer", "minimum": 400, "maximum": 599 },
            "detail": text(),
            "code": { "type": "string", "description": "The canonical code, such as `invalid_argument`." },
            "errors": {
                "type": "array",
                "description": "The fields that broke rules.",
                "items": {
                    "type": "object",
                    "properties": { "field": text(), "rule": text() },
                    "required": ["field", "rule"],
                },
            },
        },
        "required": ["type", "title", "status", "detail"],
    })
}
