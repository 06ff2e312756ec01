//! Messages about the text and its top level.

use insta::assert_snapshot;

use super::told;

#[test]
fn a_missing_comma() {
    assert_snapshot!(told(
        r#"Graph(
    version: 1,
    stages: {
        "corpus": Command(run: ["true"])
        "tokens": Tokenize(text: ["corpus"], tokenizer: "corpus" length: 512),
    },
)"#
    ), @r#"
    error: a comma is missing
     --> graphs/example.ron:4:41
      |
    4 |         "corpus": Command(run: ["true"])
      |                                         ^ expected `,` here
    5 |         "tokens": Tokenize(text: ["corpus"], tokenizer: "corpus" length: 512),
      |         - before this
      |
    help: put a comma in
      |
    4 |         "corpus": Command(run: ["true"]),
      |                                         +

    error: a comma is missing
     --> graphs/example.ron:5:65
      |
    5 |         "tokens": Tokenize(text: ["corpus"], tokenizer: "corpus" length: 512),
      |                                                                 ^- before this
      |                                                                 |
      |                                                                 expected `,` here
      |
    help: put a comma in
      |
    5 |         "tokens": Tokenize(text: ["corpus"], tokenizer: "corpus", length: 512),
      |                                                                 +
    "#);
}

#[test]
fn a_missing_colon() {
    assert_snapshot!(told("Graph(version 1, stages: {})"), @r#"
    error: a colon is missing behind `version`
     --> graphs/example.ron:1:14
      |
    1 | Graph(version 1, stages: {})
      |              ^ expected `:` here
      |
    help: put a colon in
      |
    1 | Graph(version: 1, stages: {})
      |              +
    "#);
}

#[test]
fn a_missing_colon_behind_a_name() {
    assert_snapshot!(told(r#"Graph(version: 1, stages: { "corpus" Command(run: []) })"#), @r#"
    error: a colon is missing behind `"corpus"`
     --> graphs/example.ron:1:37
      |
    1 | Graph(version: 1, stages: { "corpus" Command(run: []) })
      |                                     ^ expected `:` here
      |
    help: put a colon in
      |
    1 | Graph(version: 1, stages: { "corpus": Command(run: []) })
      |                                     +
    "#);
}

#[test]
fn an_equals_sign_for_a_colon() {
    assert_snapshot!(told(r#"Graph(version: 1, stages: { "corpus": Command(run = []) })"#), @r#"
    error: a colon is missing behind `run`
     --> graphs/example.ron:1:50
      |
    1 | Graph(version: 1, stages: { "corpus": Command(run = []) })
      |                                                  ^ expected `:` here
      |
    help: write it with a colon
      |
    1 - Graph(version: 1, stages: { "corpus": Command(run = []) })
    1 + Graph(version: 1, stages: { "corpus": Command(run: []) })
      |
    "#);
}

#[test]
fn brackets_that_do_not_match() {
    assert_snapshot!(told(
        r#"Graph(version: 1, stages: {
    "corpus": Command(run: ["echo", "a"),
})"#
    ), @r#"
    error: `)` does not close `[`
     --> graphs/example.ron:2:40
      |
    2 |     "corpus": Command(run: ["echo", "a"),
      |                            -           ^ expected `]`, found `)`
      |                            |
      |                            opened here
    "#);
}

#[test]
fn a_bracket_that_is_never_closed() {
    assert_snapshot!(told(
        r#"Graph(version: 1, stages: {
    "corpus": Command(run: ["true"]),
)"#
    ), @r#"
    error: `)` does not close `{`
     --> graphs/example.ron:3:1
      |
    1 | Graph(version: 1, stages: {
      |                           - opened here
    2 |     "corpus": Command(run: ["true"]),
    3 | )
      | ^ expected `}`, found `)`
    "#);
}

#[test]
fn a_file_that_ends_too_early() {
    assert_snapshot!(told("Graph(\n    version: 1,\n    stages: {\n"), @r#"
    error: `{` is never closed
     --> graphs/example.ron:3:13
      |
    3 |     stages: {
      |             ^ opened here
      |
      = help: the text ends where `}` is expected
    "#);
}

#[test]
fn a_string_that_is_never_closed() {
    assert_snapshot!(told("Graph(version: 1, title: \"λ sweep, stages: {})\n"), @r#"
    error: a string is never closed
     --> graphs/example.ron:1:26
      |
    1 | Graph(version: 1, title: "λ sweep, stages: {})
      |                          ^ the string starts here
      |
      = help: it ends at the next `"` that has no `\` in front
    "#);
}

#[test]
fn a_comment_that_is_never_closed() {
    assert_snapshot!(told("/* outer /* inner */\nGraph(version: 1, stages: {})\n"), @r#"
    error: a comment is never closed
     --> graphs/example.ron:1:1
      |
    1 | /* outer /* inner */
      | ^^ the comment starts here
      |
      = help: block comments nest: each `/*` needs its own `*/`
    "#);
}

#[test]
fn an_unknown_escape() {
    assert_snapshot!(told(r#"Graph(version: 1, title: "C:\data", stages: {})"#), @r#"
    error: `\d` is no escape in a string
     --> graphs/example.ron:1:29
      |
    1 | Graph(version: 1, title: "C:\data", stages: {})
      |                             ^^ unknown escape
      |
      = help: known are \n \r \t \0 \\ \" \' \x41 \u{41}; a raw string r"…" has none
    "#);
}

#[test]
fn text_behind_the_graph() {
    assert_snapshot!(told("Graph(version: 1, stages: {})\nGraph()"), @r#"
    error: there is text behind the end
     --> graphs/example.ron:2:1
      |
    1 | Graph(version: 1, stages: {})
      | ----- the value that ended before
    2 | Graph()
      | ^ nothing may follow here
    "#);
}

#[test]
fn nesting_without_end() {
    let message = told(&format!("Graph(version: 1, stages: {}", "[".repeat(100_000)));
    assert!(message.contains("values are nested more than 100 deep"), "{message}");
}

#[test]
fn two_stages_of_one_name() {
    assert_snapshot!(told(
        r#"Graph(version: 1, stages: {
    "a": Command(run: ["true"]),
    "b": Command(run: ["true"]),
    "a": Command(run: ["false"]),
})"#
    ), @r#"
    error: two stages are named `a`
     --> graphs/example.ron:4:5
      |
    2 |     "a": Command(run: ["true"]),
      |     --- first here
    3 |     "b": Command(run: ["true"]),
    4 |     "a": Command(run: ["false"]),
      |     ^^^ here again
      |
      = help: rename one of them
    "#);
}

#[test]
fn two_parameters_of_one_name() {
    assert_snapshot!(told(
        r#"Graph(
    version: 1,
    params: { "seed": 1, "seed": 2 },
    stages: { "a": Command(run: ["true"]) },
)"#
    ), @r#"
    error: two parameters are named `seed`
     --> graphs/example.ron:3:26
      |
    3 |     params: { "seed": 1, "seed": 2 },
      |               ------     ^^^^^^ here again
      |               |
      |               first here
      |
      = help: rename one of them
    "#);
}

#[test]
fn names_that_cannot_be() {
    assert_snapshot!(told(
        r#"Graph(version: 1, stages: {
    "": Command(run: ["true"]),
    "a/b": Command(run: ["true"]),
    "--jobs": Command(run: ["true"]),
    "new\nline": Command(run: ["true"]),
    "größe": Command(run: ["true"]),
    "..": Command(run: ["true"]),
    plain: Command(run: ["true"]),
    "train[lambda=0.75,kappa=0.2]": Command(run: ["true"]),
})"#
    ), @r#"
    error: `` cannot be the name of a stage
     --> graphs/example.ron:2:5
      |
    2 |     "": Command(run: ["true"]),
      |     ^^ not allowed
      |
      = note: a name may not be empty

    error: `a/b` cannot be the name of a stage
     --> graphs/example.ron:3:5
      |
    3 |     "a/b": Command(run: ["true"]),
      |     ^^^^^ not allowed
      |
      = note: a `/` may not be in a name: in a reference it parts the stage from the path inside

    error: `--jobs` cannot be the name of a stage
     --> graphs/example.ron:4:5
      |
    4 |     "--jobs": Command(run: ["true"]),
      |     ^^^^^^^^ not allowed
      |
      = note: a name may not start with `-`: on the command line it would be an option

    error: `new\nline` cannot be the name of a stage
     --> graphs/example.ron:5:5
      |
    5 |     "new\nline": Command(run: ["true"]),
      |     ^^^^^^^^^^^ not allowed
      |
      = note: only A-Z a-z 0-9 . _ - = , [ ] may be in a name

    error: `größe` cannot be the name of a stage
     --> graphs/example.ron:6:5
      |
    6 |     "größe": Command(run: ["true"]),
      |     ^^^^^^^ not allowed
      |
      = note: only A-Z a-z 0-9 . _ - = , [ ] may be in a name

    error: `..` cannot be the name of a stage
     --> graphs/example.ron:7:5
      |
    7 |     "..": Command(run: ["true"]),
      |     ^^^^ not allowed
      |
      = note: this is no name but a folder

    error: a stage's name must be in quotes
     --> graphs/example.ron:8:5
      |
    8 |     plain: Command(run: ["true"]),
      |     ^^^^^ expected a string
      |
    help: put it in quotes
      |
    8 -     plain: Command(run: ["true"]),
    8 +     "plain": Command(run: ["true"]),
      |
    "#);
}

#[test]
fn a_version_from_the_future() {
    assert_snapshot!(told(r#"Graph(version: 2, stages: { "a": Command(run: ["true"]) })"#), @r#"
    error: version 2 of the graph language is not known to this twdag
     --> graphs/example.ron:1:16
      |
    1 | Graph(version: 2, stages: { "a": Command(run: ["true"]) })
      |                ^ expected 1
      |
      = help: use a newer twdag, or write the graph in version 1
    "#);
}

#[test]
fn no_version_and_no_stages() {
    assert_snapshot!(told("Graph(title: \"nothing\")"), @r#"
    error: the graph has no `version`
     --> graphs/example.ron:1:1
      |
    1 | Graph(title: "nothing")
      | ^^^^^ `version` is missing
      |
      = help: add `version: 1`

    error: the graph has no `stages`
     --> graphs/example.ron:1:1
      |
    1 | Graph(title: "nothing")
      | ^^^^^ `stages` is missing
      |
      = help: add `stages: {…}`
    "#);
}

#[test]
fn unknown_fields_of_the_graph() {
    assert_snapshot!(told(
        r#"Graph(
    version: 1,
    stage: { "a": Command(run: ["true"]) },
    imports: [],
)"#
    ), @r#"
    error: `Graph` has no field `stage`
     --> graphs/example.ron:3:5
      |
    3 |     stage: { "a": Command(run: ["true"]) },
      |     ^^^^^ not a field of `Graph`
      |
    help: a field with a similar name exists: `stages`
      |
    3 |     stages: { "a": Command(run: ["true"]) },
      |          +

    error: `Graph` has no field `imports`
     --> graphs/example.ron:4:5
      |
    4 |     imports: [],
      |     ^^^^^^^ not a field of `Graph`
      |
      = help: known fields: `version`, `title`, `params`, `profiles`, `stages`, `policy`
    "#);
}

#[test]
fn an_empty_file() {
    assert_snapshot!(told(""), @r#"
    error: the graph file is empty
     --> graphs/example.ron:1:1
      |
    1 |
      | ^ expected `Graph(…)`
      |
      = help: a graph looks like this: Graph(version: 1, stages: {"corpus": Synthesize(documents: 100, seed: 1)})
    "#);
    assert_eq!(told("// only a comment\n").lines().next(), Some("error: the graph file is empty"));
}

#[test]
fn files_that_hold_something_else() {
    assert_snapshot!(told("Workspace(store: \"artifacts\")"), @r#"
    error: the file holds `Workspace`, not a graph
     --> graphs/example.ron:1:1
      |
    1 | Workspace(store: "artifacts")
      | ^^^^^^^^^ expected `Graph`
    "#);
    assert_snapshot!(told("{ \"version\": 1 }"), @r#"
    error: this is no graph
     --> graphs/example.ron:1:1
      |
    1 | { "version": 1 }
      | ^^^^^^^^^^^^^^^^ expected `Graph(version: 1, stages: {…})`
    "#);
    assert_snapshot!(told("(version: 1, stages: {})"), @r#"
    error: the name `Graph` is missing in front of the parentheses
     --> graphs/example.ron:1:1
      |
    1 | (version: 1, stages: {})
      | ^ expected `Graph` here
      |
    help: put it in front
      |
    1 | Graph(version: 1, stages: {})
      | +++++
    "#);
}
