//! What members say they keep in the shared store, whose word counts there, and what is not understood.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use twdag::digest::Digest;

use crate::{
    attacks::{change, rewrite},
    collecting::{ALL, fetched},
    place::{CHAIN, Machine, THOUSAND, Team},
    run_support::Said,
    signatures::{key, trust},
};

/// A stage that has nothing to do with [`CHAIN`].
const OTHER: &str = r#""other": Command(run: ["sh", "-c", "echo other > $0/other", "{out}"])"#;

impl Machine<'_> {
    /// A `twdag store gc --remote` that is refused; what it says.
    fn refused(&self, more: &[&str]) -> Said {
        let said = self.output(&[&["store", "gc", "--remote", "--json"], more].concat());
        assert!(said.code != Some(0) && said.stdout.is_empty(), "{said:#?}");
        assert!(said.stderr.contains("is left as it is"), "{said:#?}");
        said
    }
}

/// Changes what a line of the last segment publishes.
fn change_published(team: &Team, change: impl FnOnce(&mut Value)) {
    rewrite(team.files("segments").last().unwrap(), |text| {
        let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        change(&mut lines[1]["publish"]);
        lines.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")
    });
}

/// Has the last segment say that something is lost, in words of a later version.
fn add_loss(team: &Team, loss: &Value) {
    let origin = Digest::of(&fs::read(&team.files("segments")[0]).unwrap()).to_string();
    let mut loss = loss.clone();
    loss["origin"] = json!(origin);
    let line = json!({"lost": {"text": loss.to_string()}});
    rewrite(team.files("segments").last().unwrap(), |text| format!("{text}\n{line}"));
}

/// Changes what a root says, and what stands beside it; its own check is right again.
fn change_root(path: &Path, what: impl FnOnce(&mut Value), beside: impl FnOnce(&mut Value)) {
    change(path, |bytes| {
        let mut object: Value = serde_json::from_slice(bytes).unwrap();
        let mut text: Value = serde_json::from_str(object["said"]["text"].as_str().unwrap()).unwrap();
        what(&mut text);
        let text = text.to_string();
        object["check"] = json!(Digest::of(text.as_bytes()).to_string());
        object["said"]["text"] = json!(text);
        beside(&mut object["said"]);
        *bytes = object.to_string().into_bytes();
    });
}

