//! A store in memory whose requests come in the order that a test draws, at the times that it draws.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    ops::Range,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};

use crate::remote::{
    Keys, Mode, Remote,
    place::objects_of,
    segment::{MOST, Operation, decode},
};

/// Whose turn it is, and what time.
#[derive(Default)]
pub(super) struct Turns {
    state: Mutex<State>,
    pub(super) changed: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) now: Duration,
    /// How many requests were made.
    count: u64,
    /// When an object was written last, and with which request.
    written: HashMap<Path, (Duration, u64)>,
    /// Segments by which somebody who collects has brought something back, and the requests.
    revivals: Vec<(Path, u64)>,
    /// What was removed in the gap that docs/team-cache.md tells of: it was written anew, or named by somebody else who collects, between
    /// the look at it, or at the log, and its removal.
    pub(super) excused: HashSet<String>,
    /// The last object by which each of them said what a run keeps, and when.
    pub(super) said: HashMap<usize, (String, Duration)>,
    pub(super) actors: BTreeMap<usize, Actor>,
}

#[derive(Debug, Default)]
pub(super) struct Actor {
    /// What it asks for next.
    pub(super) asks: Option<Ask>,
    pub(super) granted: bool,
    pub(super) is_done: bool,
    /// It was killed: nothing that it asks for has an effect any more.
    pub(super) is_dead: bool,
    /// When what it does began, unless it collects.
    pub(super) began: Option<Duration>,
    /// With which request it looked at an object last, and at the log.
    looked: HashMap<Path, u64>,
    read: u64,
    /// With which request it listed objects last.
    listed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Look,
    Get,
    Put,
    Delete,
    List,
}

impl Turns {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
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

    /// Whether one of them has listed objects after some object was written last.
    pub(super) fn has_listed(&self, who: usize, object: &str) -> bool {
        let state = self.state();
        state.written.get(&Path::from(object)).is_some_and(|(_, written)| *written < state.actors[&who].listed)
    }

    pub(super) fn set(&self, who: usize, change: impl FnOnce(&mut Actor, Duration)) {
        let mut state = self.state();
        let now = state.now;
        change(state.actors.entry(who).or_default(), now);
        self.changed.notify_all();
    }
}

/// The store as one of them sees it.
#[derive(Clone, Default)]
pub(super) struct Seen {
    pub(super) inner: Arc<InMemory>,
    pub(super) turns: Arc<Turns>,
    /// Whose requests wait for their turn.
    pub(super) who: Option<usize>,
    /// Whose requests were made before the others began.
    pub(super) past: Option<usize>,
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

fn is_in(location: &Path, room: &str) -> bool {
    location.as_ref().starts_with(room)
}

fn dead() -> Error {
    Error::Generic { store: "test", source: "killed".into() }
}

impl Seen {
    pub(super) fn remote(&self, keys: Keys) -> Remote {
        Remote::over(Arc::new(self.clone()), Mode::ReadWrite, keys)
    }

    /// Notes a request of this one.
    fn note(&self, note: impl FnOnce(&mut Actor, u64)) {
        let mut state = self.turns.state();
        state.count += 1;
        let count = state.count;
        if let Some(who) = self.who {
            note(state.actors.entry(who).or_default(), count);
        }
    }

    fn note_written(&self, location: &Path) {
        let mut state = self.turns.state();
        state.count += 1;
        let (now, count) = (state.now, state.count);
        state.written.insert(location.clone(), (now, count));
        if let Some(who) = self.who.or(self.past)
            && is_in(location, "v1/roots")
            && location.filename() != Some("pins")
        {
            state.said.insert(who, (location.to_string(), now));
        }
        let collects = self.who.is_some_and(|who| state.actors[&who].began.is_none());
        if collects && is_in(location, "v1/segments") {
            state.revivals.push((location.clone(), count));
        }
    }

    /// Notes what is removed in the gap.
    async fn note_removal(&self, locations: &[Path]) {
        let Some(who) = self.who else { return };
        let (mut excused, late) = {
            let state = self.turns.state();
            let actor = &state.actors[&who];
            let is_late = |location: &&Path| {
                let looked = actor.looked.get(*location).copied().unwrap_or_default();
                state.written.get(*location).is_some_and(|(_, written)| *written > looked)
            };
            let excused: HashSet<String> = locations.iter().filter(is_late).map(Path::to_string).collect();
            let late = state.revivals.iter().filter(|(_, count)| *count > actor.read);
            (excused, late.map(|(segment, _)| segment.clone()).collect::<Vec<_>>())
        };
        for segment in late {
            let bytes = self.inner.get(&segment).await.unwrap().bytes().await.unwrap();
            for operation in decode(&bytes, MOST).unwrap().1 {
                let Operation::Publish(published) = operation else { continue };
                let manifest = published.read().unwrap().1;
                let named = objects_of(&published, manifest.as_ref());
                excused.extend(locations.iter().map(Path::to_string).filter(|location| named.contains(location)));
            }
        }
        self.turns.state().excused.extend(excused);
    }

    fn dated(&self, mut meta: ObjectMeta) -> ObjectMeta {
        let (written, _) = self.turns.state().written.get(&meta.location).copied().unwrap_or_default();
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
            self.note_written(location);
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
            self.note(|actor, count| {
                if options.head {
                    actor.looked.insert(location.clone(), count);
                } else if is_in(location, "v1/segments") {
                    actor.read = count;
                }
            });
            let mut found = self.inner.get_opts(location, options).await?;
            found.meta = self.dated(found.meta);
            Ok(found)
        }
        .boxed()
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let seen = self.clone();
        let locations = async move {
            let locations: Vec<Path> = locations.try_collect().await.unwrap();
            if !seen.turns.wait(seen.who, Ask::Delete) {
                return futures_util::stream::once(async { Err(dead()) }).boxed();
            }
            seen.note_removal(&locations).await;
            seen.inner.delete_stream(futures_util::stream::iter(locations.into_iter().map(Ok)).boxed())
        };
        locations.flatten_stream().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (seen, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            if !seen.turns.wait(seen.who, Ask::List) {
                return futures_util::stream::once(async { Err(dead()) }).boxed();
            }
            seen.note(|actor, count| actor.listed = count);
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
