//! Members and collectors who share a store, in any order of their requests, with any of them killed at any request: what is
//! published is whole, and what is kept comes back.
//!
//! Each of them runs its real code on a thread of its own. Each of its requests waits for its turn, which the case draws, as it draws the
//! server's time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt, fs,
    ops::Range,
    path::Path as FilePath,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};
use jiff::Timestamp;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};
use proptest::{collection::vec, prelude::*};

use super::{Keys, Mode, Remote, RemoteError, RemoteRetention, client::Client, index::Index, place::objects_of};
use crate::{
    digest::{ArtifactId, Digest, Key},
    store::{Pin, PinnedStage, Provenance, Record, Store},
};

const HOUR: Duration = Duration::from_hours(1);
const GRACE: Duration = Duration::from_hours(24);
/// Nobody takes longer to give results and to say what he keeps.
const LONGEST: Duration = Duration::from_hours(23);
/// The contents of all results, by their numbers; the third is large enough to be an object of its own.
const RESULTS: [&[usize]; 5] = [&[0, 1], &[1, 3], &[0, 2], &[2, 4], &[4]];

/// Whose turn it is, and what time.
#[derive(Default)]
struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    now: Duration,
    written: HashMap<Path, Duration>,
    actors: BTreeMap<usize, Actor>,
}

#[derive(Debug, Default)]
struct Actor {
    /// What it asks for next.
    asks: Option<Ask>,
    granted: bool,
    is_done: bool,
    /// It was killed: nothing that it asks for has an effect any more.
    is_dead: bool,
    /// When what it does began.
    began: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Look,
    Get,
    Put,
    Delete,
    List,
}

impl Turns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn; `false` if the actor is dead.
    fn wait(&self, who: Option<usize>, ask: Ask) -> bool {
        let Some(who) = who else { return true };
        let mut state = self.state();
        if state.actors[&who].is_dead {
            return false;
        }
        state.actors.entry(who).or_default().asks = Some(ask);
        self.changed.notify_all();
        let mut state =
            self.changed.wait_while(state, |state| !state.actors[&who].granted).unwrap_or_else(PoisonError::into_inner);
        let actor = state.actors.entry(who).or_default();
        (actor.granted, actor.asks) = (false, None);
        !actor.is_dead
    }

    fn set(&self, who: usize, change: impl FnOnce(&mut Actor, Duration)) {
        let mut state = self.state();
        let now = state.now;
        change(state.actors.entry(who).or_default(), now);
        self.changed.notify_all();
    }
}

/// The store as one of them sees it.
#[derive(Clone)]
struct Seen {
    inner: Arc<InMemory>,
    turns: Arc<Turns>,
    who: Option<usize>,
}

impl fmt::Debug for Seen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Seen({:?})", self.who)
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

fn dead() -> Error {
    Error::Generic { store: "test", source: "killed".into() }
}

impl Seen {
    fn remote(&self) -> Remote {
        Remote::over(Arc::new(self.clone()), Mode::ReadWrite, Keys::default())
    }

    fn dated(&self, mut meta: ObjectMeta) -> ObjectMeta {
        let written = self.turns.state().written.get(&meta.location).copied().unwrap_or_default();
        meta.last_modified = (SystemTime::UNIX_EPOCH + written).into();
        meta
    }
}

impl ObjectStore for Seen {
    fn put_opts<'a, 'b, 'c>(
        &'a self,
        location: &'b Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> BoxFuture<'c, Result<PutResult>>
    where
        'a: 'c,
        'b: 'c,
    {
        async move {
            if !self.turns.wait(self.who, Ask::Put) {
                return Err(dead());
            }
            let put = self.inner.put_opts(location, payload, options).await?;
            let mut state = self.turns.state();
            let now = state.now;
            state.written.insert(location.clone(), now);
            Ok(put)
        }
        .boxed()
    }

