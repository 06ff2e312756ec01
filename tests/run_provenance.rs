//! `twdag provenance` through the program: the whole ancestry, what is missing, and the forms that others read.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod run_support;

use std::io::Write as _;
use std::{env, fs, path::Path, process::Command};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use run_support::{Place, Said};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use twdag::{
    digest::{Digest, Key},
    provenance::{Ancestry, Maker},
    store::{Provenance, Record, RecordInput, Store},
};

/// The Python that has the validators of tests/python/requirements.txt.
const VARIABLE: &str = "TWDAG_TEST_PYTHON";

/// Weights from outside, a stage that reads one file of them, and one that reads both.
fn place() -> Place {
    let place = Place::new();
    fs::create_dir(place.path("weights")).unwrap();
    place.write("weights/model.bin", "these are the weights\n");
    place.write("weights/notes.txt", "read me\n");
    place.write("suffix.txt", "!\n");
    place.graph(&[
        r#""weights": Download(from: Folder(path: "weights"))"#,
        r#""upper": Command(run: ["sh", "-c", "tr a-z A-Z < $0 > $1/upper", "{in.model}", "{out}"], inputs: {"model": "weights/model.bin"})"#,
        r#""both": Command(run: ["sh", "-c", "cat $0/upper $1/notes.txt $2 > $3/both; cp $1/notes.txt $3", "{in.upper}", "{in.weights}", "{file.0}", "{out}"], inputs: {"upper": "upper", "weights": "weights"}, files: ["suffix.txt"])"#,
        r#""other": Command(run: ["sh", "-c", "echo other > $0/other", "{out}"])"#,
    ]);
    assert_eq!(place.run(&[]).code, Some(0));
    place
}

fn provenance(place: &Place, arguments: &[&str], code: i32) -> (Value, Said) {
    let said = place.output(&[&["provenance"], arguments].concat());
    assert_eq!(said.code, Some(code), "{said:#?}");
    (serde_json::from_str(&said.stdout).expect(&said.stdout), said)
}

fn sha256(path: &Path) -> String {
    Sha256::digest(fs::read(path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn stages(document: &Value) -> Vec<&str> {
    document["actions"].as_array().unwrap().iter().map(|action| action["stage"].as_str().unwrap()).collect()
}

fn action<'a>(document: &'a Value, key: &Value) -> &'a Value {
    let mut actions = document["actions"].as_array().unwrap().iter();
    actions.find(|action| action["key"] == *key).unwrap()
}

fn file<'a>(action: &'a Value, path: &str) -> &'a Value {
    action["files"].as_array().unwrap().iter().find(|file| file["path"] == path).unwrap()
}

/// Where the store of a place keeps something.
fn named(place: &Place, room: &str, digest: &Value) -> std::path::PathBuf {
    let digest = digest.as_str().unwrap();
    place.path("artifacts").join(room).join(&digest[..2]).join(&digest[2..])
}

#[test]
fn the_way_back_leads_to_the_sha256_of_what_came_from_outside() {
    let place = place();
    let (document, _) = provenance(&place, &["graph.ron", "both"], 0);
    assert_eq!((&document["version"], &document["complete"]), (&Value::from(1), &Value::from(true)));
    assert_eq!(stages(&document), ["weights", "upper", "both"], "nothing of `other`");
    let both = action(&document, &document["subject"]["made_by"][0]);
    assert_eq!(both["artifact"], document["subject"]["artifact"]);
    assert_eq!(both["settings"]["run"][0], "sh");
    assert_eq!(both["sources"][0]["digest"], Digest::of(b"!\n").to_string());
    assert_eq!(file(both, "both")["sha256"], sha256(&named(&place, "objects", &file(both, "both")["digest"])));
    for (input, stage) in [(0, "upper"), (1, "weights")] {
        assert_eq!(action(&document, &both["inputs"][input]["made_by"][0])["stage"], stage);
    }
    let upper = action(&document, &both["inputs"][0]["made_by"][0]);
    assert_eq!(file(upper, "upper")["sha256"], Value::Null, "what was computed on the way is known by BLAKE3");
    assert_eq!(upper["inputs"][0]["reference"], "weights/model.bin");
    assert_eq!(upper["inputs"][0]["digest"], Digest::of(b"these are the weights\n").to_string());
    let weights = action(&document, &upper["inputs"][0]["made_by"][0]);
    assert_eq!(file(weights, "model.bin")["sha256"], sha256(&place.path("weights/model.bin")));
    assert_eq!(weights["provenance"]["version"], env!("CARGO_PKG_VERSION"));
    let commit = weights["provenance"]["commit"].as_str().unwrap();
    let digits = commit.strip_suffix("-changed").unwrap_or(commit);
    let is_commit = digits.len() == 40 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(is_commit || commit == "unknown", "{commit}");
    assert_eq!((&weights["provenance"]["isolation"], &both["provenance"]["isolation"]), (&Value::Null, &"off".into()));
    assert_eq!((&weights["fetched_from"], &weights["signed_by"]), (&Value::Null, &Value::Null));
}

