use insta::assert_snapshot;

use super::{read, settings, told};

fn told_with(source: &str, set: &[(&str, &str)]) -> String {
    read(source, set).expect_err("a bad graph").render(false)
}

const GRAPH: &str = r#"Graph(
    version: 1,
    params: { "lambda": 0.75, "data": "..shared..data", "verbose": false, "runs": ["a", "b"] },
    stages: {
        "a": Command(run: [param("data")]),
        "dense": Postprocess(short: "a", long: "a", shape: Dense(lambda: param("lambda"))),
    },
)"#;

#[test]
fn a_misspelt_call() {
    assert_snapshot!(told(&GRAPH.replace("param(\"lambda\")", "parm(\"lambda\")")), @r#"
    error: there is no function `parm`
     --> graphs/example.ron:6:74
      |
    6 |         "dense": Postprocess(short: "a", long: "a", shape: Dense(lambda: parm("lambda"))),
      |                                                                          ^^^^ unknown function
      |
    help: a function with a similar name exists: `param`
      |
    6 |         "dense": Postprocess(short: "a", long: "a", shape: Dense(lambda: param("lambda"))),
      |                                                                             +
    "#);
}

#[test]
fn an_unknown_parameter() {
    assert_snapshot!(told(&GRAPH.replace("param(\"lambda\")", "param(\"lamda\")")), @r#"
    error: there is no parameter `lamda`
     --> graphs/example.ron:6:80
      |
    6 |         "dense": Postprocess(short: "a", long: "a", shape: Dense(lambda: param("lamda"))),
      |                                                                                ^^^^^^^ not in `params`
      |
    help: a parameter with a similar name exists: `lambda`
      |
    6 |         "dense": Postprocess(short: "a", long: "a", shape: Dense(lambda: param("lambda"))),
      |                                                                                    +
    "#);
}

#[test]
fn calls_with_wrong_arguments() {
    let graph =
        GRAPH.replace("[param(\"data\")]", "[param(data), param(), param(\"data\", \"lambda\"), env(\"HOME\")]");
    assert_snapshot!(told(&graph), @r#"
    error: a parameter's name must be in quotes
     --> graphs/example.ron:5:34
      |
    5 |         "a": Command(run: [param(data), param(), param("data", "lambda"), env("HOME")]),
      |                                  ^^^^ expected a string
      |
    help: put it in quotes
      |
    5 -         "a": Command(run: [param(data), param(), param("data", "lambda"), env("HOME")]),
    5 +         "a": Command(run: [param("data"), param(), param("data", "lambda"), env("HOME")]),
      |

    error: `param` takes one name
     --> graphs/example.ron:5:41
      |
    5 |         "a": Command(run: [param(data), param(), param("data", "lambda"), env("HOME")]),
      |                                         ^^^^^^^ expected `param("name")`

    error: `param` takes one name
     --> graphs/example.ron:5:50
      |
    5 |         "a": Command(run: [param(data), param(), param("data", "lambda"), env("HOME")]),
      |                                                  ^^^^^^^^^^^^^^^^^^^^^^^ expected `param("name")`

    error: there is no function `env`
     --> graphs/example.ron:5:75
      |
    5 |         "a": Command(run: [param(data), param(), param("data", "lambda"), env("HOME")]),
      |                                                                           ^^^ unknown function
      |
      = help: known functions: `param`
    "#);
}

#[test]
fn a_parameter_that_holds_a_call() {
    assert_snapshot!(told(&GRAPH.replace("0.75", "param(\"data\")")), @r#"
    error: a parameter's value may not hold a call such as `param(…)`
     --> graphs/example.ron:3:25
      |
    3 |     params: { "lambda": param("data"), "data": "..shared..data", "verbose": false, "runs": ["a", "b"] },
      |                         ^^^^^^^^^^^^^ expected a literal value
    "#);
}

#[test]
fn a_default_of_the_wrong_type() {
    assert_snapshot!(told(&GRAPH.replace("0.75", "\"much\"")), @r#"
    error: setting `shape.lambda` of stage `dense` is `"much"`, expected a number
     --> graphs/example.ron:6:74
      |
    3 |     params: { "lambda": "much", "data": "..shared..data", "verbose": false, "runs": ["a", "b"] },
      |               ---------------- the value of parameter `lambda` comes from here
    ...
    6 |         "dense": Postprocess(short: "a", long: "a", shape: Dense(lambda: param("lambda"))),
      |                                                                          ^^^^^^^^^^^^^^^ expected a number
    "#);
}

#[test]
fn an_override_of_the_wrong_type_for_its_setting() {
    let graph = GRAPH.replace("run: [param(\"data\")]", "run: param(\"runs\")");
    assert_snapshot!(told_with(&graph, &[("runs", "[1]")]), @r#"
    error: setting `run.0` of stage `a` is `1`, expected a string
     --> graphs/example.ron:5:27
      |
    5 |         "a": Command(run: param("runs")),
      |                           ^^^^^^^^^^^^^ expected a string
      |
      = note: the value of parameter `runs` comes from `--set runs=[1]`
    "#);
}

#[test]
fn a_reference_in_a_parameter() {
    let graph = GRAPH.replace("short: \"a\"", "short: param(\"data\")");
    assert_snapshot!(told(&graph), @r#"
    error: stage `dense` reads `..shared..data`, which does not exist
     --> graphs/example.ron:6:37
      |
    3 |     params: { "lambda": 0.75, "data": "..shared..data", "verbose": false, "runs": ["a", "b"] },
      |                               ------------------------ the value of parameter `data` comes from here
    ...
    6 |         "dense": Postprocess(short: param("data"), long: "a", shape: Dense(lambda: param("lambda"))),
      |                                     ^^^^^^^^^^^^^ no such stage
      |
      = help: known stages: `a`
    "#);
    assert_snapshot!(told_with(&graph, &[("data", "b")]), @r#"
    error: stage `dense` reads `b`, which does not exist
     --> graphs/example.ron:6:37
      |
    6 |         "dense": Postprocess(short: param("data"), long: "a", shape: Dense(lambda: param("lambda"))),
      |                                     ^^^^^^^^^^^^^ no such stage
      |
      = note: the value of parameter `data` comes from `--set data=b`
      = help: known stages: `a`
    "#);
}

#[test]
fn an_override_of_nothing() {
    assert_snapshot!(told_with(GRAPH, &[("lamda", "0.5")]), @r#"
    error: `--set lamda=0.5`: the graph has no parameter `lamda`
    --> graphs/example.ron
     = help: a parameter with a similar name exists: `--set lambda=0.5`
    "#);
    assert_snapshot!(told_with(GRAPH, &[("temperature", "0.5")]), @r#"
    error: `--set temperature=0.5`: the graph has no parameter `temperature`
    --> graphs/example.ron
     = help: its parameters: `lambda`, `data`, `verbose`, `runs`
    "#);
}

#[test]
fn overrides_of_another_type() {
    let set = [("lambda", "\"half\""), ("verbose", "1"), ("runs", "{\"a\": 1}"), ("lambda", "half")];
    assert_snapshot!(told_with(GRAPH, &set), @r#"
    error: `--set lambda="half"`: the value is a string, expected a number
     --> graphs/example.ron:3:15
      |
    3 |     params: { "lambda": 0.75, "data": "..shared..data", "verbose": false, "runs": ["a", "b"] },
      |               ^^^^^^^^^^^^^^ the default is `0.75`
      |
      = help: write a value of RON, such as the default: `--set lambda=0.75`

    error: `--set lambda=half`: the value is a name or settings in parentheses, expected a number
     --> graphs/example.ron:3:15
      |
    3 |     params: { "lambda": 0.75, "data": "..shared..data", "verbose": false, "runs": ["a", "b"] },
      |               ^^^^^^^^^^^^^^ the default is `0.75`
      |
      = help: write a value of RON, such as the default: `--set lambda=0.75`

    error: `--set verbose=1`: the value is a number, expected `true` or `false`
     --> graphs/example.ron:3:57
      |
    3 |     params: { "lambda": 0.75, "data": "..shared..data", "verbose": false, "runs": ["a", "b"] },
      |                                                         ^^^^^^^^^^^^^^^^ the default is `false`
      |
      = help: write a value of RON, such as the default: `--set verbose=false`

    error: `--set runs={"a": 1}`: the value is a map, expected a list
     --> graphs/example.ron:3:75
      |
    3 |     params: { "lambda": 0.75, "data": "..shared..data", "verbose": false, "runs": ["a", "b"] },
      |                                                                           ^^^^^^^^^^^^^^^^^^ the default is a list
      |
      = help: write a value of RON, such as the default: `--set 'runs=["a", "b"]'`
    "#);
}

#[test]
fn overrides_that_are_no_values() {
    let set = [("lambda", ""), ("lambda", "0,5"), ("runs", "[1"), ("data", "\"open")];
    assert_snapshot!(told_with(GRAPH, &set), @r#"
    error: `--set lambda=` is no RON value: the text ends too early
     --> graphs/example.ron:3:15
      |
    3 |     params: { "lambda": 0.75, "data": "..shared..data", "verbose": false, "runs": ["a", "b"] },
      |               ^^^^^^^^^^^^^^ the parameter's default
      |
      = help: write a value of RON, such as the default: `--set lambda=0.75`

    error: `--set lambda=0,5` is no RON value: there is text behind the end
     --> graphs/example.ron:3:15
      |
    3 |     params: { "lambda": 0.75, "data": "..shared..data", "verbose": false, "runs": ["a", "b"] },
      |               ^^^^^^^^^^^^^^ the parameter's default
      |
      = help: write a value of RON, such as the default: `--set lambda=0.75`

    error: `--set data="open` is no RON value: a string is never closed
     --> graphs/example.ron:3:31
      |
    3 |     params: { "lambda": 0.75, "data": "..shared..data", "verbose": false, "runs": ["a", "b"] },
      |                               ^^^^^^^^^^^^^^^^^^^^^^^^ the parameter's default
      |
      = help: write a value of RON, such as the default: `--set data=..shared..data`

    error: `--set runs=[1` is no RON value: `[` is never closed
     --> graphs/example.ron:3:75
      |
    3 |     params: { "lambda": 0.75, "data": "..shared..data", "verbose": false, "runs": ["a", "b"] },
      |                                                                           ^^^^^^^^^^^^^^^^^^ the parameter's default
      |
      = help: write a value of RON, such as the default: `--set 'runs=["a", "b"]'`
    "#);
}

#[test]
fn an_override_takes_the_place_of_the_default() {
    let graph = read(GRAPH, &[("lambda", "0.25"), ("lambda", " 0.5 ")]).expect("a good graph");
    assert_eq!(settings(&graph, "dense")["shape"]["Dense"]["lambda"], 0.5);
    let parameter = &graph.parameters[0];
    assert_eq!((parameter.name.as_str(), parameter.value.as_str(), parameter.is_set), ("lambda", "0.5", true));
    assert!(!graph.parameters[1].is_set);
}

#[test]
fn an_override_of_a_string_needs_no_quotes() {
    for (value, meant) in [
        ("/data/a, b", "/data/a, b"),
        ("\"/data\"", "/data"),
        ("C:\\data\\\"x\"", "C:\\data\\\"x\""),
        ("r\"C:\\data\"", "C:\\data"),
        ("0.5", "0.5"),
        ("param(\"lambda\")", "param(\"lambda\")"),
        ("// no comment", "// no comment"),
    ] {
        let graph = read(GRAPH, &[("data", value)]).unwrap_or_else(|error| panic!("{value}: {error}"));
        assert_eq!(settings(&graph, "a")["run"][0], meant, "--set data={value}");
    }
}

#[test]
fn an_override_of_a_string_may_be_empty() {
    let graph = GRAPH.replace("[param(\"data\")]", "[\"echo\", param(\"data\")], env: { \"DATA\": param(\"data\") }");
    for value in ["", "\"\""] {
        let graph = read(&graph, &[("data", value)]).unwrap_or_else(|error| panic!("--set data={value}: {error}"));
        assert_eq!(settings(&graph, "a")["run"], serde_json::json!(["echo", ""]), "--set data={value}");
        assert_eq!(settings(&graph, "a")["env"]["DATA"], "", "--set data={value}");
        let parameter = graph.parameters.iter().find(|parameter| parameter.name == "data").expect("a parameter");
        assert_eq!((parameter.value.as_str(), parameter.is_set), ("\"\"", true), "--set data={value}");
    }
}

#[test]
fn an_empty_override_where_something_must_stand() {
    assert_snapshot!(told_with(GRAPH, &[("data", "")]), @r#"
    error: setting `run.0` of stage `a` is empty, expected a program
     --> graphs/example.ron:5:28
      |
    5 |         "a": Command(run: [param("data")]),
      |                            ^^^^^^^^^^^^^ expected a program
      |
      = note: the value of parameter `data` comes from `--set data=`
    "#);
}

#[test]
fn parameters_are_put_in_wherever_a_value_stands() {
    let source = r##"Graph(
    version: 1,
    params: {
        "word": "a, (b) \"c\" // d",
        "list": ["x", /* inner */ "y"], // behind
        "map": { "K": "v" },
        "shape": Dense(lambda: 0.5),
        "stage": "first",
    },
    stages: {
        "first": Command(run: param("list"), env: param("map")),
        "second": Command(
            run: ["echo", param("word"), /* param("word") */ "param(\"word\")", r#"param("word")"#], // param("none")
            inputs: { "param": param( /* why not */ "stage" , ) },
            env: { "A": param ("word"), "B": r"param" },
        ),
        "third": Postprocess(short: param("stage"), long: "second", shape: param("shape")),
    },
)"##;
    let graph = read(source, &[]).unwrap_or_else(|error| panic!("{error}"));
    let word = "a, (b) \"c\" // d";
    assert_eq!(settings(&graph, "first")["run"], serde_json::json!(["x", "y"]));
    assert_eq!(settings(&graph, "first")["env"], serde_json::json!({ "K": "v" }));
    let second = settings(&graph, "second");
    assert_eq!(second["run"], serde_json::json!(["echo", word, "param(\"word\")", "param(\"word\")"]));
    assert_eq!(second["env"], serde_json::json!({ "A": word, "B": "param" }));
    assert_eq!(second["inputs"]["param"], "first");
    assert_eq!(settings(&graph, "third")["shape"]["Dense"]["lambda"], 0.5);
}

#[test]
fn numbers_keep_every_digit() {
    let source = r#"Graph(version: 1, params: { "l": 0.1000000000000000055511151231257827 }, stages: {
        "a": Command(run: ["true"]),
        "b": Postprocess(short: "a", long: "a", shape: Dense(lambda: param("l"))),
    })"#;
    assert_eq!(settings(&read(source, &[]).expect("a good graph"), "b")["shape"]["Dense"]["lambda"], 0.1);
}
