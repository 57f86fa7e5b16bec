//! `kit generate`: adds what is missing, and never touches what is there.

mod chaos;
mod client;
mod docker;
mod kubernetes;
mod middleware;
mod package;
mod service;
mod text;

pub(crate) use package::Transport;

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::{
    edit::{
        Mode,
        rust::{Source, plain, setting, sources},
    },
    names::Name,
};

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

/// The path and the body of a request that the service in `folder` answers: of its first method that takes arguments
/// which can be made up, and is where it is without a `route`.
pub(crate) fn example(folder: &Path, name: &str) -> Option<(String, String)> {
    let name: Name = name.parse().ok()?;
    let sources = sources(&folder.join("src")).ok()?;
    let find = |source: &Source| {
        let item = source.service(&name.camel())?;
        let is_by_json = setting(item, "transport").as_deref() != Some("grpc");
        let mut methods = source.trait_methods(item).into_iter();
        methods
            .find_map(|method| {
                let body = method.example().filter(|_| !method.has_route)?;
                Some((format!("/{}", plain(&method.name)), body))
            })
            .filter(|_| is_by_json)
    };
    sources.iter().find_map(find)
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
