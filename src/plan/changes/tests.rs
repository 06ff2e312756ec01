//! How differences are told.

use serde_json::{Value, json};

use super::{Action, changes};
use crate::{digest::Digest, store::RecordInput};

fn action(settings: Value, inputs: &[(&str, &str)]) -> Action {
    let inputs: Vec<_> = inputs
        .iter()
        .map(|(role, content)| RecordInput { role: (*role).to_owned(), digest: Digest::of(content.as_bytes()) })
        .collect();
    let action = json!({
        "key": Digest::of(b""), "kind": "Postprocess", "revision": 1, "settings": settings,
        "inputs": inputs, "sources": [], "file_names": {}, "numeric_class": "cpu-f32",
    });
    serde_json::from_value(action).unwrap()
}

fn told(old: &Action, new: &Action) -> String {
    changes(old, new).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn settings_told(old: Value, new: Value) -> String {
    told(&action(old, &[]), &action(new, &[]))
}

#[test]
fn settings_are_told_by_their_path() {
    let shape = |shape: Value| json!({ "shape": shape, "floor": null });
    insta::assert_snapshot!(
        settings_told(shape(json!({ "Dense": { "lambda": 0.75 } })), shape(json!({ "Dense": { "lambda": 0.5 } }))),
        @"setting `shape.lambda` changed: 0.75 → 0.5"
    );
    insta::assert_snapshot!(
        settings_told(shape(json!("Uniform")), shape(json!({ "Sparse": { "kappa": 0.2, "ties": null } }))),
        @"setting `shape` changed: Uniform → Sparse(kappa: 0.2)"
    );
    insta::assert_snapshot!(
        settings_told(json!({ "names": ["a"], "floor": null }), json!({ "names": ["a", "b"], "floor": 0.1 })),
        @r#"setting `floor` added: 0.1; setting `names.1` added: "b""#
    );
    insta::assert_snapshot!(
        settings_told(json!({ "text": "x".repeat(80) }), json!({})),
        @r#"setting `text` removed: it was "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…"#
    );
}

#[test]
fn inputs_are_told_by_content_and_never_by_name() {
    let one = action(json!({ "short": "scores", "long": "old" }), &[("short", "1"), ("long", "2")]);
    let two = action(json!({ "short": "renamed", "tokens": "t" }), &[("short", "1"), ("tokens", "3")]);
    insta::assert_snapshot!(told(&one, &two), @"input `tokens` added; input `long` removed");
    let three = Action { inputs: action(json!({}), &[("short", "4"), ("long", "2")]).inputs, ..one.clone() };
    insta::assert_snapshot!(told(&one, &three), @"input `short` changed");
}

#[test]
fn kind_revision_and_numeric_class_are_told() {
    let one = action(json!({}), &[]);
    let two = Action { revision: 2, numeric_class: None, ..one.clone() };
    insta::assert_snapshot!(told(&one, &two), @"kind revision changed: 1 → 2; numeric class changed: cpu-f32 → exact");
    let three = Action { kind: "Score".to_owned(), revision: 7, ..one.clone() };
    insta::assert_snapshot!(told(&one, &three), @"kind changed: Postprocess → Score");
}