#[test]
fn what_a_policy_allowed_stands_beside_the_isolation_in_every_form() {
    let place = Place::new();
    let graph = run_support::graph(&[
        r#""one": Command(run: ["sh", "-c", "echo one > $0/one", "{out}"])"#,
        r#""two": Command(run: ["sh", "-c", "cp $0/one $1/two", "{in.one}", "{out}"], inputs: {"one": "one"})"#,
    ]);
    let policy = r#"{"one": (allow: (network: true)), "two": (allow: (read: ["notes.txt"], network: true))}"#;
    place.write("graph.ron", &graph.replace("\n)\n", &format!("\n    policy: {policy},\n)\n")));
    assert_eq!(place.run(&[]).code, Some(0));
    let [one, two] = [json!({"network": true}), json!({"read": ["notes.txt"], "network": true})];
    let (document, _) = provenance(&place, &["graph.ron:two"], 0);
    let actions = &document["actions"];
    assert_eq!((&actions[0]["provenance"]["allowed"], &actions[1]["provenance"]["allowed"]), (&one, &two));

    assert_eq!(place.output(&["store", "keygen", "key"]).code, Some(0));
    let signed = ["graph.ron:two", "--format", "in-toto", "--signing-key", "key"];
    let (envelope, _) = provenance(&place, &signed, 0);
    let payload = STANDARD.decode(envelope["payload"].as_str().unwrap()).unwrap();
    let payload: Value = serde_json::from_slice(&payload).unwrap();
    let definition = &payload["predicate"]["buildDefinition"];
    let stated = &definition["internalParameters"];
    assert_eq!((&stated["isolation"], &stated["allowed"]), (&"off".into(), &two));
    assert_eq!(definition["resolvedDependencies"][0]["annotations"]["allowed"], one);

    let (document, _) = provenance(&place, &["graph.ron:two", "--format", "ro-crate"], 0);
    let actions = document["@graph"].as_array().unwrap().iter().filter(|entity| entity["@type"] == "CreateAction");
    let descriptions: Vec<&str> = actions.map(|action| action["description"].as_str().unwrap()).collect();
    for expected in ["Isolation: off, but for the network.", "Isolation: off, but for notes.txt, the network."] {
        assert!(descriptions.iter().any(|told| told.contains(expected)), "{expected}: {descriptions:?}");
    }
}

#[test]
fn a_statement_is_signed_only_where_that_is_asked_for() {
    let place = place();
    let said = place.output(&["provenance", "graph.ron:both", "--signing-key", "key"]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(2), ""), "{said:#?}");
    insta::assert_snapshot!(said.stderr, @"error: --signing-key signs an in-toto statement alone: add --format in-toto");
    // It is there for what is given to a shared store, and here it is not even read.
    let arguments = ["provenance", "graph.ron:both", "--format", "in-toto"];
    let output = place.twdag(&arguments).env("TWDAG_SIGNING_KEY", "none").output().unwrap();
    let statement: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
}

#[test]
fn a_stage_an_artifact_and_a_stage_of_a_run_have_the_same_ancestry() {
    let place = place();
    let (document, said) = provenance(&place, &["graph.ron:both"], 0);
    let runs: Value = serde_json::from_str(&place.output(&["runs", "--json"]).stdout).unwrap();
    let run = format!("{}:both", runs["runs"][0]["name"].as_str().unwrap());
    let digits = &document["subject"]["artifact"].as_str().unwrap()[..12];
    for arguments in [vec!["graph.ron", "both"], vec![run.as_str()], vec![digits]] {
        assert_eq!(provenance(&place, &arguments, 0).1.stdout, said.stdout, "{arguments:?}");
    }
    assert_eq!(place.output(&["lock", "graph.ron"]).code, Some(0));
    assert_eq!(provenance(&place, &["graph.lock.ron:both"], 0).1.stdout, said.stdout);
}

