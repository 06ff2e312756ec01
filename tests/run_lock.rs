//! Lock files: made, read, merged, and runs that are held to one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod run_support;

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use run_support::{EXPERIMENT, Place, Said};
use serde_json::Value;

const TEXT: &str = r#""text": Command(run: ["cp", "{file.0}", "{out}/text"], files: ["text.txt"])"#;
const UPPER: &str = r#""upper": Command(run: ["sh", "-c", "tr a-z A-Z < $0/text > $1/upper", "{in.text}", "{out}"], inputs: {"text": "text"})"#;
const COUNT: &str = r#""count": Command(run: ["sh", "-c", "wc -c < $0/upper > $1/count", "{in.upper}", "{out}"], inputs: {"upper": "upper"})"#;
/// Gives other bytes each time it runs.
const NANOSECONDS: &str =
    r#""upper": Command(run: ["sh", "-c", "date +%N > $1/upper", "{in.text}", "{out}"], inputs: {"text": "text"})"#;

fn place() -> Place {
    let place = Place::with(&[TEXT, UPPER, COUNT]);
    place.write("text.txt", "some text\n");
    place
}

/// A place with everything computed and locked.
fn locked() -> Place {
    let place = place();
    run(&place, &[], 0);
    lock(&place);
    place
}

fn run(place: &Place, more: &[&str], code: i32) -> Said {
    let said = place.output(&[&["run", "graph.ron"], more].concat());
    assert_eq!(said.code, Some(code), "{said:#?}");
    said
}

fn lock(place: &Place) -> String {
    let said = place.output(&["lock", "graph.ron"]);
    assert_eq!(said.code, Some(0), "{said:#?}");
    fs::read_to_string(place.path("graph.lock.ron")).unwrap()
}

/// The first line of the lock that tells of a stage.
fn line<'a>(text: &'a str, stage: &str) -> &'a str {
    text.lines().find(|line| line.trim_start().starts_with(&format!("\"{stage}\""))).unwrap()
}

