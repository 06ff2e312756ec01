//! Checkpoints that somebody with access to the shared store has written: who names keys is told nothing by them that the log does not say.

use std::{fs, path::PathBuf};

use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};
use twdag::digest::Digest;

use crate::{
    attacks::rewrite,
    place::{Machine, Team},
    signatures::{CLOCK, key, trust},
};

fn filler(number: usize) -> String {
    format!(r#""s{number}": Command(run: ["sh", "-c", "echo {number} > $0/x", "{{out}}"])"#)
}

impl Machine<'_> {
    /// Gives one more result, with a key if there is one.
    fn give(&self, number: usize, more: &[&str]) {
        self.place.graph(&[&filler(number)]);
        self.run_alone();
        let said = self.output(&[&["store", "push", "graph.ron", "--json"], more].concat());
        let pushed: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said:#?}"));
        assert_eq!((said.code, &pushed["stored"]), (Some(0), &json!(1)), "{pushed}");
    }

    /// What [`CLOCK`] is for this machine, as the shared store says.
    fn clock(&self) -> String {
        self.place.graph(CLOCK);
        let (code, pulled) = self.store("pull");
        assert_eq!((code, &pulled["fetched"]), (Some(0), &json!(1)), "{pulled}");
        self.place.result("clock", "time")
    }
}

/// Two who trust themselves alone and have given different results of an action.
struct Both<'a> {
    first: Machine<'a>,
    /// The file of the first one's key, and the public halves of both.
    key: String,
    publics: [String; 2],
    /// What the first one gave, which counts for whoever trusts both.
    counts: String,
    other: String,
}

impl<'a> Both<'a> {
    /// They have given what makes so many segments.
    fn with_segments(team: &'a Team, count: usize) -> Self {
        let (first, second) = (team.machine(CLOCK), team.machine(CLOCK));
        let (key_file, public) = key(&first, "own.key");
        let (other_file, other_public) = key(&second, "own.key");
        for (machine, file, public) in [(&first, &key_file, &public), (&second, &other_file, &other_public)] {
            trust(machine, &[public]);
            machine.run_alone();
            let said = machine.output(&["store", "push", "graph.ron", "--signing-key", file]);
            assert_eq!(said.code, Some(0), "{said:#?}");
        }
        let (counts, other) = (first.place.result("clock", "time"), second.place.result("clock", "time"));
        let both = Self { first, key: key_file, publics: [public, other_public], counts, other };
        both.give(3..=count);
        both
    }

    fn give(&self, numbers: impl Iterator<Item = usize>) {
        numbers.for_each(|number| self.first.give(number, &["--signing-key", &self.key]));
    }

