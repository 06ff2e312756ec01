//! Results from a remote store into the store of this machine. Every byte is checked before it is in a file that counts.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    ops::Range,
    path::{Path, PathBuf},
};

use futures_util::{StreamExt, stream};

use super::{
    Known, Remote, RemoteError,
    place::{Place, Placed, files_of},
    segment::Slice,
    subtrees::Subtrees,
    voucher::Brought,
};
use crate::{
    digest::{Digest, Key},
    store::{self, Arrivals, Arrived, Manifest, Store, StoreError},
};

/// So many packs and large objects are on their way at the same time.
const OBJECTS_AT_ONCE: usize = 4;

/// A longer list of files is an attack: it would have more than a million files.
const LONGEST_LIST: u64 = 256 << 20;

/// What came of fetching results.
#[derive(Debug, Default)]
pub struct Pulled {
    /// The results that came.
    pub fetched: Vec<Key>,
    /// The bytes of their files that were not here before.
    pub bytes: u64,
    /// The results that did not come, and why.
    pub missing: Vec<(Key, String)>,
}

/// Why content did not come.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// It is not there, or is something else.
    Lost(String),
    /// It may be there.
    Unreachable(String),
    /// It is, and this machine cannot take it.
    Unwritten(String),
}

/// A result on its way.
struct Job {
    known: Known,
    manifest: Manifest,
}

/// Content that is needed.
pub(super) struct Wanted {
    pub(super) size: u64,
    /// The pack that it lies in, and where.
    packed: Option<(Digest, u64)>,
    /// The result that says so.
    of: Key,
    /// Where it has to be put.
    pub(super) place: PathBuf,
    /// By what its pieces can be checked, if it has several.
    pub(super) subtrees: Option<Subtrees>,
}

impl Wanted {
    /// Writes it, if these are its bytes.
    pub(super) fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), Trouble> {
        if Digest::of(bytes) != *digest {
            return Err(wrong_bytes(digest));
        }
        store::put(&self.place, bytes).map_err(|error| unwritten(&self.place, &error))
    }
}

pub(super) fn trouble(error: &RemoteError) -> Trouble {
    match error {
        RemoteError::Damaged { .. } => Trouble::Lost(error.to_string()),
        RemoteError::Store(_) => Trouble::Unwritten(error.to_string()),
        _ => Trouble::Unreachable(error.to_string()),
    }
}

pub(super) fn wrong_bytes(digest: &Digest) -> Trouble {
    Trouble::Lost(format!("the bytes that it sends for {digest} are others, and were refused"))
}

fn unwritten(place: &Path, error: &io::Error) -> Trouble {
    Trouble::Unwritten(format!("cannot write {}: {error}", place.display()))
}

/// The name of an object or a pack.
pub(super) fn named(room: &str, digest: &Digest) -> String {
    let name = digest.to_string();
    let (shelf, rest) = name.split_at(2);
    format!("v1/{room}/{shelf}/{rest}")
}

impl Remote {
    /// Fetches results with all their files. What cannot be had counts as not there from now on.
    pub fn pull(&self, store: &Store, keys: &[Key]) -> Result<Pulled, RemoteError> {
        let mut pulled = Pulled::default();
        let mut keys = keys.to_vec();
        let mut has_asked = self.state().index.is_some();
        loop {
            while !keys.is_empty() {
                // Of a publication that is lost there may be another one.
                keys = self.pull_first(store, &keys, &mut pulled)?;
            }
            if has_asked || pulled.missing.is_empty() {
                return Ok(pulled);
            }
            // What was noted here may have been given up since, and another result have its place.
            has_asked = true;
            match self.refresh(store) {
                Ok(problems) => problems.into_iter().for_each(|problem| self.tell(problem)),
                // Why they did not come is known already.
                Err(_) => return Ok(pulled),
            }
            let missing = std::mem::take(&mut pulled.missing);
            let (there, missing): (Vec<_>, Vec<_>) =
                missing.into_iter().partition(|(key, _)| self.known(store, key).is_some());
            pulled.missing = missing;
            keys = there.into_iter().map(|(key, _)| key).collect();
        }
    }

