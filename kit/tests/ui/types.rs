//! What gRPC cannot carry.

use std::collections::BTreeMap;

use kit::{Context, Error, Stream};

pub struct Foreign;

#[derive(kit::Message)]
pub struct Fields {
    foreign: Foreign,
    twice_optional: Option<Option<u32>>,
    list_of_options: Vec<Option<u32>>,
    list_of_lists: Vec<Vec<u32>>,
    optional_list: Option<Vec<u32>>,
    map_of_lists: BTreeMap<String, Vec<u32>>,
    map_by_float: BTreeMap<f64, u32>,
    tuple: (u32, u32),
}

#[derive(kit::Message)]
pub struct Newtype(Foreign);

#[kit::service]
pub trait Arguments {
    async fn list(&self, ctx: Context, it: Vec<Vec<u32>>) -> Result<(), Error>;
}

#[kit::service]
pub trait Replies {
    async fn lists(&self, ctx: Context) -> Result<Vec<Vec<u32>>, Error>;
    async fn stream(&self, ctx: Context) -> Result<impl Stream<Item = Result<Vec<Vec<u32>>, Error>>, Error>;
    async fn other_error(&self, ctx: Context) -> Result<(), std::fmt::Error>;
}

#[kit::service(transport = "grpc")]
pub trait GrpcOnly {
    async fn lists(&self, ctx: Context, it: Vec<Vec<u32>>) -> Result<Vec<Vec<u32>>, Error>;
}

pub struct Mute;

#[kit::service(transport = "http")]
pub trait HttpOnly {
    async fn mute(&self, ctx: Context) -> Result<Mute, Error>;
}

#[derive(kit::Message)]
pub struct Rules {
    #[kit(max_length = 3)]
    count: u32,
    #[kit(maximum = 3)]
    text: Option<String>,
    #[kit(pattern = "a")]
    texts: Vec<String>,
    #[kit(max_length = 3)]
    newtype: Vec<Worded>,
}

#[derive(kit::Message)]
#[kit(pattern = "a")]
pub struct Worded(String);

fn main() {}
