//! `twdag diff` through the program: settings, inputs, files, tensors, values, and what an element means.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod run_support;

use std::{collections::HashMap, fs, path::Path};

use run_support::{EXPERIMENT, Place, Said};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::Value;

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn write_tensors(path: &Path, tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) {
    let views: HashMap<String, TensorView<'_>> = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            ((*name).to_owned(), TensorView::new(*dtype, shape.to_vec(), bytes).unwrap())
        })
        .collect();
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// A workspace whose only stage takes in the folder that the parameter `data` names.
fn folders() -> Place {
    let place = Place::new();
    place.write(
        "graph.ron",
        r#"Graph(version: 1, params: {"data": "one"}, stages: {
            "data": Download(from: Folder(path: param("data"))),
            "count": Command(run: ["sh", "-c", "ls $0 | wc -l > $1/count", "{in.data}", "{out}"], inputs: {"data": "data"}),
        })"#,
    );
    for folder in ["one", "two"] {
        fs::create_dir(place.path(folder)).unwrap();
    }
    place
}

fn run(place: &Place, graph: &str, more: &[&str]) {
    let said = place.output(&[&["run", graph], more].concat());
    assert_eq!(said.code, Some(0), "{said:#?}");
}

fn diff(place: &Place, arguments: &[&str], code: i32) -> Said {
    let said = place.output(&[&["diff"], arguments].concat());
    assert_eq!(said.code, Some(code), "{said:#?}");
    said
}

fn json(place: &Place, arguments: &[&str]) -> Value {
    let said = place.output(&[&["diff", "--json"], arguments].concat());
    assert!(matches!(said.code, Some(0 | 3)), "{said:#?}");
    serde_json::from_str(&said.stdout).unwrap()
}

const TWO: &[&str] = &["--other-set", "data=two"];

