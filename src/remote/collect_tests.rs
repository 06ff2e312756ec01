//! Members and collectors who share a store, in any order of their requests, with any of them killed at any request: what is
//! published is whole, and what is kept comes back.
//!
//! Each of them runs its real code on a thread of its own. Each of its requests waits for its turn, which the case draws, as it draws the
//! server's time. What falls into the gap between a look and a removal, and nothing else, may be lost until somebody collects and its
//! keeper gives it again.

mod forecast;
mod turns;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    path::{Path as FilePath, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use jiff::Timestamp;
use proptest::{collection::vec, prelude::*};

use self::turns::{Ask, Seen, State, Turns};
use super::{
    Keys, RemoteError, RemoteRetention, SigningKey, client::Client, index::Index, place::objects_of, signing::PublicKey,
};
use crate::{
    digest::{ArtifactId, Digest, Key},
    store::{Pin, PinnedStage, Provenance, Record, Store},
};

const HOUR: Duration = Duration::from_hours(1);
const GRACE: Duration = Duration::from_hours(24);
/// Nobody takes longer to give results and to say what he keeps.
const LONGEST: Duration = Duration::from_hours(23);
/// The contents of all results, by their numbers; the third is large enough to be an object of its own.
const RESULTS: [&[usize]; 6] = [&[0, 1], &[1, 3], &[0, 2], &[2, 4], &[4], &[UNLIKE]];
/// A content that comes out otherwise on each machine.
const UNLIKE: usize = 5;
/// In a case with keys, this one has none that the others trust, and trusts everybody.
const STRANGER: usize = 2;

/// What one of them does.
#[derive(Clone, Debug)]
enum Step {
    /// Gives results, and says that it keeps them, as a run or a pin.
    Give {
        results: Vec<usize>,
        pinned: bool,
    },
    /// Lets its pin go, and says so.
    Unpin,
    Collect,
}

/// A member, or one who collects, and what it does.
#[derive(Clone, Debug)]
struct Script {
    steps: Vec<Step>,
    /// It is killed at that request.
    dies_at: Option<usize>,
}

fn steps() -> impl Strategy<Value = Step> {
    // The same result alone has the same packs.
    let results = prop_oneof![3 => Just(vec![0]), 3 => Just(vec![2]), 3 => vec(0..RESULTS.len(), 1..4)];
    prop_oneof![
        4 => (results, any::<bool>()).prop_map(|(results, pinned)| Step::Give { results, pinned }),
        1 => Just(Step::Unpin),
        3 => Just(Step::Collect),
    ]
}

fn scripts() -> impl Strategy<Value = Vec<Script>> {
    let script = (vec(steps(), 1..3), proptest::option::weighted(0.3, 0..40_usize));
    vec(script.prop_map(|(steps, dies_at)| Script { steps, dies_at }), 2..4)
}

/// What happened before, one after another: who did what, and how many hours passed then.
fn past() -> impl Strategy<Value = Vec<(usize, Step, u32)>> {
    vec((0..3_usize, steps(), prop_oneof![0..3_u32, 20..60_u32]), 0..7)
}

/// Who is next, and how many hours pass before.
fn draws() -> impl Strategy<Value = Vec<(u8, u32)>> {
    vec((any::<u8>(), prop_oneof![8 => Just(0_u32), 1 => 1..30_u32]), 1..80)
}

/// A member's own store, with all results.
struct Home {
    who: usize,
    folder: tempfile::TempDir,
    store: Store,
    records: Vec<Record>,
    key: PathBuf,
    public: PublicKey,
}

fn content(number: usize, who: usize) -> Vec<u8> {
    match number {
        2 => vec![7; 1 << 20],
        UNLIKE => format!("content of {who}").into_bytes(),
        _ => format!("content {number}").into_bytes(),
    }
}

impl Home {
    fn new(who: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let records = RESULTS.iter().enumerate().map(|(number, contents)| {
            let result = folder.path().join(number.to_string());
            fs::create_dir(&result).unwrap();
            for content in *contents {
                fs::write(result.join(content.to_string()), self::content(*content, who)).unwrap();
            }
            let artifact = store.ingest(&result).unwrap();
            let record = record(number, artifact);
            store.publish(&record).unwrap();
            record
        });
        let records = records.collect();
        let key = folder.path().join("key");
        let public = SigningKey::create(&key).unwrap().public();
        Self { who, folder, store, records, key, public }
    }

