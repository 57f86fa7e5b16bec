//! `__name__-client METHOD --ARGUMENT VALUE ...`. Methods and arguments are those of the trait, whatever it has
//! grown to.

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgMatches, Command};
use http_body_util::BodyExt;
use kit::{
    Body,
    service::schema::{FieldShape, Kind, MethodShape, Scalar, Service, Shape},
};
use serde_json::{Map, Value};
use tower::ServiceExt;

#[tokio::main]
async fn main() -> Result<()> {
    let service = __module___client::api::__module__::describe();
    let command = Command::new("__name__-client")
        .about(service.doc)
        .subcommand_required(true)
        .arg(Arg::new("@at").long("at").value_name("HOST:PORT").default_value("localhost:__port__").help("Where __name__ is"))
        .subcommands(service.methods.iter().map(|method| subcommand(&service, method)));
    let matches = command.get_matches();
    let at = matches.get_one::<String>("@at").context("it has a default")?;
    let (name, arguments) = matches.subcommand().context("one is required")?;
    let method = service.methods.iter().find(|method| path(method) == name).context("it is one of these")?;

    let body = serde_json::to_vec(&request(&service, method, arguments))?;
    let request = http::Request::post(method.method.http_path).body(Body::full(body))?;
    let client = __module___client::connect(vec![at.parse()?])?;
    let response = client.oneshot(request).await.map_err(anyhow::Error::from_boxed)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
    let answer: Value = serde_json::from_slice(&body)?;
    if !status.is_success() {
        bail!("{status}: {answer:#}");
    }
    println!("{answer:#}");
    Ok(())
}

fn path(method: &MethodShape) -> &'static str {
    method.method.http_path.trim_start_matches('/')
}

fn subcommand(service: &Service, method: &MethodShape) -> Command {
    fields(service, method).into_iter().fold(Command::new(path(method)).about(method.doc), |command, field| {
        let required = !field.has_default && !matches!(field.shape, Shape::Optional(_));
        command.arg(Arg::new(field.json).long(field.json).required(required).help(field.doc))
    })
}

/// The arguments of a method: the fields of its request.
fn fields(service: &Service, method: &MethodShape) -> Vec<FieldShape> {
    let of = |name: &String| service.types.iter().find(|ty| ty.name == *name).map(|ty| ty.kind.clone());
    match &method.request {
        Shape::Named(name) => match of(name) {
            Some(Kind::Message { fields, .. }) => fields,
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// Texts are taken as they are; all else is JSON.
fn request(service: &Service, method: &MethodShape, arguments: &ArgMatches) -> Map<String, Value> {
    let given = |field: FieldShape| {
        let text = arguments.get_one::<String>(field.json)?;
        let shape = match &field.shape {
            Shape::Optional(inner) => inner,
            other => other,
        };
        let as_text = || Value::String(text.clone());
        let value = match shape {
            Shape::Scalar(Scalar::String | Scalar::Bytes | Scalar::Uuid) => as_text(),
            _ => serde_json::from_str(text).unwrap_or_else(|_| as_text()),
        };
        Some((field.json.to_owned(), value))
    };
    fields(service, method).into_iter().filter_map(given).collect()
}
