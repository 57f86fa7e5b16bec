//! Routes with a verb and a path of their own.

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kit::{Body, Code, Context, Error, error::Problem, service::message::Field};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tower::ServiceExt;

/// Keeps notes of people.
#[kit::service]
pub(crate) trait Notes {
    /// Finds one.
    #[kit(route(GET, "/users/{user}/notes/{id}"))]
    async fn get(
        &self,
        ctx: Context,
        id: u32,
        user: Name,
        sort: Option<Sort>,
        weight: Option<f64>,
    ) -> Result<Note, Error>;
    #[kit(idempotent, route(PUT, "/users/{user}/notes/{id}"))]
    async fn put(
        &self,
        ctx: Context,
        user: Name,
        id: u32,
        text: String,
        tags: Vec<String>,
    ) -> Result<Note, Error>;
    #[kit(route(DELETE, "/users/{user}/notes/{id}"))]
    async fn remove(&self, ctx: Context, user: Name, id: u32, force: bool) -> Result<(), Error>;
    #[kit(route(GET, "/users/{user}/notes/latest"))]
    async fn latest(&self, ctx: Context, user: Name) -> Result<Note, Error>;
    #[kit(route(GET, "/"))]
    async fn r#type(&self, ctx: Context, r#match: String) -> Result<Note, Error>;
    async fn plain(&self, ctx: Context, id: u32) -> Result<Note, Error>;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, kit::Message)]
pub(crate) struct Name(String);

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, kit::Message)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sort {
    ByAge,
    ByName,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, kit::Message)]
pub(crate) struct Note {
    text: String,
}

#[derive(Clone, Debug)]
struct Echo;

fn note(text: impl std::fmt::Debug) -> Result<Note, Error> {
    let text = format!("{text:?}");
    Ok(Note { text })
}

impl Notes for Echo {
    async fn get(
        &self,
        _: Context,
        id: u32,
        user: Name,
        sort: Option<Sort>,
        weight: Option<f64>,
    ) -> Result<Note, Error> {
        note((id, user.0, sort, weight))
    }

    async fn put(
        &self,
        _: Context,
        user: Name,
        id: u32,
        text: String,
        tags: Vec<String>,
    ) -> Result<Note, Error> {
        note((user.0, id, text, tags))
    }

    async fn remove(&self, _: Context, _: Name, _: u32, force: bool) -> Result<(), Error> {
        if force {
            Ok(())
        } else {
            Err(Error::new(Code::FailedPrecondition, "only by force"))
        }
    }

    async fn latest(&self, _: Context, user: Name) -> Result<Note, Error> {
        note(("latest", user.0))
    }

    async fn r#type(&self, _: Context, r#match: String) -> Result<Note, Error> {
        note(r#match)
    }

    async fn plain(&self, _: Context, id: u32) -> Result<Note, Error> {
        note(id)
    }
}

async fn send(verb: Method, uri: &str, body: impl Into<Bytes>) -> Response<Body> {
    let request = Request::builder().method(verb).uri(uri);
    let request = request.body(Body::full(body)).unwrap();
    NotesServer::new(Echo).oneshot(request).await.unwrap()
}

async fn read<T: serde::de::DeserializeOwned>(response: Response<Body>) -> T {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&bytes).unwrap()
}