    /// The keys of this one, if the case has any.
    fn keys(&self, trusted: Option<&[PublicKey]>) -> Keys {
        let Some(trusted) = trusted else { return Keys::default() };
        let trusted = if self.who == STRANGER { Vec::new() } else { trusted.to_vec() };
        Keys { trusted, signing: Some(SigningKey::read(&self.key).unwrap()) }
    }

    /// As if it had never heard of the shared store.
    fn forget(&self) {
        let known = self.store.derived("remotes");
        if known.exists() {
            fs::remove_dir_all(known).unwrap();
        }
        self.store.unpin("kept").unwrap();
    }
}

fn record(number: usize, artifact: ArtifactId) -> Record {
    let now = Timestamp::UNIX_EPOCH;
    Record {
        key: Digest::of(&number.to_le_bytes()).into(),
        artifact,
        kind: "Test".to_owned(),
        revision: 1,
        graph: "graph.ron".to_owned(),
        stage: number.to_string(),
        settings: serde_json::Value::Null,
        inputs: Vec::new(),
        references: Vec::new(),
        sources: Vec::new(),
        file_names: BTreeMap::new(),
        numeric_class: None,
        provenance: Provenance::here(now, now, 0.0),
        notices: Vec::new(),
        part: None,
        parts: Vec::new(),
    }
}

const RETENTION: RemoteRetention = RemoteRetention {
    keep_runs: 0,
    older_than: Duration::ZERO,
    forget_after: Duration::MAX,
    grace: GRACE,
    max_size: None,
    give_up_unreadable: false,
    dry_run: false,
};

/// How all collect, and whose word counts.
#[derive(Clone, Debug)]
struct Rules {
    retention: RemoteRetention,
    trusted: Option<Vec<PublicKey>>,
}

impl Rules {
    fn is_stranger(&self, who: usize) -> bool {
        self.trusted.is_some() && who == STRANGER
    }

