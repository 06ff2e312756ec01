//! Messages about stages.

use insta::assert_snapshot;

use super::told;

#[test]
fn an_unknown_kind() {
    assert_snapshot!(told(
        r#"Graph(version: 1, stages: {
    "tokens": Tokenise(text: ["corpus"]),
})"#
    ), @r#"
    error: there is no stage kind `Tokenise`
     --> graphs/example.ron:2:15
      |
    2 |     "tokens": Tokenise(text: ["corpus"]),
      |               ^^^^^^^^ unknown kind
      |
    help: a kind with a similar name exists: `Tokenize`
      |
    2 -     "tokens": Tokenise(text: ["corpus"]),
    2 +     "tokens": Tokenize(text: ["corpus"]),
      |
    "#);
}

#[test]
fn an_unknown_setting() {
    assert_snapshot!(told(
        r#"Graph(
    version: 1,
    stages: {
        "corpus": Command(run: ["true"]),
        "tokens": Tokenize(text: ["corpus"], tokeniser: "corpus", length: 512),
    },
)"#
    ), @r#"
    error: `Tokenize` has no setting `tokeniser`
     --> graphs/example.ron:5:46
      |
    5 |         "tokens": Tokenize(text: ["corpus"], tokeniser: "corpus", length: 512),
      |                                              ^^^^^^^^^ not a setting of `Tokenize`
      |
    help: a setting with a similar name exists: `tokenizer`
      |
    5 -         "tokens": Tokenize(text: ["corpus"], tokeniser: "corpus", length: 512),
    5 +         "tokens": Tokenize(text: ["corpus"], tokenizer: "corpus", length: 512),
      |
    "#);
}

#[test]
fn an_unknown_setting_inside() {
    assert_snapshot!(told(
        r#"Graph(version: 1, stages: {
    "loss": Command(run: ["true"]),
    "dense": Postprocess(
        short: "loss",
        long: "loss",
        shape: Dense(lamda: 0.75), // misspelt
    ),
})"#
    ), @r#"
    error: `Dense` has no setting `lamda`
     --> graphs/example.ron:6:22
      |
    6 |         shape: Dense(lamda: 0.75), // misspelt
      |                      ^^^^^ not a setting of `Dense`
      |
    help: a setting with a similar name exists: `lambda`
      |
    6 |         shape: Dense(lambda: 0.75), // misspelt
      |                         +
    "#);
}

#[test]
fn a_reference_to_nothing() {
    assert_snapshot!(told(
        r#"Graph(version: 1, stages: {
    "corpus": Command(run: ["true"]),
    "tokens": Tokenize(text: ["corpus", "corpsu/train"], tokenizer: "corpus", length: 512),
})"#
    ), @r#"
    error: stage `tokens` reads `corpsu`, which does not exist
     --> graphs/example.ron:3:41
      |
    3 |     "tokens": Tokenize(text: ["corpus", "corpsu/train"], tokenizer: "corpus", length: 512),
      |                                         ^^^^^^^^^^^^^^ no such stage
      |
    help: a stage with a similar name exists: `corpus`
      |
    3 -     "tokens": Tokenize(text: ["corpus", "corpsu/train"], tokenizer: "corpus", length: 512),
    3 +     "tokens": Tokenize(text: ["corpus", "corpus/train"], tokenizer: "corpus", length: 512),
      |
    "#);
}

#[test]
fn a_reference_to_nothing_like_it() {
    assert_snapshot!(told(
        r#"Graph(version: 1, stages: {
    "corpus": Command(run: ["true"]),
    "tokens": Tokenize(text: ["corpus"], tokenizer: "base", length: 512),
})"#
    ), @r#"
    error: stage `tokens` reads `base`, which does not exist
     --> graphs/example.ron:3:53
      |
    3 |     "tokens": Tokenize(text: ["corpus"], tokenizer: "base", length: 512),
      |                                                     ^^^^^^ no such stage
      |
      = help: known stages: `corpus`
    "#);
}

#[test]
fn a_reference_that_leads_out_of_the_artifact() {
    assert_snapshot!(told(
        r#"Graph(version: 1, stages: {
    "corpus": Command(run: ["true"]),
    "tokens": Tokenize(text: ["corpus/../other"], tokenizer: "corpus", length: 512),
})"#
    ), @r#"
    error: setting `text.0` of stage `tokens`: `corpus/../other` is no reference
     --> graphs/example.ron:3:31
      |
    3 |     "tokens": Tokenize(text: ["corpus/../other"], tokenizer: "corpus", length: 512),
      |                               ^^^^^^^^^^^^^^^^^ expected `stage` or `stage/path/inside`
      |
      = note: the path inside may not hold empty parts, `.` or `..`
    "#);
}

