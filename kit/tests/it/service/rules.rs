//! What an argument has to be is said beside it, and held on every wire before a handler sees it.

use std::collections::BTreeMap;

use http::Request;
use kit::{Body, Code, Context, Error, Stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tower::ServiceExt;

/// Has rules of every kind.
#[kit::service]
trait Office {
    async fn register(
        &self,
        ctx: Context,
        #[kit(min_length = 1, max_length = 4, pattern = r"^[^\s]*$")] name: String,
        #[kit(minimum = -1, maximum = 3)] age: i64,
        #[kit(min_length = 2)] nickname: Option<String>,
        papers: Papers,
    ) -> Result<(), Error>;

    #[kit(route(GET, "/shelves/{shelf}"))]
    async fn shelf(
        &self,
        ctx: Context,
        #[kit(max_length = 2)] shelf: String,
        #[kit(maximum = 0.5)] share: Option<f64>,
    ) -> Result<f64, Error>;

    async fn weights(&self, ctx: Context, weight: f32) -> Result<Weights, Error>;

    async fn measure(
        &self,
        ctx: Context,
        to: u32,
    ) -> Result<impl Stream<Item = Result<f64, Error>>, Error>;
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize, kit::Message)]
struct Papers {
    /// In the order of their arrival.
    #[kit(max_length = 20)]
    #[serde(default, rename = "allStamps")]
    stamps: Vec<Stamp>,
    #[kit(max_length = 1)]
    #[serde(default)]
    notes: BTreeMap<String, Stamp>,
}

/// A word in capitals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, kit::Message)]
#[kit(pattern = "^[A-Z]+$")]
struct Stamp(String);

#[derive(Debug, Default, PartialEq, Serialize, Deserialize, kit::Message)]
struct Weights {
    all: Vec<f32>,
}

/// The same over HTTP alone.
#[kit::service(transport = "http")]
trait Annex {
    async fn register(
        &self,
        ctx: Context,
        #[kit(max_length = 4)] name: String,
        papers: Papers,
        anything: Value,
    ) -> Result<(), Error>;
}

#[derive(Debug)]
struct Clerk;

impl Office for Clerk {
    async fn register(
        &self,
        _: Context,
        _: String,
        _: i64,
        _: Option<String>,
        _: Papers,
    ) -> Result<(), Error> {
        Ok(())
    }

    async fn shelf(&self, _: Context, _: String, share: Option<f64>) -> Result<f64, Error> {
        Ok(share.unwrap_or(f64::NAN))
    }

    async fn weights(&self, _: Context, weight: f32) -> Result<Weights, Error> {
        Ok(Weights {
            all: vec![1.0, weight],
        })
    }

    async fn measure(
        &self,
        _: Context,
        to: u32,
    ) -> Result<impl Stream<Item = Result<f64, Error>>, Error> {
        let item = |number| Ok(if number < 2 { 0.5 } else { f64::INFINITY });
        Ok(futures_util::stream::iter((0..to).map(item)))
    }
}

impl Annex for Clerk {
    async fn register(&self, _: Context, _: String, _: Papers, _: Value) -> Result<(), Error> {
        Ok(())
    }
}

fn clients() -> [OfficeClient<OfficeServer<Clerk>>; 2] {
    let server = OfficeServer::new(Clerk);
    [
        OfficeClient::json(server.clone()),
        OfficeClient::grpc(server),
    ]
}

fn stamps(words: &[&str]) -> Papers {
    Papers {
        stamps: words.iter().map(|word| Stamp((*word).to_owned())).collect(),
        ..Papers::default()
    }
}

fn told(error: &Error) -> Vec<(&str, &str)> {
    assert_eq!(error.code(), Code::InvalidArgument);
    let violations = error.violations().iter();
    violations.map(|told| (&*told.field, &*told.rule)).collect()
}