    /// Fetches what is published first of each result; those of which there is another publication to try.
    fn pull_first(&self, store: &Store, keys: &[Key], pulled: &mut Pulled) -> Result<Vec<Key>, RemoteError> {
        let (mut jobs, mut again) = (Vec::new(), Vec::new());
        let lost = |known: &Known, problem: String, again: &mut Vec<Key>, pulled: &mut Pulled| {
            let key = known.record.key;
            self.lose(store, known);
            if self.known(store, &key).is_some() { again.push(key) } else { pulled.missing.push((key, problem)) }
        };
        for &key in keys {
            if store.record(&key)?.is_some() {
                continue;
            }
            let Some(mut known) = self.known(store, &key) else {
                pulled.missing.push((key, "the remote store does not have it".to_owned()));
                continue;
            };
            match self.manifest(store, &mut known).cloned() {
                Ok(manifest) => jobs.push(Job { known, manifest }),
                Err(_) if self.known(store, &key).is_some() => again.push(key),
                Err(error) => pulled.missing.push((key, error.to_string())),
            }
        }
        let Some(first) = jobs.first() else { return Ok(again) };
        let arrivals = store.arrivals(&first.known.record.key)?;
        let wanted = wanted(store, &arrivals, &jobs);
        let failed =
            if wanted.is_empty() { HashMap::new() } else { self.client.block_on(self.fetch(store, &wanted))? };
        let mut whole = Vec::new();
        for job in jobs {
            let key = job.known.record.key;
            match job
                .manifest
                .files()
                .iter()
                .find_map(|entry| Some((&wanted.get(&entry.digest)?.of, failed.get(&entry.digest)?)))
            {
                None => whole.push(job),
                // Where it lies was told by another result, which is the one that is wrong.
                Some((of, Trouble::Lost(_))) if *of != key => again.push(key),
                Some((_, Trouble::Lost(problem))) => lost(&job.known, problem.clone(), &mut again, pulled),
                Some((_, Trouble::Unreachable(problem) | Trouble::Unwritten(problem))) => {
                    self.give_up(key);
                    pulled.missing.push((key, problem.clone()));
                }
            }
        }
        self.admit(store, &arrivals, &whole, pulled);
        let came = wanted.iter().filter(|(digest, _)| !failed.contains_key(digest));
        pulled.bytes += came.map(|(_, wanted)| wanted.size).sum::<u64>();
        Ok(again)
    }

