//! `twdag check` through the program: six ways to be irreproducible, what is reproducible, tolerance, and what is kept of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod run_support;

use std::io::Write as _;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use run_support::{Place, Said, graph, send, wait_until};
use rustix::process::Signal;
use serde_json::Value;

fn run(place: &Place) {
    let said = place.output(&["run", "graph.ron"]);
    assert_eq!(said.code, Some(0), "{said:#?}");
}

fn check(place: &Place, arguments: &[&str], code: i32) -> Said {
    let said = place.output(&[&["check", "graph.ron"], arguments].concat());
    assert_eq!(said.code, Some(code), "{said:#?}");
    said
}

fn json(place: &Place, arguments: &[&str]) -> Value {
    let said = place.output(&[&["check", "graph.ron", "--json"], arguments].concat());
    serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:#?}"))
}

/// A stage of a shell command that reads a folder of eight files.
fn stage(name: &str, shell: &str) -> String {
    format!(
        r#""{name}": Command(run: ["sh", "-c", "{shell}", "{{in.data}}", "{{out}}", "{{threads}}"], inputs: {{"data": "data"}})"#
    )
}

/// A place with a folder of eight files and these stages, all computed.
fn place(stages: &[(&str, &str)]) -> Place {
    let place = Place::new();
    fs::create_dir(place.path("data")).unwrap();
    for name in ["walnut", "oak", "elm", "birch", "pine", "ash", "beech", "maple"] {
        place.write(&format!("data/{name}.txt"), name);
    }
    let data = r#""data": Download(from: Folder(path: "data"))"#.to_owned();
    let stages: Vec<String> = [data].into_iter().chain(stages.iter().map(|(name, shell)| stage(name, shell))).collect();
    place.graph(&stages.iter().map(String::as_str).collect::<Vec<_>>());
    run(&place);
    place
}

fn outcomes(json: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{json:#}")).to_owned();
    let stages = json["stages"].as_array().unwrap();
    stages.iter().map(|stage| (text(&stage["name"]), text(&stage["verdict"]["outcome"]))).collect()
}

/// Checks a stage that is at fault, beside one that is not.
fn is_caught(fault: &str) {
    let place = place(&[("fault", fault), ("sound", "cat $0/*.txt > $1/all")]);
    let json = json(&place, &[]);
    let expected = [("data", "same"), ("fault", "differs"), ("sound", "same")];
    assert_eq!(outcomes(&json), expected.map(|(name, outcome)| (name.to_owned(), outcome.to_owned())), "{json:#}");
    let verdict = &json["stages"][1]["verdict"];
    assert_eq!(verdict["difference"]["files"][0]["path"], "result", "{json:#}");
    check(&place, &["fault"], 3);
    check(&place, &["data", "sound"], 0);
}

#[test]
fn a_clock_is_caught() {
    is_caught("date +%s > $1/result");
}

#[test]
fn random_numbers_are_caught() {
    is_caught("od -An -N8 -tx8 /dev/urandom > $1/result");
}

#[test]
fn an_absolute_path_is_caught() {
    is_caught("pwd > $1/result");
    is_caught("echo $0 > $1/result");
}

#[test]
fn a_host_name_is_caught() {
    let possible = [&["--uts"][..], &["--user", "--map-root-user", "--uts"]].into_iter().any(|way| {
        Command::new("unshare").args(way).args(["--", "true"]).status().is_ok_and(|status| status.success())
    });
    if possible {
        is_caught("uname -n > $1/result");
    } else {
        writeln!(std::io::stderr(), "SKIPPED: this machine lets nobody make a UTS namespace").unwrap();
        let place = place(&[]);
        assert!(check(&place, &[], 0).stderr.contains("the host name stays as it is"));
    }
}

#[test]
fn an_order_of_threads_is_caught() {
    // Each of n threads sums up every n-th number; the sum of their sums depends on n, as rounding does.
    is_caught(
        "seq 999 | awk -v n=$2 '{ s[NR % n] += 1 / $0 } END { for (i = 0; i < n; i++) t += s[i]; printf \\\"%.17g\\\", t }' > $1/result",
    );
}

#[test]
fn an_order_of_files_is_caught() {
    let listed = |folder: &Path| -> Vec<PathBuf> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into()).collect()
    };
    let fault = "find $0 -name '*.txt' -exec basename {} ';' > $1/result";
    let place = place(&[("fault", fault)]);
    let verdict = &json(&place, &["fault"])["stages"][0]["verdict"];
    let said = |list: &str| verdict["runs"][0][list].to_string().contains("file order");
    assert_ne!(said("varied"), said("kept"), "{verdict:#}");
    if said("varied") {
        assert_eq!(verdict["outcome"], "differs", "{verdict:#}");
        is_caught(fault);
    } else {
        println!("SKIPPED: the file systems here list {:?} in this order alone", listed(&place.path("data")));
    }
}