    fn keys(&self) -> Keys {
        Keys { trusted: self.trusted.clone().unwrap_or_default(), signing: None }
    }
}

/// What a member keeps of what it has given, by its numbers: what is pinned, and by the object that says so what a run gave, and when it
/// said so last.
#[derive(Clone, Debug, Default)]
struct Kept {
    pinned: BTreeSet<usize>,
    runs: BTreeMap<String, (Duration, BTreeSet<usize>)>,
}

impl Kept {
    /// What no rule lets go: pins, and the last runs. Of runs in the same hour it is not said which is the last, and what was said anew
    /// in the moment in which that word went is not heard.
    fn firm(&self, keep_runs: usize, excused: &HashSet<String>) -> BTreeSet<usize> {
        let runs = self.runs.iter().filter(|(object, (time, _))| {
            let later = |(other, (said, _)): &(&String, &(Duration, _))| other != object && said >= time;
            !excused.contains(*object) && self.runs.iter().filter(later).count() < keep_runs
        });
        runs.flat_map(|(_, (_, results))| results).chain(&self.pinned).copied().collect()
    }
}

/// Does what a script says; what is kept then.
fn act(script: &Script, home: &Home, seen: &Seen, rules: &Rules, mut kept: Kept) -> Kept {
    for step in &script.steps {
        let began = !matches!(step, Step::Collect);
        seen.turns.set(home.who, |actor, now| actor.began = began.then_some(now));
        if carry_out(step, home, seen, rules, &mut kept).is_err() {
            break;
        }
    }
    kept
}

fn carry_out(
    step: &Step,
    home: &Home,
    seen: &Seen,
    rules: &Rules,
    kept: &mut Kept,
) -> std::result::Result<(), RemoteError> {
    let remote = seen.remote(home.keys(rules.trusted.as_deref()));
    let record = |number: &usize| &home.records[*number];
    match step {
        Step::Give { results, pinned } => {
            if *pinned {
                kept.pinned.clear();
                let stages = results
                    .iter()
                    .map(|number| PinnedStage { name: number.to_string(), artifact: record(number).artifact });
                let (name, graph) = ("kept".to_owned(), "graph.ron".to_owned());
                home.store.pin(&Pin { name, graph, time: Timestamp::UNIX_EPOCH, stages: stages.collect() })?;
            }
            let keys: Vec<Key> = results.iter().map(|number| record(number).key).collect();
            let pushed = remote.push(&home.store, &keys)?;
            let failed = pushed.failed.iter().map(|(key, _)| *key);
            let failed: BTreeSet<Key> = failed.chain(pushed.conflicts.iter().map(|conflict| conflict.key)).collect();
            let given: BTreeSet<usize> =
                results.iter().filter(|number| !failed.contains(&record(number).key)).copied().collect();
            let artifacts = results.iter().map(|number| record(number).artifact).collect();
            // If it is killed on the way, it may have said so or not.
            seen.turns.state().said.remove(&home.who);
            let said = remote.keep_run(&home.store, "graph.ron", &artifacts);
            if let Some((object, time)) = seen.turns.state().said.get(&home.who).cloned() {
                kept.runs.insert(object, (time, if said.is_ok() { given.clone() } else { BTreeSet::new() }));
            }
            said?;
            if *pinned {
                kept.pinned.extend(given);
            }
        }
        Step::Unpin => {
            kept.pinned.clear();
            home.store.unpin("kept")?;
            remote.keep_pins(&home.store)?;
        }
        Step::Collect if rules.is_stranger(home.who) => {}
        Step::Collect => match remote.collect(&home.store, &rules.retention) {
            // Nothing is there of those whose word counts.
            Err(RemoteError::Unheard { .. }) => {}
            collected => drop(collected?),
        },
    }
    Ok(())
}

/// The objects of what is published, as far as the keys of members vouch for it, with its number and whether it is lost.
fn published(seen: &Seen, rules: &Rules, homes: &[Home]) -> Vec<(usize, bool, Vec<String>)> {
    let (client, keys) = (Client::over(Arc::new(seen.clone())), rules.keys());
    let index = client.block_on(Index::whole(&client, &keys, 0)).unwrap().unwrap();
    let none = HashSet::new();
    let of_members = index.everything().filter(|published| keys.accept(published));
    let told = of_members.map(|published| {
        let number = homes[0].records.iter().position(|record| record.key == published.key).unwrap();
        let manifest = published.read().unwrap().1;
        let objects = objects_of(published, manifest.as_ref()).into_iter().collect();
        (number, index.is_lost(published, &keys, &none), objects)
    });
    told.collect()
}

/// Fails if anything that is published and not lost has no bytes, but for what was removed in the gap.
fn all_is_whole(
    seen: &Seen,
    rules: &Rules,
    homes: &[Home],
    excused: &HashSet<String>,
) -> std::result::Result<(), TestCaseError> {
    let client = Client::over(Arc::new(seen.clone()));
    for (number, is_lost, objects) in published(seen, rules, homes) {
        for object in objects.iter().filter(|object| !is_lost && !excused.contains(*object)) {
            let found = client.block_on(client.modified(object)).unwrap().unwrap();
            prop_assert!(found.is_some(), "{object} of result {number} is gone");
        }
    }
    Ok(())
}

/// Runs the scripts, with turns as they are drawn: who is next, and how many hours pass before.
fn play(
    scripts: &[Script],
    homes: &[Home],
    draws: &[(u8, u32)],
    shared: &Seen,
    rules: &Rules,
    kept: &[Kept],
) -> std::result::Result<Vec<Kept>, TestCaseError> {
    let turns = &shared.turns;
    thread::scope(|scope| {
        let actors: Vec<_> = scripts
            .iter()
            .zip(homes.iter().zip(kept.iter().cloned()))
            .enumerate()
            .map(|(who, (script, (home, kept)))| {
                turns.set(who, |_, _| {});
                let seen = Seen { who: Some(who), ..shared.clone() };
                scope.spawn(move || {
                    let kept = act(script, home, &seen, rules, kept);
                    seen.turns.set(who, |actor, _| actor.is_done = true);
                    kept
                })
            })
            .collect();
        let mut draws = draws.iter().copied().cycle();
        let mut requests = vec![0; scripts.len()];
        let mut wrong = Ok(());
        loop {
            let busy = |state: &mut State| state.actors.values().any(|actor| !actor.is_done && actor.asks.is_none());
            let state = turns.state();
            let mut state = turns.changed.wait_while(state, busy).unwrap_or_else(PoisonError::into_inner);
            let waiting: Vec<usize> =
                state.actors.iter().filter(|(_, actor)| !actor.is_done).map(|(who, _)| *who).collect();
            if waiting.is_empty() {
                break;
            }
            let (choice, hours) = draws.next().unwrap();
            let who = waiting[usize::from(choice) % waiting.len()];
            let oldest = state.actors.values().filter(|actor| !actor.is_done).filter_map(|actor| actor.began).min();
            let end = oldest.map_or(Duration::MAX, |began| began + LONGEST);
            state.now = (state.now + HOUR * hours).min(end).max(state.now);
            let ask = state.actors[&who].asks;
            requests[who] += 1;
            let is_dead = scripts[who].dies_at == Some(requests[who]);
            let actor = state.actors.entry(who).or_default();
            actor.granted = true;
            actor.is_dead |= is_dead;
            // Until it asks again, or ends, nobody else does anything.
            actor.asks = None;
            drop(state);
            turns.changed.notify_all();
            let over = |state: &mut State| {
                let actor = &state.actors[&who];
                actor.granted || (!actor.is_done && actor.asks.is_none())
            };
            drop(turns.changed.wait_while(turns.state(), over).unwrap_or_else(PoisonError::into_inner));
            if ask == Some(Ask::Delete) && wrong.is_ok() {
                let excused = turns.state().excused.clone();
                wrong = all_is_whole(shared, rules, homes, &excused);
            }
        }
        let kept = actors.into_iter().map(|actor| actor.join().unwrap()).collect();
        wrong.map(|()| kept)
    })
}

/// Whether all that is kept can be had by somebody new, after somebody has collected in peace.
fn what_is_kept_comes(
    homes: &[Home],
    shared: &Seen,
    rules: &Rules,
    kept: &[Kept],
    newcomer: &FilePath,
) -> std::result::Result<(), TestCaseError> {
    let excused = shared.turns.state().excused.clone();
    all_is_whole(shared, rules, homes, &excused)?;
    // What was published a short time ago and lacks bytes is looked for when the grace period is over.
    shared.turns.state().now += GRACE + HOUR;
    let collected = shared.remote(homes[0].keys(rules.trusted.as_deref())).collect(&homes[0].store, &rules.retention);
    let is_done = matches!(collected, Ok(_) | Err(RemoteError::Unheard { .. }));
    prop_assert!(is_done, "{collected:?}");
    all_is_whole(shared, rules, homes, &HashSet::new())?;
    // Of what fell into the gap the makers have the bytes, and of what comes out otherwise each time another result may count now.
    let published = published(shared, rules, homes);
    let is_spoilt = |number: usize| {
        let mut objects = published.iter().filter(|(of, ..)| *of == number).flat_map(|(_, _, objects)| objects);
        RESULTS[number].contains(&UNLIKE) || objects.any(|object| excused.contains(object))
    };
    let mut wanted: BTreeSet<usize> = BTreeSet::new();
    for (home, kept) in homes.iter().zip(kept).filter(|(home, _)| !rules.is_stranger(home.who)) {
        let firm = kept.firm(rules.retention.keep_runs, &excused);
        let spoilt: Vec<Key> =
            firm.iter().filter(|&&number| is_spoilt(number)).map(|&of| home.records[of].key).collect();
        let pushed = shared.remote(home.keys(rules.trusted.as_deref())).push(&home.store, &spoilt);
        prop_assert!(pushed.as_ref().is_ok_and(|pushed| pushed.failed.is_empty()), "{pushed:?}");
        wanted.extend(firm);
    }
    let remote = shared.remote(rules.keys());
    let store = Store::open(newcomer).unwrap();
    remote.refresh(&store).unwrap();
    let keys: Vec<Key> = wanted.iter().map(|&number| homes[0].records[number].key).collect();
    let pulled = remote.pull(&store, &keys).unwrap();
    prop_assert!(pulled.missing.is_empty(), "{wanted:?}: {:?}", pulled.missing);
    Ok(())
}

#[test]
fn whatever_the_order_what_is_published_is_whole_and_what_is_kept_comes_back() {
    let homes: Vec<Home> = (0..3).map(Home::new).collect();
    let newcomers = tempfile::tempdir().unwrap();
    let (number, fell) = (Mutex::new(0_usize), Mutex::new(0_usize));
    let config = ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(past in past(), scripts in scripts(), draws in draws(), keep_runs in 0..3_usize, keyed in any::<bool>())| {
        homes.iter().for_each(Home::forget);
        let retention = RemoteRetention { keep_runs, ..RETENTION };
        let members = || homes[..STRANGER].iter().map(|home| home.public).collect();
        let rules = Rules { retention, trusted: keyed.then(members) };
        let shared = Seen::default();
        shared.turns.state().now = HOUR * 10_000;
        let mut kept = vec![Kept::default(); homes.len()];
        for (who, step, hours) in &past {
            let seen = Seen { past: Some(*who), ..shared.clone() };
            carry_out(step, &homes[*who], &seen, &rules, &mut kept[*who]).unwrap();
            shared.turns.state().now += HOUR * *hours;
        }
        let now = play(&scripts, &homes, &draws, &shared, &rules, &kept)?;
        kept.splice(..now.len(), now);
        let newcomer = {
            let mut number = number.lock().unwrap();
            *number += 1;
            newcomers.path().join(number.to_string())
        };
        *fell.lock().unwrap() += usize::from(!shared.turns.state().excused.is_empty());
        what_is_kept_comes(&homes, &shared, &rules, &kept, &newcomer)?;
    });
    assert!(homes.iter().all(|home| home.folder.path().exists()));
    // What falls into the gap is let go by all of this, which would find nothing if much did.
    let (number, fell) = (number.into_inner().unwrap(), fell.into_inner().unwrap());
    assert!(fell * 20 <= number, "in {fell} of {number} cases something fell into the gap");
}

