//! Every byte of the shared store looked at: damage is told, and heals when its maker runs.

use std::{
    fs,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use twdag::digest::Digest;

use crate::{
    attacks::{change, rewrite},
    bucket_server::Treat,
    place::{CHAIN, Machine, THOUSAND, Team},
    signatures::{key, trust},
};

impl Machine<'_> {
    /// `twdag store check --remote --json`, and the object that it prints.
    fn check(&self, more: &[&str]) -> (Option<i32>, Value) {
        let said = self.output(&[&["store", "check", "--remote", "--json"], more].concat());
        let value = serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said:#?}"));
        (said.code, value)
    }
}

#[test]
fn a_store_that_is_whole_is_whole() {
    for team in Team::all() {
        let machine = team.machine(&[CHAIN, &[THOUSAND]].concat());
        machine.run(&[]);
        team.requests();
        let (code, checked) = machine.check(&[]);
        assert_eq!((code, &checked["whole"], &checked["results"]), (Some(0), &json!(true), &json!(4)), "{checked}");
        assert_eq!((&checked["findings"], &checked["unneeded"]), (&json!([]), &json!(0)), "{checked}");
        // One file, twenty and their last, the large one, a thousand and their list.
        assert_eq!(checked["contents"], 1023, "{checked}");
        let requests = team.requests();
        assert!(
            requests.is_none_or(|requests| checked["requests"] == requests && requests <= 30),
            "{requests:?} {checked}"
        );
    }
}