#[tokio::test]
async fn a_call_by_its_route_comes_back_as_one_by_grpc_does() {
    let hard = Name("a/b ü%2F?&=+{id}#".to_owned());
    for client in [
        NotesClient::json(NotesServer::new(Echo)),
        NotesClient::grpc(NotesServer::new(Echo)),
    ] {
        let ctx = Context::new;
        let sort = Some(Sort::ByName);
        let got = client.get(ctx(), 7, hard.clone(), sort, Some(-0.1)).await;
        assert_eq!(got.unwrap(), note((7, &hard.0, sort, Some(-0.1))).unwrap());
        let got = client.get(ctx(), 7, hard.clone(), None, None).await;
        let none = (7, &hard.0, None::<Sort>, None::<f64>);
        assert_eq!(got.unwrap(), note(none).unwrap());
        let tags = vec!["x".to_owned()];
        let put = client.put(ctx(), hard.clone(), 1, "t".into(), tags.clone());
        assert_eq!(put.await.unwrap(), note((&hard.0, 1, "t", tags)).unwrap());
        client.remove(ctx(), hard.clone(), 1, true).await.unwrap();
        let error = client.remove(ctx(), hard.clone(), 1, false).await;
        assert_eq!(error.unwrap_err().code(), Code::FailedPrecondition);
        let latest = client.latest(ctx(), Name("a".into())).await.unwrap();
        assert_eq!(latest, note(("latest", "a")).unwrap());
        let empty = client.r#type(ctx(), String::new()).await.unwrap();
        assert_eq!(empty, note("").unwrap());
        assert_eq!(client.plain(ctx(), 3).await.unwrap(), note(3).unwrap());
    }
}

#[tokio::test]
async fn a_client_does_not_send_what_no_path_can_hold() {
    let client = NotesClient::json(NotesServer::new(Echo));
    for name in ["", ".", ".."] {
        let error = client.latest(Context::new(), Name(name.into())).await;
        assert_eq!(error.unwrap_err().violations()[0].field, "user");
    }
}

