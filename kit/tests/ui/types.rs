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

#[kit::service] //~ `#[kit::service]` `std::string::String` is not a message
pub trait Replies {
    async fn no_message(&self, ctx: Context) -> Result<Vec<String>, Error>; //~ `Vec<String>` `Vec<std::string::String>` is not a message //~ `Vec` `Vec<std::string::String>` is not a message
    async fn no_messages(&self, ctx: Context) -> Result<impl Stream<Item = Result<String, Error>>, Error>; //~ `String` `std::string::String` is not a message //~ `Result<impl Stream<Item = Result<String, Error>>, Error>` `std::string::String` is not a message
}