/// Of which sort the next request of one of them is, or `None` if it has ended.
fn asks(turns: &Turns, who: usize) -> Option<Ask> {
    let is_under_way = |state: &mut State| {
        let actor = &state.actors[&who];
        !actor.is_done && (actor.granted || actor.asks.is_none())
    };
    let state = turns.changed.wait_while(turns.state(), is_under_way).unwrap_or_else(PoisonError::into_inner);
    let actor = &state.actors[&who];
    actor.asks.filter(|_| !actor.is_done)
}

/// Lets it make its next request; of which sort that was.
fn next(turns: &Turns, who: usize) -> Option<Ask> {
    let ask = asks(turns, who)?;
    turns.set(who, |actor, _| actor.granted = true);
    Some(ask)
}

#[test]
fn what_falls_into_the_gap_is_said_to_be_lost_and_comes_from_its_maker_again() {
    let (homes, shared) = ([0, 1].map(Home::new), Seen::default());
    let [maker, collector] = &homes;
    let rules = Rules { retention: RETENTION, trusted: None };
    shared.turns.state().now = HOUR * 10_000;
    let give =
        || carry_out(&Step::Give { results: vec![0], pinned: true }, maker, &shared, &rules, &mut Kept::default());
    give().unwrap();
    carry_out(&Step::Unpin, maker, &shared, &rules, &mut Kept::default()).unwrap();
    carry_out(&Step::Collect, collector, &shared, &rules, &mut Kept::default()).unwrap();
    shared.turns.state().now += GRACE + HOUR;
    shared.turns.set(1, |_, _| {});
    thread::scope(|scope| {
        let seen = Seen { who: Some(1), ..shared.clone() };
        let rules = &rules;
        let collecting = scope.spawn(move || {
            let done = carry_out(&Step::Collect, collector, &seen, rules, &mut Kept::default());
            seen.turns.set(1, |actor, _| actor.is_done = true);
            done
        });
        let mut is_given = false;
        while let Some(ask) = asks(&shared.turns, 1) {
            // It has looked at what it is about to remove, and at the log.
            if ask == Ask::Delete && !is_given {
                give().unwrap();
                is_given = true;
            }
            next(&shared.turns, 1);
        }
        collecting.join().unwrap().unwrap();
    });
    let excused = shared.turns.state().excused.clone();
    assert_eq!(excused.len(), 1, "the pack fell into the gap");
    let there = || published(&shared, &rules, &homes).iter().filter(|(_, is_lost, _)| !is_lost).count();
    assert_eq!(there(), 0);
    give().unwrap();
    assert_eq!(there(), 1);
    all_is_whole(&shared, &rules, &homes, &HashSet::new()).unwrap();
}