#[test]
fn what_the_store_has_no_more_is_named_and_the_rest_is_told() {
    let place = place();
    let _filters = place.filters();
    let (document, _) = provenance(&place, &["graph.ron:both"], 0);
    let artifact = document["subject"]["artifact"].as_str().unwrap();
    let upper = &action(&document, &document["subject"]["made_by"][0])["inputs"][0];
    fs::remove_file(named(&place, "actions", &upper["made_by"][0])).unwrap();
    let (document, said) = provenance(&place, &[artifact], 1);
    assert_eq!((stages(&document), &document["complete"]), (vec!["weights", "both"], &Value::from(false)));
    let missing = &document["missing"][0];
    assert_eq!((&missing["reference"], &missing["artifact"]), (&Value::from("upper"), &upper["artifact"]));
    assert_eq!(missing["read_by"], document["subject"]["made_by"][0]);
    insta::assert_snapshot!(said.stderr, @"missing: `upper` ([short]), which action [short] read: no record in the store tells how it was made");
    for format in ["in-toto", "ro-crate"] {
        let (document, _) = provenance(&place, &[artifact, "--format", format], 1);
        assert!(document.to_string().contains("no record in the store tells how it was made"), "{format}: {document}");
    }

    // The record of the downloaded weights stays, and their bytes go.
    let weights = action(&document, &document["actions"][0]["key"]);
    fs::remove_file(named(&place, "objects", &file(weights, "model.bin")["digest"])).unwrap();
    let (document, said) = provenance(&place, &[artifact], 1);
    assert_eq!(document["missing"].as_array().unwrap().len(), 2);
    assert_eq!(file(&document["actions"][0], "model.bin")["sha256"], Value::Null);
    assert!(said.stderr.contains("`weights`") && said.stderr.contains("its files are lost"), "{said:#?}");
}

#[test]
fn of_a_record_that_tells_digests_alone_the_giver_is_found_by_content() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let mut seconds = 0;
    let mut record = |stage: &str, content: &str, inputs: Vec<RecordInput>| {
        let key: Key = Digest::of(stage.as_bytes()).into();
        let output = store.scratch(&key).unwrap().join("output");
        fs::create_dir_all(&output).unwrap();
        fs::write(output.join("file"), content).unwrap();
        seconds += 10;
        let at = |second| Timestamp::from_second(second).unwrap();
        let record = Record {
            key,
            artifact: store.ingest(&output).unwrap(),
            kind: "Command".to_owned(),
            revision: 1,
            graph: "graph".to_owned(),
            stage: stage.to_owned(),
            settings: Value::Null,
            inputs,
            references: Vec::new(),
            sources: Vec::new(),
            file_names: std::collections::BTreeMap::new(),
            numeric_class: None,
            provenance: Provenance::here(at(seconds), at(seconds + 1), 1.0),
            notices: Vec::new(),
            part: None,
            parts: Vec::new(),
        };
        store.publish(&record).unwrap();
        record
    };
    let input = |role: &str, digest: Digest| RecordInput { role: role.to_owned(), digest };
    let given = record("given", "content", Vec::new());
    let lost = Digest::of(b"nobody has this");
    let inputs =
        vec![input("whole", *given.artifact.digest()), input("inside", Digest::of(b"content")), input("lost", lost)];
    let reader = record("reader", "other content", inputs);
    // It has the same file, and came later: not what was read.
    record("later", "content", vec![input("from", *reader.artifact.digest())]);
    let ancestry = Ancestry::of(&store, "reader".to_owned(), reader.artifact, Maker::Action(reader.key)).unwrap();
    let told: Vec<&str> = ancestry.actions.iter().map(|action| action.stage.as_str()).collect();
    assert!(told.contains(&"given") && told.last() == Some(&"reader"), "{told:?}");
    for input in &ancestry.actions.last().unwrap().inputs[..2] {
        assert_eq!(input.artifact, Some(given.artifact));
        assert!(input.made_by.contains(&given.key), "{input:?}");
    }
    assert_eq!(ancestry.missing.iter().map(|missing| missing.digest).collect::<Vec<_>>(), [lost]);
}

