//! Services that are on one wire only.

use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use kit::{Body, Code, Context, Error};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tower::ServiceExt;

/// What no message of protobuf is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Figure {
    Circle { radius: f64 },
    Polygon { corners: Vec<(f64, f64)> },
}

/// Any type of serde.
#[kit::service(transport = "http")]
pub(crate) trait Figures {
    #[kit(route(POST, "/figures/{name}"))]
    async fn put(&self, ctx: Context, name: String, figure: Figure) -> Result<Figure, Error>;
    async fn all(&self, ctx: Context, limit: u16) -> Result<Vec<Option<Figure>>, Error>;
}

#[derive(Debug)]
struct Drawn;

impl Figures for Drawn {
    async fn put(&self, _: Context, _: String, figure: Figure) -> Result<Figure, Error> {
        Ok(figure)
    }

    async fn all(&self, _: Context, limit: u16) -> Result<Vec<Option<Figure>>, Error> {
        Ok(vec![None; limit.into()])
    }
}

/// Types that are no JSON.
#[kit::service(transport = "grpc")]
pub(crate) trait Silent {
    async fn echo(&self, ctx: Context, it: Quiet) -> Result<Quiet, Error>;
}

#[derive(Clone, Debug, PartialEq, kit::Message)]
pub(crate) struct Quiet {
    word: String,
}

#[derive(Debug)]
struct Echo;

impl Silent for Echo {
    async fn echo(&self, _: Context, it: Quiet) -> Result<Quiet, Error> {
        Ok(it)
    }
}

fn request(path: &str, content_type: &str, body: &'static str) -> Request<Body> {
    Request::post(path)
        .header(header::CONTENT_TYPE, content_type)
        .body(Body::full(body))
        .unwrap()
}

#[tokio::test]
async fn over_http_alone_any_type_of_serde_travels() {
    let client = FiguresClient::json(FiguresServer::new(Drawn));
    let square = Figure::Polygon {
        corners: vec![(0.0, 0.0), (0.5, 0.0)],
    };
    let put = client.put(Context::new(), "a b".into(), square.clone());
    assert_eq!(put.await.unwrap(), square);
    assert_eq!(client.all(Context::new(), 2).await.unwrap(), [None, None]);
    let error =
        FiguresServer::new(Drawn).oneshot(request("/all", "application/json", r#"{"limit": -1}"#));
    assert_eq!(error.await.unwrap().status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_service_without_grpc_does_not_answer_it() {
    for path in [
        "/figures.Figures/All",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ] {
        let asked = request(path, "application/grpc", "\0\0\0\0\0");
        let response = FiguresServer::new(Drawn).oneshot(asked).await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "12", "{path}");
    }
}

#[test]
fn what_is_not_known_of_a_type_is_not_said() {
    let document = figures::openapi();
    let all = &document["paths"]["/all"]["post"];
    assert_eq!(
        all["responses"]["200"]["content"]["application/json"]["schema"],
        json!({})
    );
    let put = &document["paths"]["/figures/{name}"]["post"];
    assert_eq!(put["parameters"][1]["schema"]["type"], "string");
    let body = &put["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(body["required"], json!(["figure"]));
    assert_eq!(body["properties"]["figure"], json!({}));
}

#[tokio::test]
async fn over_grpc_alone_no_type_needs_to_be_json() {
    let client = SilentClient::grpc(SilentServer::new(Echo));
    let it = Quiet { word: "a".into() };
    assert_eq!(client.echo(Context::new(), it.clone()).await.unwrap(), it);
    assert!(silent::proto().contains("rpc Echo(EchoRequest) returns (Quiet);"));
}

#[tokio::test]
async fn a_service_without_http_says_that_it_speaks_grpc() {
    let asked = request("/echo", "application/json", "{}");
    let response = SilentServer::new(Echo).oneshot(asked).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem["detail"], "the service speaks gRPC only");
    assert_eq!(problem["code"], Code::Unimplemented.as_str());
}

/// Types that are named by the way to them.
mod rooms {
    #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, kit::Message)]
    pub(crate) struct Lamp {
        pub(crate) is_on: bool,
    }

    pub(crate) mod hall {
        use kit::{Context, Error};

        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, kit::Message)]
        pub(crate) struct Door {
            pub(crate) lamps: Vec<super::Lamp>,
        }

        #[kit::service]
        pub(crate) trait Hall {
            #[kit(route(GET, "/doors/{room}"))]
            async fn open(
                &self,
                ctx: Context,
                room: super::super::rooms::hall::Room,
            ) -> Result<self::Door, Error>;
            async fn switch(
                &self,
                ctx: Context,
                lamps: Vec<super::Lamp>,
            ) -> Result<super::Lamp, Error>;
        }

        #[kit::service(transport = "http")]
        pub(crate) trait Attic {
            async fn switch(&self, ctx: Context, lamp: super::Lamp) -> Result<super::Lamp, Error>;
        }

        pub(crate) type Room = String;
    }
}

#[derive(Debug)]
struct House;

impl rooms::hall::Hall for House {
    async fn open(&self, _: Context, _: String) -> Result<rooms::hall::Door, Error> {
        Ok(rooms::hall::Door { lamps: Vec::new() })
    }

    async fn switch(&self, _: Context, lamps: Vec<rooms::Lamp>) -> Result<rooms::Lamp, Error> {
        Ok(lamps[0].clone())
    }
}

#[tokio::test]
async fn a_type_may_be_named_by_the_way_to_it() {
    use rooms::hall::{Hall, HallClient, HallServer};

    let client = HallClient::grpc(HallServer::new(House));
    let lamp = rooms::Lamp { is_on: true };
    let switched = client.switch(Context::new(), vec![lamp.clone()]).await;
    assert_eq!(switched.unwrap(), lamp);
    let door = client.open(Context::new(), "kitchen".into()).await;
    assert!(door.unwrap().lamps.is_empty());
    assert!(rooms::hall::attic::openapi()["components"]["schemas"]["Lamp"].is_object());
}
