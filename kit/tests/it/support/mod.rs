//! What several tests use.

pub(crate) mod consul;
pub(crate) mod log;