#[test]
fn nothing_is_removed_while_anything_cannot_be_read() {
    let cases = [
        ("a damaged segment", "v1/segments/000000000001: it is damaged"),
        ("a missing segment", "v1/segments/000000000001: it is missing"),
        ("a line of a later version", "v1/segments/000000000002: a line that this version of twdag does not know"),
        ("a record of a later version", "the record: it has version 2, this twdag reads version 1"),
        ("a damaged list of files", "its list of files in v1/packs/"),
        ("a damaged root", "what is kept is damaged"),
        ("a root that is no JSON", "what is kept cannot be read"),
        (
            "a later field of what is published",
            "v1/segments/000000000002: a line that this version of twdag does not wholly know",
        ),
        (
            "a later field of where it lies",
            "v1/segments/000000000002: a line that this version of twdag does not wholly know",
        ),
        ("a later field of a heading", "v1/segments/000000000002: a line that this version of twdag does not know"),
        (
            "a later reason of a loss",
            "v1/segments/000000000002: a line that this version of twdag does not wholly know",
        ),
        ("a later field of a loss", "v1/segments/000000000002: a line that this version of twdag does not wholly know"),
        ("a later field of a record", "the record holds fields that this version of twdag does not know"),
        ("a later field of a root", "what is kept cannot be read: unknown field `until`"),
        ("a later sort of root", "what is kept cannot be read: unknown variant `lease`"),
        ("a later field of a signature", "what is kept holds fields that this version of twdag does not know"),
        ("no segments", "v1/segments/"),
    ];
    for (case, expected) in cases {
        let team = Team::in_a_folder();
        let (first, second) = (team.machine(CHAIN), team.machine(&[THOUSAND]));
        first.run_alone();
        first.pin();
        second.run_alone();
        assert_eq!(second.store("push").1["stored"], 1);
        let segments = team.files("segments");
        let pins = team.files("roots").into_iter().find(|path| path.ends_with("pins")).unwrap();
        let (_, public) = key(&first, "any.key");
        match case {
            "a damaged segment" => change(&segments[0], |bytes| bytes[60] ^= 1),
            "a missing segment" => fs::remove_file(&segments[0]).unwrap(),
            "a line of a later version" => {
                rewrite(segments.last().unwrap(), |text| text + "\n{\"keep\": \"this\"}");
            }
            "a record of a later version" => change_published(&team, |published| {
                let record = published["record"].as_str().unwrap().replacen("\"version\":1", "\"version\":2", 1);
                published["record"] = json!(record);
            }),
            "a damaged list of files" => {
                let packs = team.files("packs");
                let of_second = packs.iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
                change(of_second, |bytes| *bytes.last_mut().unwrap() ^= 1);
            }
            "a damaged root" => change(&pins, |bytes| {
                let text = String::from_utf8(std::mem::take(bytes)).unwrap();
                *bytes = text.replace("paper", "pater").into_bytes();
            }),
            "a root that is no JSON" => change(&pins, Vec::clear),
            "a later field of what is published" => {
                change_published(&team, |published| published["chunks"] = json!([]));
            }
            "a later field of where it lies" => {
                change_published(&team, |published| published["packed"][0]["packing"] = json!("zstd"));
            }
            "a later field of a heading" => {
                rewrite(segments.last().unwrap(), |text| text.replacen("{\"number\"", "{\"follows\":1,\"number\"", 1));
            }
            "a later reason of a loss" => add_loss(&team, &json!({"lost": [], "why": "moved"})),
            "a later field of a loss" => add_loss(&team, &json!({"lost": [], "why": "collected", "until": 5})),
            "a later field of a record" => change_published(&team, |published| {
                let record = published["record"].as_str().unwrap();
                published["record"] = json!(record.replacen("\"record\":{", "\"record\":{\"needs\":[],", 1));
            }),
            "a later field of a root" => change_root(&pins, |said| said["roots"][0]["until"] = json!(5), |_| {}),
            "a later sort of root" => change_root(&pins, |said| said["roots"][0]["sort"] = json!("lease"), |_| {}),
            "a later field of a signature" => change_root(
                &pins,
                |_| {},
                |said| {
                    said["signature"] = json!({"by": public, "signature": "", "with": []});
                },
            ),
            _ => segments.iter().for_each(|path| fs::remove_file(path).unwrap()),
        }
        let before = team.files("");
        let collector = team.machine(CHAIN);
        let said = collector.refused(ALL);
        assert!(said.stderr.contains(expected) && said.stderr.contains("--give-up-unreadable"), "{case}: {said:#?}");
        assert!(collector.refused(&[ALL, &["--dry-run"]].concat()).stderr.contains(expected), "{case}");
        let left: Vec<PathBuf> = team.files("").into_iter().filter(|path| !path.ends_with("v1/collector")).collect();
        assert_eq!(left, before, "{case}");
        // Who says so loses what cannot be read, and nothing else.
        if case != "no segments" {
            let told = collector.output(&[&["store", "gc", "--remote", "--give-up-unreadable"], ALL].concat());
            assert_eq!(told.code, Some(0), "{case}: {told:#?}");
            assert!(told.stderr.contains(expected), "{case}: {told:#?}");
        }
        if ["a damaged list of files", "a record of a later version", "a later field of a record"].contains(&case) {
            assert_eq!(fetched(&team, CHAIN), 3, "{case}");
        }
    }
}