#[test]
fn a_cycle() {
    assert_snapshot!(told(
        r#"Graph(version: 1, stages: {
    "a": Command(run: ["true"], inputs: {"x": "c"}),
    "b": Command(run: ["true"], inputs: {"x": "a"}),
    "c": Command(run: ["true"], inputs: {"x": "b/part"}),
    "d": Command(run: ["true"], inputs: {"x": "c"}),
})"#
    ), @r#"
    error: the stages form a cycle: a → b → c → a
     --> graphs/example.ron:2:47
      |
    2 |     "a": Command(run: ["true"], inputs: {"x": "c"}),
      |                                               ^^^ `a` reads `c`
    3 |     "b": Command(run: ["true"], inputs: {"x": "a"}),
      |                                               --- `b` reads `a`
    4 |     "c": Command(run: ["true"], inputs: {"x": "b/part"}),
      |                                               -------- `c` reads `b`
      |
      = help: a stage can only read what is finished before it starts: remove one of these references
    "#);
}

#[test]
fn a_stage_that_reads_itself() {
    assert_snapshot!(told(r#"Graph(version: 1, stages: { "a": Command(run: ["true"], inputs: {"x": "a"}) })"#), @r#"
    error: stage `a` reads itself
     --> graphs/example.ron:1:71
      |
    1 | Graph(version: 1, stages: { "a": Command(run: ["true"], inputs: {"x": "a"}) })
      |                                                                       ^^^ the stage's own name
    "#);
}

#[test]
fn a_setting_and_a_key_that_stand_twice() {
    assert_snapshot!(told(
        r#"Graph(version: 1, stages: {
    "a": Command(run: ["true"], run: ["false"]),
    "b": Command(run: ["true"], env: {"A": "1", "A": "2"}),
})"#
    ), @r#"
    error: `run` stands twice
     --> graphs/example.ron:2:33
      |
    2 |     "a": Command(run: ["true"], run: ["false"]),
      |                  --- first here ^^^ here again

    error: `A` stands twice
     --> graphs/example.ron:3:49
      |
    3 |     "b": Command(run: ["true"], env: {"A": "1", "A": "2"}),
      |                                       ---       ^^^ here again
      |                                       |
      |                                       first here
    "#);
}

#[test]
fn stages_without_a_kind() {
    assert_snapshot!(told(
        r#"Graph(version: 1, params: { "a": 1 }, stages: {
    "b": param("a"),
    "c": command(run: ["true"]),
})"#
    ), @r#"
    error: stage `b` cannot be a parameter as a whole
     --> graphs/example.ron:2:10
      |
    2 |     "b": param("a"),
      |          ^^^^^^^^^^ expected a kind with settings, such as `Tokenize(…)`

    error: there is no stage kind `command`
     --> graphs/example.ron:3:10
      |
    3 |     "c": command(run: ["true"]),
      |          ^^^^^^^ unknown kind
      |
    help: a kind with a similar name exists: `Command`
      |
    3 -     "c": command(run: ["true"]),
    3 +     "c": Command(run: ["true"]),
      |
    "#);
}

