//! `__name__-client METHOD --ARGUMENT VALUE ...`: calls a method of __name__, and prints what it answers.

#![allow(dead_code, unused_mut, unused_variables, reason = "methods of every kind may come")]

use std::{future::poll_fn, pin::pin};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Arg, ArgMatches, Command};
use http::{HeaderValue, Request, header::AUTHORIZATION};
use kit::{
    Body, Context, Stream,
    config::ServiceConfig,
    discovery::{ConsulConfig, DiscoveryConfig, Source},
    metrics::observer,
    service::{client::Stack, schema::{FieldShape, Kind, MethodShape, Scalar, Service, Shape}},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use tower::ServiceExt;
use __module___client::api::{__Trait__, __Trait__Client, __described__::describe};

/// Where instances are when nobody says anything: neither a flag, nor `KIT_DISCOVERY__CONSUL__ADDRESS` and the like.
const DEFAULTS: &[(&str, &str)] = &[("discovery.fixed.__name__", "localhost:__port__")];

/// Calls the method `name`. `kit generate client __name__` adds those that the trait has got since.
async fn call(client: &__Trait__Client<impl Stack>, name: &str, mut given: Given) -> Result<()> {
    let ctx = Context::new();
    match name {
__arms__        _ => bail!("this program is older than `{name}`: kit generate client __name__"),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let service = describe();
    let matches = command(&service).get_matches();
    let (name, arguments) = matches.subcommand().context("one is required")?;
    let method = service.methods.iter().find(|method| method.name == name);
    let given = given(&service, method.context("it is one of these")?, arguments)?;

    let mut config: ServiceConfig = kit::config::load_with(DEFAULTS)?;
    if let Some(addresses) = matches.get_one::<String>("@at") {
        let addresses: Result<_, _> = addresses.split(',').map(str::parse).collect();
        let fixed = [("__name__".parse()?, addresses?)].into();
        config.discovery = DiscoveryConfig { fixed, ..DiscoveryConfig::default() };
    }
    if let Some(address) = matches.get_one::<String>("@consul") {
        let agent = ConsulConfig { address: address.parse()?, ..ConsulConfig::default() };
        config.discovery.consul = Some(agent);
    }
    let source = Source::from_config(&config.discovery, observer())?;
    let token = token(&matches)?;
    let client = __module___client::connect(&source, config.client)?;
    let client = client.map_request(move |mut request: Request<Body>| {
        if let Some(token) = &token {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        request
    });
    if matches.get_flag("@grpc") { return call(&__Trait__Client::grpc(client), name, given).await; }
    call(&__Trait__Client::__wire__(client), name, given).await
}

/// Says who calls. A secret is no argument: those are seen by everybody on the machine.
fn token(matches: &ArgMatches) -> Result<Option<HeaderValue>> {
    let text = match (matches.get_one::<String>("@token-file"), std::env::var("__MODULE___TOKEN")) {
        (Some(path), _) => std::fs::read_to_string(path).with_context(|| path.clone())?,
        (None, Ok(text)) => text,
        (None, Err(_)) => return Ok(None),
    };
    let Ok(mut token) = HeaderValue::try_from(format!("Bearer {}", text.trim())) else {
        bail!("a token is one line of visible ASCII characters");
    };
    token.set_sensitive(true);
    Ok(Some(token))
}

/// What can be typed: the methods of the trait, whatever it has grown to, and their arguments.
fn command(service: &Service) -> Command {
    let flag = |name: &'static str, id: &'static str| Arg::new(id).long(name);
    Command::new("__name__-client")
        .about(service.doc)
        .subcommand_required(true)
        // A method may be called help.
        .disable_help_subcommand(true)
        .arg(flag("at", "@at").value_name("HOST:PORT,...").help("Where instances of __name__ are"))
        .arg(flag("consul", "@consul").value_name("URL").conflicts_with("@at").help("The agent of Consul that knows where they are"))
        .arg(flag("token-file", "@token-file").value_name("FILE").help("The token that says who calls; or it is in the variable __MODULE___TOKEN"))
        .arg(flag("grpc", "@grpc").action(clap::ArgAction::SetTrue).help("Calls by gRPC instead of JSON over HTTP"))
        .subcommands(service.methods.iter().map(|method| subcommand(service, method)))
}

fn subcommand(service: &Service, method: &MethodShape) -> Command {
    let fields = fields(service, method);
    let is_taken = fields.iter().any(|field| field.json == "help");
    let command = Command::new(method.name).about(method.doc).disable_help_flag(is_taken);
    fields.into_iter().fold(command, |command, field| {
        let required = !field.has_default && !matches!(field.shape.bare(), Shape::Optional(_));
        let arg = Arg::new(field.json).long(field.json).required(required).help(field.doc);
        command.arg(arg.allow_hyphen_values(true))
    })
}

/// The arguments of a method: the fields of its request.
fn fields(service: &Service, method: &MethodShape) -> Vec<FieldShape> {
    let Shape::Named(name) = &method.request else {
        return Vec::new();
    };
    match service.types.iter().find(|ty| ty.name == *name).map(|ty| &ty.kind) {
        Some(Kind::Message { fields, .. }) => fields.clone(),
        _ => Vec::new(),
    }
}

/// What was typed, by the names of arguments.
struct Given(Map<String, Value>);

fn given(service: &Service, method: &MethodShape, arguments: &ArgMatches) -> Result<Given> {
    let mut given = Map::new();
    for field in fields(service, method) {
        if let Some(text) = arguments.get_one::<String>(field.json) {
            let value = value(&field.shape, text).with_context(|| format!("--{}", field.json))?;
            given.insert(field.json.to_owned(), value);
        }
    }
    Ok(Given(given))
}

/// Texts are taken as they are, bytes too or, with @ before its name, out of a file; all else is JSON.
fn value(shape: &Shape, text: &str) -> Result<Value> {
    Ok(match shape {
        Shape::Optional(shape) | Shape::Ruled(shape, _) => value(shape, text)?,
        Shape::Scalar(Scalar::String | Scalar::Uuid) => Value::from(text),
        Shape::Scalar(Scalar::Bytes) => match text.strip_prefix('@') {
            Some(path) => Value::from(std::fs::read(path)?),
            None => Value::from(text.as_bytes()),
        },
        _ => serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)),
    })
}

impl Given {
    /// As the type that the method takes.
    fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<T> {
        let value = self.0.remove(name).unwrap_or_default();
        serde_json::from_value(value).with_context(|| format!("--{name}"))
    }
}

fn print<T: Serialize>(answer: &T) -> Result<()> {
    match serde_json::to_value(answer)? {
        Value::Null => println!("{{}}"),
        answer => println!("{answer:#}"),
    }
    Ok(())
}

/// Each item when it comes.
async fn print_all<T: Serialize>(items: impl Stream<Item = Result<T, kit::Error>>) -> Result<()> {
    let mut items = pin!(items);
    while let Some(item) = poll_fn(|cx| items.as_mut().poll_next(cx)).await {
        println!("{}", serde_json::to_string(&item.map_err(told)?)?);
    }
    Ok(())
}

/// An error with all that it says about arguments.
fn told(error: kit::Error) -> anyhow::Error {
    let violations = error.violations().iter();
    let violations = violations.map(|one| format!("\n  {}: {}", one.field, one.rule));
    anyhow!("{error}{}", violations.collect::<String>())
}