#[test]
fn what_twdag_computes_is_the_same_with_other_threads_places_and_locales() {
    let place = Place::new();
    place.write(
        "graph.ron",
        r#"Graph(version: 1, stages: {
            "text": Synthesize(documents: 30, seed: 7, sentences: 12, facts: 2, distance: (least: 1, most: 4)),
            "tokenizer": TrainTokenizer(text: ["text"], vocabulary: 300),
            "tokens": Tokenize(text: ["text"], tokenizer: "tokenizer", length: 32, shuffle: 3),
            "model": InitModel(
                tokenizer: "tokenizer", hidden_size: 16, layers: 1, heads: 2, intermediate_size: 32, context: 32, seed: 1,
            ),
            "long": ExtendRope(model: "model", context: 64, method: Yarn()),
            "short_loss": Score(model: "model", tokens: "tokens", windows: (length: 16, step: 8)),
            "long_loss": Score(model: "long", tokens: "tokens"),
            "weights": Postprocess(short: "short_loss", long: "long_loss", shape: Dense(lambda: 0.5)),
            "train": Train(
                model: "long", tokens: "tokens", weighting: Static(weights: "weights"), steps: 3, batch: 4, learning_rate: 1e-3,
            ),
            "measure": Evaluate(model: "train", tasks: {"loss": LossByPosition(tokens: "tokens", buckets: 4)}),
            "report": Report(title: "A report", evaluations: {"trained": "measure"}, training: {"trained": "train"}),
        })"#,
    );
    let mut command = place.twdag(&["run", "graph.ron"]);
    // Small parts, so that the work of a run is not in one piece as that of a check is.
    let said = Said::from(command.env("TWDAG_TEST_PART_SIZE", "2000").output().unwrap());
    assert_eq!(said.code, Some(0), "{said:#?}");
    let json = json(&place, &["--runs", "3"]);
    assert!(outcomes(&json).iter().all(|(_, outcome)| outcome == "same"), "{json:#}");
    assert_eq!(outcomes(&json).len(), 11);
    for stage in json["stages"].as_array().unwrap() {
        let runs = stage["verdict"]["runs"].as_array().unwrap();
        let mut threads: Vec<_> = runs.iter().map(|run| run["threads"].as_u64().unwrap()).collect();
        threads.sort_unstable();
        threads.dedup();
        assert_eq!(threads.len(), 3, "{json:#}");
        assert!(runs.iter().all(|run| run["artifact"] == stage["artifact"]), "{json:#}");
    }
}

/// Writes a tensor of two numbers, of which the first has the number of threads as its last bits.
const NOISE: &str = r#"{
    printf '\066\0\0\0\0\0\0\0{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    printf "\\00$1\\0\\200\\077\\0\\0\\200\\077"
} > "$2/model.safetensors"
"#;

fn noise(policy: &str) -> String {
    let stage = r#""noise": Command(run: ["sh", "{file.0}", "{threads}", "{out}"], files: ["noise.sh"])"#;
    graph(&[stage]).replace("\n)\n", &format!("\n    policy: {{\"noise\": ({policy})}},\n)\n"))
}

