//! The bytes of messages, held against prost's.

use std::collections::{BTreeMap, HashMap};

use kit::service::message::{from_slice, to_vec};
use proptest::prelude::*;
use prost::Message as _;
use uuid::Uuid;

/// Every kind of field that there is.
#[derive(Clone, Debug, PartialEq, kit::Message)]
struct Ours {
    flag: bool,
    small: i32,
    large: i64,
    count: u32,
    total: u64,
    ratio: f32,
    weight: f64,
    name: String,
    data: Vec<u8>,
    maybe: Option<String>,
    perhaps: Option<u32>,
    numbers: Vec<i64>,
    flags: Vec<bool>,
    weights: Vec<f64>,
    names: Vec<String>,
    inner: Inner,
    optional: Option<Inner>,
    inners: Vec<Inner>,
    labels: BTreeMap<String, u32>,
    parts: HashMap<u32, Inner>,
    #[kit(tag = 100)]
    color: Color,
    colors: Vec<Color>,
    id: Uuid,
    wrapped: Wrapped,
}

#[derive(Clone, Debug, PartialEq, kit::Message)]
struct Inner {
    text: String,
    number: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, kit::Message)]
enum Color {
    Red,
    Green,
    #[kit(tag = 7)]
    Blue,
}

#[derive(Clone, Debug, PartialEq, kit::Message)]
struct Wrapped(u64);