#[test]
fn what_is_pinned_is_told_anew_by_each_push_run_and_collecting() {
    for how in ["push", "run", "gc", "another key", "another store of one's own"] {
        let team = Team::in_a_folder();
        let member = team.machine(CHAIN);
        member.run(&[]);
        member.pin();
        let roots = PathBuf::from(team.address.trim_start_matches("file://")).join("v1/roots");
        fs::remove_dir_all(&roots).unwrap();
        let mut collector = &member;
        let (other, mut more) = (team.machine(CHAIN), ALL.to_vec());
        let (file, public) = key(&member, "member.key");
        match how {
            "push" => assert_eq!(member.store("push").0, Some(0)),
            "run" => {
                // It asks for one result alone, which is there.
                fs::remove_dir_all(member.place.path("artifacts/actions")).unwrap();
                assert_eq!(member.run(&[]).code, Some(0));
            }
            "another key" => {
                // What nobody has signed counts for nobody who names keys.
                trust(&member, &[&public]);
                let said = member.output(&["store", "push", "graph.ron", "--signing-key", &file]);
                assert_eq!(said.code, Some(0), "{said:#?}");
                more.extend(["--signing-key", &file]);
            }
            "another store of one's own" => {
                fs::remove_dir_all(member.place.path("artifacts/local/remotes")).unwrap();
                assert_eq!(member.store("push").0, Some(0));
            }
            _ => {}
        }
        if matches!(how, "push" | "run" | "another store of one's own") {
            collector = &other;
        }
        let collected = collector.collect(&more);
        let reader = team.machine(CHAIN);
        if how == "another key" {
            trust(&reader, &[&public]);
        }
        assert_eq!(reader.store("pull").1["fetched"], 3, "{how}: {collected}");
    }
}

#[test]
fn members_that_fell_silent_keep_their_pins_alone() {
    for team in Team::all() {
        let (pinner, ci) = (team.machine(CHAIN), team.machine(&[THOUSAND]));
        pinner.run(&[]);
        pinner.pin();
        ci.run(&[]);
        let keep = ["--keep-runs", "10", "--older-than", "0s", "--grace", "0s"];
        assert_eq!(pinner.collect(&keep)["removed"]["results"], 0);
        let collected = team.machine(CHAIN).collect(&[&keep[..], &["--forget-after", "0s"]].concat());
        assert_eq!(collected["removed"]["results"], 1, "{collected}");
        assert_eq!((fetched(&team, CHAIN), fetched(&team, &[THOUSAND])), (json!(3), json!(0)));
    }
}

#[test]
fn who_only_reads_keeps_nothing() {
    let team = Team::in_a_folder();
    team.machine(CHAIN).run(&[]);
    let reader = team.machine(CHAIN);
    let roots = team.files("roots").len();
    assert_eq!(reader.run(&["--remote", "read"]).with_outcome("cached").len(), 3);
    assert_eq!(team.files("roots").len(), roots);
    assert_eq!(team.machine(CHAIN).collect(ALL)["removed"]["results"], 3);
}

#[test]
fn what_is_kept_counts_under_its_own_name_in_its_own_log_alone() {
    let (team, elsewhere) = (Team::in_a_folder(), Team::in_a_folder());
    let member = team.machine(CHAIN);
    member.run(&[]);
    member.pin();
    let roots = |team: &Team| PathBuf::from(team.address.trim_start_matches("file://")).join("v1/roots");
    let pins = team.files("roots").into_iter().find(|path| path.ends_with("pins")).unwrap();
    // The same results are in another store, which nobody keeps there.
    let stranger = elsewhere.machine(CHAIN);
    stranger.run(&[]);
    let same_name = roots(&elsewhere).join(pins.strip_prefix(roots(&team)).unwrap());
    fs::create_dir_all(same_name.parent().unwrap()).unwrap();
    fs::copy(&pins, &same_name).unwrap();
    let said = stranger.output(&[&["store", "gc", "--remote"], ALL].concat());
    assert!(said.stderr.contains("it was written for another place; it keeps nothing"), "{said:#?}");
    assert_eq!(fetched(&elsewhere, CHAIN), 0);
    // And he who has unpinned them does not keep them since somebody made a copy.
    let copy = roots(&team).join(Digest::of(b"nobody").to_string()).join("pins");
    fs::create_dir_all(copy.parent().unwrap()).unwrap();
    fs::copy(&pins, &copy).unwrap();
    assert_eq!(member.place.output(&["unpin", "paper"]).code, Some(0));
    assert_eq!(member.store("push").0, Some(0));
    let said = member.output(&[&["store", "gc", "--remote"], ALL].concat());
    assert!(said.stderr.contains("it was written for another place; it keeps nothing"), "{said:#?}");
    assert_eq!(fetched(&team, CHAIN), 0);
}

