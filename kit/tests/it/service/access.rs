//! Methods that are not for anyone, and what is shed first.

use std::sync::{Arc, Mutex};

use http::{Request, Response, header};
use kit::{
    Body, Code, Context, Error,
    authenticate::{AuthenticateLayer, StaticTokens},
    name::{Access, Priority},
    server::{Inbound, ServerConfig},
};
use serde_json::json;
use tower::{Layer, Service, ServiceExt};

/// Some for all, some for few.
#[kit::service]
pub(crate) trait Vault {
    #[kit(priority = "sheddable")]
    async fn look(&self, ctx: Context) -> Result<String, Error>;
    #[kit(auth, priority = "critical")]
    async fn knock(&self, ctx: Context) -> Result<String, Error>;
    #[kit(auth = "vault:open")]
    async fn open(&self, ctx: Context) -> Result<String, Error>;
}

/// Says who is there, and remembers how urgent it was.
#[derive(Clone, Debug, Default)]
struct Porter(Arc<Mutex<Vec<Option<Priority>>>>);

impl Porter {
    fn answer(&self, ctx: &Context) -> Result<String, Error> {
        self.0.lock().unwrap().push(ctx.priority);
        let name = ctx.identity().map_or("anyone", |identity| &identity.name);
        Ok(name.to_owned())
    }
}

impl Vault for Porter {
    async fn look(&self, ctx: Context) -> Result<String, Error> {
        self.answer(&ctx)
    }

    async fn knock(&self, ctx: Context) -> Result<String, Error> {
        self.answer(&ctx)
    }

    async fn open(&self, ctx: Context) -> Result<String, Error> {
        self.answer(&ctx)
    }
}

const TOKENS: &str = r#"
tokens = [
    { name = "owner", token = "the-owner-has-this-word", scopes = ["vault:open"] },
    { name = "guest", token = "the-guest-has-this-word" },
]"#;

fn inbound() -> Inbound {
    kit::metrics::install();
    Inbound::from_config(&ServerConfig::default(), &"vault".parse().unwrap())
}

/// Asks for a method of a vault inside of these layers, with these credentials.
async fn asked(
    inbound: &Inbound,
    path: &str,
    content_type: &str,
    credentials: Option<&str>,
) -> Response<Body> {
    let mut request = Request::post(path).header(header::CONTENT_TYPE, content_type);
    if let Some(credentials) = credentials {
        request = request.header(header::AUTHORIZATION, credentials);
    }
    let body = match content_type {
        "application/grpc" => Body::full(&b"\0\0\0\0\0"[..]),
        _ => Body::empty(),
    };
    let mut service = inbound.layer(VaultServer::new(Porter::default()));
    let request = request.body(body).unwrap();
    service.ready().await.unwrap().call(request).await.unwrap()
}

#[tokio::test]
async fn a_method_is_for_those_whom_its_attribute_names() {
    let inbound = Inbound {
        authenticate: Some(AuthenticateLayer::new(StaticTokens::parse(TOKENS).unwrap())),
        ..inbound()
    };
    let owner = Some("Bearer the-owner-has-this-word");
    let guest = Some("Bearer the-guest-has-this-word");
    let nobody = Some("Bearer what-nobody-has-as-a-word");
    for (path, grpc_path, credentials, status, code) in [
        ("/look", "/vault.Vault/Look", None, 200, None),
        ("/look", "/vault.Vault/Look", guest, 200, None),
        ("/look", "/vault.Vault/Look", nobody, 401, Some("16")),
        ("/knock", "/vault.Vault/Knock", None, 401, Some("16")),
        ("/knock", "/vault.Vault/Knock", nobody, 401, Some("16")),
        ("/knock", "/vault.Vault/Knock", guest, 200, None),
        ("/open", "/vault.Vault/Open", None, 401, Some("16")),
        ("/open", "/vault.Vault/Open", guest, 403, Some("7")),
        ("/open", "/vault.Vault/Open", owner, 200, None),
    ] {
        let json = asked(&inbound, path, "application/json", credentials).await;
        assert_eq!(json.status(), status, "{path} {credentials:?}");
        let challenge = json.headers().get(header::WWW_AUTHENTICATE);
        let expected = match status {
            401 => Some("Bearer"),
            403 => Some("Bearer error=\"insufficient_scope\", scope=\"vault:open\""),
            _ => None,
        };
        assert_eq!(challenge.map(|value| value.to_str().unwrap()), expected);
        let grpc = asked(&inbound, grpc_path, "application/grpc", credentials).await;
        assert_eq!(grpc.status(), 200);
        let told = grpc.headers().get("grpc-status");
        assert_eq!(told.map(|value| value.to_str().unwrap()), code, "{path}");
    }
}