#[test]
fn values_of_the_wrong_type() {
    assert_snapshot!(told(
        r#"Graph(version: 1, stages: {
    "a": Command(run: ["true"]),
    "whole":   Tokenize(text: ["a"], tokenizer: "a", length: 1.5),
    "minus":   Tokenize(text: ["a"], tokenizer: "a", length: -512),
    "large":   Tokenize(text: ["a"], tokenizer: "a", length: 99999999999999999999),
    "quoted":  Tokenize(text: ["a"], tokenizer: "a", length: "512"),
    "bare":    Tokenize(text: ["a"], tokenizer: a, length: 512),
    "single":  Tokenize(text: "a", tokenizer: "a", length: 512),
    "element": Command(run: ["echo", 5]),
    "number":  Postprocess(short: "a", long: "a", shape: Dense(lambda: "a lot")),
    "struct":  Score(model: "a", tokens: "a", windows: 5),
    "map":     Command(run: ["true"], env: ["A"]),
    "nothing": Tokenize,
    "unnamed": Tokenize("a"),
})"#
    ), @r#"
    error: setting `length` of stage `whole` is `1.5`, expected a whole number
     --> graphs/example.ron:3:62
      |
    3 |     "whole":   Tokenize(text: ["a"], tokenizer: "a", length: 1.5),
      |                                                              ^^^ expected a whole number

    error: setting `length` of stage `minus` is `-512`, expected a whole number that is not negative
     --> graphs/example.ron:4:62
      |
    4 |     "minus":   Tokenize(text: ["a"], tokenizer: "a", length: -512),
      |                                                              ^^^^ expected a whole number that is not negative

    error: setting `length` of stage `large` is `99999999999999999999`, expected a whole number that is not so large
     --> graphs/example.ron:5:62
      |
    5 |     "large":   Tokenize(text: ["a"], tokenizer: "a", length: 99999999999999999999),
      |                                                              ^^^^^^^^^^^^^^^^^^^^ expected a whole number that is not so large

    error: setting `length` of stage `quoted` is `"512"`, expected a whole number
     --> graphs/example.ron:6:62
      |
    6 |     "quoted":  Tokenize(text: ["a"], tokenizer: "a", length: "512"),
      |                                                              ^^^^^ expected a whole number

    error: setting `tokenizer` of stage `bare` is `a`, expected a string
     --> graphs/example.ron:7:49
      |
    7 |     "bare":    Tokenize(text: ["a"], tokenizer: a, length: 512),
      |                                                 ^ expected a string
      |
    help: put it in quotes
      |
    7 -     "bare":    Tokenize(text: ["a"], tokenizer: a, length: 512),
    7 +     "bare":    Tokenize(text: ["a"], tokenizer: "a", length: 512),
      |

    error: setting `text` of stage `single` is `"a"`, expected a list
     --> graphs/example.ron:8:31
      |
    8 |     "single":  Tokenize(text: "a", tokenizer: "a", length: 512),
      |                               ^^^ expected a list
      |
    help: put it in a list
      |
    8 -     "single":  Tokenize(text: "a", tokenizer: "a", length: 512),
    8 +     "single":  Tokenize(text: ["a"], tokenizer: "a", length: 512),
      |

    error: setting `run.1` of stage `element` is `5`, expected a string
     --> graphs/example.ron:9:38
      |
    9 |     "element": Command(run: ["echo", 5]),
      |                                      ^ expected a string
      |
    help: put it in quotes
      |
    9 -     "element": Command(run: ["echo", 5]),
    9 +     "element": Command(run: ["echo", "5"]),
      |

    error: setting `shape.lambda` of stage `number` is `"a lot"`, expected a number
      --> graphs/example.ron:10:72
       |
    10 |     "number":  Postprocess(short: "a", long: "a", shape: Dense(lambda: "a lot")),
       |                                                                        ^^^^^^^ expected a number

    error: setting `windows` of stage `struct` is `5`, expected settings in parentheses `(name: value)`
      --> graphs/example.ron:11:56
       |
    11 |     "struct":  Score(model: "a", tokens: "a", windows: 5),
       |                                                        ^ expected settings in parentheses `(name: value)`

    error: setting `env` of stage `map` is a list, expected a map `{"name": …}`
      --> graphs/example.ron:12:44
       |
    12 |     "map":     Command(run: ["true"], env: ["A"]),
       |                                            ^^^^^ expected a map `{"name": …}`

    error: stage `nothing`: `Tokenize` needs settings
      --> graphs/example.ron:13:16
       |
    13 |     "nothing": Tokenize,
       |                ^^^^^^^^ expected `(name: value)` behind the name

    error: a setting of `Tokenize` has no name
      --> graphs/example.ron:14:25
       |
    14 |     "unnamed": Tokenize("a"),
       |                         ^^^ expected `name: value`
    "#);
}

