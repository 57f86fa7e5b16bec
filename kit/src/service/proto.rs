//! The text of the `.proto` file.

use super::schema::Service;

impl Service {
    /// The text of the `.proto` file (proto3).
    pub fn proto(&self) -> String {
        String::new()
    }
}
