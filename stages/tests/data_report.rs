//! The report: what it says of small numbers that can be followed by hand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::Path};

use serde_json::{Value, json};
use twdag_stages::{
    report::Report,
    stage::{Context, Kind, StageError},
};

/// Writes metrics (and a training log) for each variant and runs the stage into `output`.
fn report(variants: &[(&str, Value)], training: &[(&str, &str)], output: &Path) -> Result<Value, StageError> {
    let (inputs, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut context = Context::builder(output, scratch.path());
    let mut stage = Report {
        title: "Small <numbers>".to_owned(),
        evaluations: indexmap::IndexMap::new(),
        training: indexmap::IndexMap::new(),
        notes: vec!["Facts & figures by hand.".to_owned()],
    };
    for (index, (label, metrics)) in variants.iter().enumerate() {
        let (name, folder) = (format!("evaluate-{index}"), inputs.path().join(format!("evaluate-{index}")));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("metrics.json"), json!({"tasks": metrics}).to_string()).unwrap();
        stage.evaluations.insert((*label).to_owned(), name.as_str().into());
        context = context.input(name.as_str(), folder);
    }
    for (index, (label, log)) in training.iter().enumerate() {
        let (name, folder) = (format!("train-{index}"), inputs.path().join(format!("train-{index}")));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("training.jsonl"), log).unwrap();
        stage.training.insert((*label).to_owned(), name.as_str().into());
        context = context.input(name.as_str(), folder);
    }
    stage.check().unwrap();
    stage.run(&context.build())?;
    Ok(serde_json::from_slice(&fs::read(output.join("report.json")).unwrap()).unwrap())
}

fn facts(recall: f64, facts: u64, far: f64) -> Value {
    json!({"kind": "PlantedFacts", "facts": facts, "recall": recall, "loss_far": far, "loss_other": 2.0, "by_distance": [
        {"from": 0, "to": 100, "recall": recall, "loss": far, "facts": facts},
        {"from": 100, "to": 200, "recall": null, "loss": null, "facts": 0}
    ]})
}

fn position(mean: f64) -> Value {
    json!({"kind": "LossByPosition", "mean": mean, "buckets": [
        {"from": 0, "to": 8, "loss": mean + 0.25, "count": 80}, {"from": 8, "to": 16, "loss": mean - 0.25, "count": 80}
    ]})
}

fn findings(variants: &[(&str, Value)]) -> String {
    let output = tempfile::tempdir().unwrap();
    report(variants, &[], output.path()).unwrap()["findings"].as_str().unwrap().to_owned()
}

/// The words of a page: no styles, no tags, one line for each piece of text.
fn words(html: &str) -> String {
    let (_, body) = html.split_once("<body>").unwrap();
    let mut text = String::new();
    for piece in body.split('<').skip(1) {
        let (tag, words) = piece.split_once('>').unwrap();
        let starts_line =
            ["h1", "h2", "p", "tr", "th", "td", "figcaption", "li", "footer", "dt", "dd", "summary", "text", "small"]
                .contains(&tag.split(' ').next().unwrap());
        text.push_str(if starts_line && !text.is_empty() { "\n" } else { "" });
        text.push_str(words);
    }
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(str::trim_end).collect::<Vec<_>>().join("\n")
}

fn small(output: &Path) -> Value {
    let variants = [
        ("uniform", json!({"held out": position(2.5), "facts": facts(0.5, 200, 3.0)})),
        ("dense 0.75", json!({"held out": position(2.375), "facts": facts(0.75, 200, 1.5)})),
        ("no facts", json!({"held out": position(2.5), "new": {"kind": "FromTheFuture", "x": 1}})),
        (
            "scores",
            json!({"find": {"kind": "FarTokenDetection", "area_under_curve": 0.875, "positives": 4, "negatives": 4,
            "curve": [[0.0, 0.0], [0.0, 0.5], [0.25, 1.0], [1.0, 1.0]]}}),
        ),
    ];
    let log = "{\"step\":1,\"loss\":9.0,\"unweighted_loss\":3.5,\"learning_rate\":0.1,\"grad_norm\":1.0,\"tokens\":8,\"seconds\":null}\n\
               {\"step\":2,\"loss\":9.0,\"unweighted_loss\":3.0,\"learning_rate\":0.1,\"grad_norm\":1.0,\"tokens\":16,\"seconds\":null}\n";
    report(&variants, &[("dense 0.75", log)], output).unwrap()
}

