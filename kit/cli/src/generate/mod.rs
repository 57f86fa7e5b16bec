//! `kit generate`: adds what is missing, and never touches what is there.

mod chaos;
mod client;
mod docker;
mod kubernetes;
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
    Service(service::Options),
    /// Adds a Dockerfile and a docker-compose.yml with all services, Consul and Prometheus
    #[command(visible_alias = "d")]
    Docker(Mode),
    /// Adds manifests for Kubernetes: each service with its probes and limits, and a Consul
    #[command(visible_alias = "k")]
    Kubernetes(Mode),
    /// Adds a library to call a service from other programs, and a program to call it by hand
    #[command(visible_alias = "c")]
    Client(Client),
    /// Adds a middleware around the methods of a service or around its requests
    #[command(visible_alias = "m")]
    Middleware(middleware::Options),
    /// Adds a test that kills and stops instances of a service while it is called
    Chaos(chaos::Options),
    /// Writes the .proto file of a service, for those who call it by gRPC in other languages
    Proto(text::Options),
    /// Writes the OpenAPI document of a service, for those who call it by JSON in other languages
    #[command(name = "openapi")]
    OpenApi(text::Options),
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
        Options::Service(options) => service::run(&options),
        Options::Client(Client { name, mode }) => client::run(&name, mode),
        Options::Middleware(options) => middleware::run(&options),
        Options::Chaos(options) => chaos::run(&options),
        Options::Proto(options) => text::run(text::Text::Proto, &options),
        Options::OpenApi(options) => text::run(text::Text::OpenApi, &options),
        Options::Docker(mode) => docker::run(mode),
        Options::Kubernetes(mode) => kubernetes::run(mode),
    }
}
