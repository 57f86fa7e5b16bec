//! What gRPC cannot carry.

use std::collections::BTreeMap;

use kit::{Context, Error, Stream};

pub struct Foreign;

#[derive(kit::Message)]
pub struct Fields {
    foreign: Foreign, //~ `Foreign` gRPC cannot carry a
    twice_optional: Option<Option<u32>>, //~ `Option<Option<u32>>` gRPC cannot carry a
    list_of_options: Vec<Option<u32>>, //~ `Vec<Option<u32>>` gRPC cannot carry a
    list_of_lists: Vec<Vec<u32>>, //~ `Vec<Vec<u32>>` gRPC cannot carry a
    optional_list: Option<Vec<u32>>, //~ `Option<Vec<u32>>` gRPC cannot carry a
    map_of_lists: BTreeMap<String, Vec<u32>>, //~ `BTreeMap<String, Vec<u32>>` gRPC cannot carry a
    map_by_float: BTreeMap<f64, u32>, //~ `BTreeMap<f64, u32>` gRPC cannot carry a
    tuple: (u32, u32), //~ `(u32, u32)` gRPC cannot carry a
}

#[derive(kit::Message)]
pub struct Newtype(Foreign); //~ `Foreign` gRPC cannot carry a

#[kit::service]
pub trait Arguments {
    async fn list(&self, ctx: Context, it: Vec<Vec<u32>>) -> Result<(), Error>; //~ `Vec<Vec<u32>>` gRPC cannot carry a
}

#[kit::service]
pub trait Replies {
    async fn lists(&self, ctx: Context) -> Result<Vec<Vec<u32>>, Error>; //~ `Vec<Vec<u32>>` gRPC cannot carry a
    async fn stream(&self, ctx: Context) -> Result<impl Stream<Item = Result<Vec<Vec<u32>>, Error>>, Error>; //~ `Vec<Vec<u32>>` gRPC cannot carry a
    async fn other_error(&self, ctx: Context) -> Result<(), std::fmt::Error>; //~ `Result` mismatched types
}

#[kit::service(transport = "grpc")]
pub trait GrpcOnly {
    async fn lists(&self, ctx: Context, it: Vec<Vec<u32>>) -> Result<Vec<Vec<u32>>, Error>; //~ `Vec<Vec<u32>>` gRPC cannot carry a
}

pub struct Mute;

#[kit::service(transport = "http")]
pub trait HttpOnly {
    async fn mute(&self, ctx: Context) -> Result<Mute, Error>; //~ `Mute` the trait bound `Mute: serde::Serialize` is not satisfied //~ `Mute` the trait bound `Mute: serde::de::DeserializeOwned
}

#[derive(kit::Message)]
pub struct Rules {
    #[kit(max_length = 3)] //~ `max_length` evaluation panicked: `max_length` says nothing of this type
    count: u32,
    #[kit(maximum = 3)] //~ `maximum` evaluation panicked: `maximum` says nothing of this type
    text: Option<String>,
    #[kit(pattern = "a")] //~ `pattern` evaluation panicked: `pattern` says nothing of this type
    texts: Vec<String>,
    #[kit(max_length = 3)]
    newtype: Vec<Worded>,
}

#[derive(kit::Message)]
#[kit(pattern = "a")]
pub struct Worded(String);