#[test]
fn tensors_are_compared_by_type_shape_and_element() {
    let place = folders();
    let same = f32_bytes(&[1.0, 2.0]);
    write_tensors(
        &place.path("one/model.safetensors"),
        &[
            ("same", Dtype::F32, &[2], same.clone()),
            ("values", Dtype::F32, &[2, 3], f32_bytes(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
            ("shape", Dtype::F32, &[2], same.clone()),
            ("type", Dtype::F32, &[2], same.clone()),
            ("infinite", Dtype::F32, &[2], f32_bytes(&[f32::INFINITY, 0.0])),
            ("old", Dtype::F32, &[2], same.clone()),
            ("whole", Dtype::I64, &[2], [i64::MAX, 3].iter().flat_map(|value| value.to_le_bytes()).collect()),
        ],
    );
    write_tensors(
        &place.path("two/model.safetensors"),
        &[
            ("same", Dtype::F32, &[2], same.clone()),
            ("values", Dtype::F32, &[2, 3], f32_bytes(&[1.0, 2.0, 3.0, 4.5, 5.0, 3.0])),
            ("shape", Dtype::F32, &[2, 1], same.clone()),
            ("type", Dtype::BF16, &[2], [0x3f80_u16, 0x4040].iter().flat_map(|value| value.to_le_bytes()).collect()),
            ("infinite", Dtype::F32, &[2], f32_bytes(&[f32::INFINITY, f32::NAN])),
            ("new", Dtype::F32, &[2], same),
            ("whole", Dtype::I64, &[2], [i64::MAX - 1, 3].iter().flat_map(|value| value.to_le_bytes()).collect()),
        ],
    );
    run(&place, "graph.ron", &[]);
    run(&place, "graph.ron", &["--set", "data=two"]);
    let arguments = [&["graph.ron:data", "graph.ron:data"], TWO].concat();
    let json = json(&place, &arguments);
    let file = &json["stage"]["files"]["files"][0];
    assert_eq!(file["same_tensors"], 1);
    let tensor = |name: &str| {
        file["tensors"]
            .as_array()
            .unwrap()
            .iter()
            .find(|tensor| tensor["name"] == name)
            .unwrap_or_else(|| panic!("{json:#}"))
    };
    let values = &tensor("values")["elements"];
    assert_eq!((&values["count"], &values["differing"]), (&6.into(), &2.into()));
    assert_eq!((&values["greatest"], &values["mean"]), (&3.0.into(), &(3.5 / 6.0).into()));
    assert_eq!(values["first"]["index"], serde_json::json!([1, 0]));
    assert_eq!((&values["first"]["one"], &values["first"]["other"]), (&4.0.into(), &4.5.into()));
    assert_eq!(tensor("shape")["elements"], Value::Null);
    assert_eq!(tensor("type")["elements"]["differing"], 1);
    assert_eq!(tensor("infinite")["elements"]["greatest"], Value::Null);
    assert_eq!(tensor("whole")["elements"]["greatest"], 1.0);
    assert_eq!((&tensor("old")["other"], &tensor("new")["one"]), (&Value::Null, &Value::Null));
    let _filters = place.filters();
    insta::assert_snapshot!(diff(&place, &arguments, 3).stdout, @r#"
    graph.ron:data and graph.ron:data --set data=two
    `data`:
      settings or inputs differ
        source `from.path` changed: two, [short] → [short]
      results [short] and [short]
      1 of 1 files differ
        model.safetensors: 504 B and 508 B
          7 of 8 tensors differ
          infinite F32 [2]
            1 of 2 elements differ, at most by inf, on average by inf
            first at [1]: 0.0 and no finite number
          new F32 [2]: only in the other
          old F32 [2]: only in the one
          shape F32 [2] and F32 [2, 1]
          type F32 [2] and BF16 [2]
            1 of 2 elements differ, at most by 1.000e0, on average by 5.000e-1
            first at [1]: 2.0 and 3.0
          values F32 [2, 3]
            2 of 6 elements differ, at most by 3.000e0, on average by 5.833e-1
            first at [1, 0]: 4.0 and 4.5
          whole I64 [2]
            1 of 2 elements differ, at most by 1.000e0, on average by 5.000e-1
            first at [0]: 9223372036854775807 and 9223372036854775806
          first byte that differs: 0, 0xa0 and 0xa8
    "#);
}

#[test]
fn values_lines_bytes_and_missing_files_are_told() {
    let place = folders();
    place.write("one/metrics.json", r#"{"tasks": {"held_out": {"mean": 2.5, "buckets": [1, 2]}}}"#);
    place.write("two/metrics.json", r#"{"tasks": {"held_out": {"mean": 2.25, "buckets": [1, 2, 3]}}}"#);
    place.write("one/broken.json", "{");
    place.write("two/broken.json", "[]");
    place.write("one/notes.txt", "first\nsecond\nthird\n");
    place.write("two/notes.txt", "first\nsecond!\nthird\n");
    fs::write(place.path("one/blob"), [0, 1, 2]).unwrap();
    fs::write(place.path("two/blob"), [0, 1]).unwrap();
    place.write("one/torn.safetensors", "no tensors here");
    place.write("two/torn.safetensors", "none here either");
    place.write("one/same.txt", "same");
    place.write("two/same.txt", "same");
    place.write("two/more.txt", "more");
    run(&place, "graph.ron", &[]);
    run(&place, "graph.ron", &["--set", "data=two"]);
    let _filters = place.filters();
    insta::assert_snapshot!(diff(&place, &[&["graph.ron", "graph.ron"], TWO].concat(), 3).stdout, @r#"
    graph.ron and graph.ron --set data=two
      0 stages are the same, 2 differ: `data`, `count`
    `data`:
      settings or inputs differ
        source `from.path` changed: two, [short] → [short]
      results [short] and [short]
      6 of 7 files differ
        blob: 3 B and 2 B
          first byte that differs: 2, 0x02 and the end
        broken.json: 1 B and 2 B
          first byte that differs: 0, 0x7b and 0x5b
          only bytes compared: [workspace]/artifacts/local/views/[digest]/broken.json is no JSON: EOF while parsing an object at line 1 column 1
        metrics.json: 57 B and 61 B
          2 values differ
            tasks.held_out.buckets.2: nothing and 3
            tasks.held_out.mean: 2.5 and 2.25  (-0.25)
          first byte that differs: 34, 0x35 and 0x32
        more.txt: only in the other
        notes.txt: 19 B and 20 B
          line 2: "second"
                 "second!"
          first byte that differs: 12, 0x0a and 0x21
        torn.safetensors: 15 B and 16 B
          first byte that differs: 2, 0x20 and 0x6e
          only bytes compared: [workspace]/artifacts/local/views/[digest]/torn.safetensors is no safetensors file: its header would be longer than 100 MiB
    "#);
}

#[test]
fn what_is_the_same_is_the_same_by_whatever_name() {
    let place = folders();
    place.write("one/a.txt", "a");
    place.write("two/a.txt", "b");
    run(&place, "graph.ron", &[]);
    run(&place, "graph.ron", &["--set", "data=two"]);
    assert_eq!(place.output(&["lock", "graph.ron"]).code, Some(0));
    let _filters = place.filters();
    insta::assert_snapshot!(diff(&place, &["graph.ron", "graph.lock.ron"], 0).stdout, @r#"
    graph.ron and graph.lock.ron
      2 stages are the same, none differs
    "#);
    let other = [&["graph.lock.ron", "graph.ron"], TWO].concat();
    insta::assert_snapshot!(diff(&place, &other, 3).stdout, @r#"
    graph.lock.ron and graph.ron --set data=two
      0 stages are the same, 2 differ: `count`, `data`
    `data`:
      settings or inputs differ
        source `from.path` changed: two, [short] → [short]
      results [short] and [short]
      1 of 1 files differ
        a.txt: 1 B in both
          line 1: "a"
                 "b"
          first byte that differs: 0, 0x61 and 0x62
    "#);
    // By artifact and by run, there the first run is the second one in the list.
    let both = json(&place, &[&["graph.ron:data", "graph.ron:data"], TWO].concat());
    let artifact = |side: &str| both["stage"][side]["artifact"].as_str().unwrap().to_owned();
    let (one, two) = (artifact("one"), artifact("other"));
    let by_artifact = json(&place, &[&one[..12], &two]);
    assert_eq!(by_artifact["stage"]["files"], both["stage"]["files"]);
    assert_eq!(by_artifact["differ"], serde_json::json!(["data"]));
    let runs: Value = serde_json::from_str(&place.output(&["runs", "--json"]).stdout).unwrap();
    let name = |number: usize| runs["runs"][number]["name"].as_str().unwrap().to_owned();
    let by_run = json(&place, &[&name(1), &name(0)]);
    assert_eq!(by_run["stage"]["files"], both["stage"]["files"]);
    // Runs know what their stages were keyed by: the count is the same, and of another folder.
    assert_eq!((&by_run["same"], &by_run["differ"]), (&serde_json::json!([]), &serde_json::json!(["data", "count"])));
    assert_eq!(diff(&place, &[&name(0), &name(0)], 0).stderr, "");
}

#[test]
fn stages_that_wait_are_neither_the_same_nor_different() {
    let place = folders();
    place.write("one/a.txt", "a");
    place.write("two/a.txt", "b");
    let never = json(&place, &["graph.ron", "graph.ron"]);
    assert_eq!(never["same"], serde_json::json!(["data"]));
    assert_eq!((&never["differ"], &never["unknown"]), (&serde_json::json!([]), &serde_json::json!(["count"])));
    let _filters = place.filters();
    insta::assert_snapshot!(diff(&place, &["graph.ron", "graph.ron"], 0).stdout, @"
    graph.ron and graph.ron
      1 stage is the same, none differs
      not compared: `count`: no key and no result is known of both sides
    ");
    run(&place, "graph.ron", &[]);
    insta::assert_snapshot!(diff(&place, &[&["graph.ron", "graph.ron"], TWO].concat(), 3).stdout, @"
    graph.ron and graph.ron --set data=two
      0 stages are the same, 1 differs: `data`
      not compared: `count`: no key and no result is known of both sides
    `data`:
      settings or inputs differ
        source `from.path` changed: two, [short] → [short]
      not compared: graph.ron --set data=two has no result of it yet
    ");
    assert_eq!(diff(&place, &[&["graph.ron:count", "graph.ron:count"], TWO].concat(), 0).stderr, "");
}

#[test]
fn a_file_of_tensors_that_ends_too_soon_keeps_no_other_file_from_being_compared() {
    let place = folders();
    let tensors = |path: &str, value: f32| {
        write_tensors(&place.path(path), &[("x", Dtype::F32, &[2], f32_bytes(&[1.0, value]))]);
    };
    tensors("one/model.safetensors", 1.0);
    tensors("two/model.safetensors", 1.0);
    let whole = fs::read(place.path("two/model.safetensors")).unwrap();
    fs::write(place.path("two/model.safetensors"), &whole[..whole.len() - 4]).unwrap();
    tensors("one/other.safetensors", 1.0);
    tensors("two/other.safetensors", 2.0);
    run(&place, "graph.ron", &[]);
    run(&place, "graph.ron", &["--set", "data=two"]);
    let json = json(&place, &[&["graph.ron:data", "graph.ron:data"], TWO].concat());
    let files = &json["stage"]["files"]["files"];
    let problem = files[0]["problem"].as_str().unwrap();
    assert!(problem.ends_with("its header tells of 8 bytes of data, and it has 4"), "{problem}");
    assert_eq!(files[1]["tensors"][0]["elements"]["greatest"], 1.0);
}

#[test]
fn values_of_parameters_are_refused_where_no_graph_takes_them() {
    let place = folders();
    place.write("one/a.txt", "a");
    run(&place, "graph.ron", &[]);
    assert_eq!(place.output(&["lock", "graph.ron"]).code, Some(0));
    let _filters = place.filters();
    let refused = |arguments: &[&str]| diff(&place, arguments, 2).stderr;
    insta::assert_snapshot!(refused(&["graph.lock.ron", "graph.lock.ron", "--set", "data=one"]), @"error: --set gives parameters of a graph their values, and neither graph.lock.ron nor graph.lock.ron is one: results that were locked or computed stay what they are");
    insta::assert_snapshot!(refused(&["graph.ron", "graph.lock.ron", "--other-set", "data=one"]), @"error: --other-set gives parameters of a graph their values, and graph.lock.ron is none: results that were locked or computed stay what they are");
    let locks = ["graph.lock.ron", "graph.lock.ron"];
    assert!(refused(&[&locks[..], &["--profile", "p"]].concat()).contains("--profile"));
    assert!(refused(&[&locks[..], &["--other-profile", "p"]].concat()).contains("--other-profile"));
    // One graph is enough for those that are meant for both.
    diff(&place, &["graph.lock.ron", "graph.ron", "--set", "data=one"], 0);
    diff(&place, &["graph.ron", "graph.lock.ron", "--set", "data=one"], 0);
}

/// Two checkouts, each with its own store, graph and lock.
fn two(graphs: [String; 2]) -> Place {
    let place = Place::new();
    for (checkout, graph) in ["ann", "ben"].into_iter().zip(graphs) {
        fs::create_dir(place.path(checkout)).unwrap();
        place.write(&format!("{checkout}/twdag.ron"), "Workspace(version: 1)\n");
        place.write(&format!("{checkout}/graph.ron"), &graph);
        run(&place, &format!("{checkout}/graph.ron"), &[]);
        assert_eq!(place.output(&["lock", &format!("{checkout}/graph.ron")]).code, Some(0));
    }
    place
}

/// Two checkouts of the experiment, of which one changes stages by replacing text.
fn checkouts(changes: &[(&str, &str)]) -> Place {
    let measured =
        r#""measured": Evaluate(model: "trained", tasks: {"loss": LossByPosition(tokens: "tokens", buckets: 2)})"#;
    let graph = run_support::graph(&[EXPERIMENT, &[measured]].concat());
    let changed = changes.iter().fold(graph.clone(), |graph, (from, to)| {
        assert!(graph.contains(from), "{from}");
        graph.replace(from, to)
    });
    two([graph, changed])
}

/// What a page tells behind the stage that is looked into.
fn causes_and_metrics(page: &str) -> &str {
    &page[page.find("also different").unwrap_or_else(|| page.find("metrics that").unwrap())..]
}

#[test]
fn all_that_two_users_changed_is_told_and_what_it_comes_to() {
    let place = checkouts(&[
        ("layers: 2, heads: 2", "layers: 2, heads: 4"),
        ("steps: 3,", "steps: 3, epsilon: 1e-6,"),
        ("| sort", "| sort -r"),
        ("buckets: 2", "buckets: 4"),
    ]);
    let said = diff(&place, &["ann/graph.ron", "ben/graph.ron"], 3).stdout;
    assert!(said.contains("\n`random`:\n  settings or inputs differ\n    setting `heads` changed: 2 → 4\n"), "{said}");
    insta::assert_snapshot!(causes_and_metrics(&said), @r#"
    also different, not only in what they read:
      `trained`
        setting `epsilon` changed: 1e-8 → 1e-6
      `sorted`
        setting `run.2` changed: "ls \"$0\" | sort > \"$1/names\"" → "ls \"$0\" | sort -r > \"$1/names\""
      `measured`
        setting `tasks.loss.buckets` changed: 2 → 4
    metrics that differ:
      `measured`
        tasks.loss.mean: 5.616385523523154 and 5.616523610083627  (+0.0001380865604732051)
        and 9 more
    "#);
    let document = json(&place, &["ann/graph.ron", "ben/graph.ron"]);
    let names: Vec<&Value> = document["also"].as_array().unwrap().iter().map(|cause| &cause["name"]).collect();
    assert_eq!(names, ["trained", "sorted", "measured"]);
    assert_eq!(document["also"][0]["differences"][0]["place"], "epsilon");
    let measured = &document["metrics"][0];
    assert_eq!(measured["name"], "measured");
    assert!(
        measured["values"].as_array().unwrap().iter().any(|value| value["place"] == "tasks.loss.mean"),
        "{measured}"
    );
    let locks = json(&place, &["ann/graph.lock.ron", "ben/graph.lock.ron"]);
    assert_eq!((&locks["metrics"], &locks["stage"]), (&document["metrics"], &document["stage"]));
    // The locks alone tell why, and that nobody here knows what it comes to.
    for checkout in ["ann", "ben"] {
        fs::remove_dir_all(place.path(&format!("{checkout}/artifacts"))).unwrap();
    }
    let _filters = place.filters();
    insta::assert_snapshot!(diff(&place, &["ann/graph.lock.ron", "ben/graph.lock.ron"], 3).stdout, @r#"
    ann/graph.lock.ron and ben/graph.lock.ron
      3 stages are the same, 5 differ: `loss`, `measured`, `random`, `sorted`, `trained`
    `random`:
      settings or inputs differ
        setting `heads` changed: 2 → 4
      results [short] and [short]
      not compared: there is no store in [workspace]/ann/artifacts; name one with --store
    also different, not only in what they read:
      `measured`
        setting `tasks.loss.buckets` changed: 2 → 4
      `sorted`
        setting `run.2` changed: "ls \"$0\" | sort > \"$1/names\"" → "ls \"$0\" | sort -r > \"$1/names\""
      `trained`
        setting `epsilon` changed: 1e-8 → 1e-6
    metrics not compared:
      `loss`: there is no store in [workspace]/ann/artifacts; name one with --store
      `measured`: there is no store in [workspace]/ann/artifacts; name one with --store
      `sorted`: there is no store in [workspace]/ann/artifacts; name one with --store
      `trained`: there is no store in [workspace]/ann/artifacts; name one with --store
    "#);
    // A workspace that cannot be read takes nothing away from what was found.
    place.write("ann/twdag.ron", "Workspace(version: 1, isolation: Strict)\n");
    let said = diff(&place, &["ann/graph.lock.ron", "ben/graph.lock.ron"], 3);
    assert!(said.stdout.contains("3 stages are the same") && said.stderr.contains("`Strict`"), "{said:#?}");
}

/// Two stages that write `d/a`, and one that reads what `reference` names.
fn reader(content: &str, reference: &str) -> String {
    let writer = |name: &str| {
        format!(r#""{name}": Command(run: ["sh", "-c", "mkdir $0/d; echo {name} {content} > $0/d/a", "{{out}}"])"#)
    };
    let read = format!(
        r#""c": Command(run: ["sh", "-c", "cp -r $0 $1/c", "{{in.it}}", "{{out}}"], inputs: {{"it": "{reference}"}})"#
    );
    run_support::graph(&[&writer("x"), &writer("y"), &read])
}

#[test]
fn an_input_that_comes_from_another_stage_now_is_a_difference_of_its_own() {
    let place = two([reader("one", "x/d"), reader("two", "y/d")]);
    for file in ["graph.ron", "graph.lock.ron"] {
        let document = json(&place, &[&format!("ann/{file}"), &format!("ben/{file}")]);
        let cause = document["also"].as_array().unwrap().iter().find(|cause| cause["name"] == "c");
        let cause = cause.unwrap_or_else(|| panic!("{document:#}"));
        assert_eq!(cause["differences"][0]["place"], "inputs.it", "{document:#}");
    }
}

#[test]
fn an_input_inside_a_result_is_a_difference_of_the_stage_that_made_it() {
    let place = two([reader("one", "x/d/a"), reader("two", "x/d/a")]);
    let runs = ["ann", "ben"].map(|checkout| {
        let store = format!("{checkout}/artifacts");
        let said = place.output(&["runs", "--json", "--store", &store]);
        let runs: Value = serde_json::from_str(&said.stdout).expect(&said.stderr);
        (runs["runs"][0]["name"].as_str().unwrap().to_owned(), store)
    });
    let of_runs = vec![&runs[0].0, &runs[1].0, "--store", &runs[0].1, "--other-store", &runs[1].1];
    for arguments in [
        vec!["ann/graph.ron", "ben/graph.ron"],
        vec!["ann/graph.lock.ron", "ben/graph.lock.ron"],
        of_runs.into_iter().map(AsRef::as_ref).collect(),
    ] {
        let document = json(&place, &arguments);
        assert_eq!(document["stage"]["name"], "x", "{document:#}");
        let also: Vec<&Value> = document["also"].as_array().unwrap().iter().map(|cause| &cause["name"]).collect();
        assert_eq!(also, ["y"], "{document:#}");
    }
}

#[test]
fn metrics_that_cannot_be_compared_are_named_with_the_reason() {
    let graph = |content: u32| {
        run_support::graph(&[
            &format!(r#""x": Command(run: ["sh", "-c", "echo {content} > $0/x", "{{out}}"])"#),
            r#""nan": Command(run: ["sh", "-c", "echo [NaN,$(cat $0/x)] > $1/metrics.json", "{in.x}", "{out}"], inputs: {"x": "x"})"#,
            r#""half": Command(run: ["sh", "-c", "cp $0/x $1/x; test $(cat $0/x) = 2 || echo 1 > $1/metrics.json", "{in.x}", "{out}"], inputs: {"x": "x"})"#,
            r#""none": Command(run: ["sh", "-c", "cp $0/x $1/x", "{in.x}", "{out}"], inputs: {"x": "x"})"#,
        ])
    };
    let place = two([graph(1), graph(2)]);
    let _filters = place.filters();
    let said = diff(&place, &["ann/graph.ron", "ben/graph.ron"], 3).stdout;
    insta::assert_snapshot!(&said[said.find("metrics not compared").unwrap()..], @"
    metrics not compared:
      `nan`: [workspace]/ann/artifacts/local/views/[digest]/metrics.json is no JSON: expected value at line 1 column 2
      `half`: metrics.json is only in the one
    ");
    let document = json(&place, &["ann/graph.ron", "ben/graph.ron"]);
    assert_eq!(
        document["metrics_unknown"][1],
        serde_json::json!({"name": "half", "problem": "metrics.json is only in the one"})
    );
}

#[test]
fn a_stage_that_is_not_reproducible_is_told_beside_a_changed_setting() {
    let clock = r#""clock": Command(run: ["sh", "-c", "date +%N > $0/time", "{out}"])"#;
    let seed = r#""text": Synthesize(documents: 2, seed: 1)"#;
    let graph = |seed: &str| run_support::graph(&[seed, clock]);
    let place = two([graph(seed), graph(&seed.replace("seed: 1", "seed: 2"))]);
    let said = diff(&place, &["ann/graph.ron", "ben/graph.ron"], 3).stdout;
    insta::assert_snapshot!(causes_and_metrics(&said), @"
    also different, not only in what they read:
      `clock`
        the same settings and inputs gave another result
    ");
}

#[test]
fn a_long_line_is_shown_where_it_differs() {
    let place = folders();
    for (folder, letter) in [("one", "j"), ("two", "J")] {
        place
            .write(&format!("{folder}/book.txt"), &format!("{}{letter}ungle {}\n", "a ".repeat(150), "b ".repeat(150)));
        run(&place, "graph.ron", &["--set", &format!("data=\"{folder}\"")]);
    }
    let json = json(&place, &[&["graph.ron:data", "graph.ron:data"], TWO].concat());
    let line = &json["stage"]["files"]["files"][0]["first_line"];
    assert!(line["one"].as_str().unwrap().contains(" jungle b"), "{line}");
    assert!(line["other"].as_str().unwrap().contains(" Jungle b"), "{line}");
}

#[test]
fn two_stores_are_compared() {
    let place = Place::with(&[r#""time": Command(run: ["sh", "-c", "date +%N > $0/time", "{out}"])"#]);
    run(&place, "graph.ron", &[]);
    run(&place, "graph.ron", &["--store", "elsewhere"]);
    let json = json(&place, &["graph.ron", "graph.ron", "--other-store", "elsewhere"]);
    assert_eq!(json["differ"], serde_json::json!(["time"]));
    assert_eq!(json["stage"]["differences"], serde_json::json!([]));
    assert_eq!(json["stage"]["files"]["files"][0]["first_line"]["number"], 1);
}

#[test]
fn elements_of_token_sets_and_scores_are_told_by_sequence_token_and_text() {
    let place = Place::new();
    place.write(
        "graph.ron",
        r#"Graph(version: 1, params: {"documents": 1, "model": 1}, stages: {
            "text": Synthesize(documents: 30, seed: param("documents"), sentences: 12, facts: 2, distance: (least: 1, most: 4)),
            "fixed": Synthesize(documents: 30, seed: 7, sentences: 12, facts: 2, distance: (least: 1, most: 4)),
            "tokenizer": TrainTokenizer(text: ["fixed"], vocabulary: 300),
            "tokens": Tokenize(text: ["text"], tokenizer: "tokenizer", length: 32),
            "model": InitModel(
                tokenizer: "tokenizer", hidden_size: 16, layers: 1, heads: 2, intermediate_size: 32, context: 32,
                seed: param("model"),
            ),
            "scores": Score(model: "model", tokens: "tokens"),
        })"#,
    );
    run(&place, "graph.ron", &[]);
    run(&place, "graph.ron", &["--set", "documents=2"]);
    run(&place, "graph.ron", &["--set", "model=2"]);
    let first = |more: &[&str], stage: &str| {
        let stage = format!("graph.ron:{stage}");
        let json = json(&place, &[&[stage.as_str(), stage.as_str()], more].concat());
        let files = json["stage"]["files"]["files"].as_array().unwrap().clone();
        let tensors = files.iter().flat_map(|file| file["tensors"].as_array().unwrap().clone());
        let tensor = tensors
            .into_iter()
            .find(|tensor| ["input_ids", "cross_entropy"].contains(&tensor["name"].as_str().unwrap()));
        tensor.unwrap_or_else(|| panic!("{json:#}"))["elements"]["first"].clone()
    };
    // Recomputed from the files themselves.
    let folder = |stage: &str| {
        let said = place.output(&["path", "graph.ron", stage]);
        std::path::PathBuf::from(said.stdout.trim_end())
    };
    let tokens = twdag_stages::data::TokenSet::open(&folder("tokens")).unwrap();
    let tokenizer = twdag_stages::data::TextTokenizer::open(&folder("tokens")).unwrap();
    let text = |sequence: u64, position: u64| {
        let id = tokens.sequence(sequence as usize).unwrap()[position as usize];
        tokenizer.inner().decode(&[id], false).unwrap()
    };
    let token = first(&["--other-set", "documents=2"], "tokens");
    let (sequence, position) = (token["index"][0].as_u64().unwrap(), token["index"][1].as_u64().unwrap());
    let meaning = token["meaning"].as_str().unwrap();
    assert!(
        meaning.starts_with(&format!("sequence {sequence}, token {position}, {:?} and ", text(sequence, position))),
        "{meaning}"
    );
    let score = first(&["--other-set", "model=2"], "scores");
    let (sequence, target) = (score["index"][0].as_u64().unwrap(), score["index"][1].as_u64().unwrap() + 1);
    let expected = format!("sequence {sequence}, prediction of token {target} {:?}", text(sequence, target));
    assert_eq!(score["meaning"], expected);
    // The stage that differs of itself is looked into, not what follows from it.
    let whole = json(&place, &["graph.ron", "graph.ron", "--other-set", "model=2"]);
    assert_eq!(whole["differ"], serde_json::json!(["model", "scores"]));
    assert_eq!(whole["stage"]["name"], "model");
    assert_eq!(whole["stage"]["differences"][0]["place"], "seed");
}

#[test]
fn a_lock_file_tells_much_without_a_store_and_makes_none() {
    let place = folders();
    place.write("one/a.txt", "a");
    place.write("two/a.txt", "b");
    run(&place, "graph.ron", &[]);
    assert_eq!(place.output(&["lock", "graph.ron"]).code, Some(0));
    run(&place, "graph.ron", &["--set", "data=two"]);
    assert_eq!(place.output(&["lock", "graph.ron", "--set", "data=two", "--lock-file", "two.lock.ron"]).code, Some(0));
    let elsewhere = Place::new();
    for file in ["graph.lock.ron", "two.lock.ron"] {
        fs::copy(place.path(file), elsewhere.path(file)).unwrap();
    }
    let _filters = elsewhere.filters();
    insta::assert_snapshot!(diff(&elsewhere, &["graph.lock.ron", "two.lock.ron"], 3).stdout, @r"
    graph.lock.ron and two.lock.ron
      0 stages are the same, 2 differ: `count`, `data`
    `data`:
      settings or inputs differ
        source `from.path` changed
      results [short] and [short]
      not compared: there is no store in [workspace]/artifacts; name one with --store
    ");
    let said = elsewhere.output(&["provenance", "graph.lock.ron", "data"]);
    assert_eq!(said.code, Some(2), "{said:#?}");
    insta::assert_snapshot!(said.stderr, @"error: there is no store in [workspace]/artifacts; name one with --store");
    assert!(!elsewhere.path("artifacts").exists());
}

#[test]
fn what_cannot_be_found_is_told() {
    let place = folders();
    place.write("one/a.txt", "a");
    run(&place, "graph.ron", &[]);
    let _filters = place.filters();
    let refused = |one: &str| diff(&place, &[one, "graph.ron"], 2).stderr;
    insta::assert_snapshot!(refused("graph.rom"), @r#"error: `graph.rom` is neither a file, nor a run (see: twdag runs), nor at least 6 digits of an artifact"#);
    insta::assert_snapshot!(refused("ffffffffffff"), @r#"error: no artifact in [workspace]/artifacts starts with [short]"#);
    insta::assert_snapshot!(refused("graph.ron:dada"), @r#"error: there is no stage `dada` in graph.ron; did you mean `data`?"#);
    // What was never computed has settings all the same.
    place.write("two/b.txt", "b");
    let never = diff(&place, &["graph.ron:data", "graph.ron:data", "--other-set", "data=two"], 3);
    insta::assert_snapshot!(never.stdout, @r#"
    graph.ron:data and graph.ron:data --set data=two
    `data`:
      settings or inputs differ
        source `from.path` changed: two, [short] → [short]
      not compared: graph.ron:data --set data=two has no result of it yet
    "#);
}

#[test]
fn names_that_others_chose_give_no_orders_to_a_terminal() {
    let place = folders();
    let order = "\u{1b}[2J\u{202e}x\r";
    let tensors = |value| [(order, Dtype::F32, &[1][..], f32_bytes(&[value]))];
    for (folder, value) in [("one", 1.0), ("two", 2.0)] {
        write_tensors(&place.path(&format!("{folder}/model.safetensors")), &tensors(value));
        place.write(&format!("{folder}/values.json"), &serde_json::json!({ order: value }).to_string());
        place.write(&format!("{folder}/lines.txt"), &format!("{order}{value}\n"));
        run(&place, "graph.ron", &["--set", &format!("data=\"{folder}\"")]);
    }
    let said = diff(&place, &[&["graph.ron:data", "graph.ron:data"], TWO].concat(), 3);
    assert!(said.stdout.contains("\\u{1b}[2J\\u{202e}x\\r"), "{}", said.stdout);
    assert!(!said.stdout.contains(['\u{1b}', '\u{202e}', '\r']), "{:?}", said.stdout);
}
