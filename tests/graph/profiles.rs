use insta::assert_snapshot;

use super::{read_with, settings};

const GRAPH: &str = r#"Graph(
    version: 1,
    params: { "lambda": 0.75, "data": "corpora", "device": Cuda(precision: Bf16), "gpus": 1 },
    profiles: {
        "tiny": { "data": "a, (b) \"c\"", "device": Cpu(), "gpus": 0 },
        "sharp": { "lambda": 0.25 },
    },
    stages: {
        "a": Command(run: [param("data")]),
        "dense": Postprocess(short: "a", long: "a", shape: Dense(lambda: param("lambda"))),
        "score": Score(model: "a", tokens: "a", device: param("device")),
    },
    policy: { "score": (resources: { "gpu": param("gpus") }) },
)"#;

fn told(source: &str, profile: Option<&str>) -> String {
    read_with(source, profile, &[]).expect_err("a bad graph").render(false)
}

#[test]
fn a_profile_takes_the_place_of_defaults_and_what_is_set_that_of_a_profile() {
    let values = |profile, set: &[(&str, &str)]| {
        let graph = read_with(GRAPH, profile, set).unwrap_or_else(|error| panic!("{error}"));
        let lambda = settings(&graph, "dense")["shape"]["Dense"]["lambda"].as_f64();
        let gpus = graph.nodes()[graph.find("score").expect("a stage")].policy.resources["gpu"].amount;
        let data = settings(&graph, "a")["run"][0].as_str().expect("a string").to_owned();
        let is_set: Vec<bool> = graph.parameters.iter().map(|parameter| parameter.is_set).collect();
        (lambda, data, settings(&graph, "score")["device"].is_null(), gpus, is_set)
    };
    let text = |text: &str| text.to_owned();
    let default = (Some(0.75), text("corpora"), false, 1, vec![false; 4]);
    assert_eq!(values(None, &[]), default);
    let tiny = (Some(0.75), text("a, (b) \"c\""), true, 0, vec![false, true, true, true]);
    assert_eq!(values(Some("tiny"), &[]), tiny);
    assert_eq!(values(Some("sharp"), &[]), (Some(0.25), text("corpora"), false, 1, vec![true, false, false, false]));
    let both = values(Some("tiny"), &[("data", "mine"), ("lambda", "0.5")]);
    assert_eq!(both, (Some(0.5), text("mine"), true, 0, vec![true; 4]));
}

