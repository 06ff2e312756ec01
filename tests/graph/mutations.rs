use proptest::{prelude::*, sample::Index};
use twdag::graph::{
    GraphError, Remark,
    syntax::{Span, Value, parse},
};

use super::read;

const GRAPH: &str = r##"#![enable(implicit_some)]
// λ sweep
Graph(
    version: 1,
    title: "Größe \u{3bb} \x41",
    params: { "lambda": 0.75, "data": r#"a "b" c"#, "list": ["x", 'y', b"z"], "shape": Dense(lambda: 0.5) },
    stages: {
        "corpus": Command(run: ["true", param("data")], env: {"A": "1", "B": "é"}, inputs: {}),
        /* nested /* comment */ */
        "tokens": Tokenize(text: ["corpus", "corpus/train"], tokenizer: "corpus", length: 1_024),
        "loss": Score(model: "corpus", tokens: "tokens", windows: (length: 256, step: 192)),
        "dense": Postprocess(short: "loss", long: "loss", shape: Dense(lambda: param("lambda"))),
        "other": Postprocess(short: "loss", long: "loss", shape: param("shape")),
    },
)
"##;

#[derive(Clone, Debug)]
enum Mutation {
    Delete(Index, Index),
    Insert(Index, Vec<u8>),
    Repeat(Index, Index, Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let word = prop_oneof![
        Just("(".to_owned()),
        Just(")".to_owned()),
        Just("]".to_owned()),
        Just("{".to_owned()),
        Just("}".to_owned()),
        Just(",".to_owned()),
        Just(":".to_owned()),
        Just("\"".to_owned()),
        Just("'".to_owned()),
        Just("/*".to_owned()),
        Just("//".to_owned()),
        Just("r#\"".to_owned()),
        Just("\\".to_owned()),
        Just("param(\"list\")".to_owned()),
        Just("\t\r\n\u{85}".to_owned()),
        Just("😀ß".to_owned()),
        any::<String>(),
    ];
    prop_oneof![
        (any::<Index>(), any::<Index>()).prop_map(|(from, length)| Mutation::Delete(from, length)),
        (any::<Index>(), word).prop_map(|(at, word)| Mutation::Insert(at, word.into_bytes())),
        (any::<Index>(), prop::collection::vec(any::<u8>(), 1..4)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        (any::<Index>(), any::<Index>(), any::<Index>())
            .prop_map(|(from, length, to)| Mutation::Repeat(from, length, to)),
    ]
}

fn apply(bytes: &mut Vec<u8>, mutation: &Mutation) {
    // Short stretches leave enough of the graph to be judged; `+ 1` allows the end.
    let stretch = |bytes: &[u8], from: &Index, length: &Index| {
        let from = from.index(bytes.len() + 1);
        from..(from + length.index(24)).min(bytes.len())
    };
    match mutation {
        Mutation::Delete(from, length) => {
            let stretch = stretch(bytes, from, length);
            bytes.drain(stretch);
        }
        Mutation::Insert(at, word) => {
            let at = at.index(bytes.len() + 1);
            bytes.splice(at..at, word.iter().copied());
        }
        Mutation::Repeat(from, length, to) => {
            let copy = bytes[stretch(bytes, from, length)].to_vec();
            let to = to.index(bytes.len() + 1);
            bytes.splice(to..to, copy);
        }
    }
}

fn is_inside(span: Span, source: &str) -> bool {
    span.start <= span.end && source.get(span.range()).is_some()
}

fn check_places(error: &GraphError) -> Result<(), TestCaseError> {
    prop_assert!(!error.problems.is_empty());
    for problem in &error.problems {
        let span = problem.span;
        prop_assert!(span.is_some_and(|span| is_inside(span, &error.source)), "{problem:?}");
        prop_assert!(problem.places.iter().all(|(span, _)| is_inside(*span, &error.source)), "{problem:?}");
        for remark in &problem.remarks {
            if let Remark::Patch { span, .. } = remark {
                prop_assert!(is_inside(*span, &error.source), "{problem:?}");
            }
        }
        let place = "--> graphs/example.ron:";
        prop_assert!(error.render(false).contains(place));
    }
    error.render(true);
    Ok(())
}

fn check_tree(value: &Value, source: &str) -> Result<(), TestCaseError> {
    prop_assert!(is_inside(value.span, source) && value.span.start < value.span.end, "{value:?}");
    let mut end = value.span.start;
    for (_, child) in value.children(source) {
        prop_assert!(end <= child.span.start && child.span.end <= value.span.end, "{value:?}");
        end = child.span.end;
        check_tree(child, source)?;
    }
    Ok(())
}

#[test]
fn the_graph_is_good_before_it_is_mutated() {
    read(GRAPH, &[]).unwrap_or_else(|error| panic!("{error}"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn mutated_graphs_are_read_or_refused_with_a_place(mutations in prop::collection::vec(mutation(), 1..4)) {
        let mut bytes = GRAPH.as_bytes().to_vec();
        for mutation in &mutations {
            apply(&mut bytes, mutation);
        }
        if let Err(error) = read(&String::from_utf8_lossy(&bytes), &[]) {
            check_places(&error)?;
        }
    }

    #[test]
    fn any_override_is_taken_or_refused(value in ".*", name in prop::sample::select(vec!["lambda", "data", "list", "shape"])) {
        if let Err(error) = read(GRAPH, &[(name, &value)]) {
            prop_assert!(!error.problems.is_empty());
            error.render(false);
        }
    }

    #[test]
    fn any_text_is_parsed_or_refused(source in prop_oneof![".*", r#"([(){}\[\],:"'#/*\\a-cr0-9. \n]|r#"|b'|//|/\*)*"#]) {
        let parsed = parse(&source);
        prop_assert!(parsed.value.is_some() || !parsed.problems.is_empty());
        if let Some(value) = &parsed.value {
            check_tree(value, &source)?;
        }
    }

    /// Whatever the `ron` crate takes for a value, the tree takes too: it may not stand in the way of good settings.
    #[test]
    fn what_ron_reads_is_parsed(source in r#"([(){}\[\],:"'#/*\\a-cr0-9. \n]|r#"|b'|//|/\*|"a"|Name\(|\(a:1)*"#) {
        if ron::Options::default().from_str::<ron::Value>(&source).is_ok() {
            let parsed = parse(&source);
            prop_assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
        }
    }
}