    fn put_multipart_opts<'a, 'b, 'c>(
        &'a self,
        location: &'b Path,
        options: PutMultipartOptions,
    ) -> BoxFuture<'c, Result<Box<dyn MultipartUpload>>>
    where
        'a: 'c,
        'b: 'c,
    {
        self.inner.put_multipart_opts(location, options)
    }

    fn get_opts<'a, 'b, 'c>(&'a self, location: &'b Path, options: GetOptions) -> BoxFuture<'c, Result<GetResult>>
    where
        'a: 'c,
        'b: 'c,
    {
        async move {
            if !self.turns.wait(self.who, if options.head { Ask::Look } else { Ask::Get }) {
                return Err(dead());
            }
            let mut found = self.inner.get_opts(location, options).await?;
            found.meta = self.dated(found.meta);
            Ok(found)
        }
        .boxed()
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let seen = self.clone();
        let locations = async move {
            let locations = if seen.turns.wait(seen.who, Ask::Delete) {
                locations
            } else {
                futures_util::stream::once(async { Err(dead()) }).boxed()
            };
            seen.inner.delete_stream(locations)
        };
        locations.flatten_stream().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (seen, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            if !seen.turns.wait(seen.who, Ask::List) {
                return futures_util::stream::once(async { Err(dead()) }).boxed();
            }
            let all = seen.inner.list(prefix.as_ref());
            all.map(move |meta| meta.map(|meta| seen.dated(meta))).boxed()
        };
        listed.flatten_stream().boxed()
    }

    fn list_with_delimiter<'a, 'b, 'c>(&'a self, prefix: Option<&'b Path>) -> BoxFuture<'c, Result<ListResult>>
    where
        'a: 'c,
        'b: 'c,
    {
        self.inner.list_with_delimiter(prefix)
    }

    fn copy_opts<'a, 'b, 'c, 'd>(
        &'a self,
        from: &'b Path,
        to: &'c Path,
        options: CopyOptions,
    ) -> BoxFuture<'d, Result<()>>
    where
        'a: 'd,
        'b: 'd,
        'c: 'd,
    {
        self.inner.copy_opts(from, to, options)
    }

    fn get_ranges<'a, 'b, 'c, 'd>(
        &'a self,
        location: &'b Path,
        ranges: &'c [Range<u64>],
    ) -> BoxFuture<'d, Result<Vec<bytes::Bytes>>>
    where
        'a: 'd,
        'b: 'd,
        'c: 'd,
    {
        self.inner.get_ranges(location, ranges)
    }
}

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
    folder: tempfile::TempDir,
    store: Store,
    records: Vec<Record>,
}

fn content(number: usize) -> Vec<u8> {
    if number == 2 { vec![7; 1 << 20] } else { format!("content {number}").into_bytes() }
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let records = RESULTS.iter().enumerate().map(|(number, contents)| {
            let result = folder.path().join(number.to_string());
            fs::create_dir(&result).unwrap();
            for content in *contents {
                fs::write(result.join(content.to_string()), self::content(*content)).unwrap();
            }
            let artifact = store.ingest(&result).unwrap();
            let record = record(number, artifact);
            store.publish(&record).unwrap();
            record
        });
        let records = records.collect();
        Self { folder, store, records }
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
    forget_after: Duration::from_hours(24 * 30),
    grace: GRACE,
    max_size: None,
    give_up_unreadable: false,
    dry_run: false,
};

/// Does what a script says; the results that are pinned by then, and were there when it said so.
fn act(script: &Script, home: &Home, seen: &Seen, mut kept: BTreeSet<usize>) -> BTreeSet<usize> {
    for step in &script.steps {
        let began = !matches!(step, Step::Collect);
        seen.turns.set(seen.who.unwrap(), |actor, now| actor.began = began.then_some(now));
        if carry_out(step, home, &seen.remote(), &mut kept).is_err() {
            break;
        }
    }
    kept
}

fn carry_out(
    step: &Step,
    home: &Home,
    remote: &Remote,
    kept: &mut BTreeSet<usize>,
) -> std::result::Result<(), RemoteError> {
    let record = |number: &usize| &home.records[*number];
    match step {
        Step::Give { results, pinned } => {
            if *pinned {
                kept.clear();
                let stages = results
                    .iter()
                    .map(|number| PinnedStage { name: number.to_string(), artifact: record(number).artifact });
                let (name, graph) = ("kept".to_owned(), "graph.ron".to_owned());
                home.store.pin(&Pin { name, graph, time: Timestamp::UNIX_EPOCH, stages: stages.collect() })?;
            }
            let keys: Vec<Key> = results.iter().map(|number| record(number).key).collect();
            let pushed = remote.push(&home.store, &keys)?;
            let artifacts = results.iter().map(|number| record(number).artifact).collect();
            remote.keep_run(&home.store, "graph.ron", &artifacts)?;
            if *pinned {
                let failed: BTreeSet<Key> = pushed.failed.iter().map(|(key, _)| *key).collect();
                kept.extend(results.iter().filter(|number| !failed.contains(&record(number).key)));
            }
        }
        Step::Unpin => {
            kept.clear();
            home.store.unpin("kept")?;
            remote.keep_pins(&home.store)?;
        }
        Step::Collect => drop(remote.collect(&home.store, &RETENTION)?),
    }
    Ok(())
}