    /// Somebody new who trusts both.
    fn newcomer(&self, team: &'a Team) -> Machine<'a> {
        let newcomer = team.machine(CLOCK);
        self.trusts(&newcomer);
        newcomer
    }

    fn trusts(&self, machine: &Machine<'_>) {
        trust(machine, &self.publics.each_ref().map(String::as_str));
    }
}

fn checkpoints(team: &Team) -> Vec<u64> {
    let number = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().parse().unwrap();
    team.files("checkpoints").iter().map(number).collect()
}

/// The lines of a checkpoint, the operations in another order; what stood below them, if anything did.
fn reordered(text: &str) -> (String, Option<String>) {
    let (operations, signed): (Vec<&str>, Vec<&str>) =
        text.lines().skip(1).partition(|line| !line.starts_with(r#"{"signed":"#));
    let heading = text.lines().next();
    let lines: Vec<&str> = heading.into_iter().chain(operations.into_iter().rev()).collect();
    (lines.join("\n"), signed.first().map(|line| (*line).to_owned()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A stranger's statement that nothing but the log stands behind these lines.
fn signed_by_a_stranger(lines: &str) -> String {
    let key = SigningKey::from_bytes(&[7; 32]);
    let text = json!({"lines": Digest::of(lines.as_bytes()).to_string(), "rests_on": []}).to_string();
    let message = blake3::derive_key("twdag 1 signed checkpoint", text.as_bytes());
    let signature = json!({"by": format!("ed25519:{}", hex(key.verifying_key().as_bytes())),
        "signature": hex(&key.sign(&message).to_bytes())});
    json!({"signed": {"text": text, "signature": signature}}).to_string()
}

#[test]
fn a_checkpoint_with_another_order_than_the_log_counts_for_nobody_who_names_keys() {
    for lie in ["unsigned", "under the honest signature", "signed by a stranger"] {
        let team = Team::in_a_folder();
        let both = Both::with_segments(&team, 8);
        assert_eq!(checkpoints(&team), [8], "{lie}");
        rewrite(&team.files("checkpoints")[0], |text| {
            let (lines, honest) = reordered(&text);
            match lie {
                "unsigned" => lines,
                "signed by a stranger" => format!("{lines}\n{}", signed_by_a_stranger(&lines)),
                _ => format!("{lines}\n{}", honest.unwrap()),
            }
        });
        // Who names no keys believes everybody.
        assert_eq!(team.machine(CLOCK).clock(), both.other, "{lie}");
        assert_eq!(both.newcomer(&team).clock(), both.counts, "{lie}");
    }
}

#[test]
fn a_checkpoint_that_leaves_losses_out_counts_for_nobody_who_names_keys() {
    let team = Team::in_a_folder();
    let both = Both::with_segments(&team, 3);
    let holds = |path: &PathBuf| String::from_utf8_lossy(&fs::read(path).unwrap()).contains(both.counts.trim());
    team.files("packs").iter().filter(|path| holds(path)).for_each(|path| fs::remove_file(path).unwrap());
    both.trusts(&both.first);
    let said = both.first.output(&["store", "check", "--remote", "--json", "--signing-key", &both.key]);
    assert_eq!(said.code, Some(1), "{said:#?}");
    both.give(5..=8);
    assert_eq!(checkpoints(&team), [8]);
    rewrite(&team.files("checkpoints")[0], |text| {
        let lines = text.lines().filter(|line| !line.starts_with(r#"{"lost":"#) && !line.starts_with(r#"{"signed":"#));
        lines.collect::<Vec<_>>().join("\n")
    });
    // The other result has the place of what was lost. Who names no keys believes everybody, and finds out for himself.
    assert_eq!(team.machine(CLOCK).store("pull").1["fetched"], 0);
    assert_eq!(both.newcomer(&team).clock(), both.other);
}

#[test]
fn what_rests_on_a_strangers_checkpoint_is_not_signed_for_others() {
    let team = Team::in_a_folder();
    let both = Both::with_segments(&team, 8);
    rewrite(&team.files("checkpoints")[0], |text| reordered(&text).0);
    // The same key, in a workspace that trusts everybody.
    let careless = team.machine(CLOCK);
    (9..=16).for_each(|number| careless.give(number, &["--signing-key", &both.key]));
    assert_eq!(checkpoints(&team), [8, 16]);
    assert_eq!(team.machine(CLOCK).clock(), both.other);
    assert_eq!(both.newcomer(&team).clock(), both.counts);
    // Somebody who has read the log vouches for it again.
    both.trusts(&both.first);
    both.give(17..=17);
    assert_eq!(checkpoints(&team), [8, 16, 17]);
    fs::remove_file(&team.files("segments")[0]).unwrap();
    assert_eq!(both.newcomer(&team).clock(), both.counts);
}

#[test]
fn a_name_that_a_stranger_has_taken_delays_the_next_checkpoint() {
    let team = Team::in_a_folder();
    let both = Both::with_segments(&team, 7);
    let folder = team.files("segments")[0].ancestors().nth(2).unwrap().join("checkpoints");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("{:012}", 8)), b"mine").unwrap();
    both.give(8..=9);
    assert_eq!(checkpoints(&team), [8, 9]);
    let newcomer = both.newcomer(&team);
    newcomer.place.graph(CLOCK);
    let said = newcomer.output(&["store", "pull", "graph.ron"]);
    assert!(said.code == Some(0) && !said.stderr.contains("checkpoint"), "{said:#?}");
    assert_eq!(newcomer.place.result("clock", "time"), both.counts);
}

#[test]
fn what_another_workspace_believed_on_this_machine_counts_for_none_that_names_keys() {
    let team = Team::in_a_folder();
    let both = Both::with_segments(&team, 8);
    rewrite(&team.files("checkpoints")[0], |text| reordered(&text).0);
    let machine = team.machine(CLOCK);
    assert_eq!(machine.output(&["plan", "graph.ron"]).code, Some(0));
    both.trusts(&machine);
    assert_eq!(machine.clock(), both.counts);
}

#[test]
fn what_rests_on_somebody_else_counts_for_those_who_trust_him_too() {
    let team = Team::in_a_folder();
    let both = Both::with_segments(&team, 8);
    let stranger = format!("ed25519:{}", hex(SigningKey::from_bytes(&[7; 32]).verifying_key().as_bytes()));
    rewrite(&team.files("checkpoints")[0], |text| {
        let lines = reordered(&text).0;
        format!("{lines}\n{}", signed_by_a_stranger(&lines))
    });
    let friend = team.machine(CLOCK);
    let [first, second] = both.publics.each_ref().map(String::as_str);
    trust(&friend, &[first, &stranger]);
    (9..=16).for_each(|number| friend.give(number, &["--signing-key", &both.key]));
    assert_eq!(both.newcomer(&team).clock(), both.counts);
    let trusting = team.machine(CLOCK);
    trust(&trusting, &[first, second, &stranger]);
    assert_eq!(trusting.clock(), both.other);
}