#[test]
fn choices_that_do_not_exist() {
    assert_snapshot!(told(
        r#"Graph(version: 1, stages: {
    "a": Command(run: ["true"]),
    "misspelt": Postprocess(short: "a", long: "a", shape: Dens(lambda: 0.5)),
    "quoted":   Postprocess(short: "a", long: "a", shape: "Uniform"),
    "filled":   Postprocess(short: "a", long: "a", shape: Uniform(1)),
    "bare":     Postprocess(short: "a", long: "a", shape: Dense),
})"#
    ), @r#"
    error: setting `shape` of stage `misspelt` has no choice `Dens`
     --> graphs/example.ron:3:59
      |
    3 |     "misspelt": Postprocess(short: "a", long: "a", shape: Dens(lambda: 0.5)),
      |                                                           ^^^^ not a choice
      |
    help: a choice with a similar name exists: `Dense`
      |
    3 |     "misspelt": Postprocess(short: "a", long: "a", shape: Dense(lambda: 0.5)),
      |                                                               +

    error: setting `shape` of stage `quoted` is `"Uniform"`, expected a choice
     --> graphs/example.ron:4:59
      |
    4 |     "quoted":   Postprocess(short: "a", long: "a", shape: "Uniform"),
      |                                                           ^^^^^^^^^ expected a choice
      |
    help: choices are written without quotes
      |
    4 -     "quoted":   Postprocess(short: "a", long: "a", shape: "Uniform"),
    4 +     "quoted":   Postprocess(short: "a", long: "a", shape: Uniform),
      |

    error: setting `shape` of stage `filled`: `Uniform` has no settings
     --> graphs/example.ron:5:66
      |
    5 |     "filled":   Postprocess(short: "a", long: "a", shape: Uniform(1)),
      |                                                                  ^^^ nothing may be here
      |
    help: leave the parentheses out
      |
    5 -     "filled":   Postprocess(short: "a", long: "a", shape: Uniform(1)),
    5 +     "filled":   Postprocess(short: "a", long: "a", shape: Uniform),
      |

    error: setting `shape` of stage `bare`: `Dense` needs settings
     --> graphs/example.ron:6:59
      |
    6 |     "bare":     Postprocess(short: "a", long: "a", shape: Dense),
      |                                                           ^^^^^ expected `(name: value)` behind the name
    "#);
}

#[test]
fn settings_that_are_missing() {
    assert_snapshot!(told(
        r#"Graph(version: 1, stages: {
    "a": Command(run: ["true"]),
    "stage": Tokenize(text: ["a"], tokenizer: "a"),
    "choice": Postprocess(short: "a", long: "a", shape: Dense()),
    "inside": Score(model: "a", tokens: "a", windows: (length: 256)),
})"#
    ), @r#"
    error: stage `stage`: `Tokenize` lacks the setting `length`
     --> graphs/example.ron:3:14
      |
    3 |     "stage": Tokenize(text: ["a"], tokenizer: "a"),
      |              ^^^^^^^^ `length: …` is missing

    error: setting `shape` of stage `choice`: `Dense` lacks the setting `lambda`
     --> graphs/example.ron:4:57
      |
    4 |     "choice": Postprocess(short: "a", long: "a", shape: Dense()),
      |                                                         ^^^^^ `lambda: …` is missing

    error: setting `windows` of stage `inside` lacks the setting `step`
     --> graphs/example.ron:5:55
      |
    5 |     "inside": Score(model: "a", tokens: "a", windows: (length: 256)),
      |                                                       ^^^^^^^^^^^^^ `step: …` is missing
    "#);
}