#[test]
fn who_gave_the_same_bytes_is_not_told_instead_of_who_was_read() {
    let place = Place::new();
    let same = r#"Command(run: ["sh", "-c", "echo same > $1/same", "NAME", "{out}"])"#;
    let reader = |input: &str| {
        format!(
            r#"Command(run: ["sh", "-c", "cat $0/same > $1/x", "{{in.x}}", "{{out}}"], inputs: {{"x": "{input}"}})"#
        )
    };
    place.graph(&[
        &format!(r#""a": {}"#, same.replace("NAME", "a")),
        &format!(r#""b": {}"#, same.replace("NAME", "b")),
        &format!(r#""reader": {}"#, reader("a")),
    ]);
    assert_eq!(place.run(&[]).code, Some(0));
    assert_eq!(place.output(&["lock", "graph.ron"]).code, Some(0));
    let (document, _) = provenance(&place, &["graph.lock.ron:reader"], 0);
    assert_eq!(stages(&document), ["a", "reader"]);
    let key = &document["actions"][0]["key"];
    let artifact = document["actions"][0]["artifact"].as_str().unwrap();
    let run = place.output(&["runs", "--json"]).stdout;
    let run: Value = serde_json::from_str(&run).unwrap();
    let run = format!("{}:a", run["runs"][0]["name"].as_str().unwrap());
    fs::remove_file(named(&place, "actions", key)).unwrap();
    for (asked, told) in [("graph.lock.ron:reader", vec!["reader"]), ("graph.lock.ron:a", vec![]), (&run, vec![])] {
        let (document, said) = provenance(&place, &[asked], 1);
        assert_eq!((stages(&document), &document["complete"]), (told, &Value::from(false)), "{asked}");
        let missing = &document["missing"][0];
        assert_eq!(missing["reference"], "a");
        assert!(said.stderr.contains("; the same bytes were given by `b` of graph ("), "{said:#?}");
    }
    // Of bytes alone, who gave them is all that can be asked.
    let (document, _) = provenance(&place, &[artifact], 0);
    assert_eq!(stages(&document), ["b"]);
}

#[test]
fn a_stage_that_was_renamed_is_found_under_the_name_that_it_had() {
    let place = Place::new();
    let stages = |name: &str| {
        [
            format!(r#""{name}": Command(run: ["sh", "-c", "echo text > $0/x", "{{out}}"])"#),
            format!(r#""reader": Command(run: ["cp", "{{in.x}}/x", "{{out}}"], inputs: {{"x": "{name}"}})"#),
            format!(r#""second": Command(run: ["cp", "{{in.x}}", "{{out}}/y"], inputs: {{"x": "{name}/x"}})"#),
        ]
    };
    let run = |name: &str, targets: &[&str]| {
        place.graph(&stages(name).each_ref().map(String::as_str));
        assert_eq!(place.run(targets).code, Some(0));
    };
    run("before", &["before"]);
    run("after", &["reader", "second"]);
    for stage in ["reader", "second"] {
        let (document, _) = provenance(&place, &["graph.ron", stage], 0);
        assert_eq!(self::stages(&document), ["before", stage]);
        assert!(document["actions"][1]["inputs"][0]["reference"].as_str().unwrap().starts_with("after"));
    }
    // A run in which it was cached knows which action that was.
    let name = || {
        let runs: Value = serde_json::from_str(&place.output(&["runs", "--json"]).stdout).unwrap();
        runs["runs"][0]["name"].as_str().unwrap().to_owned()
    };
    let (document, _) = provenance(&place, &[&format!("{}:after", name())], 0);
    assert_eq!(self::stages(&document), ["before"]);
    run("after", &[]);
    let (document, _) = provenance(&place, &[&format!("{}:after", name())], 0);
    assert_eq!(self::stages(&document), ["before"]);
    // Its name does not count, but that it was this action does.
    let (document, _) = provenance(&place, &["graph.ron", "reader"], 0);
    assert_eq!(place.output(&["lock", "graph.ron"]).code, Some(0));
    let key = document["actions"][0]["key"].clone();
    fs::remove_file(named(&place, "actions", &key)).unwrap();
    let (document, _) = provenance(&place, &["graph.lock.ron", "reader"], 1);
    assert_eq!(document["missing"][0]["key"], key);
}

#[test]
fn every_reader_of_a_source_is_named_and_a_copy_of_it_stays_a_file() {
    let place = Place::new();
    place.write("suffix.txt", "!\n");
    place.graph(&[
        r#""one": Command(run: ["sh", "-c", "cp $0 $1/copy", "{file.0}", "{out}"], files: ["suffix.txt"])"#,
        r#""two": Command(run: ["sh", "-c", "cat $0 $1/copy > $2/two", "{file.0}", "{in.one}", "{out}"], inputs: {"one": "one"}, files: ["suffix.txt"])"#,
    ]);
    assert_eq!(place.run(&[]).code, Some(0));
    let (document, _) = provenance(&place, &["graph.ron:two"], 0);
    let keys: Vec<&Value> = document["actions"].as_array().unwrap().iter().map(|action| &action["key"]).collect();
    let source = Digest::of(b"!\n").to_string();

    let (statement, _) = provenance(&place, &["graph.ron:two", "--format", "in-toto"], 0);
    let definition = &statement["predicate"]["buildDefinition"];
    let dependencies = definition["resolvedDependencies"].as_array().unwrap();
    let sources: Vec<&Value> =
        dependencies.iter().filter(|one| !one["annotations"]["readFromOutsideTheGraphBy"].is_null()).collect();
    assert_eq!((sources.len(), &sources[0]["name"]), (1, &Value::from("one: files.0, two: files.0")));
    let readers = sources[0]["annotations"]["readFromOutsideTheGraphBy"].as_array().unwrap();
    assert_eq!(readers.iter().map(|reader| &reader["key"]).collect::<Vec<_>>(), keys);
    let made_from = definition["internalParameters"]["madeFrom"].as_array().unwrap();
    assert!(made_from.iter().any(|one| one["role"] == "files.0" && one["digest"] == source), "{made_from:#?}");

    let (document, _) = provenance(&place, &["graph.ron:two", "--format", "ro-crate"], 0);
    let entities = document["@graph"].as_array().unwrap();
    let of = |id: &str| entities.iter().find(|entity| entity["@id"] == id).unwrap();
    assert_eq!(of(&format!("urn:blake3:{source}"))["@type"], "File");
    let is_source =
        |entity: &&Value| entity["identifier"] == format!("blake3:{source}") && entity["@type"] == "CreativeWork";
    assert_eq!(entities.iter().filter(is_source).count(), 2, "one for each reader: {document:#}");

    // A statement on nothing is none.
    let artifact = &action(&provenance(&place, &["graph.ron:two"], 0).0, keys[1])["artifact"].clone();
    assert_eq!(place.output(&["lock", "graph.ron"]).code, Some(0));
    fs::remove_file(named(&place, "trees", artifact)).unwrap();
    let said = place.output(&["provenance", "graph.lock.ron:two", "--format", "in-toto"]);
    assert!(said.code != Some(0) && said.stdout.is_empty(), "{said:#?}");
    assert!(said.stderr.contains("names the files of the result, and the list of those of"), "{said:#?}");
}

#[test]
fn what_is_asked_for_must_be_one_result() {
    let place = place();
    let _filters = place.filters();
    let told = |arguments: &[&str]| {
        let said = place.output(&[&["provenance"], arguments].concat());
        assert!(said.code != Some(0) && said.stdout.is_empty(), "{said:#?}");
        said.stderr
    };
    insta::assert_snapshot!(told(&["graph.ron"]), @"error: name one stage of graph.ron: `weights`, `upper`, `both`, `other`");
    insta::assert_snapshot!(told(&["graph.ron", "bath"]), @"error: there is no stage `bath` in graph.ron; did you mean `both`?");
    insta::assert_snapshot!(told(&["graph.ron", "both", "--license", "MIT"]), @"error: --license stands in a crate alone: add --format ro-crate");
    place.graph(&[r#""new": Command(run: ["sh", "-c", "echo new > $0/new", "{out}"])"#]);
    insta::assert_snapshot!(told(&["graph.ron", "new"]), @"error: stage `new` of graph.ron:new has no result yet: run the graph first");
    // Nor does a workspace file that cannot be read hide that.
    place.write("twdag.ron", "Workspace(version: 1, remote_store: 1)\n");
    let both = told(&["graph.ron", "new"]);
    assert!(both.contains("whether there is a remote store that has it is not known: "), "{both}");
    assert!(both.ends_with("error: stage `new` of graph.ron:new has no result yet: run the graph first\n"), "{both}");
}

/// The Python with the validators, or `None`, told loudly, where it is not there.
#[allow(clippy::print_stderr, reason = "a skipped test has nothing but this to be noticed by")]
fn validators() -> Option<String> {
    let python = env::var(VARIABLE).unwrap_or_else(|_| "python3".to_owned());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/check_provenance.py");
    let has_them =
        Command::new(&python).args([script, "available"]).output().is_ok_and(|output| output.status.success());
    if !has_them {
        writeln!(
            std::io::stderr(),
            "SKIPPED: {VARIABLE} names no Python that has roc-validator, rocrate, in-toto-attestation and securesystemslib"
        )
        .unwrap();
    }
    has_them.then_some(python)
}

/// What the validators say of a document; nothing if all is well.
fn validate(python: &str, arguments: &[&str]) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/check_provenance.py");
    let output = Command::new(python).arg(script).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { String::new() } else { said + "failed" }
}

#[test]
fn the_validators_of_others_accept_what_is_told() {
    let Some(python) = validators() else { return };
    let place = place();
    let (both, _) = provenance(&place, &["graph.ron:both"], 0);
    let text = place.result("both", "both");
    // Whole, and with an ancestor missing.
    for code in [0, 1] {
        let artifact = both["subject"]["artifact"].as_str().unwrap();
        let crate_folder = place.path("crate");
        fs::create_dir_all(&crate_folder).unwrap();
        let license = if code == 0 { &["--license", "https://spdx.org/licenses/MIT"] } else { [].as_slice() };
        let arguments = [&[artifact, "--format", "ro-crate"], license].concat();
        let (document, said) = provenance(&place, &arguments, code);
        fs::write(crate_folder.join("ro-crate-metadata.json"), &said.stdout).unwrap();
        fs::write(crate_folder.join("both"), &text).unwrap();
        fs::write(crate_folder.join("notes.txt"), "read me\n").unwrap();
        assert_eq!(validate(&python, &["ro-crate", crate_folder.to_str().unwrap()]), "", "{document:#}");

        let (statement, said) = provenance(&place, &[artifact, "--format", "in-toto"], code);
        let path = place.path("statement.json");
        fs::write(&path, &said.stdout).unwrap();
        assert_eq!(validate(&python, &["in-toto", path.to_str().unwrap()]), "", "{statement:#}");
        let weights = sha256(&place.path("weights/model.bin"));
        assert!(said.stdout.contains(&weights), "the weights stand among the dependencies: {statement:#}");

        let upper = &action(&both, &both["subject"]["made_by"][0])["inputs"][0]["made_by"][0];
        let record = named(&place, "actions", upper);
        if code == 0 {
            // The validators do see what is wrong.
            fs::remove_file(crate_folder.join("both")).unwrap();
            assert!(validate(&python, &["ro-crate", crate_folder.to_str().unwrap()]).contains("both"));
            fs::write(&path, said.stdout.replace("resolvedDependencies", "dependencies")).unwrap();
            assert!(validate(&python, &["in-toto", path.to_str().unwrap()]).contains("dependencies"));
            fs::remove_file(record).unwrap();
        }
    }
}

#[test]
fn a_signed_statement_is_verified_by_the_library_of_in_toto() {
    let Some(python) = validators() else { return };
    let place = place();
    let public = place.output(&["store", "keygen", "key"]).stdout;
    assert_eq!(place.output(&["store", "keygen", "other"]).code, Some(0));
    let signed = |key: &str| {
        let (envelope, _) = provenance(&place, &["graph.ron:both", "--format", "in-toto", "--signing-key", key], 0);
        fs::write(place.path("envelope.json"), envelope.to_string()).unwrap();
        envelope
    };
    let (statement, _) = provenance(&place, &["graph.ron:both", "--format", "in-toto"], 0);
    fs::write(place.path("statement.json"), statement.to_string()).unwrap();
    let paths = ["envelope.json", "statement.json"].map(|name| place.path(name).display().to_string());
    let verify = || validate(&python, &["dsse", &paths[0], public.trim(), &paths[1]]);
    let envelope = signed("key");
    assert_eq!(verify(), "", "{envelope:#}");
    // A changed statement, and another key.
    let payload = envelope["payload"].as_str().unwrap();
    let changed = envelope.to_string().replace(&payload[..40], &format!("{}A", &payload[..39]));
    assert_ne!(changed, envelope.to_string());
    fs::write(place.path("envelope.json"), changed).unwrap();
    assert!(verify().contains("failed"), "{}", verify());
    signed("other");
    assert!(verify().contains("failed"), "{}", verify());
    let said = place.output(&["provenance", "graph.ron:both", "--format", "in-toto", "--signing-key", "none"]);
    assert!(said.code == Some(2) && said.stderr.contains("none: it cannot be read"), "{said:#?}");
}
