//! `kit generate`: adds what is missing, and never touches what is there.

mod client;
mod docker;
mod middleware;
mod package;
mod service;
mod text;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::{edit::Mode, names::Name};

/// What to add.
#[derive(Debug, Subcommand)]
pub(crate) enum Options {
    /// Adds what the trait of a service needs: the implementation of new methods, and what serves them
    #[command(visible_alias = "s")]
    Service(Service),
    /// Adds a Dockerfile and a docker-compose.yml with all services, Consul and Prometheus
    #[command(visible_alias = "d")]
    Docker(Mode),
    /// Adds a library to call a service from other programs, and a program to call it by hand
    #[command(visible_alias = "c")]
    Client(Client),
    /// Adds a middleware around the methods of a service or around its requests
    #[command(visible_alias = "m")]
    Middleware(middleware::Options),
    /// Writes the .proto file of a service, for those who call it by gRPC in other languages
    Proto(text::Options),
    /// Writes the OpenAPI document of a service, for those who call it by JSON in other languages
    #[command(name = "openapi")]
    OpenApi(text::Options),
}

/// A service.
#[derive(Args, Debug)]
pub(crate) struct Service {
    /// Its name
    name: Name,
    /// Nothing more than without it: logging and metrics always stand around a service here. Accepted for those who
    /// know it from go-kit's generator
    #[arg(long)]
    dmw: bool,
    #[command(flatten)]
    mode: Mode,
}

/// A client of a service.
#[derive(Args, Debug)]
pub(crate) struct Client {
    /// The service's name
    name: Name,
    #[command(flatten)]
    mode: Mode,
}

/// Adds it.
pub(crate) fn run(options: Options) -> Result<ExitCode> {
    match options {
        Options::Service(Service { name, mode, .. }) => service::run(&name, mode),
        Options::Client(Client { name, mode }) => client::run(&name, mode),
        Options::Middleware(options) => middleware::run(&options),
        Options::Proto(options) => text::run(text::Text::Proto, &options),
        Options::OpenApi(options) => text::run(text::Text::OpenApi, &options),
        Options::Docker(mode) => docker::run(mode),
    }
}