#[test]
fn a_lock_has_a_sorted_line_for_each_stage_and_the_same_bytes_each_time() {
    let place = locked();
    let text = fs::read_to_string(place.path("graph.lock.ron")).unwrap();
    let again = place.output(&["lock", "graph.ron"]);
    assert_eq!(fs::read_to_string(place.path("graph.lock.ron")).unwrap(), text);
    let _filters = place.filters();
    insta::assert_snapshot!(text, @r#"
    // What each stage is keyed by and gave. Made by `twdag lock`; `twdag run --locked` holds a run to it.
    // After a merge conflict: take either side, then `twdag run` and `twdag lock` again.
    Lock(
        version: 1,
        set: {},
        stages: {
            "count": (key: "[digest]", artifact: "[digest]", kind: "Command", revision: 1, settings: {"env": {}, "files": [], "inputs": {"upper": "upper"}, "outputs": [], "run": ["sh", "-c", "wc -c < $0/upper > $1/count", "{in.upper}", "{out}"]}, inputs: {"inputs.upper": "[digest]"}),

            "text": (key: "[digest]", artifact: "[digest]", kind: "Command", revision: 1, settings: {"env": {}, "files": ["text.txt"], "inputs": {}, "outputs": [], "run": ["cp", "{file.0}", "{out}/text"]}, sources: {"files.0": "[digest]"}, file_names: {"files.0": "text.txt"}),

            "upper": (key: "[digest]", artifact: "[digest]", kind: "Command", revision: 1, settings: {"env": {}, "files": [], "inputs": {"text": "text"}, "outputs": [], "run": ["sh", "-c", "tr a-z A-Z < $0/text > $1/upper", "{in.text}", "{out}"]}, inputs: {"inputs.text": "[digest]"}),

        },
    )
    "#);
    insta::assert_snapshot!(again.stdout, @r#"graph.lock.ron: 3 stages, nothing changed"#);
    // The same in another folder with another store.
    let other = self::place();
    run(&other, &[], 0);
    assert_eq!(lock(&other), text);
}

#[test]
fn a_stage_that_was_never_computed_cannot_be_locked() {
    let place = place();
    run(&place, &["text"], 0);
    let said = place.output(&["lock", "graph.ron"]);
    assert_eq!(said.code, Some(1));
    let _filters = place.filters();
    insta::assert_snapshot!(said.stderr, @r#"error: stage `upper` has not been computed (never computed here), and a lock names results; compute them first with: twdag run graph.ron"#);
    assert!(!place.path("graph.lock.ron").exists());
}

#[test]
fn a_run_that_does_as_locked_is_a_run_like_any_other() {
    let place = locked();
    assert_eq!(place.run(&["--locked"]).with_outcome("cached").len(), 3);
    fs::remove_dir_all(place.path("artifacts")).unwrap();
    let fresh = place.run(&["--locked"]);
    assert_eq!((fresh.code, fresh.with_outcome("ran").len()), (Some(0), 3), "{fresh:#?}");
    let plan = place.output(&["plan", "graph.ron", "--locked"]);
    assert_eq!((plan.code, plan.stderr.as_str()), (Some(0), ""));
    assert!(plan.stdout.ends_with("as graph.lock.ron says, all of it\n"), "{}", plan.stdout);
}

#[test]
fn another_setting_is_told_before_anything_runs_with_what_changed() {
    let place = locked();
    place.graph(&[TEXT, &UPPER.replace("A-Z", "B-ZA"), COUNT]);
    let said = run(&place, &["--locked"], 3);
    let _filters = place.filters();
    insta::assert_snapshot!(said.stderr, @r#"error: stage `upper` failed: it is not what graph.lock.ron locks: setting `run.2` changed: "tr a-z A-Z < $0/text > $1/upper" → "tr a-z B-ZA < $0/text > $1/upper"; if that is meant, lock anew with `twdag run` and `twdag lock`"#);
    let json = place.run(&["--locked"]);
    let failed = json.event("stage-failed", "upper");
    let deviation = &failed["differs_from_lock"];
    assert_eq!(json.code, Some(3));
    assert_eq!(json.outcomes().into_values().collect::<Vec<_>>(), ["skipped", "cached", "failed"]);
    assert_eq!(deviation["differences"][0]["what"], "setting");
    assert_eq!(deviation["differences"][0]["place"], "run.2");
    assert_ne!(deviation["locked"]["key"], deviation["found"]["key"]);
    assert!(json.events.iter().all(|event| event["event"] != "stage-started"), "{json:#?}");
}

#[test]
fn another_source_is_told_also_where_the_store_is_new() {
    let place = locked();
    place.write("text.txt", "another text\n");
    fs::remove_dir_all(place.path("artifacts")).unwrap();
    let plan = place.output(&["plan", "graph.ron", "--locked"]);
    assert_eq!(plan.code, Some(3));
    let json = place.output(&["plan", "graph.ron", "--locked", "--json"]);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["deviations"][0]["stage"], "text");
    assert_eq!(json["deviations"][0]["differences"][0]["reads"], "text.txt");
    assert_eq!(json["stages"].as_array().unwrap().len(), 3);
    let _filters = place.filters();
    insta::assert_snapshot!(plan.stderr, @r#"not as locked: stage `text`: it is not what graph.lock.ron locks: source `files.0` changed (text.txt); if that is meant, lock anew with `twdag run` and `twdag lock`"#);
}

#[test]
fn another_result_for_the_same_key_stops_what_comes_after_it() {
    let place = place();
    place.graph(&[TEXT, NANOSECONDS, COUNT]);
    run(&place, &[], 0);
    lock(&place);
    fs::remove_dir_all(place.path("artifacts")).unwrap();
    let said = run(&place, &["--locked"], 3);
    let _filters = place.filters();
    insta::assert_snapshot!(said.stderr, @r#"
    error: stage `upper` failed: its result is not what graph.lock.ron locks, for the same key: artifact [digest] there, [digest] here; where both are in a store, `twdag diff` of the two tells in what they differ
      log: artifacts/local/runs/[run]/logs/001-upper.log
    "#);
    let json = place.run(&["--locked"]);
    assert_eq!(json.code, Some(3), "{json:#?}");
    let deviation = &json.event("stage-failed", "upper")["differs_from_lock"];
    assert_eq!(deviation["locked"]["key"], deviation["found"]["key"]);
    assert_ne!(deviation["locked"]["artifact"], deviation["found"]["artifact"]);
    assert_eq!(json.outcomes()["count"], "skipped");
    // Without a lock it is a result like any other.
    run(&place, &[], 0);
}

#[test]
fn a_wrong_result_is_not_tried_again() {
    let place = place();
    let text = run_support::graph(&[TEXT, NANOSECONDS, COUNT]);
    place.write("graph.ron", &text.replace("\n)\n", "\n    policy: {\"upper\": (retries: 3)},\n)\n"));
    run(&place, &[], 0);
    lock(&place);
    fs::remove_dir_all(place.path("artifacts")).unwrap();
    let json = place.run(&["--locked"]);
    assert_eq!(json.code, Some(3));
    assert!(json.events.iter().all(|event| event["event"] != "stage-retrying"), "{json:#?}");
}

#[test]
fn parameters_are_locked_and_named_where_they_make_the_difference() {
    let place = Place::new();
    place.write(
        "graph.ron",
        r#"Graph(version: 1, params: {"word": "one"}, stages: {
            "word": Command(run: ["sh", "-c", "echo $0 > $1/word", param("word"), "{out}"]),
        })"#,
    );
    run(&place, &["--set", "word=two"], 0);
    let said = place.output(&["lock", "graph.ron", "--set", "word=two", "--lock-file", "two.lock.ron"]);
    assert_eq!(said.code, Some(0), "{said:#?}");
    assert!(fs::read_to_string(place.path("two.lock.ron")).unwrap().contains(r#"set: {"word": "\"two\""}"#));
    run(&place, &["--set", "word=two", "--locked", "--lock-file", "two.lock.ron"], 0);
    let said = run(&place, &["--locked", "--lock-file", "two.lock.ron"], 3);
    let _filters = place.filters();
    insta::assert_snapshot!(said.stderr, @r#"error: stage `word` failed: it is not what two.lock.ron locks: setting `run.3` changed: "two" → "one" (the lock was made with --set word="two", this is with no --set)"#);
}

#[test]
fn a_lock_of_other_stages_is_out_of_date() {
    let place = locked();
    place.graph(&[TEXT, &UPPER.replace("\"upper\": C", "\"capitals\": C")]);
    let said = run(&place, &["--locked"], 3);
    assert_eq!(said.stdout, "");
    let _filters = place.filters();
    insta::assert_snapshot!(said.stderr, @r#"error: graph.lock.ron is not of graph.ron as it is now: it does not lock `capitals` and locks `count`, `upper`, not in the graph; if the graph is right, lock anew with `twdag run` and `twdag lock`"#);
    // Stages that are not asked for do not matter.
    place.graph(&[TEXT, UPPER, COUNT, &UPPER.replace("\"upper\": C", "\"more\": C")]);
    run(&place, &["--locked", "count"], 0);
    run(&place, &["--locked"], 3);
}

#[test]
fn a_lock_that_cannot_be_read_is_told_with_its_place() {
    let place = locked();
    let text = fs::read_to_string(place.path("graph.lock.ron")).unwrap();
    let _filters = place.filters();
    let refused = |text: &str| {
        place.write("graph.lock.ron", text);
        let said = run(&place, &["--locked"], 2);
        assert_eq!(said.stdout, "");
        said.stderr
    };
    let count = line(&text, "count");
    let conflict = text.replace(count, &format!("<<<<<<< ours\n{count}\n=======\n{count}\n>>>>>>> theirs"));
    insta::assert_snapshot!(refused(&conflict), @r#"
    error: the lock file holds a merge conflict
     --> graph.lock.ron:7:1
      |
    7 | <<<<<<< ours
      | ^^^^^^^^^^^^ git left this here
      |
      = help: take either side, then make it anew with `twdag run GRAPH` and `twdag lock GRAPH`
    "#);
    insta::assert_snapshot!(refused(&text.replace(count, &format!("{count}\n{count}"))), @r#"
    error: this is no lock file of twdag: stage `count` stands twice
     --> graph.lock.ron:8:10
      |
    8 | ...   "count": (key: "[digest]", artifact: "ce3aa29db0a1cb4ec3bb2993239f908b9...
      |        ^^^^^^ here
      |
      = help: make it anew with `twdag run GRAPH` and `twdag lock GRAPH`
    "#);
    insta::assert_snapshot!(refused(&text.replace("version: 1", "version: 2")), @r#"
    error: the lock file has version 2, this twdag reads version 1
    --> graph.lock.ron
     = help: use a newer twdag, or lock again with this one
    "#);
    insta::assert_snapshot!(refused(&text.replace("revision: 1", "revizion: 1")), @r#"
    error: this is no lock file of twdag: Unexpected field named `revizion` in `LockedStage`, expected one of `key`, `artifact`, `kind`, `revision`, `numeric_class`, `commit`, `settings`, `inputs`, `sources`, or `file_names` instead
     --> graph.lock.ron:7:187
      |
    7 | ...9f908b9033209fb865951a2c13e29f68120a4d", kind: "Command", revizion: 1, settings: {"env": {}, "files": [], "inputs": {"upper": "upp...
      |                                                              ^^^^^^^^ here
      |
      = help: make it anew with `twdag run GRAPH` and `twdag lock GRAPH`
    "#);
    insta::assert_snapshot!(refused(&text[..text.len() / 2]), @r#"
    error: this is no lock file of twdag: Expected end of string
     --> graph.lock.ron:9:101
      |
    9 |         "text": (key: "[digest]", artifact: "9075ed
      |                                                                                                     ^ here
      |
      = help: make it anew with `twdag run GRAPH` and `twdag lock GRAPH`
    "#);
    insta::assert_snapshot!(refused("Graph(version: 1, stages: {})"), @r#"
    error: this is no lock file of twdag: Expected struct `Lock` but found `Graph`
     --> graph.lock.ron:1:1
      |
    1 | Graph(version: 1, stages: {})
      | ^^^^^ here
      |
      = help: make it anew with `twdag run GRAPH` and `twdag lock GRAPH`
    "#);
    fs::remove_file(place.path("graph.lock.ron")).unwrap();
    insta::assert_snapshot!(run(&place, &["--locked"], 2).stderr, @r#"
    error: there is no lock file graph.lock.ron
    --> graph.lock.ron
     = help: make it with `twdag lock GRAPH` where all results are as they should be, and commit it beside the graph
    "#);
    // What cannot be read is no obstacle to making it anew.
    place.write("graph.lock.ron", &conflict);
    assert_eq!(lock(&place), text);
}

#[test]
fn a_lock_replaces_nothing_but_a_lock() {
    let place = locked();
    let refused = |file: &str, code: i32| {
        let said = place.output(&["lock", "graph.ron", "--lock-file", file]);
        assert_eq!(said.code, Some(code), "{said:#?}");
        said.stderr
    };
    let graph = fs::read_to_string(place.path("graph.ron")).unwrap();
    fs::write(place.path("bytes"), [0xff, 0xfe]).unwrap();
    let _filters = place.filters();
    insta::assert_snapshot!(refused("graph.ron", 2), @"error: graph.ron is there already and is no lock file, so it is not replaced; name another file with --lock-file, or remove it");
    insta::assert_snapshot!(refused("bytes", 2), @"error: bytes is there already and is no lock file, so it is not replaced; name another file with --lock-file, or remove it");
    insta::assert_snapshot!(refused("artifacts", 2), @"error: artifacts is there already and is no lock file, so it is not replaced; name another file with --lock-file, or remove it");
    insta::assert_snapshot!(refused("text.txt/lock.ron", 1), @"error: cannot read text.txt/lock.ron, which the lock would replace: Not a directory (os error 20)");
    assert_eq!(fs::read_to_string(place.path("graph.ron")).unwrap(), graph);
    assert_eq!(fs::read(place.path("bytes")).unwrap(), [0xff, 0xfe]);
    assert_eq!(place.output(&["lock", "graph.ron", "--lock-file", "new.ron"]).code, Some(0));
}

/// Runs git in a place.
fn git(place: &Place, arguments: &[&str]) {
    let mut git = Command::new("git");
    let identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
    let said = Said::from(git.current_dir(place.path("")).args(identity).args(arguments).output().unwrap());
    assert_eq!(said.code, Some(0), "{arguments:?} {said:#?}");
}

/// Commits a lock on a branch that begins here.
fn commit(place: &Place, branch: &str, text: &str) {
    git(place, &["checkout", "-q", "-B", branch]);
    place.write("graph.lock.ron", text);
    git(place, &["add", "graph.lock.ron"]);
    git(place, &["commit", "-q", "--allow-empty", "-m", branch]);
}

#[test]
fn git_merges_locks_of_two_branches_that_added_different_stages_if_it_keeps_the_lines_of_both() {
    let stage =
        |name: &str, word: &str| format!(r#""{name}": Command(run: ["sh", "-c", "echo {word} > $0/x", "{{out}}"])"#);
    let place = place();
    let lock_of = |more: &[(&str, &str)]| {
        let more: Vec<String> = more.iter().map(|(name, word)| stage(name, word)).collect();
        let all = [&[TEXT, UPPER, COUNT], &more.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat();
        place.graph(&all);
        run(&place, &[], 0);
        lock(&place)
    };
    let both = lock_of(&[("one", "1"), ("two", "2")]);
    let (one, two, other) = (lock_of(&[("one", "1")]), lock_of(&[("two", "2")]), lock_of(&[("one", "another")]));
    let base = lock_of(&[]);
    git(&place, &["init", "-q"]);
    fs::create_dir_all(place.path(".git/info")).unwrap();
    place.write(".git/info/attributes", include_str!("../.gitattributes"));
    commit(&place, "base", &base);
    for (branch, text) in [("one", &one), ("two", &two), ("other", &other)] {
        git(&place, &["checkout", "-q", "base"]);
        commit(&place, branch, text);
    }
    git(&place, &["checkout", "-q", "two"]);
    git(&place, &["merge", "-q", "one", "-m", "merge"]);
    place.graph(&[TEXT, UPPER, COUNT, &stage("one", "1"), &stage("two", "2")]);
    run(&place, &["--locked"], 0);
    assert_eq!(lock(&place), both);
    // Two results of one stage are none.
    git(&place, &["checkout", "-q", "--force", "one"]);
    git(&place, &["merge", "-q", "other", "-m", "merge"]);
    let said = run(&place, &["--locked"], 2);
    assert!(said.stderr.contains("stage `one` stands twice"), "{said:#?}");
}

#[test]
fn git_merges_locks_of_two_branches_that_changed_different_stages() {
    let side = r#""side": Command(run: ["sh", "-c", "echo side > $0/side", "{out}"])"#;
    let apart = r#""zone": Command(run: ["sh", "-c", "echo zone > $0/zone", "{out}"])"#;
    let place = place();
    let lock_of = |stages: &[&str]| {
        place.graph(stages);
        run(&place, &[], 0);
        lock(&place)
    };
    let merged =
        lock_of(&[TEXT, UPPER, &COUNT.replace("wc -c", "wc -w"), &side.replace("echo side", "echo aside"), apart]);
    let one = lock_of(&[TEXT, UPPER, COUNT, &side.replace("echo side", "echo aside"), apart]);
    let two = lock_of(&[TEXT, UPPER, &COUNT.replace("wc -c", "wc -w"), side, apart]);
    let base = lock_of(&[TEXT, UPPER, COUNT, side, apart]);
    git(&place, &["init", "-q"]);
    commit(&place, "base", &base);
    commit(&place, "one", &one);
    git(&place, &["checkout", "-q", "base"]);
    commit(&place, "two", &two);
    git(&place, &["merge", "-q", "one", "-m", "merge"]);
    // Lines in between keep two changes apart; git's own rule asks for one.
    assert_eq!(fs::read_to_string(place.path("graph.lock.ron")).unwrap(), merged);
}

/// The numbers of a user who is nobody.
const NOBODY: u32 = 65534;

/// How a program is run as another user, or `None`, told loudly, where that is not possible.
#[allow(clippy::print_stderr, reason = "a skipped test has nothing but this to be noticed by")]
fn as_another_user() -> Option<Vec<String>> {
    let setpriv = format!("setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --");
    let ways = [setpriv.as_str(), "unshare --user --map-user=1234 --"];
    let works = |way: &&&str| {
        let mut words = way.split(' ').chain(["id", "-u"]);
        let output = Command::new(words.next().unwrap()).args(words).output();
        let own = rustix::process::getuid().as_raw().to_string();
        output.is_ok_and(|output| output.status.success() && String::from_utf8_lossy(&output.stdout).trim() != own)
    };
    let way = ways.iter().find(works);
    if way.is_none() {
        eprintln!("SKIPPED: neither `setpriv` nor `unshare` runs a program as another user here");
    }
    way.map(|way| way.split(' ').map(str::to_owned).collect())
}

/// Gives a folder and all in it to somebody else, if this user may.
fn give(folder: &Path, user: u32) {
    for entry in walkdir::WalkDir::new(folder).into_iter().flatten() {
        if rustix::process::getuid().is_root() {
            std::os::unix::fs::chown(entry.path(), Some(user), Some(user)).unwrap();
        }
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn another_user_elsewhere_with_another_locale_and_other_threads_locks_the_same() {
    let Some(way) = as_another_user() else { return };
    let mut locks = Vec::new();
    for (threads, locale, zone) in [(1, "C", "UTC"), (2, "tr_TR.UTF-8", "Asia/Kolkata")] {
        let place = Place::new();
        let is_other = threads == 2;
        let folder = if is_other { "checkouts of others/experiment é" } else { "." };
        fs::create_dir_all(place.path(folder)).unwrap();
        for (name, text) in [("twdag.ron", "Workspace(version: 1)\n"), ("graph.ron", &run_support::graph(EXPERIMENT))] {
            fs::write(place.path(folder).join(name), text).unwrap();
        }
        if is_other {
            give(&place.path(""), NOBODY);
        }
        let said = |arguments: &[&str]| {
            let plain = place.twdag(arguments);
            let mut command = if is_other {
                let mut command = Command::new(&way[0]);
                command.args(&way[1..]).arg(plain.get_program()).args(plain.get_args());
                command
            } else {
                plain
            };
            command.current_dir(place.path(folder)).env_remove("TWDAG_STORE").env("HOME", place.path(folder));
            command.envs([("LANG", locale), ("LC_ALL", locale), ("TZ", zone), ("USER", locale)]);
            let said = Said::from(command.output().unwrap());
            assert_eq!(said.code, Some(0), "{said:#?}");
        };
        said(&["run", "graph.ron", "--resource", &format!("cpu={threads}")]);
        said(&["lock", "graph.ron"]);
        locks.push(fs::read_to_string(place.path(folder).join("graph.lock.ron")).unwrap());
        // Whoever made the lock may be held to the other's.
        if let [first, _] = &locks[..] {
            fs::write(place.path(folder).join("graph.lock.ron"), first).unwrap();
            said(&["run", "graph.ron", "--locked"]);
        }
    }
    assert_eq!(locks[0], locks[1]);
}

#[test]
fn a_changed_constant_of_the_optimizer_is_traced_to_the_stage_and_the_tensor() {
    let place = Place::with(EXPERIMENT);
    run(&place, &[], 0);
    lock(&place);
    let changed = EXPERIMENT.iter().map(|stage| stage.replace("steps: 3,", "steps: 3, epsilon: 1e-3,"));
    let changed: Vec<String> = changed.collect();
    place.graph(&changed.iter().map(String::as_str).collect::<Vec<_>>());
    let said = run(&place, &["--locked"], 3);
    assert!(said.stderr.contains("stage `trained` failed"), "{said:#?}");
    assert!(said.stderr.contains("setting `epsilon` changed: 1e-8 → 0.001"), "{said:#?}");
    run(&place, &[], 0);
    let said = place.output(&["diff", "graph.lock.ron", "graph.ron", "--json"]);
    assert_eq!(said.code, Some(3), "{said:#?}");
    let json: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(
        (&json["stage"]["name"], &json["stage"]["differences"][0]["place"]),
        (&"trained".into(), &"epsilon".into())
    );
    let files = json["stage"]["files"]["files"].as_array().unwrap();
    let model = files.iter().find(|file| file["path"] == "model.safetensors").unwrap();
    let first = &model["tensors"][0];
    assert!(first["elements"]["differing"].as_u64().unwrap() > 0 && first["name"].is_string(), "{model:#}");
}