#[tokio::test]
async fn what_breaks_a_rule_is_told_by_field_and_rule_on_both_wires() {
    const LOW: &str = "must not be below -1";
    for client in clients() {
        for (name, age, nickname, field, rule) in [
            ("", 0, None, "name", "must not be empty"),
            (
                "abcde",
                0,
                None,
                "name",
                "must not have more than 4 characters",
            ),
            ("a b", 0, None, "name", r"must match `^[^\s]*$`"),
            ("a\u{a0}b", 0, None, "name", r"must match `^[^\s]*$`"),
            ("ada", -2, None, "age", LOW),
            ("ada", i64::MAX, None, "age", "must not be above 3"),
            (
                "ada",
                0,
                Some("a"),
                "nickname",
                "must not have fewer than 2 characters",
            ),
        ] {
            let nickname = nickname.map(str::to_owned);
            let call = client.register(Context::new(), name.into(), age, nickname, stamps(&[]));
            let error = call.await.unwrap_err();
            assert_eq!(told(&error), [(field, rule)], "{name} {age}");
            assert_eq!(error.message(), format!("{field} {rule}"));
        }
        // Characters are counted, not bytes; and what is not there has no length.
        for (name, age) in [("üüüü", -1), ("a", 3)] {
            let call = client.register(Context::new(), name.into(), age, None, stamps(&["A"]));
            call.await.unwrap();
        }
    }
}

#[tokio::test]
async fn parts_have_their_rules_and_all_mistakes_are_told_by_the_names_of_the_wire() {
    let rule = "must match `^[A-Z]+$`";
    for (client, list) in clients().into_iter().zip(["allStamps", "stamps"]) {
        let mut papers = stamps(&["OK", "no", "OK", ""]);
        papers.notes.insert("one".to_owned(), Stamp("x".to_owned()));
        papers
            .notes
            .insert("two".to_owned(), Stamp("OK".to_owned()));
        let call = client.register(Context::new(), "ada".into(), 9, None, papers);
        let error = call.await.unwrap_err();
        assert_eq!(
            told(&error),
            [
                ("age", "must not be above 3"),
                (&*format!("papers.{list}[1]"), rule),
                (&*format!("papers.{list}[3]"), rule),
                ("papers.notes.one", rule),
                ("papers.notes", "must not have more than 1 items"),
            ]
        );
        // They travel in headers.
        let call = client.register(Context::new(), "ada".into(), 0, None, stamps(&["x"; 1000]));
        assert_eq!(call.await.unwrap_err().violations().len(), 16);
    }
}

#[tokio::test]
async fn rules_hold_in_paths_and_query_strings() {
    for client in clients() {
        let error = client
            .shelf(Context::new(), "abc".into(), Some(0.75))
            .await
            .unwrap_err();
        let expected = [
            ("shelf", "must not have more than 2 characters"),
            ("share", "must not be above 0.5"),
        ];
        assert_eq!(told(&error), expected);
        let share = client.shelf(Context::new(), "ab".into(), Some(0.5)).await;
        assert_eq!(share.unwrap(), 0.5);
    }
}

#[tokio::test]
async fn over_http_alone_rules_hold_too() {
    let client = AnnexClient::json(AnnexServer::new(Clerk));
    let call = client.register(Context::new(), "abcde".into(), stamps(&["x"]), json!({}));
    let expected = [
        ("name", "must not have more than 4 characters"),
        ("papers.allStamps[0]", "must match `^[A-Z]+$`"),
    ];
    assert_eq!(told(&call.await.unwrap_err()), expected);
    let document = annex::openapi();
    assert_eq!(
        document["components"]["schemas"]["RegisterRequest"]["properties"]["name"]["maxLength"],
        4
    );
}

