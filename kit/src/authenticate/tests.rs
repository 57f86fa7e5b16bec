use std::future::ready;

use http::{HeaderValue, header};
use tower::{ServiceExt, service_fn};

use super::*;

const FILE: &str = r#"
[[tokens]]
name = "report"
token = "a-long-and-secret-word"
scopes = ["users:read"]

[[tokens]]
name = "admin"
token = "another-and-secret-word"
"#;

/// Who calls with these credentials, as the service inside of the layer sees it.
async fn caller(credentials: Option<&'static str>) -> Result<Caller, Error> {
    let layer = AuthenticateLayer::new(StaticTokens::parse(FILE).unwrap());
    let service = layer.layer(service_fn(|request: Request<()>| {
        ready(Ok::<_, BoxError>(Context::of(request.extensions()).caller))
    }));
    let mut request = Request::new(());
    if let Some(credentials) = credentials {
        let credentials = HeaderValue::from_static(credentials);
        request
            .headers_mut()
            .insert(header::AUTHORIZATION, credentials);
    }
    service.oneshot(request).await.map_err(Error::from)
}

#[tokio::test]
async fn a_caller_is_known_by_its_token_and_what_it_was_given() {
    let known = caller(Some("Bearer a-long-and-secret-word")).await;
    let Caller::Known(identity) = known.unwrap() else {
        panic!("it is known");
    };
    assert_eq!(&*identity.name, "report");
    assert!(identity.has("users:read") && !identity.has("users:write"));
    let known = caller(Some("bearer  another-and-secret-word")).await;
    assert!(matches!(known.unwrap(), Caller::Known(who) if &*who.name == "admin"));
}

#[tokio::test]
async fn who_shows_nothing_is_anonymous_and_who_shows_something_else_is_refused() {
    assert_eq!(caller(None).await.unwrap(), Caller::Anonymous);
    for (credentials, message) in [
        (
            "Bearer a-long-and-secret-wor",
            "the credentials are not valid",
        ),
        (
            "Bearer a-long-and-secret-word-and-more",
            "the credentials are not valid",
        ),
        (
            "Bearer b-long-and-secret-word",
            "the credentials are not valid",
        ),
        ("Bearer ", "the credentials are malformed"),
        ("Basic YTpi", "the credentials are malformed"),
        ("a-long-and-secret-word", "the credentials are malformed"),
        ("", "the credentials are malformed"),
    ] {
        let error = caller(Some(credentials)).await.unwrap_err();
        assert_eq!(error.code(), Code::Unauthenticated, "{credentials}");
        assert_eq!(error.message(), message, "{credentials}");
    }
}

#[test]
fn a_file_that_is_none_is_refused_and_its_secrets_are_told_to_nobody() {
    const SECRET: &str = "x-secret-x";
    let token = |lines: &str| format!("[[tokens]]\nname = \"a\"\ntoken = \"{SECRET}\"\n{lines}");
    for (file, message) in [
        (token(""), "at least 16"),
        (token("scopes = 3"), "is not valid"),
        (format!("{SECRET} ="), "is not valid"),
        (
            format!("{FILE}\n[[tokens]]\nname = \"b\"\ntoken = \"a-long-and-secret-word\""),
            "the same token as another",
        ),
        ("[[token]]".to_owned(), "unknown field"),
    ] {
        let error = StaticTokens::parse(&file).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
    let tokens = StaticTokens::parse(FILE).unwrap();
    assert_eq!(format!("{tokens:?}"), r#"["report", "admin"]"#);
}

#[test]
fn a_configuration_names_the_file() {
    #[derive(Debug, serde::Deserialize)]
    struct Config {
        tokens: StaticTokens,
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, FILE).unwrap();
    let config = |path: &str| toml::from_str::<Config>(&format!("tokens = {path:?}"));
    let read = config(file.path().to_str().unwrap()).unwrap();
    assert_eq!(format!("{:?}", read.tokens), r#"["report", "admin"]"#);
    let error = config("/nowhere/tokens.toml").unwrap_err().to_string();
    assert!(error.contains("cannot be read"), "{error}");
}
