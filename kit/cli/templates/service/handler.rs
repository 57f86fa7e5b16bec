//! What __name__ does.

__uses__

/// Answers calls. What all calls share, such as a database or a client of another service, becomes a field.
#[derive(Clone, Debug, Default)]
pub struct Handler;

impl __Trait__ for Handler {
__methods__}