#[test]
fn others_read_the_rules() {
    let document = office::openapi();
    let schemas = &document["components"]["schemas"];
    let fields = &schemas["RegisterRequest"]["properties"];
    assert_eq!(
        fields["name"],
        json!({ "type": "string", "minLength": 1, "maxLength": 4, "pattern": r"^[^\s]*$" })
    );
    assert_eq!(
        fields["age"],
        json!({ "type": "integer", "format": "int64", "minimum": -1, "maximum": 3 })
    );
    assert_eq!(
        fields["nickname"],
        json!({ "anyOf": [{ "type": "string", "minLength": 2 }, { "type": "null" }] })
    );
    let stamp = json!({ "type": "string", "pattern": "^[A-Z]+$" });
    let papers = &schemas["Papers"]["properties"];
    assert_eq!(
        papers["allStamps"],
        json!({
            "type": "array",
            "items": stamp,
            "maxItems": 20,
            "description": "In the order of their arrival.",
        })
    );
    assert_eq!(
        papers["notes"],
        json!({ "type": "object", "additionalProperties": stamp, "maxProperties": 1 })
    );
    let parameters = &document["paths"]["/shelves/{shelf}"]["get"]["parameters"];
    assert_eq!(
        parameters[1]["schema"],
        json!({ "type": "string", "minLength": 1, "maxLength": 2 })
    );
    assert_eq!(parameters[2]["schema"]["maximum"], 0.5);

    let proto = office::proto();
    for said in [
        "  // Rules: min_length = 1, max_length = 4, pattern = \"^[^\\\\s]*$\".\n  string name = 1;\n",
        "  // Rules: minimum = -1, maximum = 3.\n  int64 age = 2;\n",
        "  // Rules: min_length = 2.\n  optional string nickname = 3;\n",
        "  // In the order of their arrival.\n  // Rules of each: pattern = \"^[A-Z]+$\".\n  // Rules: max_length = 20.\n  repeated string stamps = 1;\n",
    ] {
        assert!(proto.contains(said), "{proto}\n{said}");
    }
}

#[tokio::test]
async fn json_has_no_number_that_is_not_finite_and_says_so() {
    let [json, grpc] = clients();
    for weight in [f32::NAN, f32::INFINITY] {
        let error = json.weights(Context::new(), weight).await.unwrap_err();
        assert_eq!(
            told(&error),
            [("weight", "must be a finite number of its type")]
        );
        let weights = grpc.weights(Context::new(), weight).await.unwrap();
        assert_eq!(weights.all[1].to_bits(), weight.to_bits());
    }
    // An answer that JSON cannot say is the server's own fault.
    let error = json
        .shelf(Context::new(), "a".into(), None)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert!(
        grpc.shelf(Context::new(), "a".into(), None)
            .await
            .unwrap()
            .is_nan()
    );
    // And so is the item of a stream.
    let items = json.measure(Context::new(), 3).await.unwrap();
    let items: Vec<_> = futures_util::StreamExt::collect(items).await;
    let codes: Vec<_> = items
        .iter()
        .map(|item| item.as_ref().map_err(Error::code))
        .collect();
    assert_eq!(codes, [Ok(&0.5), Ok(&0.5), Err(Code::Internal)]);
}

#[tokio::test]
async fn a_number_that_is_too_great_for_its_type_is_not_taken_for_infinity() {
    let request = Request::post("/weights")
        .body(Body::full(r#"{"weight": 1e39}"#))
        .unwrap();
    let response = OfficeServer::new(Clerk).oneshot(request).await.unwrap();
    assert_eq!(response.status(), 400);
    let error = response.extensions().get::<Error>().unwrap();
    assert_eq!(
        told(error),
        [("weight", "must be a finite number of its type")]
    );

    // Nor is one in an answer.
    let peer = tower::service_fn(|_| async {
        let body = Body::full(r#"{"all": [0.5, 1e39]}"#);
        Ok::<_, std::convert::Infallible>(http::Response::new(body))
    });
    let error = OfficeClient::json(peer)
        .weights(Context::new(), 0.0)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Internal);
}
