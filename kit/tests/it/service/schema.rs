//! What others read about a service, made from the trait.

use serde_json::json;

use super::{State, library};

#[test]
fn the_methods_are_listed() {
    let method = |name, grpc_path, http_path, idempotent| kit::name::Method {
        service: "acme.library.Library",
        name,
        grpc_path,
        http_method: http::Method::POST,
        http_path,
        idempotent,
        streaming: false,
        transport: kit::name::Transport::Both,
        access: kit::name::Access::Anyone,
        priority: kit::name::Priority::Normal,
        timeout: None,
    };
    assert_eq!(
        library::METHODS,
        [
            method("Add", "/acme.library.Library/Add", "/add", false),
            method(
                "FindBooks",
                "/acme.library.Library/FindBooks",
                "/find_books",
                true
            ),
            method("Clear", "/acme.library.Library/Clear", "/clear", false),
        ]
    );
}

#[test]
fn the_proto_file_says_what_travels() {
    let expected = r#"syntax = "proto3";

package acme.library;

// Keeps what people lend.
service Library {
  // Adds a book.
  rpc Add(AddRequest) returns (Book);
  // Finds books.
  //
  // In the order of their titles.
  rpc FindBooks(FindBooksRequest) returns (Found) {
    option idempotency_level = IDEMPOTENT;
  }
  // Forgets everything.
  rpc Clear(ClearRequest) returns (Empty);
}

message AddRequest {
  Book book = 1;
}

// A book.
message Book {
  // Its title.
  string title = 1;
  optional string isbn = 2;
  State state = 3;
  repeated int32 copies = 4;
  map<string, Note> notes = 5;
}

// Where it is.
enum State {
  STATE_UNSPECIFIED = 0;
  STATE_ON_SHELF = 1;
  // Somebody has it.
  STATE_LENT_OUT = 2;
}

message Note {
  string text = 1;
  double weight = 2;
}

message FindBooksRequest {
  string text = 1;
  optional uint32 limit = 2;
}

message Found {
  repeated Book books = 1;
}

message ClearRequest {
}

// Nothing.
message Empty {
}
"#;
    assert_eq!(library::proto(), expected);
}

#[test]
fn the_openapi_document_says_what_json_may_be() {
    let document = library::openapi();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(
        document["info"],
        json!({ "title": "Library", "version": env!("CARGO_PKG_VERSION"), "description": "Keeps what people lend." })
    );
    let find = &document["paths"]["/find_books"]["post"];
    assert_eq!(find["operationId"], "find_books");
    assert_eq!(find["summary"], "Finds books.");
    assert_eq!(find["description"], "In the order of their titles.");
    assert_eq!(find["x-idempotent"], true);
    assert_eq!(find["requestBody"]["required"], true);
    assert_eq!(
        document["paths"]["/clear"]["post"]["requestBody"]["required"],
        false
    );

    let schemas = &document["components"]["schemas"];
    assert_eq!(
        schemas["FindBooksRequest"],
        json!({
            "type": "object",
            "properties": {
                "text": { "type": "string" },
                "limit": {
                    "anyOf": [
                        { "type": "integer", "minimum": 0, "maximum": 4_294_967_295_u32 },
                        { "type": "null" },
                    ],
                },
            },
            "required": ["text"],
            "additionalProperties": false,
        })
    );
    assert_eq!(
        schemas["State"],
        json!({
            "type": "string",
            "enum": ["on_shelf", "lent_out"],
            "description": "Where it is.\n- `lent_out`: Somebody has it.",
        })
    );
    let book = &schemas["Book"];
    assert_eq!(book["required"], json!(["title", "state"]));
    assert_eq!(
        book["properties"]["title"],
        json!({ "type": "string", "description": "Its title." })
    );
    assert_eq!(
        book["properties"]["notes"],
        json!({ "type": "object", "additionalProperties": { "$ref": "#/components/schemas/Note" } })
    );
}

#[test]
fn every_reference_in_the_openapi_document_leads_somewhere() {
    fn references(value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) => {
                if let Some(reference) = map.get("$ref") {
                    found.push(reference.as_str().unwrap().to_owned());
                }
                map.values().for_each(|value| references(value, found));
            }
            serde_json::Value::Array(list) => {
                list.iter().for_each(|value| references(value, found))
            }
            _ => {}
        }
    }
    let document = library::openapi();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

mod elsewhere {
    /// Another type of the same name.
    #[derive(Debug, serde::Serialize, serde::Deserialize, kit::Message)]
    pub(crate) struct Item {
        pub(crate) twin: super::Item,
    }
}

#[derive(Debug, serde::Serialize, serde::Deserialize, kit::Message)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Item {
    item_name: String,
    #[serde(rename = "no")]
    number: u32,
    parts: Vec<Item>,
}

/// Types that are made of themselves, and two of one name.
#[kit::service]
pub(crate) trait Twins {
    async fn r#match(&self, ctx: kit::Context, r#type: elsewhere::Item)
    -> Result<Item, kit::Error>;
}

#[test]
fn types_of_one_name_are_told_apart_and_may_be_made_of_themselves() {
    let proto = twins::proto();
    assert!(
        proto.contains("rpc Match(MatchRequest) returns (Item2);"),
        "{proto}"
    );
    assert!(
        proto.contains("message MatchRequest {\n  Item type = 1;\n}"),
        "{proto}"
    );
    assert!(
        proto.contains("message Item {\n  Item2 twin = 1;\n}"),
        "{proto}"
    );
    assert!(proto.contains("repeated Item2 parts = 3;"), "{proto}");
    let openapi = twins::openapi();
    assert_eq!(
        openapi["components"]["schemas"]["Item2"]["required"],
        json!(["itemName", "no", "parts"])
    );
    assert_eq!(twins::METHODS[0].http_path, "/match");
}

/// Its types have the names of its methods, of itself, and of each other's values.
#[kit::service]
pub(crate) trait Shelf {
    async fn note(&self, ctx: kit::Context, shelf: other::Shelf) -> Result<Note, kit::Error>;
    async fn state(&self, ctx: kit::Context, of: StateOn) -> Result<State, kit::Error>;
}

#[derive(Debug, serde::Serialize, serde::Deserialize, kit::Message)]
pub(crate) struct Note {
    text: String,
}

#[derive(Debug, serde::Serialize, serde::Deserialize, kit::Message)]
pub(crate) enum StateOn {
    Shelf,
}

mod other {
    #[derive(Debug, serde::Serialize, serde::Deserialize, kit::Message)]
    pub(crate) struct Shelf {
        pub(crate) width: u32,
    }
}

#[test]
fn names_that_protobuf_would_take_for_each_other_are_told_apart() {
    let proto = shelf::proto();
    for expected in [
        "rpc Note(NoteRequest) returns (.shelf.Note);",
        "  Shelf2 shelf = 1;\n",
        "message Shelf2 {\n",
        "  STATE_ON_SHELF = 1;\n",
        "  STATE_ON_SHELF_2 = 1;\n",
    ] {
        assert!(proto.contains(expected), "{expected}: {proto}");
    }
}
