//! What a method may answer with: anything that gRPC carries, as it is in JSON and wrapped in a message in gRPC.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use kit::{Body, Context, Error, Stream};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tower::ServiceExt;

use super::State;

/// One of each.
#[kit::service]
pub(crate) trait Answers {
    async fn number(&self, ctx: Context) -> Result<u64, Error>;
    async fn text(&self, ctx: Context, text: Option<String>) -> Result<Option<String>, Error>;
    async fn list(&self, ctx: Context) -> Result<Vec<i32>, Error>;
    async fn map(&self, ctx: Context) -> Result<BTreeMap<String, State>, Error>;
    async fn state(&self, ctx: Context) -> Result<State, Error>;
    async fn raw(&self, ctx: Context, bytes: Bytes) -> Result<Bytes, Error>;
    async fn name(&self, ctx: Context) -> Result<Name, Error>;
    async fn tree(&self, ctx: Context, tree: Box<Tree>) -> Result<Box<Tree>, Error>;
    async fn maybe(&self, ctx: Context, some: bool) -> Result<Option<Tree>, Error>;
    async fn words(&self, ctx: Context)
    -> Result<impl Stream<Item = Result<String, Error>>, Error>;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, kit::Message)]
pub(crate) struct Name(String);

/// Made of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, kit::Message)]
pub(crate) struct Tree {
    leaf: Bytes,
    left: Option<Box<Tree>>,
}

fn tree() -> Tree {
    Tree {
        leaf: Bytes::from_static(b"a"),
        left: Some(Box::new(Tree {
            leaf: Bytes::new(),
            left: None,
        })),
    }
}

#[derive(Debug)]
struct Each;

impl Answers for Each {
    async fn number(&self, _: Context) -> Result<u64, Error> {
        Ok(7)
    }

    async fn text(&self, _: Context, text: Option<String>) -> Result<Option<String>, Error> {
        Ok(text)
    }

    async fn list(&self, _: Context) -> Result<Vec<i32>, Error> {
        Ok(vec![1, -1])
    }

    async fn map(&self, _: Context) -> Result<BTreeMap<String, State>, Error> {
        Ok(BTreeMap::from_iter([("a".to_owned(), State::LentOut)]))
    }

    async fn state(&self, _: Context) -> Result<State, Error> {
        Ok(State::OnShelf)
    }

    async fn raw(&self, _: Context, bytes: Bytes) -> Result<Bytes, Error> {
        Ok(bytes)
    }

    async fn name(&self, _: Context) -> Result<Name, Error> {
        Ok(Name("Ada".into()))
    }

    async fn tree(&self, _: Context, tree: Box<Tree>) -> Result<Box<Tree>, Error> {
        Ok(tree)
    }

    async fn maybe(&self, _: Context, some: bool) -> Result<Option<Tree>, Error> {
        Ok(some.then(tree))
    }

    async fn words(&self, _: Context) -> Result<impl Stream<Item = Result<String, Error>>, Error> {
        Ok(stream::iter(["a", ""].map(|word| Ok(word.to_owned()))))
    }
}

#[tokio::test]
async fn every_type_that_grpc_carries_comes_back_on_both_wires() {
    let server = AnswersServer::new(Each);
    for client in [
        AnswersClient::json(server.clone()),
        AnswersClient::grpc(server),
    ] {
        let ctx = Context::new;
        assert_eq!(client.number(ctx()).await.unwrap(), 7);
        for text in [None, Some(String::new()), Some("a".to_owned())] {
            assert_eq!(client.text(ctx(), text.clone()).await.unwrap(), text);
        }
        assert_eq!(client.list(ctx()).await.unwrap(), [1, -1]);
        assert_eq!(client.map(ctx()).await.unwrap()["a"], State::LentOut);
        assert_eq!(client.state(ctx()).await.unwrap(), State::OnShelf);
        let bytes = Bytes::from_static(&[0, 255]);
        assert_eq!(client.raw(ctx(), bytes.clone()).await.unwrap(), bytes);
        assert_eq!(client.name(ctx()).await.unwrap(), Name("Ada".into()));
        let grown = client.tree(ctx(), Box::new(tree())).await;
        assert_eq!(*grown.unwrap(), tree());
        assert_eq!(client.maybe(ctx(), true).await.unwrap(), Some(tree()));
        assert_eq!(client.maybe(ctx(), false).await.unwrap(), None);
        let words: Vec<_> = client.words(ctx()).await.unwrap().collect().await;
        let words: Vec<_> = words.into_iter().map(Result::unwrap).collect();
        assert_eq!(words, ["a", ""]);
    }
}

#[tokio::test]
async fn in_json_an_answer_is_nothing_but_itself() {
    let asked = async |path: &str, body: &'static str| {
        let request = http::Request::post(path).body(Body::full(body)).unwrap();
        let response = AnswersServer::new(Each).oneshot(request).await.unwrap();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    };
    assert_eq!(asked("/number", "").await, "7");
    assert_eq!(asked("/text", "").await, "null");
    assert_eq!(asked("/text", r#"{"text": "a"}"#).await, r#""a""#);
    assert_eq!(asked("/map", "").await, r#"{"a":"lent_out"}"#);
    let lines = "{\"result\":\"a\"}\n{\"result\":\"\"}\n";
    assert_eq!(asked("/words", "").await, lines);
}

#[test]
fn in_grpc_an_answer_that_is_no_message_is_the_value_of_one() {
    let proto = answers::proto();
    for expected in [
        "rpc Number(NumberRequest) returns (NumberResponse);",
        "message NumberResponse {\n  uint64 value = 1;\n}",
        "message TextResponse {\n  optional string value = 1;\n}",
        "message ListResponse {\n  repeated int32 value = 1;\n}",
        "message MapResponse {\n  map<string, State> value = 1;\n}",
        "message StateResponse {\n  State value = 1;\n}",
        "message RawResponse {\n  bytes value = 1;\n}",
        "message NameResponse {\n  string value = 1;\n}",
        "rpc Tree(TreeRequest) returns (.answers.Tree);",
        "  bytes leaf = 1;\n  optional Tree left = 2;\n",
        "message MaybeResponse {\n  optional Tree value = 1;\n}",
        "rpc Words(WordsRequest) returns (stream WordsResponse);",
    ] {
        assert!(proto.contains(expected), "{expected}: {proto}");
    }
    let openapi = answers::openapi();
    let schema = |path: &str, kind: &str| {
        openapi["paths"][path]["post"]["responses"]["200"]["content"][kind]["schema"].clone()
    };
    let number = schema("/number", "application/json");
    assert_eq!(number["type"], "integer");
    let reference = json!({ "$ref": "#/components/schemas/Tree" });
    assert_eq!(
        schema("/maybe", "application/json"),
        json!({ "anyOf": [reference, { "type": "null" }] })
    );
    let line = schema("/words", "application/x-ndjson");
    assert_eq!(line["oneOf"][0]["properties"]["result"]["type"], "string");
    assert!(openapi["components"]["schemas"]["NumberResponse"].is_null());
}