/// The same, as prost has it.
#[derive(Clone, PartialEq, prost::Message)]
struct Theirs {
    #[prost(bool, tag = 1)]
    flag: bool,
    #[prost(int32, tag = 2)]
    small: i32,
    #[prost(int64, tag = 3)]
    large: i64,
    #[prost(uint32, tag = 4)]
    count: u32,
    #[prost(uint64, tag = 5)]
    total: u64,
    #[prost(float, tag = 6)]
    ratio: f32,
    #[prost(double, tag = 7)]
    weight: f64,
    #[prost(string, tag = 8)]
    name: String,
    #[prost(bytes = "vec", tag = 9)]
    data: Vec<u8>,
    #[prost(string, optional, tag = 10)]
    maybe: Option<String>,
    #[prost(uint32, optional, tag = 11)]
    perhaps: Option<u32>,
    #[prost(int64, repeated, tag = 12)]
    numbers: Vec<i64>,
    #[prost(bool, repeated, tag = 13)]
    flags: Vec<bool>,
    #[prost(double, repeated, tag = 14)]
    weights: Vec<f64>,
    #[prost(string, repeated, tag = 15)]
    names: Vec<String>,
    #[prost(message, optional, tag = 16)]
    inner: Option<TheirInner>,
    #[prost(message, optional, tag = 17)]
    optional: Option<TheirInner>,
    #[prost(message, repeated, tag = 18)]
    inners: Vec<TheirInner>,
    #[prost(btree_map = "string, uint32", tag = 19)]
    labels: BTreeMap<String, u32>,
    #[prost(map = "uint32, message", tag = 20)]
    parts: HashMap<u32, TheirInner>,
    #[prost(enumeration = "TheirColor", tag = 100)]
    color: i32,
    #[prost(enumeration = "TheirColor", repeated, tag = 101)]
    colors: Vec<i32>,
    #[prost(string, tag = 102)]
    id: String,
    #[prost(uint64, tag = 103)]
    wrapped: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TheirInner {
    #[prost(string, tag = 1)]
    text: String,
    #[prost(int32, tag = 2)]
    number: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum TheirColor {
    Unspecified = 0,
    Red = 1,
    Green = 2,
    Blue = 7,
}

fn inner() -> impl Strategy<Value = Inner> + Clone {
    (".{0,5}", any::<i32>()).prop_map(|(text, number)| Inner { text, number })
}

fn color() -> impl Strategy<Value = Color> {
    prop_oneof![Just(Color::Red), Just(Color::Green), Just(Color::Blue)]
}

prop_compose! {
    fn scalars()(
        flag in any::<bool>(),
        small in any::<i32>(),
        large in any::<i64>(),
        count in any::<u32>(),
        total in any::<u64>(),
        ratio in any::<f32>(),
        weight in any::<f64>(),
        name in ".{0,9}",
        data in any::<Vec<u8>>(),
        id in any::<u128>(),
        wrapped in any::<u64>(),
    )(
        flag in Just(flag), small in Just(small), large in Just(large), count in Just(count),
        total in Just(total), ratio in Just(ratio), weight in Just(weight), name in Just(name),
        data in Just(data), id in Just(id), wrapped in Just(wrapped),
        inner in inner(),
        color in color(),
    ) -> Ours {
        Ours {
            flag, small, large, count, total, ratio, weight, name, data,
            maybe: None, perhaps: None, numbers: vec![], flags: vec![], weights: vec![], names: vec![],
            inner, optional: None, inners: vec![], labels: BTreeMap::new(), parts: HashMap::new(),
            color, colors: vec![], id: Uuid::from_u128(id), wrapped: Wrapped(wrapped),
        }
    }
}

prop_compose! {
    fn ours()(
        scalars in scalars(),
        maybe in proptest::option::of(".{0,5}"),
        perhaps in proptest::option::of(0..3_u32),
        numbers in any::<Vec<i64>>(),
        flags in any::<Vec<bool>>(),
        weights in any::<Vec<f64>>(),
        names in proptest::collection::vec(".{0,5}", 0..4),
        optional in proptest::option::of(inner()),
        inners in proptest::collection::vec(inner(), 0..4),
        labels in proptest::collection::btree_map(".{0,5}", 0..3_u32, 0..4),
        // One entry: the order of more is each library's own.
        parts in proptest::collection::hash_map(0..3_u32, inner(), 0..2),
        colors in proptest::collection::vec(color(), 0..4),
    ) -> Ours {
        Ours { maybe, perhaps, numbers, flags, weights, names, optional, inners, labels, parts, colors, ..scalars }
    }
}

fn their_inner(inner: Inner) -> TheirInner {
    TheirInner {
        text: inner.text,
        number: inner.number,
    }
}

fn their_color(color: Color) -> i32 {
    match color {
        Color::Red => TheirColor::Red,
        Color::Green => TheirColor::Green,
        Color::Blue => TheirColor::Blue,
    }
    .into()
}

fn theirs(ours: Ours) -> Theirs {
    Theirs {
        flag: ours.flag,
        small: ours.small,
        large: ours.large,
        count: ours.count,
        total: ours.total,
        ratio: ours.ratio,
        weight: ours.weight,
        name: ours.name,
        data: ours.data,
        maybe: ours.maybe,
        perhaps: ours.perhaps,
        numbers: ours.numbers,
        flags: ours.flags,
        weights: ours.weights,
        names: ours.names,
        inner: Some(their_inner(ours.inner)),
        optional: ours.optional.map(their_inner),
        inners: ours.inners.into_iter().map(their_inner).collect(),
        labels: ours.labels,
        parts: ours
            .parts
            .into_iter()
            .map(|(key, inner)| (key, their_inner(inner)))
            .collect(),
        color: their_color(ours.color),
        colors: ours.colors.into_iter().map(their_color).collect(),
        id: ours.id.to_string(),
        wrapped: ours.wrapped.0,
    }
}

proptest! {
    #[test]
    fn a_message_survives_the_way_into_bytes_and_back(ours in ours()) {
        let bytes = to_vec(&ours);
        prop_assert_eq!(bytes.len(), kit::Message::encoded_len(&ours));
        prop_assert_eq!(from_slice::<Ours>(&bytes), Ok(ours));
    }

    #[test]
    fn the_bytes_are_those_of_prost(ours in ours()) {
        let theirs = theirs(ours.clone());
        let bytes = theirs.encode_to_vec();
        prop_assert_eq!(from_slice::<Ours>(&bytes), Ok(ours.clone()));
        prop_assert_eq!(Theirs::decode(&*to_vec(&ours)).unwrap(), theirs);
        // Neither library promises more; but they choose the same bytes, but for entries of maps with defaults and
        // for -0.0, which prost takes for the default.
        let zero = |number: f64| number == 0.0 && number.is_sign_negative();
        let differs = zero(ours.ratio.into()) || zero(ours.weight);
        if ours.labels.is_empty() && ours.parts.is_empty() && !differs {
            prop_assert_eq!(to_vec(&ours), bytes);
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in any::<Vec<u8>>()) {
        let ours = from_slice::<Ours>(&bytes);
        // What prost cannot read is not read; the other way round, a required field may be missing.
        if Theirs::decode(&*bytes).is_err() {
            prop_assert!(ours.is_err());
        }
    }

    #[test]
    fn bytes_that_are_nearly_right_do_not_make_the_reader_panic(
        ours in ours(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = to_vec(&ours);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = from_slice::<Ours>(&bytes);
        bytes.truncate(at);
        let _ = from_slice::<Ours>(&bytes);
    }
}

/// A later version of `Inner`, with more fields.
#[derive(Clone, PartialEq, prost::Message)]
struct Later {
    #[prost(string, tag = 1)]
    text: String,
    #[prost(int32, tag = 2)]
    number: i32,
    #[prost(fixed32, tag = 3)]
    four: u32,
    #[prost(fixed64, tag = 4)]
    eight: u64,
    #[prost(message, optional, tag = 5)]
    inner: Option<TheirInner>,
    #[prost(uint64, tag = 6)]
    number_too: u64,
}

#[test]
fn fields_that_are_not_known_are_skipped() {
    let later = Later {
        text: "a".to_owned(),
        number: -1,
        four: 4,
        eight: 8,
        inner: Some(TheirInner::default()),
        number_too: u64::MAX,
    };
    let mut bytes = later.encode_to_vec();
    // A group with a field and a group in it, which proto3 no longer has.
    bytes.extend([0x3b, 0x08, 0x01, 0x43, 0x44, 0x3c]);
    let known = Inner {
        text: "a".to_owned(),
        number: -1,
    };
    assert_eq!(from_slice(&bytes), Ok(known));
}

#[derive(Debug, PartialEq, kit::Message)]
struct Tree {
    name: String,
    children: Vec<Tree>,
}

#[test]
fn nesting_that_would_overflow_the_stack_is_refused() {
    let deep = |levels: usize| {
        (0..levels).fold(Vec::new(), |inner: Vec<u8>, _| {
            let mut bytes = vec![0x12];
            prost::encode_length_delimiter(inner.len(), &mut bytes).unwrap();
            bytes.extend(inner);
            bytes
        })
    };
    assert!(from_slice::<Tree>(&deep(90)).is_ok());
    let error = from_slice::<Tree>(&deep(100_000)).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("must not be nested more than 100 deep"),
        "{error}"
    );
    let groups = [0x0b].repeat(100_000);
    assert!(from_slice::<Tree>(&groups).is_err());
}

#[derive(PartialEq, prost::Message)]
struct Unpacked {
    #[prost(int64, repeated, packed = "false", tag = 12)]
    numbers: Vec<i64>,
}

#[derive(Debug, PartialEq, kit::Message)]
struct Numbers {
    #[kit(tag = 12)]
    numbers: Vec<i64>,
}

#[test]
fn numbers_are_read_whether_packed_or_not() {
    let unpacked = Unpacked {
        numbers: vec![1, -2, 3],
    };
    let numbers = Numbers {
        numbers: unpacked.numbers.clone(),
    };
    assert_eq!(from_slice(&unpacked.encode_to_vec()), Ok(numbers));
}