/// Fails if anything that is published and not lost has no bytes.
fn all_is_whole(seen: &Seen) -> std::result::Result<(), TestCaseError> {
    let client = Client::over(Arc::new(seen.clone()));
    let index = client.block_on(Index::whole(&client, 0)).unwrap().unwrap();
    let none = std::collections::HashSet::new();
    for published in index.everything().filter(|published| !index.is_lost(published, &Keys::default(), &none)) {
        let manifest = published.read().unwrap().1;
        for object in objects_of(published, manifest.as_ref()) {
            let found = client.block_on(client.modified(&object)).unwrap().unwrap();
            prop_assert!(found.is_some(), "{object} of {} is gone", published.key);
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
    kept: &[BTreeSet<usize>],
) -> std::result::Result<Vec<BTreeSet<usize>>, TestCaseError> {
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
                    let kept = act(script, home, &seen, kept);
                    seen.turns.set(who, |actor, _| actor.is_done = true);
                    kept
                })
            })
            .collect();
        let mut draws = draws.iter().copied().cycle();
        let mut requests = vec![0; scripts.len()];
        let mut removing: Option<usize> = None;
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
            // That somebody writes an object anew between a look at it and its removal is left out: see docs/team-cache.md.
            let who = removing.filter(|who| waiting.contains(who));
            let who = who.unwrap_or(waiting[usize::from(choice) % waiting.len()]);
            let oldest = state.actors.values().filter(|actor| !actor.is_done).filter_map(|actor| actor.began).min();
            let end = oldest.map_or(Duration::MAX, |began| began + LONGEST);
            state.now = (state.now + HOUR * hours).min(end).max(state.now);
            let ask = state.actors[&who].asks;
            removing = match ask {
                Some(Ask::Look) => Some(who),
                Some(Ask::Get) => removing,
                _ => None,
            };
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
                wrong = all_is_whole(shared);
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
    kept: &[BTreeSet<usize>],
    newcomer: &FilePath,
) -> std::result::Result<(), TestCaseError> {
    all_is_whole(shared)?;
    let collected = shared.remote().collect(&homes[0].store, &RETENTION);
    prop_assert!(collected.is_ok(), "{collected:?}");
    all_is_whole(shared)?;
    let remote = shared.remote();
    let store = Store::open(newcomer).unwrap();
    remote.refresh(&store).unwrap();
    let wanted: BTreeSet<usize> = kept.iter().flatten().copied().collect();
    let keys: Vec<Key> = wanted.iter().map(|&number| homes[0].records[number].key).collect();
    let pulled = remote.pull(&store, &keys).unwrap();
    prop_assert!(pulled.missing.is_empty(), "{wanted:?}: {:?}", pulled.missing);
    Ok(())
}

#[test]
fn whatever_the_order_what_is_published_is_whole_and_what_is_kept_comes_back() {
    let homes: Vec<Home> = (0..3).map(|_| Home::new()).collect();
    let newcomers = tempfile::tempdir().unwrap();
    let number = Mutex::new(0);
    let config = ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(past in past(), scripts in scripts(), draws in draws())| {
        homes.iter().for_each(Home::forget);
        let shared = Seen { inner: Arc::default(), turns: Arc::default(), who: None };
        shared.turns.state().now = HOUR * 10_000;
        let mut kept = vec![BTreeSet::new(); homes.len()];
        for (who, step, hours) in &past {
            carry_out(step, &homes[*who], &shared.remote(), &mut kept[*who]).unwrap();
            shared.turns.state().now += HOUR * *hours;
        }
        let now = play(&scripts, &homes, &draws, &shared, &kept)?;
        kept.splice(..now.len(), now);
        let newcomer = {
            let mut number = number.lock().unwrap();
            *number += 1;
            newcomers.path().join(number.to_string())
        };
        what_is_kept_comes(&homes, &shared, &kept, &newcomer)?;
    });
    assert!(homes.iter().all(|home| home.folder.path().exists()));
}