#[test]
fn damage_is_told_and_heals() {
    type Harm = fn(&Team);
    // How many results are lost, and how many others can have then: without the first there is no key of the next.
    let cases: &[(&str, Harm, &str, u64, u64)] = &[
        (
            "an object with another byte",
            |team| change(&team.files("objects")[0], |bytes| bytes[5_000_000] ^= 1),
            "damaged",
            1,
            2,
        ),
        ("a shorter object", |team| change(&team.files("objects")[0], |bytes| bytes.truncate(9)), "damaged", 1, 2),
        ("no object", |team| fs::remove_file(&team.files("objects")[0]).unwrap(), "lost", 1, 2),
        ("no pack", |team| team.files("packs").iter().for_each(|path| fs::remove_file(path).unwrap()), "lost", 2, 0),
        (
            "a pack with another byte",
            |team| change(&team.files("packs")[0], |bytes| *bytes.last_mut().unwrap() ^= 1),
            "damaged",
            1,
            1,
        ),
        (
            "records that are none",
            |team| {
                for path in team.files("segments") {
                    rewrite(&path, |text| text.replace(r#"\"revision\":"#, r#"\"revised\":"#));
                }
            },
            "damaged",
            3,
            0,
        ),
    ];
    for (what, harm, sort, lost, fetched) in cases {
        let team = Team::in_a_folder();
        let machine = team.machine(CHAIN);
        machine.run_alone();
        machine.store("push");
        harm(&team);
        let inspector = team.machine(CHAIN);
        let before = team.files("");
        let (code, checked) = inspector.check(&["--dry-run"]);
        assert_eq!(
            (code, &checked["whole"], &checked["lost"]),
            (Some(1), &json!(false), &json!(lost)),
            "{what}: {checked}"
        );
        assert!(
            checked["findings"].as_array().unwrap().iter().all(|finding| finding["sort"] == *sort),
            "{what}: {checked}"
        );
        assert_eq!(team.files(""), before, "{what}");
        let (code, checked) = inspector.check(&[]);
        assert_eq!((code, &checked["lost"]), (Some(1), &json!(lost)), "{what}: {checked}");
        let (code, checked) = inspector.check(&[]);
        assert_eq!((code, &checked["whole"]), (Some(0), &json!(true)), "{what}: {checked}");
        // Others know, ask for nothing in vain, and the maker gives it again.
        let (code, pulled) = team.machine(CHAIN).store("pull");
        assert_eq!((code, &pulled["fetched"]), (Some(0), &json!(fetched)), "{what}: {pulled}");
        assert_eq!(machine.store("push").1["stored"], *lost, "{what}");
        assert_eq!(team.machine(CHAIN).store("pull").1["fetched"], 3, "{what}");
        let (code, checked) = inspector.check(&[]);
        assert_eq!((code, &checked["results"]), (Some(0), &json!(3)), "{what}: {checked}");
    }
}

#[test]
fn what_is_not_understood_is_told_and_left() {
    let team = Team::in_a_folder();
    let machine = team.machine(CHAIN);
    machine.run_alone();
    machine.store("push");
    let root = team.address.strip_prefix("file://").unwrap();
    fs::write(std::path::Path::new(root).join("v1/README"), "mine").unwrap();
    let (code, checked) = machine.check(&[]);
    assert_eq!((code, &checked["findings"][0]["sort"]), (Some(0), &json!("foreign")), "{checked}");
    // A record of a later version is no damage that anybody gives up.
    let segment = &team.files("segments")[0];
    let before = fs::read(segment).unwrap();
    rewrite(segment, |text| text.replacen(r#"\"version\":1,\"record"#, r#"\"version\":9,\"record"#, 1));
    let (code, checked) = team.machine(CHAIN).check(&[]);
    assert_eq!((code, &checked["lost"], &checked["results"]), (Some(1), &json!(0), &json!(2)), "{checked}");
    assert!(checked.to_string().contains("a later version of twdag may read it"), "{checked}");
    change(segment, |bytes| *bytes = before);
    change(segment, |bytes| *bytes.last_mut().unwrap() ^= 1);
    let said = team.machine(CHAIN).output(&["store", "check", "--remote"]);
    assert_eq!(said.code, Some(1), "{said:#?}");
    assert!(said.stdout.contains("v1/segments/000000000001"), "{said:#?}");
    assert!(said.stdout.contains("it is damaged (cut short or changed)"), "{said:#?}");
}

#[test]
fn a_flipped_byte_in_each_kind_of_object_is_found_on_a_real_server() {
    // The room whose objects come with another last byte.
    let flipped: Arc<Mutex<Option<&'static str>>> = Arc::default();
    let room = Arc::clone(&flipped);
    let team = Team::behind(move |request| {
        let is_flipped = room.lock().unwrap().is_some_and(|room| request.target.contains(room));
        if is_flipped && request.method == "GET" && !request.target.contains("list-type") {
            Treat::Flip
        } else {
            Treat::Well
        }
    });
    let Some(team) = team else { return };
    let stages: Vec<&str> = [CHAIN, &[THOUSAND]].concat();
    let machine = team.machine(&stages);
    machine.run_alone();
    // Eight segments have a checkpoint.
    for stage in ["one", "many", "large", "thousand"] {
        assert_eq!(machine.output(&["store", "push", "graph.ron", stage]).code, Some(0));
    }
    for stage in 0..4 {
        let stage = format!(r#""more-{stage}": Command(run: ["sh", "-c", "echo {stage} > $0/more", "{{out}}"])"#);
        let other = team.machine(&[&stage]);
        other.run_alone();
        assert_eq!(other.store("push").0, Some(0));
    }
    assert_eq!(machine.check(&[]).0, Some(0));
    for (room, lost) in [("/segments/", 0), ("/checkpoints/", 0), ("/roots/", 0), ("/objects/", 1), ("/packs/", 4)] {
        *flipped.lock().unwrap() = Some(room);
        let (code, checked) = machine.check(&["--dry-run"]);
        assert_eq!((code, &checked["whole"]), (Some(1), &json!(false)), "{room}: {checked}");
        let findings = checked["findings"].as_array().unwrap();
        let is_there = |finding: &Value| room == "/packs/" || finding["object"].as_str().unwrap().contains(room);
        assert!(!findings.is_empty() && findings.iter().all(is_there), "{room}: {checked}");
        assert_eq!(checked["lost"], lost, "{room}: {checked}");
    }
    *flipped.lock().unwrap() = Some("/objects/");
    assert_eq!(machine.check(&[]).1["lost"], 1);
    *flipped.lock().unwrap() = None;
    // Only that is given again, by who has it.
    assert_eq!(team.machine(&stages).store("pull").1["fetched"], 3);
    assert_eq!(machine.store("push").1["stored"], 1);
    assert_eq!(machine.check(&[]).0, Some(0));
    assert_eq!(team.machine(&stages).store("pull").1["fetched"], 4);
}

#[test]
fn bytes_that_cannot_be_read_are_not_called_lost() {
    let team = Team::behind(|request| {
        if request.method == "GET" && request.target.contains("/packs/") { Treat::Refuse(403) } else { Treat::Well }
    });
    let Some(team) = team else { return };
    let machine = team.machine(CHAIN);
    machine.run(&[]);
    let said = machine.output(&["store", "check", "--remote"]);
    assert!(said.code == Some(1) && said.stderr.contains("cannot read v1/packs/"), "{said:#?}");
    assert!(
        team.machine(CHAIN).store("status").1["stages"]
            .as_array()
            .unwrap()
            .iter()
            .all(|stage| stage["there"].is_string())
    );
}

#[test]
fn a_false_word_about_a_content_makes_no_true_one_false() {
    let team = Team::in_a_folder();
    let machine = team.machine(CHAIN);
    machine.run_alone();
    machine.store("push");
    // A copy of a result that says of a pack, or of a file in it, where a content does not lie.
    rewrite(&team.files("segments")[0], |text| {
        let operations = text.lines().skip(1).map(|line| serde_json::from_str::<Value>(line).unwrap());
        let is_packed = |operation: &Value| operation["publish"]["packed"][0]["files"][0][1].is_u64();
        let mut copy = operations.into_iter().find(is_packed).unwrap();
        let offset = &mut copy["publish"]["packed"][0]["files"][0][1];
        *offset = (offset.as_u64().unwrap() + 1).into();
        copy["publish"]["again"] = 1.into();
        format!("{}\n{copy}\n", text.trim_end())
    });
    let (code, checked) = team.machine(CHAIN).check(&[]);
    assert_eq!((code, &checked["lost"], &checked["results"]), (Some(1), &json!(1), &json!(3)), "{checked}");
    let (code, checked) = team.machine(CHAIN).check(&[]);
    assert_eq!((code, &checked["whole"], &checked["results"]), (Some(0), &json!(true), &json!(3)), "{checked}");
}

#[test]
fn only_who_is_trusted_says_what_is_lost() {
    let team = Team::in_a_folder();
    let member = team.machine(CHAIN);
    let (file, public) = key(&member, "member.key");
    trust(&member, &[&public]);
    member.run(&["--signing-key", &file]);
    let said = member.output(&["store", "check", "--remote"]);
    assert!(said.code == Some(2) && said.stderr.contains("give --signing-key"), "{said:#?}");
    assert_eq!(member.check(&["--dry-run"]).0, Some(0));
    let (code, checked) = member.check(&["--signing-key", &file]);
    assert_eq!((code, &checked["untrusted"]), (Some(0), &json!(0)), "{checked}");
    team.machine(&[THOUSAND]).run(&[]);
    let (code, checked) = member.check(&["--signing-key", &file]);
    assert_eq!((code, &checked["untrusted"]), (Some(0), &json!(1)), "{checked}");
}

#[test]
fn what_this_version_does_not_wholly_know_is_told_and_left() {
    let team = Team::in_a_folder();
    let machine = team.machine(&[THOUSAND]);
    machine.run(&[]);
    // A later version may say by that field where the files lie.
    rewrite(&team.files("segments")[0], |text| text.replacen(r#""packed":["#, r#""chunks":[],"packed":["#, 1));
    team.files("packs").iter().for_each(|path| fs::remove_file(path).unwrap());
    let (code, checked) = machine.check(&[]);
    assert_eq!((code, &checked["lost"]), (Some(1), &json!(0)), "{checked}");
    let problem = "a line that this version of twdag does not wholly know";
    assert_eq!(checked["findings"][0]["problem"], problem, "{checked}");
    assert_eq!(team.files("segments").len(), 1);
}

#[test]
fn a_copy_for_other_actions_makes_no_result_a_damaged_one() {
    let team = Team::in_a_folder();
    let machine = team.machine(&CHAIN[..1]);
    let (file, public) = key(&machine, "member.key");
    trust(&machine, &[&public]);
    machine.run(&["--signing-key", &file]);
    // It bears the name and the signature of what it was copied from, and is found before that as often as after it.
    rewrite(&team.files("segments")[0], |text| {
        let line = text.lines().nth(1).unwrap();
        let copy = |number: u32| {
            let mut copy: Value = serde_json::from_str(line).unwrap();
            copy["publish"]["key"] = Digest::of(&number.to_le_bytes()).to_string().into();
            format!("{copy}\n")
        };
        text.trim_end().to_owned() + "\n" + &(0..20).map(copy).collect::<String>()
    });
    let (code, checked) = machine.check(&["--signing-key", &file]);
    assert_eq!((code, &checked["lost"]), (Some(0), &json!(0)), "{checked}");
    let reader = team.machine(&CHAIN[..1]);
    trust(&reader, &[&public]);
    assert_eq!(reader.store("pull").1["fetched"], 1);
}