#[tokio::test]
async fn where_nobody_is_asked_who_it_is_closed_methods_stay_closed() {
    let inbound = inbound();
    let owner = Some("Bearer the-owner-has-this-word");
    let open = asked(&inbound, "/look", "application/json", owner).await;
    assert_eq!(open.status(), 200);
    let closed = asked(&inbound, "/knock", "application/json", owner).await;
    assert_eq!(closed.status(), 500);
    let error = closed.extensions().get::<Error>().unwrap();
    let told = std::error::Error::source(error).unwrap().to_string();
    assert!(
        told.contains("vault.Vault/Knock") && told.contains("`authenticate`"),
        "{told}"
    );
}

#[tokio::test]
async fn the_handler_knows_who_calls_and_those_it_calls_do_not() {
    let layer = AuthenticateLayer::new(StaticTokens::parse(TOKENS).unwrap());
    let server = layer.layer(VaultServer::new(Porter::default()));
    let stack = tower::service_fn(move |mut request: Request<Body>| {
        let owner = "Bearer the-owner-has-this-word".parse().unwrap();
        request.headers_mut().insert(header::AUTHORIZATION, owner);
        server.clone().oneshot(request)
    });
    for client in [VaultClient::json(stack.clone()), VaultClient::grpc(stack)] {
        assert_eq!(client.open(Context::new()).await.unwrap(), "owner");
    }
    let ctx = Context {
        caller: kit::context::Caller::Known(kit::context::Identity {
            name: "owner".into(),
            scopes: ["vault:open".into()].into(),
        }),
        method: Some(&vault::METHODS[0]),
        ..Context::new()
    };
    let client = VaultClient::json(VaultServer::new(Porter::default()));
    let error = client.open(ctx).await.unwrap_err();
    assert_eq!(error.code(), Code::Internal, "nobody was asked there");
}

#[tokio::test]
async fn a_call_says_how_urgent_it_is_and_so_do_those_that_follow_from_it() {
    let porter = Porter::default();
    let server = VaultServer::new(porter.clone());
    let received = || porter.0.lock().unwrap().pop().unwrap();
    let known = tower::service_fn(move |mut request: Request<Body>| {
        Context::of_mut(request.extensions_mut()).caller =
            kit::context::Caller::Known(kit::context::Identity {
                name: "owner".into(),
                scopes: ["vault:open".into()].into(),
            });
        // Only what is on the wire.
        Context::of_mut(request.extensions_mut()).priority = None;
        server.clone().oneshot(request)
    });
    for client in [VaultClient::json(known.clone()), VaultClient::grpc(known)] {
        client.look(Context::new()).await.unwrap();
        assert_eq!(received(), Some(Priority::Sheddable));
        client.knock(Context::new()).await.unwrap();
        assert_eq!(received(), Some(Priority::Critical));
        client.open(Context::new()).await.unwrap();
        assert_eq!(received(), None);
        // Of the call that is handled, and not of the method.
        let handled = Context {
            priority: Some(Priority::Sheddable),
            method: Some(&vault::METHODS[0]),
            ..Context::new()
        };
        client.knock(handled).await.unwrap();
        assert_eq!(received(), Some(Priority::Sheddable));
    }
}

#[test]
fn others_read_who_may_call() {
    let access = vault::METHODS.iter().map(|method| method.access);
    let expected = [
        Access::Anyone,
        Access::Authenticated,
        Access::Scope("vault:open"),
    ];
    assert_eq!(access.collect::<Vec<_>>(), expected);
    let document = vault::openapi();
    let scheme = &document["components"]["securitySchemes"]["bearer"];
    assert_eq!(*scheme, json!({ "type": "http", "scheme": "bearer" }));
    let security = |path: &str| document["paths"][path]["post"]["security"].clone();
    assert!(security("/look").is_null());
    assert_eq!(security("/knock"), json!([{ "bearer": [] }]));
    assert_eq!(security("/open"), json!([{ "bearer": ["vault:open"] }]));
}