#[test]
fn the_data_of_the_page_are_those_of_the_evaluations() {
    let output = tempfile::tempdir().unwrap();
    small(output.path());
    insta::assert_snapshot!(fs::read_to_string(output.path().join("report.json")).unwrap(), @r#"
    {
      "findings": "“dense 0.75” has the highest recall of planted facts (75.0 % against 50.0 % of “uniform”), the lowest loss on far tokens (1.500 nats against 3.000 nats of “uniform”) and the lowest mean loss (2.375 nats against 2.500 nats of “uniform”).",
      "notes": [
        "Facts & figures by hand."
      ],
      "plots": [
        {
          "chance_diagonal": false,
          "series": [
            {
              "label": "uniform",
              "points": [
                [
                  4.0,
                  2.75
                ],
                [
                  12.0,
                  2.25
                ]
              ],
              "style": 0
            },
            {
              "label": "dense 0.75",
              "points": [
                [
                  4.0,
                  2.625
                ],
                [
                  12.0,
                  2.125
                ]
              ],
              "style": 1
            },
            {
              "label": "no facts",
              "points": [
                [
                  4.0,
                  2.75
                ],
                [
                  12.0,
                  2.25
                ]
              ],
              "style": 2
            }
          ],
          "title": "Loss by position (held out)",
          "x": {
            "label": "position in the sequence, tokens",
            "range": [
              0.0,
              16.0
            ]
          },
          "y": {
            "label": "loss, nats",
            "range": null
          }
        },
        {
          "chance_diagonal": false,
          "series": [
            {
              "label": "uniform",
              "points": [
                [
                  50.0,
                  0.5
                ]
              ],
              "style": 0
            },
            {
              "label": "dense 0.75",
              "points": [
                [
                  50.0,
                  0.75
                ]
              ],
              "style": 1
            }
          ],
          "title": "Recall of planted facts by distance (facts)",
          "x": {
            "label": "distance back to the fact, tokens",
            "range": [
              0.0,
              100.0
            ]
          },
          "y": {
            "label": "share recalled",
            "range": [
              0.0,
              1.0
            ]
          }
        },
        {
          "chance_diagonal": false,
          "series": [
            {
              "label": "uniform",
              "points": [
                [
                  50.0,
                  3.0
                ]
              ],
              "style": 0
            },
            {
              "label": "dense 0.75",
              "points": [
                [
                  50.0,
                  1.5
                ]
              ],
              "style": 1
            }
          ],
          "title": "Loss on far tokens by distance (facts)",
          "x": {
            "label": "distance back to the fact, tokens",
            "range": [
              0.0,
              100.0
            ]
          },
          "y": {
            "label": "loss, nats",
            "range": null
          }
        },
        {
          "chance_diagonal": true,
          "series": [
            {
              "label": "scores",
              "points": [
                [
                  0.0,
                  0.0
                ],
                [
                  0.0,
                  0.5
                ],
                [
                  0.25,
                  1.0
                ],
                [
                  1.0,
                  1.0
                ]
              ],
              "style": 3
            }
          ],
          "title": "How well scores find far tokens (find)",
          "x": {
            "label": "false positive rate",
            "range": [
              0.0,
              1.0
            ]
          },
          "y": {
            "label": "true positive rate",
            "range": [
              0.0,
              1.0
            ]
          }
        },
        {
          "chance_diagonal": false,
          "series": [
            {
              "label": "dense 0.75",
              "points": [
                [
                  1.0,
                  3.5
                ],
                [
                  2.0,
                  3.0
                ]
              ],
              "style": 1
            }
          ],
          "title": "Training",
          "x": {
            "label": "optimizer step",
            "range": [
              0.0,
              2.0
            ]
          },
          "y": {
            "label": "unweighted training loss, nats",
            "range": null
          }
        }
      ],
      "table": [
        {
          "best": [
            1
          ],
          "better": "higher",
          "measure": "recall",
          "task": "facts",
          "unit": "%",
          "values": [
            {
              "samples": 200,
              "value": 0.5
            },
            {
              "samples": 200,
              "value": 0.75
            },
            null,
            null
          ]
        },
        {
          "best": [
            1
          ],
          "better": "lower",
          "measure": "loss_far",
          "task": "facts",
          "unit": "nats",
          "values": [
            {
              "value": 3.0
            },
            {
              "value": 1.5
            },
            null,
            null
          ]
        },
        {
          "best": [
            0,
            1
          ],
          "better": "lower",
          "measure": "loss_other",
          "task": "facts",
          "unit": "nats",
          "values": [
            {
              "value": 2.0
            },
            {
              "value": 2.0
            },
            null,
            null
          ]
        },
        {
          "best": [
            1
          ],
          "better": "lower",
          "measure": "mean_loss",
          "task": "held out",
          "unit": "nats",
          "values": [
            {
              "value": 2.5
            },
            {
              "value": 2.375
            },
            {
              "value": 2.5
            },
            null
          ]
        },
        {
          "best": [
            1
          ],
          "better": "lower",
          "measure": "loss_at_end",
          "task": "held out",
          "unit": "nats",
          "values": [
            {
              "value": 2.25
            },
            {
              "value": 2.125
            },
            {
              "value": 2.25
            },
            null
          ]
        },
        {
          "best": [
            3
          ],
          "better": "higher",
          "measure": "area_under_curve",
          "task": "find",
          "unit": "",
          "values": [
            null,
            null,
            null,
            {
              "value": 0.875
            }
          ]
        }
      ],
      "title": "Small <numbers>",
      "variants": [
        "uniform",
        "dense 0.75",
        "no facts",
        "scores"
      ]
    }
    "#);
}

#[test]
fn the_page_says_it_in_words() {
    let output = tempfile::tempdir().unwrap();
    small(output.path());
    let html = fs::read_to_string(output.path().join("report.html")).unwrap();
    insta::assert_snapshot!(words(&html), @r#"
    Small &lt;numbers&gt;
    “dense 0.75” has the highest recall of planted facts (75.0 % against 50.0 % of “uniform”), the lowest loss on far tokens (1.500 nats against 3.000 nats of “uniform”) and the lowest mean loss (2.375 nats against 2.500 nats of “uniform”).
    Facts &amp; figures by hand.
    Variants
    variant
    recall of planted facts, %
    facts
    higher is better
    loss on far tokens
    facts
    lower is better
    loss on other tokens
    facts
    lower is better
    mean loss
    held out
    lower is better
    loss at the end
    held out
    lower is better
    far tokens found, AUC
    find
    higher is better
    uniform
    50.0
    3.000
    2.000
    2.500
    2.250
    –
    dense 0.75
    75.0
    +25.0
    1.500
    −1.500
    2.000
    ±0
    2.375
    −0.125
    2.125
    −0.125
    –
    no facts
    –
    –
    –
    2.500
    ±0
    2.250
    ±0
    –
    scores
    –
    –
    –
    –
    –
    0.875
    Best in bold; below each value the difference to uniform. Losses in nats a token.
    What is measured
    recall of planted facts
    share of planted facts whose value the model predicts when the text needs it again far away
    loss on far tokens
    mean loss on the tokens that only a fact planted far back can tell
    mean loss
    mean loss over all positions
    loss at the end
    mean loss in the last bucket of positions, where the context is longest
    loss on other tokens
    mean loss on all tokens that need no planted fact
    far tokens found, AUC
    area under the ROC curve when the scores pick out the tokens that need far context (0.5 is chance)
    Plots
    Loss by position (held out)
    2.2
    2.4
    2.6
    0
    5
    10
    15
    position in the sequence, tokens
    loss, natsuniformdense 0.75no facts
    uniform
    dense 0.75
    no facts
    Recall of planted facts by distance (facts)
    0.0
    0.2
    0.4
    0.6
    0.8
    1.0
    0
    20
    40
    60
    80
    100
    distance back to the fact, tokens
    share recalleduniformdense 0.75
    uniform
    dense 0.75
    Loss on far tokens by distance (facts)
    1.5
    2.0
    2.5
    3.0
    0
    20
    40
    60
    80
    100
    distance back to the fact, tokens
    loss, natsuniformdense 0.75
    uniform
    dense 0.75
    How well scores find far tokens (find)
    0.0
    0.2
    0.4
    0.6
    0.8
    1.0
    0.0
    0.2
    0.4
    0.6
    0.8
    1.0
    false positive rate
    true positive ratescores
    scores
    chance
    Training
    3.0
    3.1
    3.2
    3.3
    3.4
    3.5
    0.0
    0.5
    1.0
    1.5
    2.0
    optimizer step
    unweighted training loss, natsdense 0.75
    dense 0.75
    Every variant is one run: small differences can be chance. The numbers of this page stand in report.json beside it.
    "#);
    assert!(!html.contains("<script") && !html.contains("http"), "the page needs nothing but itself");

    let again = tempfile::tempdir().unwrap();
    small(again.path());
    assert!(html == fs::read_to_string(again.path().join("report.html")).unwrap());
}

#[test]
fn findings_are_honest() {
    let uniform = ("uniform", json!({"f": facts(0.5, 200, 3.0), "p": position(2.5)}));
    let with = |label, recall, far, mean| (label, json!({"f": facts(recall, 200, far), "p": position(mean)}));
    // Everything better, nothing better, and a difference of 0.05 on 200 facts: one standard error of it is 0.05.
    insta::assert_snapshot!(findings(&[uniform.clone(), with("dense", 0.75, 2.0, 2.25), with("sparse", 0.9, 1.5, 2.6)]), @"“sparse” has the highest recall of planted facts (90.0 % against 50.0 % of “uniform”) and the lowest loss on far tokens (1.500 nats against 3.000 nats of “uniform”); “dense” has the lowest mean loss (2.250 nats against 2.500 nats of “uniform”).");
    insta::assert_snapshot!(findings(&[uniform.clone(), with("dense", 0.25, 3.5, 2.5)]), @"No variant beats “uniform” in recall of planted facts (50.0 %), loss on far tokens (3.000 nats) or mean loss (2.500 nats).");
    insta::assert_snapshot!(findings(&[uniform.clone(), with("dense", 0.55, 3.5, 2.4999)]), @"“dense” has the highest recall of planted facts (55.0 % against 50.0 % of “uniform”, a difference that chance alone can make with 200 samples); no variant beats “uniform” in loss on far tokens (3.000 nats) or mean loss (2.500 nats).");
    insta::assert_snapshot!(findings(&[uniform.clone(), with("one", 0.75, 2.0, 2.25), with("two", 0.75, 2.0, 2.25)]), @"“one” and “two” have the highest recall of planted facts (75.0 % against 50.0 % of “uniform”), the lowest loss on far tokens (2.000 nats against 3.000 nats of “uniform”) and the lowest mean loss (2.250 nats against 2.500 nats of “uniform”).");
    insta::assert_snapshot!(findings(std::slice::from_ref(&uniform)), @"There is one variant, so there is nothing to compare.");
    insta::assert_snapshot!(findings(&[uniform, ("empty", json!({}))]), @"No measure was taken of both “uniform” and another variant, so there is nothing to compare.");
    let two = |mean| json!({"alice": position(mean), "oz": position(mean)});
    insta::assert_snapshot!(findings(&[("a", two(2.0)), ("b", two(1.5))]), @"“b” has the lowest mean loss of “alice” (1.500 nats against 2.000 nats of “a”).");
}

#[test]
fn damaged_inputs_are_refused_by_file_and_line() {
    let output = tempfile::tempdir().unwrap();
    let message = |variants: &[(&str, Value)], training: &[(&str, &str)]| {
        let error = report(variants, training, output.path()).unwrap_err();
        let StageError::Input { path, problem } = error else { panic!("{error}") };
        format!("{}: {problem}", path.file_name().unwrap().display())
    };
    insta::assert_snapshot!(message(&[("a", json!({"x": {"kind": "Needles"}}))], &[]), @"metrics.json: missing field `samples` at line 1 column 33");
    insta::assert_snapshot!(message(&[("a", json!({}))], &[("a", "{\"step\":1,\"unweighted_loss\":1.0}\n{\"st")]), @"training.jsonl: line 2, column 4: no training step (EOF while parsing a string)");
}

#[test]
fn long_training_logs_are_thinned_to_means() {
    let output = tempfile::tempdir().unwrap();
    let line = |step: usize| format!("{{\"step\":{step},\"unweighted_loss\":{}}}\n", step % 2);
    let log = (1..=320).map(line).collect::<Vec<_>>().concat();
    let data = report(&[("a", json!({}))], &[("a", &log)], output.path()).unwrap();
    let points = data["plots"][0]["series"][0]["points"].as_array().unwrap();
    assert_eq!(points.len(), 160);
    assert_eq!(points[159], json!([319.5, 0.5]));
}
