//! Golden keys, and what they cover.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use twdag_stages::stage::{Context, Kind, Numerics, Reference, StageError};

use super::{Action, RecordInput};
use crate::{
    digest::Digest,
    graph::{Node, Policy},
};

#[derive(Clone, Serialize, Deserialize)]
struct Sample<const REVISION: u32> {
    size: u64,
    text: Reference,
}

impl<const REVISION: u32> Kind for Sample<REVISION> {
    const NAME: &'static str = "Sample";
    const REVISION: u32 = REVISION;
    const SUMMARY: &'static str = "Serves a test.";
    const NUMERICS: Numerics = if REVISION == 3 { Numerics::Exact } else { Numerics::Floating };

    fn run(&self, _: &Context) -> Result<(), StageError> {
        Ok(())
    }
}

fn node(name: &str, sample: impl Kind) -> Node {
    Node { name: name.to_owned(), stage: Box::new(sample), inputs: Vec::new(), policy: Policy::default() }
}

fn read(role: &str, content: &str) -> Vec<RecordInput> {
    vec![RecordInput { role: role.to_owned(), digest: Digest::of(content.as_bytes()) }]
}

fn sample() -> Sample<1> {
    Sample { size: 512, text: "corpus".into() }
}

fn names(name: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("from.path".to_owned(), name.to_owned())])
}

fn action(name: &str, sample: impl Kind, input: &[RecordInput], source: &[RecordInput], file: &str) -> Action {
    Action::new(&node(name, sample), input.to_vec(), source.to_vec(), names(file)).unwrap()
}

/// A change here makes everybody compute everything again: it must be meant, and raise the number in the context.
#[test]
fn a_key_is_pinned() {
    let action = action("tokens", sample(), &read("text", "one"), &read("from.path", "two"), "a.txt");
    insta::assert_snapshot!(action.key(), @"882fc56d8a9361f07170350afe69a89e8ee5ecd915808dd62ef632da644f703b");
}

#[test]
fn a_key_covers_content_and_no_names() {
    let (input, source) = (read("text", "one"), read("from.path", "two"));
    let key = action("tokens", sample(), &input, &source, "a.txt").key();
    let renamed = Sample { text: "renamed".into(), ..sample() };
    assert_eq!(action("another", renamed, &input, &source, "a.txt").key(), key);
    let (two, three) =
        (Sample::<2> { size: 512, text: "corpus".into() }, Sample::<3> { size: 512, text: "corpus".into() });
    let keys = BTreeSet::from([
        key,
        action("tokens", Sample { size: 513, ..sample() }, &input, &source, "a.txt").key(),
        action("tokens", two, &input, &source, "a.txt").key(),
        action("tokens", three, &input, &source, "a.txt").key(),
        action("tokens", sample(), &read("text", "eno"), &source, "a.txt").key(),
        action("tokens", sample(), &read("txet", "one"), &source, "a.txt").key(),
        action("tokens", sample(), &input, &read("from.path", "owt"), "a.txt").key(),
        action("tokens", sample(), &source, &input, "a.txt").key(),
        action("tokens", sample(), &input, &source, "b.txt").key(),
    ]);
    assert_eq!(keys.len(), 9);
}

#[test]
fn a_key_covers_the_numeric_class() {
    let scored = |device: &str| {
        let text = format!("(model: \"model\", tokens: \"tokens\"{device})");
        let stage = twdag_stages::registry::find("Score").unwrap();
        let stage = stage.from_ron(&twdag_stages::registry::ron_options(), &text).unwrap();
        let node = Node { name: "scores".to_owned(), stage, inputs: Vec::new(), policy: Policy::default() };
        Action::new(&node, read("model", "one"), Vec::new(), BTreeMap::new()).unwrap()
    };
    let [cpu, same, exact, rounded] =
        ["", ", device: Cpu()", ", device: Cuda()", ", device: Cuda(precision: Bf16)"].map(scored);
    assert_eq!(cpu.key(), same.key());
    assert_eq!(BTreeSet::from([cpu.key(), exact.key(), rounded.key()]).len(), 3);
    let classes = [cpu, exact, rounded].map(|action| action.numeric_class.unwrap());
    assert_eq!(classes, ["cpu-f32", "cuda-f32", "cuda-bf16"]);
}
