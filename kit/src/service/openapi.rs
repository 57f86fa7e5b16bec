//! The OpenAPI document.

use serde_json::Value;

use super::schema::Service;

impl Service {
    /// The OpenAPI document of the JSON side.
    pub fn openapi(&self) -> Value {
        Value::Null
    }
}
