//! Golden bytes and properties of the canonical encoding.

#![allow(clippy::expect_used)]

use std::collections::BTreeMap;

use indexmap::IndexMap;
use proptest::prelude::*;
use serde::Serialize;
use twdag_stages::stage::{Manner, Reference, SourcePath};

use super::{CanonError, display, encode};
use crate::digest::Digest;

fn bytes(settings: impl Serialize) -> Vec<u8> {
    encode(&settings).expect("encodes")
}

#[derive(Serialize)]
enum Shape {
    Uniform,
    Dense { lambda: f64 },
    Sparse(u8, i64),
}

#[derive(Serialize)]
struct Postprocess {
    shape: Shape,
    short: Reference,
    data: Option<SourcePath>,
    names: Vec<&'static str>,
    floor: Option<f32>,
}

fn postprocess() -> Postprocess {
    Postprocess {
        shape: Shape::Dense { lambda: 0.75 },
        short: "scores".into(),
        data: Some("../data".into()),
        names: vec!["a", "é"],
        floor: None,
    }
}

/// A change here changes every key that anybody has: raise the version in the key's context if it is meant.
#[test]
fn the_bytes_are_pinned() {
    let text = String::from_utf8_lossy(&bytes(postprocess())).replace('\0', ".").replace('\u{fffd}', "?");
    insta::assert_snapshot!(text.escape_debug(), @r"R\u{4}.......S\u{4}.......data/S\u{5}.......namesL\u{2}.......S\u{1}.......aS\u{2}.......éS\u{5}.......shapeV\u{5}.......DenseR\u{1}.......S\u{6}.......lambdaD......??S\u{5}.......short@");
    let small = bytes((Shape::Uniform, Shape::Sparse(1, -1), 'x', true, ()));
    let small = String::from_utf8_lossy(&small).replace('\0', ".").replace('\u{fffd}', "?");
    insta::assert_snapshot!(small.escape_debug(), @r"L\u{5}.......V\u{7}.......UniformUV\u{6}.......SparseL\u{2}.......I\u{1}...............I????????????????S\u{1}.......xTU");
    insta::assert_snapshot!(Digest::of(&bytes(postprocess())), @"8dc8363b953821fcaed688676a2bbad835b56b7d33121fe8e9e4fe4c959d3385");
}

#[test]
fn field_order_type_names_and_absent_options_do_not_matter() {
    #[derive(Serialize)]
    struct Reordered {
        names: [&'static str; 2],
        data: SourcePath,
        added: Option<u64>,
        short: Reference,
        shape: Shape,
    }
    let reordered = Reordered {
        names: ["a", "é"],
        data: "elsewhere".into(),
        added: None,
        short: "renamed".into(),
        shape: Shape::Dense { lambda: 0.75 },
    };
    assert_eq!(bytes(&reordered), bytes(postprocess()));
    assert_ne!(bytes(Reordered { added: Some(0), ..reordered }), bytes(postprocess()));
}

#[test]
fn integers_of_any_width_are_alike_and_floats_are_apart() {
    assert_eq!(bytes(7_u8), bytes(7_i64));
    assert_eq!(bytes(u64::MAX), bytes(u128::from(u64::MAX)));
    assert_eq!(bytes(0.5_f32), bytes(0.5_f64));
    assert_eq!(bytes(-0.0), bytes(0.0));
    assert_ne!(bytes(1_u8), bytes(1.0));
    assert_eq!(encode(&f32::NAN), Err(CanonError::NotANumber));
    assert_eq!(encode(&u128::MAX), Err(CanonError::TooLarge(u128::MAX)));
}

#[test]
fn the_order_of_a_map_counts() {
    let rows = |names: [&'static str; 2]| names.into_iter().map(|name| (name, 1)).collect::<IndexMap<_, _>>();
    assert_ne!(bytes(rows(["a", "b"])), bytes(rows(["b", "a"])));
    assert_eq!(bytes(rows(["a", "b"])), bytes(BTreeMap::from([("b", 1), ("a", 1)])));
}

#[test]
fn display_keeps_what_the_encoding_leaves_out() {
    insta::assert_snapshot!(display(&postprocess()), @r#"{"data":"../data","floor":null,"names":["a","é"],"shape":{"Dense":{"lambda":0.75}},"short":"scores"}"#);
}

#[test]
fn how_a_stage_works_is_in_no_encoding() {
    #[derive(Serialize)]
    struct With {
        steps: usize,
        every: Manner<Option<usize>>,
    }
    #[derive(Serialize)]
    struct Without {
        steps: usize,
    }
    for every in [None, Some(3)] {
        assert_eq!(bytes(With { steps: 5, every: Manner(every) }), bytes(Without { steps: 5 }));
    }
}

/// Values of every shape that settings can take.
#[derive(Clone, Debug, PartialEq, Serialize)]
enum Value {
    Unit,
    Nothing(Option<()>),
    Flag(bool),
    Integer(i64),
    Large(u64),
    Float(f64),
    Text(String),
    Sequence(Vec<Value>),
    Pair(Box<Value>, Box<Value>),
    Map(BTreeMap<String, Value>),
    Fields { first: Option<Box<Value>>, second: Option<Box<Value>> },
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Unit),
        Just(Value::Nothing(None)),
        any::<bool>().prop_map(Value::Flag),
        (-3_i64..3).prop_map(Value::Integer),
        (0_u64..3).prop_map(Value::Large),
        (-2_i8..2).prop_map(|number| Value::Float(f64::from(number))),
        "[SLN]{0,3}".prop_map(Value::Text),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Sequence),
            (inner.clone(), inner.clone()).prop_map(|(one, two)| Value::Pair(one.into(), two.into())),
            prop::collection::btree_map("[ab]", inner.clone(), 0..3).prop_map(Value::Map),
            (prop::option::of(inner.clone()), prop::option::of(inner))
                .prop_map(|(first, second)| Value::Fields { first: first.map(Box::new), second: second.map(Box::new) }),
        ]
    })
}

proptest! {
    #[test]
    fn different_values_have_different_encodings(one in value(), two in value()) {
        prop_assert_eq!(one == two, bytes(&one) == bytes(&two));
    }

    #[test]
    fn no_encoding_starts_another(one in value(), two in value()) {
        prop_assert!(one == two || !bytes(&one).starts_with(&bytes(&two)));
    }
}
