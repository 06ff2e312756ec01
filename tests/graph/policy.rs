//! How stages are run: what a graph and a workspace file may say of it, and what is said about mistakes.

use std::{collections::BTreeMap, path::Path, time::Duration};

use insta::assert_snapshot;
use twdag::graph::{Available, Comparator, Graph, Policy, Request, Workspace};
use twdag_stages::stage::Allowed;

use super::{read, told};

fn with_policy(policy: &str) -> String {
    format!(
        "Graph(version: 1, params: {{\"limit\": \"2h\", \"cores\": 2}}, policy: {policy}, stages: {{\n    \
         \"corpus\": Command(run: [\"true\"]),\n    \"train\": Command(run: [\"true\"], inputs: {{\"a\": \"corpus\"}}),\n}})"
    )
}

fn policy(graph: &Graph, stage: &str) -> Policy {
    graph.nodes()[graph.find(stage).expect("a stage")].policy.clone()
}

#[test]
fn every_field_is_read_and_has_a_default() {
    let text = r#"{
    "train": (
        resources: {"cpu": param("cores"), "memory": "4 GiB", "gpu": 1, "licence": 0},
        retries: 2, back_off: "10s", timeout: param("limit"),
        allow: (read: ["models", "~/x"], network: true),
    ),
}"#;
    let graph = read(&with_policy(text), &[("cores", "3")]).expect("a good graph");
    let request = |amount, column| Request { amount, line: 3, column };
    let expected = Policy {
        resources: BTreeMap::from([
            ("cpu".to_owned(), request(3, 28)),
            ("memory".to_owned(), request(4 << 30, 54)),
            ("gpu".to_owned(), request(1, 70)),
            ("licence".to_owned(), request(0, 84)),
        ]),
        retries: 2,
        back_off: Duration::from_secs(10),
        timeout: Some(Duration::from_hours(2)),
        comparator: Comparator::Bitwise,
        allowed: Allowed { read: vec!["models".to_owned(), "~/x".to_owned()], network: true },
    };
    assert_eq!(policy(&graph, "train"), expected);
    let default = Policy {
        resources: BTreeMap::new(),
        retries: 0,
        back_off: Duration::from_secs(1),
        timeout: None,
        comparator: Comparator::Bitwise,
        allowed: Allowed::default(),
    };
    assert_eq!(policy(&graph, "corpus"), default);
    let graph = read(&with_policy(r#"{"train": (), }"#), &[]).expect("a good graph");
    assert_eq!(policy(&graph, "train"), default);
}

#[test]
fn what_is_allowed_is_files_to_read_and_the_network() {
    for allowed in ["true", r#"(write: ["x"])"#, r#"(read: "x")"#, r#"(read: [""])"#, "(network: 1)"] {
        let said = told(&with_policy(&format!(r#"{{"train": (allow: {allowed})}}"#)));
        let expected = "expected `(read: [\"/srv/models\"], network: true)`, or one of them";
        assert!(said.contains("`allow` in the policy of stage `train` is ") && said.contains(expected), "{said}");
    }
}

#[test]
fn a_field_of_a_setting_stands_once() {
    assert_snapshot!(told(&with_policy(r#"{"train": (allow: (network: false, network: true))}"#)), @r#"
    error: `network` stands twice
     --> graphs/example.ron:1:99
      |
    1 | Graph(version: 1, params: {"limit": "2h", "cores": 2}, policy: {"train": (allow: (network: false, network: true))}, stages: {
      |                                                                                   -------         ^^^^^^^ here again
      |                                                                                   |
      |                                                                                   first here
    "#);
    for setting in
        ["allow: (read: [\"a\"], read: [\"b\"])", "comparator: Tolerance(absolute: 1, absolute: 2, tensors: [\"*\"])"]
    {
        assert!(told(&with_policy(&format!(r#"{{"train": ({setting})}}"#))).contains("` stands twice"), "{setting}");
    }
    let with_parameter = with_policy(r#"{"train": (allow: param("allowed"))}"#).replacen(
        "params: {",
        r#"params: {"allowed": (network: false, network: true), "#,
        1,
    );
    let said = told(&with_parameter);
    assert!(said.contains("in which a field stands twice, expected `(read: "), "{said}");
}

#[test]
fn what_would_allow_nothing_is_refused() {
    assert_snapshot!(told(&with_policy(r#"{"train": (allow: (read: ["~", "~/x", "~ann/x"]))}"#)), @r#"
    error: `allow.read` in the policy of stage `train` is `~ann/x`, and home folders of others are not looked up
     --> graphs/example.ron:1:102
      |
    1 | Graph(version: 1, params: {"limit": "2h", "cores": 2}, policy: {"train": (allow: (read: ["~", "~/x", "~ann/x"]))}, stages: {
      |                                                                                                      ^^^^^^^^ expected a whole path, or one below `~/`
      |
      = help: of a file in the workspace write `./~ann/x`
    "#);
    let text = r#"Graph(version: 1, stages: {"text": Synthesize(documents: 2, seed: 1)},
    policy: {"text": (allow: (network: true))})"#;
    let said = told(text);
    let expected =
        "`allow` in the policy of stage `text` is for programs, and a stage of kind `Synthesize` starts none";
    assert!(said.contains(expected) && said.contains("graphs/example.ron:2:23"), "{said}");
}

#[test]
fn a_policy_for_nobody() {
    assert_snapshot!(told(&with_policy(r#"{"trian": (retries: 1)}"#)), @r#"
    error: the policy is for stage `trian`, which does not exist
     --> graphs/example.ron:1:65
      |
    1 | Graph(version: 1, params: {"limit": "2h", "cores": 2}, policy: {"trian": (retries: 1)}, stages: {
      |                                                                 ^^^^^^^ no such stage
      |
    help: a stage with a similar name exists: `train`
      |
    1 - Graph(version: 1, params: {"limit": "2h", "cores": 2}, policy: {"trian": (retries: 1)}, stages: {
    1 + Graph(version: 1, params: {"limit": "2h", "cores": 2}, policy: {"train": (retries: 1)}, stages: {
      |
    "#);
}

#[test]
fn a_field_that_does_not_exist() {
    assert_snapshot!(told(&with_policy(r#"{"train": (retry: 1, deadline: "2h")}"#)), @r#"
    error: a policy has no field `retry`
     --> graphs/example.ron:1:75
      |
    1 | Graph(version: 1, params: {"limit": "2h", "cores": 2}, policy: {"train": (retry: 1, deadline: "2h")}, stages: {
      |                                                                           ^^^^^ not a field of a policy
      |
    help: a field with a similar name exists: `retries`
      |
    1 - Graph(version: 1, params: {"limit": "2h", "cores": 2}, policy: {"train": (retry: 1, deadline: "2h")}, stages: {
    1 + Graph(version: 1, params: {"limit": "2h", "cores": 2}, policy: {"train": (retries: 1, deadline: "2h")}, stages: {
      |

    error: a policy has no field `deadline`
     --> graphs/example.ron:1:85
      |
    1 | Graph(version: 1, params: {"limit": "2h", "cores": 2}, policy: {"train": (retry: 1, deadline: "2h")}, stages: {
      |                                                                                     ^^^^^^^^ not a field of a policy
      |
      = help: known fields: `resources`, `retries`, `back_off`, `timeout`, `comparator`, `allow`
    "#);
}

#[test]
fn amounts_and_times_that_cannot_be_read() {
    let text = r#"{"train": (
    resources: {"cpu": 0, "memory": 4, "gpu": 1.5, "a b": 1, "cpu": 1},
    retries: -1, back_off: "soon", timeout: param("cores"),
)}"#;
    assert_snapshot!(told(&with_policy(text)), @r#"
    error: `resources.cpu` in the policy of stage `train` is `0`, expected a whole number of at least 1
     --> graphs/example.ron:2:24
      |
    2 |     resources: {"cpu": 0, "memory": 4, "gpu": 1.5, "a b": 1, "cpu": 1},
      |                        ^ expected a whole number of at least 1

    error: `resources.memory` in the policy of stage `train` is `4`, expected a size with its unit in quotes, such as "4 GiB" or "500 MB"
     --> graphs/example.ron:2:37
      |
    2 |     resources: {"cpu": 0, "memory": 4, "gpu": 1.5, "a b": 1, "cpu": 1},
      |                                     ^ expected a size with its unit in quotes, such as "4 GiB" or "500 MB"

    error: `resources.gpu` in the policy of stage `train` is `1.5`, expected a whole number
     --> graphs/example.ron:2:47
      |
    2 |     resources: {"cpu": 0, "memory": 4, "gpu": 1.5, "a b": 1, "cpu": 1},
      |                                               ^^^ expected a whole number

    error: `a b` cannot be the name of a resource
     --> graphs/example.ron:2:52
      |
    2 |     resources: {"cpu": 0, "memory": 4, "gpu": 1.5, "a b": 1, "cpu": 1},
      |                                                    ^^^^^ not allowed
      |
      = note: only A-Z a-z 0-9 . _ - may be in a resource's name

    error: `cpu` stands twice
     --> graphs/example.ron:2:62
      |
    2 |     resources: {"cpu": 0, "memory": 4, "gpu": 1.5, "a b": 1, "cpu": 1},
      |                 ----- first here                             ^^^^^ here again

    error: `retries` in the policy of stage `train` is `-1`, expected a whole number up to 100
     --> graphs/example.ron:3:14
      |
    3 |     retries: -1, back_off: "soon", timeout: param("cores"),
      |              ^^ expected a whole number up to 100

    error: `back_off` in the policy of stage `train` is `"soon"`, expected a time with its unit in quotes, such as "90s", "15min" or "1h 30min"
     --> graphs/example.ron:3:28
      |
    3 |     retries: -1, back_off: "soon", timeout: param("cores"),
      |                            ^^^^^^ expected a time with its unit in quotes, such as "90s", "15min" or "1h 30min"

    error: `timeout` in the policy of stage `train` is `2`, expected a time with its unit in quotes, such as "90s", "15min" or "1h 30min"
     --> graphs/example.ron:3:45
      |
    1 | Graph(version: 1, params: {"limit": "2h", "cores": 2}, policy: {"train": (
      |                                           ---------- the value of parameter `cores` comes from here
    2 |     resources: {"cpu": 0, "memory": 4, "gpu": 1.5, "a b": 1, "cpu": 1},
    3 |     retries: -1, back_off: "soon", timeout: param("cores"),
      |                                             ^^^^^^^^^^^^^^ expected a time with its unit in quotes, such as "90s", "15min" or "1h 30min"
    "#);
}

#[test]
fn a_policy_that_is_none() {
    assert_snapshot!(told(&with_policy(r#"{"train": 3, "corpus": (retries: param("limits")), "train": ()}"#)), @r#"
    error: the policy of stage `train` is `3`, expected settings in parentheses such as `(retries: 2)`
     --> graphs/example.ron:1:74
      |
    1 | Graph(version: 1, params: {"limit": "2h", "cores": 2}, policy: {"train": 3, "corpus": (retries: param("limits")), "train": ()}, stage...
      |                                                                          ^ expected settings in parentheses such as `(retries: 2)`

    error: `retries` in the policy of stage `corpus` is `param("limits")`, expected a whole number up to 100
     --> graphs/example.ron:1:97
      |
    1 | ...2}, policy: {"train": 3, "corpus": (retries: param("limits")), "train": ()}, stages: {
      |                                                 ^^^^^ expected a whole number up to 100
      |
      = help: there is no parameter `limits`, but one named `limit`

    error: stage `train` has two policies
     --> graphs/example.ron:1:115
      |
    1 | ...": "2h", "cores": 2}, policy: {"train": 3, "corpus": (retries: param("limits")), "train": ()}, stages: {
      |                                   ------- first here                                ^^^^^^^ here again
      |
      = help: make one of them
    "#);
}

#[test]
fn a_workspace_file_names_what_there_is() {
    let read = |text| Workspace::from_text(Path::new("twdag.ron"), text);
    assert_eq!(read(" \n"), Ok(Workspace::default()));
    assert_eq!(read("Workspace(version: 1)"), Ok(Workspace::default()));
    let text = r#"Workspace(version: 1, resources: {"memory": "1.5 GiB", "gpu": [0, "GPU-8932"], "licence": 2})"#;
    let resources = BTreeMap::from([
        ("memory".to_owned(), Available::Amount(3 << 29)),
        ("gpu".to_owned(), Available::Devices(vec!["0".to_owned(), "GPU-8932".to_owned()])),
        ("licence".to_owned(), Available::Amount(2)),
    ]);
    assert_eq!(read(text), Ok(Workspace { resources, remote_store: None, trusted_keys: Vec::new(), isolation: None }));
}

#[test]
fn mistakes_in_a_workspace_file() {
    let told = |text| Workspace::from_text(Path::new("twdag.ron"), text).expect_err("a bad file").render(false);
    assert_snapshot!(told("Workspace(version: 1, resource: {},\n    resources: {\"gpu\": 2, \"cpu\": 0})"), @r#"
    error: `Workspace` has no field `resource`
     --> twdag.ron:1:23
      |
    1 | Workspace(version: 1, resource: {},
      |                       ^^^^^^^^ not a field
      |
    help: a field with a similar name exists: `resources`
      |
    1 | Workspace(version: 1, resources: {},
      |                               +

    error: `resources.gpu` is `2`, expected a list of different devices such as `["0", "1"]`
     --> twdag.ron:2:24
      |
    2 |     resources: {"gpu": 2, "cpu": 0})
      |                        ^ expected a list of different devices such as `["0", "1"]`

    error: `resources.cpu` is `0`, expected a whole number of at least 1
     --> twdag.ron:2:34
      |
    2 |     resources: {"gpu": 2, "cpu": 0})
      |                                  ^ expected a whole number of at least 1
    "#);
    assert_snapshot!(told("Workspace(resources: [])"), @r#"
    error: the workspace file has no `version`
     --> twdag.ron:1:1
      |
    1 | Workspace(resources: [])
      | ^^^^^^^^^ `version` is missing
      |
      = help: add `version: 1`

    error: `resources` is a list, expected a map such as `{"cpu": 8}`
     --> twdag.ron:1:22
      |
    1 | Workspace(resources: [])
      |                      ^^ expected a map such as `{"cpu": 8}`
    "#);
    assert_snapshot!(told("Graph(version: 1)"), @r#"
    error: this is no workspace file
     --> twdag.ron:1:1
      |
    1 | Graph(version: 1)
      | ^^^^^ expected `Workspace(version: 1)`
    "#);
}

#[test]
fn amounts_on_the_command_line() {
    let read = |name, text| Available::from_argument(name, text);
    assert_eq!(read("cpu", "4"), Ok(Available::Amount(4)));
    assert_eq!(read("memory", "16GiB"), Ok(Available::Amount(16 << 30)));
    assert_eq!(read("gpu", "0, 1"), Ok(Available::Devices(vec!["0".to_owned(), "1".to_owned()])));
    assert_eq!(read("gpu", ""), Ok(Available::Devices(Vec::new())));
    for (name, text) in [("cpu", "0"), ("cpu", "4 5"), ("memory", "16"), ("gpu", "0,0"), ("gpu", "0,"), ("a b", "1")] {
        assert!(read(name, text).is_err(), "{name}={text}");
    }
    assert_snapshot!(read("memory", "16").unwrap_err(), @"expected a size with its unit, such as `4 GiB` or `500 MB`");
}