#[tokio::test]
async fn arguments_in_path_and_query_are_read_by_their_names() {
    for (uri, expected) in [
        (
            "/users/a%2Fb/notes/7?weight=2&sort=by_age",
            r#"(7, "a/b", Some(ByAge), Some(2.0))"#,
        ),
        ("/users/a+b/notes/7?", r#"(7, "a+b", None, None)"#),
        ("/users/a/notes/latest", r#"("latest", "a")"#),
        ("/?m%61tch=a+b%2Bc", r#""a b+c""#),
    ] {
        let response = send(Method::GET, uri, "").await;
        assert_eq!(response.status(), 200, "{uri}");
        assert_eq!(read::<Note>(response).await.text, expected);
    }
}

#[tokio::test]
async fn an_argument_that_is_wrong_is_400_and_named() {
    use http::Method as M;
    let put = |rest: &str| format!(r#"{{"text": "t", "tags": []{rest}}}"#);
    let u32_rule = "must be an integer from 0 to 4294967295, not string \"x\"";
    for (verb, uri, body, field, rule) in [
        (M::GET, "/users/a/notes/x", String::new(), "id", u32_rule),
        (M::PUT, "/users/a/notes/x", put(""), "id", u32_rule),
        (
            M::GET,
            "/users/%ff/notes/1",
            String::new(),
            "user",
            "must be UTF-8",
        ),
        (
            M::GET,
            "/?match=%ff",
            String::new(),
            "match",
            "must be UTF-8",
        ),
        (M::GET, "/", String::new(), "match", "is required"),
        (
            M::GET,
            "/users/a/notes/1?weight=NaN",
            String::new(),
            "weight",
            "must be a number, not string \"NaN\"",
        ),
        (
            M::GET,
            "/users/a/notes/1?sort=no",
            String::new(),
            "sort",
            "must be `by_age` or `by_name`, not `no`",
        ),
        (
            M::GET,
            "/?match=a&page=2",
            String::new(),
            "page",
            "is not a known field (expected `match`)",
        ),
        (
            M::GET,
            "/?match=a&match=b",
            String::new(),
            "match",
            "must not be there twice",
        ),
        (
            M::GET,
            "/users/a/notes/1?id=2",
            String::new(),
            "id",
            "must not be there twice",
        ),
        (
            M::PUT,
            "/users/a/notes/1",
            put(r#", "id": 2"#),
            "id",
            "must not be there twice",
        ),
        (
            M::PUT,
            "/users/a/notes/1",
            r#"{"text": 1}"#.to_owned(),
            "text",
            "must be a string, not integer `1`",
        ),
        (
            M::DELETE,
            "/users/a/notes/1?force=yes",
            String::new(),
            "force",
            "must be true or false, not string \"yes\"",
        ),
        (
            M::DELETE,
            "/users/a/notes/1",
            r#"{"force": true}"#.to_owned(),
            "",
            "the arguments must be in the query string, not in a body",
        ),
    ] {
        let response = send(verb, uri, body).await;
        assert_eq!(response.status(), 400, "{uri}");
        let problem: Problem = read(response).await;
        let violation = &problem.errors[0];
        assert_eq!(
            (&*violation.field, &*violation.rule),
            (field, rule),
            "{uri}"
        );
    }
}

#[tokio::test]
async fn a_path_is_404_and_a_verb_405_with_all_that_are_allowed() {
    for uri in [
        "/users//notes/1",
        "/users/a/notes/1/",
        "/users/a/notes",
        "/get",
        "/users/{user}/notes",
    ] {
        assert_eq!(send(Method::GET, uri, "").await.status(), 404, "{uri}");
    }
    for (verb, uri, allow) in [
        (Method::POST, "/users/a/notes/1", "DELETE, GET, HEAD, PUT"),
        (Method::POST, "/", "GET, HEAD"),
        (Method::GET, "/plain", "POST"),
    ] {
        let response = send(verb, uri, "{}").await;
        assert_eq!(response.status(), 405, "{uri}");
        assert_eq!(response.headers()["allow"], allow);
    }
    assert_eq!(send(Method::HEAD, "/?match=a", "").await.status(), 200);
}

#[tokio::test]
async fn the_label_of_a_route_is_its_template_and_what_the_trait_says_is_idempotent() {
    let response = send(Method::GET, "/users/secret/notes/1", "").await;
    let method = *response
        .extensions()
        .get::<&'static kit::name::Method>()
        .unwrap();
    assert_eq!(method.http_path, "/users/{user}/notes/{id}");
    assert_eq!(method.http_method, Method::GET);
    assert!(!method.idempotent);
    assert!(notes::METHODS[1].idempotent);
}

#[test]
fn only_what_is_one_text_may_stand_in_a_path() {
    const fn is_text<F: Field>() -> bool {
        F::IS_TEXT
    }
    assert!(is_text::<Name>() && is_text::<Option<Sort>>() && is_text::<bool>());
    assert!(is_text::<String>() && is_text::<uuid::Uuid>() && is_text::<f32>());
    assert!(!is_text::<Note>() && !is_text::<Vec<u8>>() && !is_text::<Vec<String>>());
}

#[test]
fn the_openapi_document_has_each_verb_and_where_each_argument_stands() {
    let document = notes::openapi();
    let path = &document["paths"]["/users/{user}/notes/{id}"];
    let find = |verb: &str, name: &str| -> Value {
        let parameters = path[verb]["parameters"].as_array().unwrap();
        let found = parameters.iter().find(|p| p["name"] == name);
        found.unwrap().clone()
    };
    assert_eq!(path["get"]["operationId"], "get");
    assert_eq!(path["get"]["summary"], "Finds one.");
    assert!(path["get"].get("requestBody").is_none());
    assert_eq!(
        find("get", "user"),
        json!({
            "name": "user", "in": "path", "required": true,
            "schema": { "type": "string", "minLength": 1 },
        })
    );
    assert_eq!(
        find("get", "sort"),
        json!({
            "name": "sort", "in": "query", "required": false,
            "schema": { "$ref": "#/components/schemas/Sort" },
        })
    );
    assert_eq!(find("delete", "force")["required"], true);
    let body = &path["put"]["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(body["required"], json!(["text", "tags"]));
    assert_eq!(body["additionalProperties"], false);
    assert!(body["properties"].get("id").is_none());
    assert_eq!(document["paths"]["/"]["get"]["operationId"], "type");
}