#[test]
fn what_is_given_while_somebody_collects_comes_back_whenever_its_keeper_says_so() {
    let homes: Vec<Home> = (0..3).map(Home::new).collect();
    let newcomers = tempfile::tempdir().unwrap();
    let trusted = homes[..STRANGER].iter().map(|home| home.public).collect();
    let rules = Rules { retention: RETENTION, trusted: Some(trusted) };
    let give = |result: usize, pinned: bool| Step::Give { results: vec![result], pinned };
    let script = |step| Script { steps: vec![step], dies_at: None };
    // Pins a result that is not known to be kept when all is listed, and of which a pack is there already.
    let scripts = [script(give(2, true)), script(Step::Collect)];
    let mut is_back = 0;
    for (first, second) in (0..8).flat_map(|first| (0..16).map(move |second| (first, second))) {
        homes.iter().for_each(Home::forget);
        let shared = Seen::default();
        shared.turns.state().now = HOUR * 10_000;
        let mut kept = vec![Kept::default(); homes.len()];
        let past = |who| Seen { past: Some(who), ..shared.clone() };
        for (who, step) in [(0, give(0, false)), (1, Step::Collect)] {
            carry_out(&step, &homes[who], &past(who), &rules, &mut kept[who]).unwrap();
        }
        // The giver looks and sends a pack; sends the rest and publishes; says what it keeps.
        let turns = [(0, 3), (1, first), (0, 3), (1, second), (0, 2), (1, 40)];
        let draws: Vec<(u8, u32)> = turns.into_iter().flat_map(|(who, count)| vec![(who, 0); count]).collect();
        let now = play(&scripts, &homes, &draws, &shared, &rules, &kept).unwrap();
        kept.splice(..now.len(), now);
        // Who says so before the collector asks for it the last time has it back at once.
        let is_there = published(&shared, &rules, &homes).iter().any(|(number, is_lost, _)| *number == 2 && !is_lost);
        let said =
            kept[0].runs.keys().any(|object| kept[0].runs[object].1.contains(&2) && shared.turns.has_listed(1, object));
        is_back += usize::from(said);
        assert!(!said || is_there, "after {first} and {second} requests");
        // Somebody whose word does not count is there, too.
        carry_out(&give(0, false), &homes[STRANGER], &past(STRANGER), &rules, &mut kept[STRANGER]).unwrap();
        let newcomer = newcomers.path().join(format!("{first}-{second}"));
        what_is_kept_comes(&homes, &shared, &rules, &kept, &newcomer)
            .unwrap_or_else(|error| panic!("after {first} and {second} requests: {error}"));
    }
    assert!((1..128).contains(&is_back), "{is_back}");
}