#[test]
fn numbers_of_named_tensors_may_lie_apart_where_a_policy_says_so() {
    let place = Place::new();
    place.write("noise.sh", NOISE);
    place.write("graph.ron", &noise("resources: {\"cpu\": 1}"));
    run(&place);
    let _filters = place.filters();
    insta::assert_snapshot!(check(&place, &["--runs", "1"], 3).stdout, @r#"
    graph.ron: checking 1 stage, once
      differs noise  run 1 of 1, [time], 2 threads
    differs `noise`: [short] on record, [short] in run 1, compared by Bitwise
      1 of 1 files differ
        model.safetensors: 70 B in both
          1 of 1 tensors differ
          x F32 [2]
            1 of 2 elements differ, at most by 1.192e-7, on average by 5.960e-8
            first at [0]: 1.0000001192092896 and 1.000000238418579
          first byte that differs: 62, 0x01 and 0x02
      varied: time, folders, work in one piece, threads (2), host name
    1 stage: 1 not reproducible
    "#);
    let verdict = |policy: &str| {
        place.write("graph.ron", &noise(&format!("resources: {{\"cpu\": 1}}, {policy}")));
        let json = json(&place, &[]);
        let verdict = &json["stages"][0]["verdict"];
        (verdict["outcome"].as_str().unwrap().to_owned(), verdict["comparator"].as_str().unwrap().to_owned())
    };
    let near = verdict(r#"comparator: Tolerance(absolute: 1e-6, tensors: ["x"])"#);
    assert_eq!(near.0, "within-tolerance");
    assert_eq!(near.1, r#"Tolerance(absolute: 1e-6, relative: 0e0, tensors: ["x"])"#);
    assert_eq!(verdict(r#"comparator: Tolerance(relative: 1e-6, tensors: ["?"])"#).0, "within-tolerance");
    assert_eq!(verdict(r#"comparator: Tolerance(absolute: 1e-8, tensors: ["*"])"#).0, "differs");
    assert_eq!(verdict(r#"comparator: Tolerance(absolute: 1e-6, tensors: ["y"])"#).0, "differs");
    assert_eq!(verdict("comparator: Bitwise"), ("differs".to_owned(), "Bitwise".to_owned()));
    place.write("graph.ron", &noise(r#"comparator: Tolerance(absolute: -1, tensors: ["x"])"#));
    insta::assert_snapshot!(check(&place, &[], 2).stderr, @r#"
    error: `comparator` in the policy of stage `noise` is `Tolerance(…)`, expected `Bitwise` or `Tolerance(absolute: 1e-6, relative: 1e-5, tensors: ["*"])` with numbers from 0 on and patterns, for numbers in JSON also `values: ["*.mean"]`
     --> graph.ron:6:36
      |
    6 |     policy: {"noise": (comparator: Tolerance(absolute: -1, tensors: ["x"]))},
      |                                    ^^^^^^^^^ expected `Bitwise` or `Tolerance(absolute: 1e-6, relative: 1e-5, tensors: ["*"])` with numbers from 0 on and patterns, for numbers in JSON also `values: ["*.mean"]`
    "#);
    // It is policy: no result depends on it.
    place.write("graph.ron", &noise(r#"comparator: Tolerance(absolute: 1e-6, tensors: ["x"])"#));
    assert_eq!(place.run(&[]).with_outcome("cached"), ["noise"]);
}

#[test]
fn numbers_at_named_places_of_json_may_lie_apart_and_nothing_else() {
    let place = Place::new();
    // The number of threads moves the last digits of two numbers.
    let script = r#"
        printf '{"name": "x", "tasks": [{"mean": 0.50000%s}], "steps": 7}' $1 > $2/metrics.json
        printf '{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 2.00000%s}\n' $1 > $2/log.jsonl
    "#;
    place.write("noise.sh", script);
    let verdict = |comparator: &str, script: &str| {
        place.write("noise.sh", script);
        place.write("graph.ron", &noise(&format!("resources: {{\"cpu\": 1}}, comparator: {comparator}")));
        run(&place);
        let json = json(&place, &["--runs", "1"]);
        let verdict = json["stages"][0]["verdict"].clone();
        (verdict["outcome"].as_str().unwrap().to_owned(), verdict)
    };
    let both = r#"Tolerance(absolute: 1e-4, values: ["tasks.*.mean", "loss"])"#;
    let (outcome, near) = verdict(both, script);
    assert_eq!(outcome, "within-tolerance", "{near:#}");
    assert_eq!(near["comparator"], r#"Tolerance(absolute: 1e-4, relative: 0e0, values: ["tasks.*.mean", "loss"])"#);
    let files = &near["difference"]["files"];
    assert_eq!((&files[0]["path"], &files[0]["values"][0]["place"]), (&"log.jsonl".into(), &"line 2: loss".into()));
    assert_eq!((&files[1]["values"][0]["place"], &files[1]["values_outside"]), (&"tasks.0.mean".into(), &0.into()));
    // One of the two is not named; the tolerance is too small; tensors alone are named.
    for comparator in [
        r#"Tolerance(absolute: 1e-4, values: ["loss"])"#,
        r#"Tolerance(absolute: 1e-9, values: ["*"])"#,
        r#"Tolerance(absolute: 1e-4, tensors: ["*"])"#,
    ] {
        assert_eq!(verdict(comparator, script).0, "differs", "{comparator}");
    }
    // Text is no number, and a line more is more than a number.
    let text = script.replace("\"x\"", "\"'$1'\"");
    let (outcome, found) = verdict(r#"Tolerance(absolute: 1e-4, values: ["*"])"#, &text);
    assert_eq!(
        (outcome.as_str(), &found["difference"]["files"][1]["values_outside"]),
        ("differs", &1.into()),
        "{found:#}"
    );
    let line = format!("{script}\n[ $1 = 1 ] || echo '{{}}' >> $2/log.jsonl");
    assert_eq!(verdict(both, &line).0, "differs");
}

#[test]
fn what_a_failed_rerun_printed_is_kept() {
    let place = Place::new();
    place.write("noise.sh", "[ $1 = 1 ] && echo x > $2/x || { echo first; seq 30; false; }\n");
    place.write("graph.ron", &noise("resources: {\"cpu\": 1}"));
    run(&place);
    let json = json(&place, &["--runs", "1"]);
    let failure = &json["stages"][0]["failure"];
    assert!(failure["message"].as_str().unwrap().contains("ended with exit code 1"), "{json:#}");
    let text = fs::read_to_string(failure["log"].as_str().unwrap()).unwrap();
    assert!(text.starts_with("first\n1\n2\n"), "more than the lines that the message repeats: {text}");
    let said = check(&place, &["--runs", "1"], 1);
    assert!(said.stderr.contains("\n  log: "), "{said:#?}");
}

#[test]
fn only_numbers_may_lie_apart_and_nothing_else_of_a_file() {
    // The second line of each is what becomes other bytes with another number of threads.
    let files = [
        // The metadata.
        r#"printf '\117\0\0\0\0\0\0\0{"__metadata__":{"t":"'$1'"},"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
        printf "\\00$1\\0\\200\\077\\0\\0\\200\\077""#,
        // Bytes behind the last tensor.
        r#"printf '\066\0\0\0\0\0\0\0{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
        printf "\\00$1\\0\\200\\077\\0\\0\\200\\077$1""#,
        // A file that ends too soon.
        r#"printf '\066\0\0\0\0\0\0\0{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
        printf "\\00$1\\0\\200\\077""#,
        // The order of tensors.
        r#"case $1 in 1) a='[0,4]' b='[4,8]';; *) a='[4,8]' b='[0,4]';; esac
        printf '\153\0\0\0\0\0\0\0{"x":{"dtype":"F32","shape":[1],"data_offsets":%s},"y":{"dtype":"F32","shape":[1],"data_offsets":%s}}' $a $b
        printf "\\00$1\\0\\200\\077\\00$1\\0\\200\\077""#,
    ];
    let place = Place::new();
    place.write("graph.ron", &noise(r#"resources: {"cpu": 1}, comparator: Tolerance(absolute: 1e-6, tensors: ["*"])"#));
    let difference = |script: &str| {
        place.write("noise.sh", &format!("{{\n{script}\n}} > \"$2/model.safetensors\"\n"));
        run(&place);
        let said = place.output(&["check", "graph.ron", "--runs", "1", "--json"]);
        assert_eq!(said.code, Some(3), "{said:#?}");
        let json: Value = serde_json::from_str(&said.stdout).unwrap();
        json["stages"][0]["verdict"]["difference"]["files"][0].clone()
    };
    assert_eq!(difference(files[0])["header_differs"], true);
    for (script, found) in [(files[1], 9), (files[2], 4)] {
        let problem = difference(script)["problem"].as_str().unwrap().to_owned();
        assert!(problem.ends_with(&format!("its header tells of 8 bytes of data, and it has {found}")), "{problem}");
    }
    assert_eq!(difference(files[3])["header_differs"], true);
}

#[test]
fn a_user_without_rights_can_check() {
    let nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).args(arguments);
        command
    };
    if !rustix::process::geteuid().is_root() {
        writeln!(std::io::stderr(), "SKIPPED: all of these tests run as a user without rights").unwrap();
        return;
    }
    let place = Place::with(&[r#""name": Command(run: ["sh", "-c", "uname -n > $0/result", "{out}"])"#]);
    let program = place.path("twdag");
    fs::copy(env!("CARGO_BIN_EXE_twdag"), &program).unwrap();
    for path in [place.path(""), place.path("graph.ron"), place.path("twdag.ron"), program.clone()] {
        std::os::unix::fs::chown(&path, Some(65534), Some(65534)).unwrap();
    }
    let program = program.to_str().unwrap();
    if !nobody(&[program, "--version"]).output().is_ok_and(|output| output.status.success()) {
        writeln!(std::io::stderr(), "SKIPPED: `setpriv` of util-linux is not there or may not change the user, or temporary folders are closed to others"
        ).unwrap();
        return;
    }
    let said = |arguments: &[&str]| {
        let mut command = nobody(&[&[program], arguments].concat());
        Said::from(command.current_dir(place.path("")).env_remove("TWDAG_STORE").output().unwrap())
    };
    let ran = said(&["run", "graph.ron"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let checked = said(&["check", "graph.ron", "--json"]);
    let mut unshare = nobody(&["unshare", "--user", "--map-root-user", "--uts", "--", "true"]);
    let outcome = if unshare.status().is_ok_and(|status| status.success()) {
        "differs"
    } else {
        writeln!(std::io::stderr(), "SKIPPED in part: this machine lets a user without rights make no UTS namespace")
            .unwrap();
        assert!(checked.stderr.contains("the host name stays as it is"), "{checked:#?}");
        "same"
    };
    let json: Value = serde_json::from_str(&checked.stdout).unwrap_or_else(|error| panic!("{error}: {checked:#?}"));
    assert_eq!(outcomes(&json), [("name".to_owned(), outcome.to_owned())], "{json:#}");
}

#[test]
fn a_verdict_counts_for_the_result_it_was_reached_on_alone() {
    let place = place(&[("time", "date +%N > $1/result")]);
    check(&place, &["time"], 3);
    let verdict = || -> Value {
        let said = place.output(&["show", "graph.ron", "time", "--json"]);
        serde_json::from_str::<Value>(&said.stdout).unwrap()["verdict"].clone()
    };
    assert_eq!(verdict()["outcome"], "differs");
    // The record is lost, and the stage gives another result for the same key.
    for (path, _) in room(&place, "actions") {
        fs::remove_file(path).unwrap();
    }
    run(&place);
    assert_eq!(room(&place, "verdicts").len(), 1);
    assert_eq!(verdict(), Value::Null);
}

#[test]
fn a_source_that_is_written_to_meanwhile_leaves_no_verdict() {
    let place = Place::new();
    place.write("text.txt", "before\n");
    let text = place.path("text.txt").display().to_string();
    let marker = place.path("marker").display().to_string();
    place.graph(&[&format!(
        r#""copy": Command(run: ["sh", "-c", "cat {{file.0}} > $0/copy; test ! -e {marker} || echo before > {text}; touch {marker}", "{{out}}"], files: ["text.txt"])"#
    )]);
    run(&place);
    let said = place.output(&["check", "graph.ron", "--runs", "1"]);
    assert_eq!(said.code, Some(1), "{said:#?}");
    let _filters = place.filters();
    insta::assert_snapshot!(said.stderr, @"error: stage `copy` failed: [workspace]/text.txt was written to while the stage read it; check again");
    assert_eq!(room(&place, "verdicts"), []);
}

#[test]
fn only_what_was_another_one_counts_as_varied() {
    let place = place(&[("all", "cat $0/*.txt > $1/all")]);
    let json = json(&place, &["--runs", "3"]);
    let varied = |stage: usize, run: usize| json["stages"][stage]["verdict"]["runs"][run]["varied"].to_string();
    for run in 0..3 {
        // A stage of twdag itself, which reads no other, and a program.
        assert!(varied(0, run).contains("time zone") && !varied(0, run).contains("file order"), "{json:#}");
        assert!(!varied(1, run).contains("time zone") && !varied(1, run).contains("locale"), "{json:#}");
    }
}

/// All files of a room of the store, by name, with their content.
fn room(place: &Place, name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(shelves) = fs::read_dir(place.path("artifacts").join(name)) else { return Vec::new() };
    let files = shelves.flat_map(|shelf| fs::read_dir(shelf.unwrap().path()).unwrap());
    let mut files: Vec<_> =
        files.map(|file| file.unwrap().path()).map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    files.sort();
    files
}

#[test]
fn a_verdict_is_kept_beside_the_record_and_changes_nothing_else() {
    let place = place(&[("time", "date +%s > $1/result"), ("sound", "cat $0/*.txt > $1/all")]);
    let before = ["actions", "trees", "objects"].map(|name| room(&place, name));
    let said = check(&place, &[], 3);
    assert!(said.stdout.contains("compared by Bitwise") && said.stdout.contains("line 1: \"1"), "{said:#?}");
    assert!(said.stdout.ends_with("3 stages: 2 reproducible, 1 not reproducible\n"), "{said:#?}");
    assert_eq!(["actions", "trees", "objects"].map(|name| room(&place, name)), before);
    assert_eq!(room(&place, "verdicts").len(), 3);
    let shown = |stage: &str| -> Value {
        serde_json::from_str(&place.output(&["show", "graph.ron", stage, "--json"]).stdout).unwrap()
    };
    assert_eq!(shown("time")["verdict"]["outcome"], "differs");
    assert_eq!(shown("sound")["verdict"]["outcome"], "same");
    let page = place.output(&["show", "graph.ron", "time"]).stdout;
    assert!(page.contains("not reproducible") && page.contains("computed again 2 times"), "{page}");
    assert_eq!(place.run(&[]).with_outcome("cached").len(), 3);
    let whole = place.output(&["store", "check", "--json"]);
    assert_eq!(whole.code, Some(0), "{whole:#?}");
    assert_eq!(serde_json::from_str::<Value>(&whole.stdout).unwrap()["findings"], serde_json::json!([]));
    // A later check replaces it, and it goes with the record.
    assert_eq!(check(&place, &["sound", "--runs", "1"], 0).stderr, "");
    assert_eq!(shown("sound")["verdict"]["runs"].as_array().unwrap().len(), 1);
    let left: Vec<_> =
        fs::read_dir(place.path("artifacts/local/scratch")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("check-")), "{left:?}");
    for (path, _) in room(&place, "actions") {
        fs::remove_file(path).unwrap();
    }
    assert_eq!(place.output(&["store", "gc", "--keep-runs", "0"]).code, Some(0));
    assert_eq!(room(&place, "verdicts"), []);
}

#[test]
fn what_was_never_computed_or_fails_has_no_verdict() {
    let never = Place::with(&[r#""a": Command(run: ["sh", "-c", "echo a > $0/a", "{out}"])"#]);
    let _filters = never.filters();
    insta::assert_snapshot!(check(&never, &[], 1).stderr, @r#"error: stage `a` has not been computed (never computed here), so there is nothing to check; compute it with: twdag run graph.ron"#);
    let place = Place::new();
    let marker = place.path("marker").display().to_string();
    place.graph(&[&format!(
        r#""once": Command(run: ["sh", "-c", "test ! -e {marker} && touch {marker} && echo a > $0/a", "{{out}}"])"#
    )]);
    run(&place);
    let said = check(&place, &[], 1);
    assert!(said.stderr.contains("stage `once` failed: the program `sh` ended with exit code 1"), "{said:#?}");
    let json = json(&place, &[]);
    assert_eq!(json["stages"][0]["verdict"], Value::Null);
    assert_eq!(json["stages"][0]["failure"]["blame"], "stage");
}

#[test]
fn a_signal_ends_a_check_and_leaves_nothing_behind() {
    let place = Place::new();
    let marker = place.path("marker").display().to_string();
    place.graph(&[&format!(
        r#""slow": Command(run: ["sh", "-c", "test -e {marker} && touch {marker}.again && sleep 600; touch {marker}; echo a > $0/a", "{{out}}"])"#
    )]);
    run(&place);
    let child = place.twdag(&["check", "graph.ron"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    wait_until("the stage runs again", || place.path("marker.again").exists());
    // Whoever collects meanwhile leaves its folder alone.
    let folders = || {
        let entries = fs::read_dir(place.path("artifacts/local/scratch")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("check-")).count()
    };
    assert_eq!(folders(), 1);
    assert_eq!(place.output(&["store", "gc", "--older-than", "0s"]).code, Some(0));
    assert_eq!(folders(), 1);
    send(child.id().try_into().unwrap(), Signal::INT);
    let said = Said::from(child.wait_with_output().unwrap());
    assert_eq!(said.code, Some(130), "{said:#?}");
    assert_eq!(room(&place, "verdicts"), []);
    assert_eq!(folders(), 0);
    let claims = fs::read_dir(place.path("artifacts/local/claims")).unwrap();
    let names = claims.map(|claim| claim.unwrap().file_name().to_string_lossy().into_owned());
    assert_eq!(names.filter(|name| name.starts_with("check-")).count(), 0);
}