#[test]
fn several_problems_at_once() {
    assert_snapshot!(told(
        r#"Graph(
    version: 1,
    titel: "typos",
    stages: {
        "corpus": Comand(run: ["true"]),
        "tokens": Tokenize(txt: ["corpsu"], tokenizer: "corpus", lenght: 512)
        "dense": Postprocess(short: "tokens", long: "tokens", shape: Dense(lambda: parm("lambda"))),
    },
)"#
    ), @r#"
    error: `Graph` has no field `titel`
     --> graphs/example.ron:3:5
      |
    3 |     titel: "typos",
      |     ^^^^^ not a field of `Graph`
      |
    help: a field with a similar name exists: `title`
      |
    3 -     titel: "typos",
    3 +     title: "typos",
      |

    error: there is no stage kind `Comand`
     --> graphs/example.ron:5:19
      |
    5 |         "corpus": Comand(run: ["true"]),
      |                   ^^^^^^ unknown kind
      |
    help: a kind with a similar name exists: `Command`
      |
    5 |         "corpus": Command(run: ["true"]),
      |                      +

    error: `Tokenize` has no setting `txt`
     --> graphs/example.ron:6:28
      |
    6 |         "tokens": Tokenize(txt: ["corpsu"], tokenizer: "corpus", lenght: 512)
      |                            ^^^ not a setting of `Tokenize`
      |
    help: a setting with a similar name exists: `text`
      |
    6 |         "tokens": Tokenize(text: ["corpsu"], tokenizer: "corpus", lenght: 512)
      |                             +

    error: stage `tokens` reads `corpsu`, which does not exist
     --> graphs/example.ron:6:34
      |
    6 |         "tokens": Tokenize(txt: ["corpsu"], tokenizer: "corpus", lenght: 512)
      |                                  ^^^^^^^^ no such stage
      |
    help: a stage with a similar name exists: `corpus`
      |
    6 -         "tokens": Tokenize(txt: ["corpsu"], tokenizer: "corpus", lenght: 512)
    6 +         "tokens": Tokenize(txt: ["corpus"], tokenizer: "corpus", lenght: 512)
      |

    error: `Tokenize` has no setting `lenght`
     --> graphs/example.ron:6:66
      |
    6 |         "tokens": Tokenize(txt: ["corpsu"], tokenizer: "corpus", lenght: 512)
      |                                                                  ^^^^^^ not a setting of `Tokenize`
      |
    help: a setting with a similar name exists: `length`
      |
    6 -         "tokens": Tokenize(txt: ["corpsu"], tokenizer: "corpus", lenght: 512)
    6 +         "tokens": Tokenize(txt: ["corpsu"], tokenizer: "corpus", length: 512)
      |

    error: a comma is missing
     --> graphs/example.ron:6:78
      |
    6 |         "tokens": Tokenize(txt: ["corpsu"], tokenizer: "corpus", lenght: 512)
      |                                                                              ^ expected `,` here
    7 |         "dense": Postprocess(short: "tokens", long: "tokens", shape: Dense(lambda: parm("lambda"))),
      |         - before this
      |
    help: put a comma in
      |
    6 |         "tokens": Tokenize(txt: ["corpsu"], tokenizer: "corpus", lenght: 512),
      |                                                                              +

    error: there is no function `parm`
     --> graphs/example.ron:7:84
      |
    7 |         "dense": Postprocess(short: "tokens", long: "tokens", shape: Dense(lambda: parm("lambda"))),
      |                                                                                    ^^^^ unknown function
      |
    help: a function with a similar name exists: `param`
      |
    7 |         "dense": Postprocess(short: "tokens", long: "tokens", shape: Dense(lambda: param("lambda"))),
      |                                                                                       +
    "#);
}

#[test]
fn settings_out_of_range() {
    let told = told(
        r#"Graph(
    version: 1,
    params: { "kappa": 0.0, "weights": Dense(lambda: -1.0) },
    stages: {
        "a": Command(run: ["true"]),
        "dense": Postprocess(short: "a", long: "a", shape: Dense(lambda: 1.5)),
        "sparse": Postprocess(short: "a", long: "a", shape: Sparse(kappa: param("kappa"))),
        "inner": Postprocess(short: "a", long: "a", shape: param("weights")),
    },
)"#,
    );
    assert_snapshot!(told, @r#"
    error: setting `shape.lambda` of stage `dense` is 1.5, expected a number from 0 (the scores alone) to 1 (uniform weights)
     --> graphs/example.ron:6:74
      |
    6 |         "dense": Postprocess(short: "a", long: "a", shape: Dense(lambda: 1.5)),
      |                                                                          ^^^ expected a number from 0 (the scores alone) to 1 (uniform weights)

    error: setting `shape.kappa` of stage `sparse` is 0, expected a share of the targets above 0 and up to 1 (all of them)
     --> graphs/example.ron:7:75
      |
    3 |     params: { "kappa": 0.0, "weights": Dense(lambda: -1.0) },
      |               ------------ the value of parameter `kappa` comes from here
    ...
    7 |         "sparse": Postprocess(short: "a", long: "a", shape: Sparse(kappa: param("kappa"))),
      |                                                                           ^^^^^^^^^^^^^^ expected a share of the targets above 0 and up to 1 (all of them)

    error: setting `shape.lambda` of stage `inner` is -1, expected a number from 0 (the scores alone) to 1 (uniform weights)
     --> graphs/example.ron:8:60
      |
    3 |     params: { "kappa": 0.0, "weights": Dense(lambda: -1.0) },
      |                             ------------------------------ the value of parameter `weights` comes from here
    ...
    8 |         "inner": Postprocess(short: "a", long: "a", shape: param("weights")),
      |                                                            ^^^^^^^^^^^^^^^^ expected a number from 0 (the scores alone) to 1 (uniform weights)
    "#);
}