#[test]
fn a_profile_that_does_not_exist() {
    assert_snapshot!(told(GRAPH, Some("tny")), @r#"
    error: `--profile tny`: the graph has no profile `tny`
    --> graphs/example.ron
     = help: a profile with a similar name exists: `--profile tiny`
    "#);
    assert_snapshot!(told(GRAPH, Some("huge")), @r#"
    error: `--profile huge`: the graph has no profile `huge`
    --> graphs/example.ron
     = help: its profiles: `tiny`, `sharp`
    "#);
    let without = r#"Graph(version: 1, stages: { "a": Command(run: ["true"]) })"#;
    assert_snapshot!(told(without, Some("tiny")), @r#"
    error: `--profile tiny`: the graph has no profile `tiny`
    --> graphs/example.ron
     = help: it has none at all; leave the option out, or give the graph one: `profiles: {"name": {"parameter": value}}`
    "#);
}

#[test]
fn what_a_profile_may_not_hold() {
    let graph = GRAPH
        .replace("\"gpus\": 0", "\"gpu\": 0, \"lambda\": \"much\", \"data\": \"twice\"")
        .replace("\"lambda\": 0.25", "\"temperature\": 1, \"lambda\": param(\"gpus\"), gpus: 2");
    // All profiles are checked, whichever is chosen.
    assert_snapshot!(told(&graph, None), @r#"
    error: profile `tiny` gives a value to `gpu`, which is no parameter
     --> graphs/example.ron:5:60
      |
    5 |         "tiny": { "data": "a, (b) \"c\"", "device": Cpu(), "gpu": 0, "lambda": "much", "data": "twice" },
      |                                                            ^^^^^ not in `params`
      |
    help: a parameter with a similar name exists: `gpus`
      |
    5 |         "tiny": { "data": "a, (b) \"c\"", "device": Cpu(), "gpus": 0, "lambda": "much", "data": "twice" },
      |                                                                +

    error: profile `tiny` makes parameter `lambda` `"much"`, expected a number
     --> graphs/example.ron:5:80
      |
    3 |     params: { "lambda": 0.75, "data": "corpora", "device": Cuda(precision: Bf16), "gpus": 1 },
      |               -------------- the parameter's default
    4 |     profiles: {
    5 |         "tiny": { "data": "a, (b) \"c\"", "device": Cpu(), "gpu": 0, "lambda": "much", "data": "twice" },
      |                                                                                ^^^^^^ expected a number

    error: parameter `data` has two values
     --> graphs/example.ron:5:88
      |
    5 |         "tiny": { "data": "a, (b) \"c\"", "device": Cpu(), "gpu": 0, "lambda": "much", "data": "twice" },
      |                   ------ first here                                                    ^^^^^^ here again
      |
      = help: keep one of them

    error: profile `sharp` gives a value to `temperature`, which is no parameter
     --> graphs/example.ron:6:20
      |
    6 |         "sharp": { "temperature": 1, "lambda": param("gpus"), gpus: 2 },
      |                    ^^^^^^^^^^^^^ not in `params`
      |
      = help: known parameters: `lambda`, `data`, `device`, `gpus`

    error: a parameter's value may not hold a call such as `param(…)`
     --> graphs/example.ron:6:48
      |
    6 |         "sharp": { "temperature": 1, "lambda": param("gpus"), gpus: 2 },
      |                                                ^^^^^^^^^^^^^ expected a literal value

    error: a parameter's name must be in quotes
     --> graphs/example.ron:6:63
      |
    6 |         "sharp": { "temperature": 1, "lambda": param("gpus"), gpus: 2 },
      |                                                               ^^^^ expected a string
      |
    help: put it in quotes
      |
    6 -         "sharp": { "temperature": 1, "lambda": param("gpus"), gpus: 2 },
    6 +         "sharp": { "temperature": 1, "lambda": param("gpus"), "gpus": 2 },
      |
    "#);
}

#[test]
fn a_wrong_value_is_shown_where_the_profile_gives_it() {
    let graph = GRAPH.replace("\"device\": Cpu()", "\"device\": Tpu()");
    assert!(read_with(&graph, None, &[]).is_ok());
    assert_snapshot!(told(&graph, Some("tiny")), @r#"
    error: setting `device` of stage `score` has no choice `Tpu`
      --> graphs/example.ron:11:57
       |
     5 |         "tiny": { "data": "a, (b) \"c\"", "device": Tpu(), "gpus": 0 },
       |                                           --------------- the value of parameter `device` comes from here
    ...
    11 |         "score": Score(model: "a", tokens: "a", device: param("device")),
       |                                                         ^^^^^^^^^^^^^^^ not a choice
       |
       = help: known choices: `Cpu`, `Cuda`
    "#);
    let graph = GRAPH.replace("\"gpus\": 0", "\"gpus\": 0.5");
    assert_snapshot!(told(&graph, Some("tiny")), @r#"
    error: `resources.gpu` in the policy of stage `score` is `0.5`, expected a whole number
      --> graphs/example.ron:13:45
       |
     5 |         "tiny": { "data": "a, (b) \"c\"", "device": Cpu(), "gpus": 0.5 },
       |                                                            ----------- the value of parameter `gpus` comes from here
    ...
    13 |     policy: { "score": (resources: { "gpu": param("gpus") }) },
       |                                             ^^^^^^^^^^^^^ expected a whole number
    "#);
}

#[test]
fn profiles_of_the_wrong_form() {
    let map = GRAPH.replace("\"sharp\": { \"lambda\": 0.25 }", "\"sharp\": [0.25], \"tiny\": {}, \"a b\": {}");
    assert_snapshot!(told(&map, Some("sharp")), @r#"
    error: `profiles.sharp` is a list, expected a map `{"name": …}`
     --> graphs/example.ron:6:18
      |
    6 |         "sharp": [0.25], "tiny": {}, "a b": {},
      |                  ^^^^^^ expected a map `{"name": …}`

    error: two profiles are named `tiny`
     --> graphs/example.ron:6:26
      |
    5 |         "tiny": { "data": "a, (b) \"c\"", "device": Cpu(), "gpus": 0 },
      |         ------ first here
    6 |         "sharp": [0.25], "tiny": {}, "a b": {},
      |                          ^^^^^^ here again
      |
      = help: rename one of them

    error: `a b` cannot be the name of a profile
     --> graphs/example.ron:6:38
      |
    6 |         "sharp": [0.25], "tiny": {}, "a b": {},
      |                                      ^^^^^ not allowed
      |
      = note: only A-Z a-z 0-9 . _ - , [ ] may be in such a name
    "#);
    let list = r#"Graph(version: 1, profiles: ["tiny"], stages: { "a": Command(run: ["true"]) })"#;
    assert_snapshot!(told(list, None), @r#"
    error: `profiles` is a list, expected a map `{"name": …}`
     --> graphs/example.ron:1:29
      |
    1 | Graph(version: 1, profiles: ["tiny"], stages: { "a": Command(run: ["true"]) })
      |                             ^^^^^^^^ expected a map `{"name": …}`
    "#);
}