#[test]
fn a_claim_that_is_made_anew_while_somebody_collects_stays() {
    let (home, shared) = (Home::new(0), Seen::default());
    let rules = Rules { retention: RETENTION, trusted: None };
    shared.turns.state().now = HOUR * 10_000;
    let give = Step::Give { results: vec![0], pinned: true };
    carry_out(&give, &home, &shared, &rules, &mut Kept::default()).unwrap();
    let client = Client::over(Arc::new(shared.clone()));
    let claim = |name: &str| client.block_on(client.put(name, b"claim".to_vec())).unwrap().unwrap();
    let is_there = |name: &str| client.block_on(client.modified(name)).unwrap().unwrap().is_some();
    let (dead, again) = ("v1/claims/ab/dead", "v1/claims/ab/again");
    claim(dead);
    claim(again);
    shared.turns.state().now += HOUR * 2;
    shared.turns.set(0, |_, _| {});
    thread::scope(|scope| {
        let seen = Seen { who: Some(0), ..shared.clone() };
        let (home, rules) = (&home, &rules);
        let collector = scope.spawn(move || {
            let done = carry_out(&Step::Collect, home, &seen, rules, &mut Kept::default());
            seen.turns.set(0, |actor, _| actor.is_done = true);
            done
        });
        let mut listings = 0;
        while let Some(ask) = next(&shared.turns, 0) {
            listings += usize::from(ask == Ask::List);
            // All was listed; somebody takes the action over.
            if listings == 1 && ask == Ask::Get {
                claim(again);
            }
        }
        collector.join().unwrap().unwrap();
    });
    assert_eq!((is_there(dead), is_there(again)), (false, true));
}

#[test]
fn a_log_is_collected_whose_writer_was_killed_before_it_told_where_it_ends() {
    let (homes, shared) = ([0, 1].map(Home::new), Seen::default());
    let rules = Rules { retention: RETENTION, trusted: None };
    shared.turns.state().now = HOUR * 10_000;
    let kept = vec![Kept::default(); homes.len()];
    let give = Step::Give { results: vec![2], pinned: true };
    let scripts = [
        // With its eleventh request it would tell where the log ends, whose first segment it has written.
        Script { steps: vec![Step::Collect, give], dies_at: Some(11) },
        Script { steps: vec![Step::Unpin], dies_at: None },
    ];
    let kept = play(&scripts, &homes, &[(0, 0)], &shared, &rules, &kept).unwrap();
    let newcomer = tempfile::tempdir().unwrap();
    what_is_kept_comes(&homes, &shared, &rules, &kept, newcomer.path()).unwrap();
}
