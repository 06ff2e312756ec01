use std::collections::BTreeMap;

use proptest::{prelude::*, sample::Index};
use serde_json::Value;
use twdag::graph::Graph;

use super::read;

fn diamond() -> Graph {
    let source = r#"Graph(version: 1, title: "Diamond", stages: {
        "bottom": Command(run: ["true"], inputs: {"l": "left/file", "r": "right"}),
        "right":  Command(run: ["true"], inputs: {"x": "top"}),
        "alone":  Command(run: ["true"]),
        "left":   Command(run: ["true"], inputs: {"x": "top", "y": "top/a/b"}),
        "top":    Command(run: ["true"]),
    })"#;
    read(source, &[]).expect("a good graph")
}

fn names(graph: &Graph, nodes: &[usize]) -> Vec<String> {
    nodes.iter().map(|node| graph.nodes()[*node].name.clone()).collect()
}

#[test]
fn stages_come_behind_what_they_read_and_otherwise_in_the_order_of_the_file() {
    let graph = diamond();
    assert_eq!(graph.title.as_deref(), Some("Diamond"));
    assert_eq!(graph.name, "example");
    assert_eq!(names(&graph, graph.order()), ["alone", "top", "right", "left", "bottom"]);
    assert_eq!(graph.find("left"), Some(3));
    assert_eq!(graph.find("middle"), None);
    assert_eq!(graph.similar("botom"), Some("bottom"));
}

#[test]
fn a_closure_is_what_the_targets_need() {
    let graph = diamond();
    let closure = |target: &str| names(&graph, &graph.closure(&[graph.find(target).expect("a stage")]));
    assert_eq!(closure("bottom"), ["top", "right", "left", "bottom"]);
    assert_eq!(closure("left"), ["top", "left"]);
    assert_eq!(closure("alone"), ["alone"]);
    assert_eq!(names(&graph, &graph.closure(&[2, 1])), ["alone", "top", "right"]);
    assert!(graph.closure(&[]).is_empty());
    let readers = graph.readers(graph.find("top").expect("a stage"));
    assert_eq!(names(&graph, &readers), ["right", "left"]);
}

#[test]
fn inputs_say_where_they_stand_and_what_they_read() {
    let graph = diamond();
    let inputs: Vec<(&str, &str, Option<&str>, &str)> = graph.nodes()[3]
        .inputs
        .iter()
        .map(|input| {
            let made_by = graph.nodes()[input.node].name.as_str();
            (input.role.as_str(), input.reference.stage(), input.reference.path(), made_by)
        })
        .collect();
    assert_eq!(inputs, [("inputs.x", "top", None, "top"), ("inputs.y", "top", Some("a/b"), "top")]);
}

#[test]
fn every_kind_is_read_under_its_own_name() {
    for entry in twdag_stages::registry::KINDS {
        let source = format!("Graph(version: 1, stages: {{ \"a\": {}(no_such_setting: 1) }})", entry.info.name);
        let message = read(&source, &[]).expect_err("a bad graph").render(false);
        let expected = format!("error: `{}` has no setting `no_such_setting`", entry.info.name);
        assert!(message.contains(&expected), "{message}");
    }
}

/// A name and a value.
type Setting = (&'static str, &'static str);

/// Stages as names, kinds and settings.
const STAGES: &[(&str, &str, &[Setting])] = &[
    ("corpus", "Command", &[("run", "[\"echo\", \"a, b\", param(\"n\")]"), ("env", "{\"A\": \"1\"}")]),
    (
        "tokens",
        "Tokenize",
        &[("text", "[\"corpus\", \"corpus/more\"]"), ("tokenizer", "\"corpus\""), ("length", "1_024")],
    ),
    ("loss", "Score", &[("model", "\"corpus\""), ("tokens", "\"tokens\""), ("windows", "(length: 256, step: 192)")]),
    ("dense", "Postprocess", &[("short", "\"loss\""), ("long", "\"loss\""), ("shape", "Dense(lambda: 0.75)")]),
];

fn meaning(source: &str) -> BTreeMap<String, (Value, Vec<String>)> {
    let graph = read(source, &[]).unwrap_or_else(|error| panic!("{error}\n{source}"));
    let nodes = graph.nodes().iter();
    nodes
        .map(|node| {
            let settings = serde_json::to_value(node.stage.settings()).expect("settings are JSON");
            let inputs = node.inputs.iter().map(|input| format!("{}={}", input.role, input.reference)).collect();
            (node.name.clone(), (settings, inputs))
        })
        .collect()
}

/// Writes the stages in an order, with something meaningless between any two words.
fn write(stages: &[usize], fields: &[Vec<usize>], between: &mut impl FnMut() -> String) -> String {
    let mut words: Vec<String> =
        ["Graph", "(", "version", ":", "1", ",", "params", ":", "{", "\"n\"", ":", "\"5\"", "}", ","]
            .map(str::to_owned)
            .into();
    words.extend(["stages", ":", "{"].map(str::to_owned));
    for (&stage, fields) in stages.iter().zip(fields) {
        let (name, kind, settings) = STAGES[stage];
        words.extend([format!("\"{name}\""), ":".into(), kind.into(), "(".into()]);
        for &field in fields.iter().filter(|field| **field < settings.len()) {
            let (name, value) = settings[field];
            words.extend([name.into(), ":".into(), value.into(), ",".into()]);
        }
        words.extend([")".into(), ",".into()]);
    }
    words.extend(["}", ")"].map(str::to_owned));
    words.into_iter().map(|word| between() + &word).collect::<String>() + &between()
}

proptest! {
    #[test]
    fn comments_blank_lines_and_order_mean_nothing(
        stages in Just((0..STAGES.len()).collect::<Vec<_>>()).prop_shuffle(),
        fields in prop::collection::vec(Just((0..3).collect::<Vec<usize>>()).prop_shuffle(), STAGES.len()),
        noise in prop::collection::vec(any::<Index>(), 1..40),
    ) {
        let trivia = ["", " ", "\n\n", "\t", "\r\n", "// param(\"x\") \"\n", "/* , /* ( */ \" */", "\u{2028}"];
        let plain: Vec<usize> = (0..STAGES.len()).collect();
        let expected = meaning(&write(&plain, &vec![vec![0, 1, 2]; STAGES.len()], &mut || " ".to_owned()));
        let mut noise = noise.iter().cycle();
        let mut between = || noise.next().map_or("", |index| *index.get(&trivia)).to_owned();
        prop_assert_eq!(meaning(&write(&stages, &fields, &mut between)), expected);
    }
}
