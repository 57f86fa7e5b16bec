//! The service __name__.

pub mod api;