#[test]
fn what_is_kept_after_it_was_given_up_comes_back() {
    for team in Team::all() {
        let member = team.machine(CHAIN);
        member.run(&[]);
        let gives_up = ["--keep-runs", "0", "--older-than", "0s", "--grace", "1d"];
        assert_eq!(team.machine(CHAIN).collect(&gives_up)["removed"]["results"], 3);
        assert_eq!(fetched(&team, CHAIN), 0);
        assert_eq!(member.place.output(&["pin", "graph.ron", "--name", "paper"]).code, Some(0));
        // This one tells what is pinned, and gives nothing.
        let collected = member.collect(&gives_up);
        assert_eq!((&collected["revived"], &collected["removed"]["results"]), (&json!(3), &json!(0)), "{collected}");
        assert_eq!(fetched(&team, CHAIN), 3);
    }
}

#[test]
fn who_would_not_be_heeded_collects_nothing() {
    let team = Team::in_a_folder();
    let (member, stranger) = (team.machine(CHAIN), team.machine(&[OTHER]));
    let (file, public) = key(&member, "member.key");
    let (foreign, own) = key(&stranger, "own.key");
    trust(&member, &[&public]);
    let ran = member.run(&["--signing-key", &file]);
    assert_eq!(ran.event("remote-summary", "")["stored"], 3, "{ran:#?}");
    let says = |said: &Said, expected: &str| assert!(said.stderr.contains(expected), "{said:#?}");
    says(
        &member.refused(ALL),
        "this machine signs with none of them, so that nobody would heed it; give --signing-key",
    );
    // Outside of the workspace nobody knows whose word counts.
    says(&stranger.refused(ALL), "results there are signed, and no `trusted_keys` are named here");
    trust(&stranger, &[&own]);
    let with_own = [ALL, &["--signing-key", &foreign]].concat();
    assert_eq!(stranger.run(&["--signing-key", &foreign]).code, Some(0));
    says(&stranger.refused(&with_own), "would not heed this machine, as it signs with no key that is trusted there");
    // Whose policy knows none of the results is in the wrong place.
    forget_roots(&team);
    let newcomer = team.machine(&[OTHER]);
    let (foreign, own) = key(&newcomer, "own.key");
    trust(&newcomer, &[&own]);
    says(&newcomer.refused(&[ALL, &["--signing-key", &foreign]].concat()), "no result there is signed with one of the");
    assert_eq!(team.files("objects").len(), 1);
}

/// Nobody has said anything of what is kept.
fn forget_roots(team: &Team) {
    fs::remove_dir_all(PathBuf::from(team.address.trim_start_matches("file://")).join("v1/roots")).unwrap();
}

#[test]
fn a_stranger_neither_keeps_nor_takes_away() {
    let team = Team::in_a_folder();
    let (stranger, member) = (team.machine(&[OTHER]), team.machine(CHAIN));
    let (file, public) = key(&member, "member.key");
    let (foreign, own) = key(&stranger, "own.key");
    trust(&member, &[&public]);
    trust(&stranger, &[&own]);
    assert_eq!(member.run(&["--signing-key", &file]).code, Some(0));
    assert_eq!(stranger.run(&["--signing-key", &foreign]).code, Some(0));
    let pull = |public: &str| -> Value {
        let reader = team.machine(&[CHAIN, &[OTHER]].concat());
        trust(&reader, &[public]);
        let said = reader.output(&["store", "pull", "graph.ron", "--json", "--remote", "read"]);
        serde_json::from_str::<Value>(&said.stdout).unwrap()["fetched"].clone()
    };
    // Members whose word he does not know of heed none of his.
    forget_roots(&team);
    let (give_up, last) = (["--keep-runs", "0"], ["--older-than", "0s", "--grace", "1d"]);
    assert_eq!(stranger.place.output(&["pin", "graph.ron", "--name", "own"]).code, Some(0));
    let collected = stranger.collect(&[&give_up[..], &last, &["--signing-key", &foreign]].concat());
    assert_eq!(collected["removed"]["results"], 3, "{collected}");
    assert_eq!((pull(&public), pull(&own)), (json!(3), json!(1)));
    // And what he keeps is kept by nobody else.
    assert_eq!(member.place.output(&["pin", "graph.ron", "--name", "all"]).code, Some(0));
    forget_roots(&team);
    let collected = member.collect(&[&give_up[..], &last, &["--signing-key", &file]].concat());
    assert_eq!(collected["removed"]["results"], 1, "{collected}");
    assert_eq!((pull(&public), pull(&own)), (json!(3), json!(1)), "he does not heed the member either");
}
