//! A service that has one of each: what others are tried on.

use std::collections::BTreeMap;

use kit::{Context, Error, Stream};
use serde::{Deserialize, Serialize};

/// Has one of each.
#[kit::service(package = "acme.fair")]
pub trait Fair {
    /// Gives back what it gets.
    #[kit(idempotent)]
    async fn echo(&self, ctx: Context, everything: Everything) -> Result<Everything, Error>;

    /// Counts from one, and breaks off behind nine.
    async fn count(
        &self,
        ctx: Context,
        to: u32,
    ) -> Result<impl Stream<Item = Result<u32, Error>>, Error>;

    /// Refuses, and says which fields broke which rules.
    async fn refuse(&self, ctx: Context) -> Result<(), Error>;

    /// How many milliseconds the caller still waits, once some have passed.
    #[kit(idempotent)]
    async fn wait(
        &self,
        ctx: Context,
        #[kit(maximum = 1000)] millis: u32,
    ) -> Result<Option<u64>, Error>;

    /// The name of the caller.
    #[kit(idempotent, auth = "fair:visit", route(GET, "/visitors/{number}"))]
    async fn visitor(
        &self,
        ctx: Context,
        number: u32,
        title: Option<String>,
    ) -> Result<String, Error>;
}

/// A field of each kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, kit::Message)]
#[serde(deny_unknown_fields)]
pub struct Everything {
    /// Whether.
    pub flag: bool,
    /// A negative number is long on the wire.
    pub small: i32,
    /// As is this one.
    pub big: i64,
    /// How many.
    pub count: u32,
    /// How many more.
    pub counts: Vec<u64>,
    /// A weight.
    pub weight: f64,
    /// A text.
    pub text_of_it: String,
    /// Bytes.
    pub raw: Vec<u8>,
    /// A colour.
    pub colour: Colour,
    /// Or none.
    pub maybe_colour: Option<Colour>,
    /// Notes.
    pub notes: BTreeMap<String, Note>,
    /// Made of itself.
    pub inner: Option<Box<Everything>>,
}

/// A colour.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, kit::Message)]
#[serde(rename_all = "snake_case")]
pub enum Colour {
    /// As blood.
    Red,
    /// As the night.
    DarkBlue,
}

/// A note.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, kit::Message)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// Its text.
    pub text: Option<String>,
}
