use insta::assert_snapshot;
use twdag::graph::{
    Graph,
    draw::{Format, draw},
};

use super::read;

fn graph() -> Graph {
    let source = r#"Graph(version: 1, title: "Short & \"long\"", stages: {
        "report": Command(run: ["true"], inputs: {"d": "dense", "s": "sparse[kappa=0.2]", "t": "tokens"}),
        "corpus": Command(run: ["true"]),
        "tokenizer": TrainTokenizer(text: ["corpus"], vocabulary: 512),
        "model": Command(run: ["true"], inputs: {"t": "tokenizer"}),
        "tokens": Tokenize(text: ["corpus", "corpus/more"], tokenizer: "tokenizer", length: 512),
        "short": Score(model: "model", tokens: "tokens"),
        "long": Score(model: "model", tokens: "tokens"),
        "alone": Command(run: ["true"]),
        "dense": Postprocess(short: "short", long: "long", shape: Dense(lambda: 0.5)),
        "sparse[kappa=0.2]": Postprocess(short: "short", long: "long", shape: Sparse(kappa: 0.2)),
    })"#;
    read(source, &[]).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn for_a_terminal() {
    assert_snapshot!(draw(&graph(), Format::Text), @r#"
    Short & "long"

    ●        corpus             Command
    ├─●      tokenizer          TrainTokenizer  ← corpus
    │ ├─●    model              Command         ← tokenizer
    ●─┘ │    tokens             Tokenize        ← corpus, tokenizer
    ├─●─┤    short              Score           ← model, tokens
    ├─│─●    long               Score           ← model, tokens
    │ │ │ ●  alone              Command
    │ ├─┼─●  dense              Postprocess     ← short, long
    │ ●─┘ │  sparse[kappa=0.2]  Postprocess     ← short, long
    ●─┴───┘  report             Command         ← dense, sparse[kappa=0.2], tokens
    "#);
}

#[test]
fn for_graphviz() {
    assert_snapshot!(draw(&graph(), Format::Dot), @r#"
    digraph "example" {
        label="Short & \"long\"";
        labelloc=t;
        node [shape=box, style=rounded, fontname="sans-serif"];
        "report" [label="report\nCommand"];
        "corpus" [label="corpus\nCommand"];
        "tokenizer" [label="tokenizer\nTrainTokenizer"];
        "model" [label="model\nCommand"];
        "tokens" [label="tokens\nTokenize"];
        "short" [label="short\nScore"];
        "long" [label="long\nScore"];
        "alone" [label="alone\nCommand"];
        "dense" [label="dense\nPostprocess"];
        "sparse[kappa=0.2]" [label="sparse[kappa=0.2]\nPostprocess"];
        "dense" -> "report";
        "sparse[kappa=0.2]" -> "report";
        "tokens" -> "report";
        "corpus" -> "tokenizer";
        "tokenizer" -> "model";
        "corpus" -> "tokens";
        "tokenizer" -> "tokens";
        "model" -> "short";
        "tokens" -> "short";
        "model" -> "long";
        "tokens" -> "long";
        "short" -> "dense";
        "long" -> "dense";
        "short" -> "sparse[kappa=0.2]";
        "long" -> "sparse[kappa=0.2]";
    }
    "#);
}

#[test]
fn for_mermaid() {
    assert_snapshot!(draw(&graph(), Format::Mermaid), @r#"
    ---
    title: "Short & \"long\""
    ---
    flowchart TD
        n0["report<br><small>Command</small>"]
        n1["corpus<br><small>Command</small>"]
        n2["tokenizer<br><small>TrainTokenizer</small>"]
        n3["model<br><small>Command</small>"]
        n4["tokens<br><small>Tokenize</small>"]
        n5["short<br><small>Score</small>"]
        n6["long<br><small>Score</small>"]
        n7["alone<br><small>Command</small>"]
        n8["dense<br><small>Postprocess</small>"]
        n9["sparse[kappa=0.2]<br><small>Postprocess</small>"]
        n8 --> n0
        n9 --> n0
        n4 --> n0
        n1 --> n2
        n2 --> n3
        n1 --> n4
        n2 --> n4
        n3 --> n5
        n4 --> n5
        n3 --> n6
        n4 --> n6
        n5 --> n8
        n6 --> n8
        n5 --> n9
        n6 --> n9
    "#);
}

#[test]
fn for_the_web() {
    let graph = graph();
    let picture = draw(&graph, Format::Svg);
    assert!(picture.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox="));
    assert!(picture.contains("<title>Short &amp; &quot;long&quot;</title>"));
    for node in graph.nodes() {
        assert_eq!(picture.matches(&format!(">{}</text>", node.name)).count(), 1, "{}", node.name);
    }
    // `corpus` is read twice by `tokens`: that is one arrow.
    assert_eq!(picture.matches("marker-end").count(), 15);
    assert!((0..20).all(|_| draw(&graph, Format::Svg) == picture), "the same graph gives the same bytes");
}

#[test]
fn thirty_stages_stay_narrow() {
    let stages: Vec<String> = (0..30)
        .map(|stage| {
            let inputs: Vec<String> = (1..4)
                .filter(|back| stage >= *back)
                .map(|back| format!("\"{back}\": \"stage-{}\"", stage - back))
                .collect();
            format!("\"stage-{stage}\": Command(run: [\"true\"], inputs: {{{}}})", inputs.join(", "))
        })
        .collect();
    let graph = read(&format!("Graph(version: 1, stages: {{{}}})", stages.join(", ")), &[]).expect("a good graph");
    let drawing = draw(&graph, Format::Text);
    assert_eq!(drawing.lines().count(), 32, "one line a stage, under a heading");
    assert!(drawing.lines().all(|line| line.chars().count() <= 100), "{drawing}");
    assert!(draw(&graph, Format::Svg).contains("stage-29"));
}

#[test]
fn a_graph_of_one_stage() {
    let graph = read(r#"Graph(version: 1, stages: { "a": Command(run: ["true"]) })"#, &[]).expect("a good graph");
    assert_eq!(draw(&graph, Format::Text), "example\n\n●  a  Command\n");
    assert!(draw(&graph, Format::Svg).contains(">a</text>"));
}