    /// The files of a result. If there are so many that the index does not list them, their list is fetched.
    pub(super) fn manifest<'a>(&self, store: &Store, known: &'a mut Known) -> Result<&'a Manifest, RemoteError> {
        let key = known.record.key;
        let manifest = match known.manifest.take() {
            Some(manifest) => manifest,
            None => self.fetch_list(known).inspect_err(|error| match error {
                RemoteError::Damaged { .. } => self.lose(store, known),
                _ => self.give_up(key),
            })?,
        };
        Ok(known.manifest.insert(manifest))
    }

    pub(super) fn fetch_list(&self, known: &Known) -> Result<Manifest, RemoteError> {
        let artifact = known.record.artifact;
        let refuse = |object: &str, problem: String| self.client.damaged(object, problem);
        let Some(Slice { pack, offset, length }) = known.published.list else {
            return Err(refuse("v1/segments", format!("no list of files is published for {artifact}")));
        };
        let object = named("packs", &pack);
        if let Some(problem) = self.state().unlisted.clone() {
            return Err(self.client.refused(&object, problem));
        }
        if length > LONGEST_LIST {
            return Err(refuse(&object, format!("a list of files of {length} bytes; expected {LONGEST_LIST} at most")));
        }
        let range = offset..offset.saturating_add(length);
        let bytes = self.client.block_on(self.client.get_ranges(&object, &[range])).and_then(|bytes| bytes);
        let bytes = bytes.inspect_err(|error| {
            if !matches!(error, RemoteError::Damaged { .. }) {
                // Each of many results would wait for as long as this one has.
                let problem = format!("it is not asked again, since a list of files could not be read: {error}");
                self.state().unlisted = Some(problem);
            }
        })?;
        let Some(bytes) = bytes.as_ref().and_then(|pieces| pieces.first()) else {
            return Err(refuse(&object, "it is no longer there".to_owned()));
        };
        Manifest::of_artifact(&artifact, bytes)
            .map_err(|problem| refuse(&object, format!("a list of files: {problem}")))
    }

    /// Fetches content; what did not come, and why.
    async fn fetch(&self, store: &Store, wanted: &BTreeMap<Digest, Wanted>) -> HashMap<Digest, Trouble> {
        let mut packs: BTreeMap<Digest, Vec<(Digest, u64)>> = BTreeMap::new();
        let mut large = Vec::new();
        for (&digest, content) in wanted {
            match content.packed {
                Some((pack, offset)) => packs.entry(pack).or_default().push((digest, offset)),
                None => large.push(digest),
            }
        }
        let large = stream::iter(large)
            .map(|digest| async move { vec![(digest, self.fetch_object(store, &digest, &wanted[&digest]).await)] });
        let packs = stream::iter(packs).map(|(pack, contents)| self.fetch_packed(pack, contents, wanted));
        let mut packs = packs.buffer_unordered(OBJECTS_AT_ONCE);
        let mut large = large.buffer_unordered(OBJECTS_AT_ONCE);
        let mut failed = HashMap::new();
        let mut note = |results: Vec<(Digest, Result<(), Trouble>)>| {
            failed.extend(results.into_iter().filter_map(|(digest, result)| Some((digest, result.err()?))));
        };
        while let Some(results) = packs.next().await {
            note(results);
        }
        while let Some(results) = large.next().await {
            note(results);
        }
        failed
    }

    /// Fetches what is needed of a pack.
    async fn fetch_packed(
        &self,
        pack: Digest,
        mut contents: Vec<(Digest, u64)>,
        wanted: &BTreeMap<Digest, Wanted>,
    ) -> Vec<(Digest, Result<(), Trouble>)> {
        contents.sort_by_key(|&(_, offset)| offset);
        let range = |&(digest, offset): &(Digest, u64)| offset..offset.saturating_add(wanted[&digest].size);
        // An empty range is none.
        let (empty, full): (Vec<_>, Vec<_>) = contents.into_iter().partition(|(digest, _)| wanted[digest].size == 0);
        let ranges: Vec<Range<u64>> = full.iter().map(range).collect();
        let read = if ranges.is_empty() {
            Ok(Some(Vec::new()))
        } else {
            self.client.get_ranges(&named("packs", &pack), &ranges).await
        };
        let mut results: Vec<_> =
            empty.into_iter().map(|(digest, _)| (digest, wanted[&digest].put(&digest, b""))).collect();
        match read {
            Ok(Some(pieces)) if pieces.len() == full.len() => {
                let put = full.into_iter().zip(pieces);
                results.extend(put.map(|((digest, _), bytes)| (digest, wanted[&digest].put(&digest, &bytes))));
            }
            Ok(Some(_)) => results.extend(full.into_iter().map(|(digest, _)| (digest, Err(wrong_bytes(&digest))))),
            Ok(None) => {
                let gone = Trouble::Lost(format!("pack {pack} is no longer there"));
                results.extend(full.into_iter().map(|(digest, _)| (digest, Err(gone.clone()))));
            }
            Err(error) => {
                let trouble = trouble(&error);
                results.extend(full.into_iter().map(|(digest, _)| (digest, Err(trouble.clone()))));
            }
        }
        results
    }

    /// Takes results in, all at once: the disk takes as long for one as for a thousand. One that cannot be taken in counts as
    /// not there, and keeps no other from it.
    fn admit(&self, store: &Store, arrivals: &Arrivals, jobs: &[Job], pulled: &mut Pulled) {
        let arrived = jobs.iter().map(|Job { known, manifest }| Arrived {
            manifest,
            record: &known.record,
            origin: Brought::new(&self.address, known),
        });
        let arrived: Vec<_> = arrived.collect();
        let refused = |error: &StoreError| format!("it cannot be taken into the store of this machine: {error}");
        let refuse = |key: Key, problem: String, pulled: &mut Pulled| {
            self.give_up(key);
            pulled.missing.push((key, problem));
        };
        let admitted = match store.admit(arrivals, &arrived) {
            Ok(admitted) => admitted,
            Err(error) => {
                for job in jobs {
                    refuse(job.known.record.key, refused(&error), pulled);
                }
                return;
            }
        };
        for (key, admitted) in jobs.iter().map(|job| job.known.record.key).zip(admitted) {
            match admitted {
                Ok(()) => pulled.fetched.push(key),
                // What this machine had before has lost files, so that this one stands in its place.
                Err(StoreError::Nondeterministic(two)) if two.lost.is_some() => pulled.fetched.push(key),
                Err(StoreError::Nondeterministic(two)) => pulled.missing.push((key, two.to_string())),
                Err(error) => refuse(key, refused(&error), pulled),
            }
        }
    }
}

/// The content that is not here.
fn wanted(store: &Store, arrivals: &Arrivals, jobs: &[Job]) -> BTreeMap<Digest, Wanted> {
    let mut wanted: BTreeMap<Digest, Wanted> = BTreeMap::new();
    for Job { known, manifest } in jobs {
        let (of, published) = (known.record.key, &known.published);
        // Each content is named once there.
        let mut seen = HashSet::new();
        let entries = manifest.files().iter().filter(|entry| seen.insert(entry.digest));
        for (entry, Placed { digest, size, place }) in entries.zip(files_of(published, manifest)) {
            if !wanted.contains_key(&digest) && store.content(entry).is_some() {
                continue;
            }
            let wanted = wanted.entry(digest).or_insert_with(|| {
                let packed = if let Place::Packed(pack, offset) = place { Some((pack, offset)) } else { None };
                Wanted { size, packed, of, place: arrivals.place(&digest), subtrees: None }
            });
            if wanted.subtrees.is_none() {
                let text = published.subtrees.get(&digest);
                wanted.subtrees = text.and_then(|text| Subtrees::from_text(text, &digest, size));
            }
        }
    }
    wanted
}
