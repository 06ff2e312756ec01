//! Results of this machine into a remote store: the bytes, then the segment that names them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
};

use futures_util::{StreamExt, stream};
use serde::Serialize;

use super::{
    Remote, RemoteError,
    index::Index,
    large::spoilt,
    pack::{Draft, SMALL},
    place::{Place, Placed, files_of, list_of},
    pull::named,
    segment::{MOST, Operation, Packed, Published, Slice},
    signing::{Keys, Meaning},
    subtrees::Subtrees,
    voucher::Voucher,
};
use crate::{
    digest::{ArtifactId, Digest, Key},
    store::{Entry, Manifest, Record, Store, StoreError},
};

/// Longer lists of files are put into packs, so that the index stays small.
const LONG_LIST: usize = 16 << 10;
/// The most bytes of subtrees that are published with a result, which are those of some hundred large files. The others can be
/// had without.
const MOST_OF_SUBTREES: usize = 8 << 20;
/// So many packs are made and sent at the same time.
const PACKS_AT_ONCE: usize = 2;
/// So many large objects.
const OBJECTS_AT_ONCE: usize = 2;

/// What came of giving results to a remote store.
#[derive(Debug, Default)]
pub struct Pushed {
    /// Results that it has now.
    pub stored: Vec<Key>,
    /// The bytes of files that were sent for them.
    pub bytes: u64,
    /// How many it had before.
    pub there: usize,
    /// Results that it has another one of.
    pub conflicts: Vec<Conflict>,
    /// Results that it had another one of, whose bytes were lost. They count from now on, and are among those that are stored.
    pub replaced: Vec<Conflict>,
    /// Results that it did not get, and why.
    pub failed: Vec<(Key, String)>,
    /// Results that are not given, and why: they came from elsewhere, and nobody who is trusted vouches for them.
    pub withheld: Vec<(Key, String)>,
    /// What was found wrong there and passed over.
    pub problems: Vec<String>,
}

/// An action that gave another result than the one that was published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// The action.
    pub key: Key,
    /// The published result, which stays unless its bytes were lost.
    pub published: ArtifactId,
    /// The result of this machine.
    pub found: ArtifactId,
}

/// A result that is to be published.
struct Offer {
    record: Record,
    manifest: Manifest,
    voucher: Voucher,
}

/// A content that has to be sent.
enum Content<'a> {
    File(&'a Entry),
    List(Vec<u8>),
}

impl Remote {
    /// Gives results to the remote store, in as few requests as it takes.
    pub fn push(&self, store: &Store, keys: &[Key]) -> Result<Pushed, RemoteError> {
        let mut pushed = Pushed::default();
        // What this machine remembers may not be so any more, and nobody would know that a result is not there.
        if !self.is_fresh() {
            let read = self.with_index(store, async |index| index.refresh(&self.client, &self.keys, false).await);
            pushed.problems = read?.1;
        }
        let mut offers = Vec::new();
        let lost = self.lost(store);
        for &key in keys.iter().collect::<std::collections::BTreeSet<_>>() {
            // What is wrong with one of them concerns no other.
            let found = store.record(&key).and_then(|record| record.map(|record| Offer::of(store, record)).transpose());
            match found.map(|offer| offer.map(|offer| (offer.voucher.refusal(&self.keys), offer))) {
                Ok(Some((None, offer))) => offers.push(offer),
                Ok(Some((Some(refusal), _))) => pushed.withheld.push((key, refusal)),
                Ok(None) => pushed.failed.push((key, "the store of this machine does not have it".to_owned())),
                Err(error) => pushed.failed.push((key, error.to_string())),
            }
        }
        // What others have sent may be collected until it is published: the log says so. Asked before the places are, so that no
        // loss comes in between unseen.
        let losses = self.losses();
        let mut places: HashMap<Digest, Place> = HashMap::new();
        let mut subtrees = HashMap::new();
        {
            let state = self.state();
            if let Some(index) = &state.index {
                offers.retain(|offer| {
                    let new = offer.published(&HashMap::new(), &self.keys);
                    let is_there = matches!(state_of(index, &new, &self.keys, &lost), There::Same);
                    pushed.there += usize::from(is_there);
                    !is_there
                });
                if !offers.is_empty() {
                    places = places_in(index, &lost, &self.keys);
                    subtrees = subtrees_in(index, &offers, &self.keys);
                }
                // Other results that name the same bytes may be right where this one was wrong, or not: all of it is sent.
                let lost = offers.iter().filter(|offer| {
                    let new = offer.published(&HashMap::new(), &self.keys);
                    matches!(state_of(index, &new, &self.keys, &lost), There::Lost)
                });
                for digest in lost.flat_map(Offer::contents) {
                    places.remove(&digest);
                }
            }
        }
        let borrowed: HashMap<Key, Vec<(Digest, Place)>> = offers
            .iter()
            .map(|offer| {
                let there = offer.contents().filter_map(|digest| Some((digest, *places.get(&digest)?)));
                (offer.record.key, there.collect())
            })
            .collect();
        let gone = self.client.block_on(self.send(store, &offers, &mut places, &mut subtrees, &mut pushed))?;
        offers.retain(|offer| {
            let problem = offer.contents().find_map(|digest| gone.get(&digest));
            pushed.failed.extend(problem.map(|problem| (offer.record.key, problem.clone())));
            problem.is_none()
        });
        let publish = |offer: &Offer| {
            let of_files = offer.contents().filter_map(|digest| Some((digest, subtrees.get(&digest)?.clone())));
            let mut left = MOST_OF_SUBTREES;
            let fits = |(_, text): &(Digest, String)| {
                let rest = left.checked_sub(text.len());
                left = rest.unwrap_or(0);
                rest.is_some()
            };
            Published { subtrees: of_files.take_while(fits).collect(), ..offer.published(&places, &self.keys) }
        };
        let publications: Vec<Published> = offers.iter().map(publish).collect();
        for publications in in_segments(&publications) {
            let mut chosen = Chosen::default();
            let mut collected = HashSet::new();
            let committed = self.with_index(store, async |index| {
                index
                    .commit(&self.client, &self.keys, |index| {
                        if index.losses() != losses {
                            // A content may be elsewhere by now; what is published names the place where it was.
                            let places: HashSet<(Digest, Place)> = places_in(index, &lost, &self.keys);
                            let is_gone = |published: &&Published| {
                                borrowed[&published.key].iter().any(|borrowed| !places.contains(borrowed))
                            };
                            collected = publications.iter().filter(is_gone).map(|published| published.key).collect();
                        }
                        let offered = publications.iter().filter(|published| !collected.contains(&published.key));
                        chosen = choose(index, offered, &self.keys, &lost);
                        std::mem::take(&mut chosen.operations)
                    })
                    .await
            });
            match committed {
                Ok(((), problems)) => {
                    pushed.problems.extend(problems);
                    pushed.stored.append(&mut chosen.stored);
                    pushed.conflicts.append(&mut chosen.conflicts);
                    pushed.replaced.append(&mut chosen.replaced);
                    let problem =
                        "files that it shares with others were collected from the remote store meanwhile; push again";
                    pushed.failed.extend(collected.into_iter().map(|key| (key, problem.to_owned())));
                }
                Err(error) => {
                    let problem = error.to_string();
                    let keys = publications.iter().map(|published| published.key);
                    pushed.failed.extend(keys.map(|key| (key, problem.clone())));
                }
            }
        }
        Ok(pushed)
    }

    /// Grows, or becomes another one, whenever publications are said to be lost.
    fn losses(&self) -> (Option<Digest>, usize) {
        self.state().index.as_ref().map_or((None, 0), Index::losses)
    }

    /// Sends what is not there; what could not be sent, and why. What was sent gets its place.
    async fn send(
        &self,
        store: &Store,
        offers: &[Offer],
        places: &mut HashMap<Digest, Place>,
        subtrees: &mut HashMap<Digest, String>,
        pushed: &mut Pushed,
    ) -> HashMap<Digest, String> {
        let mut contents: BTreeMap<Digest, Content<'_>> = BTreeMap::new();
        let (mut drafts, mut draft) = (Vec::new(), Draft::default());
        let mut large = Vec::new();
        for offer in offers {
            let list = offer.long_list();
            let list = list.map(|list| (*offer.record.artifact.digest(), list.len() as u64, Content::List(list)));
            let files = offer.manifest.files().iter().map(|entry| (entry.digest, entry.size, Content::File(entry)));
            for (digest, size, content) in files.chain(list) {
                if places.contains_key(&digest) || contents.contains_key(&digest) {
                    continue;
                }
                let large_file =
                    if let Content::File(entry) = content { (size >= SMALL).then_some(entry) } else { None };
                contents.insert(digest, content);
                if let Some(entry) = large_file {
                    large.push(entry);
                    continue;
                }
                draft.add(digest, size);
                if draft.is_full() {
                    drafts.push(std::mem::take(&mut draft));
                }
            }
        }
        if !draft.is_empty() {
            drafts.push(draft);
        }
        let contents = &contents;
        let mut gone = HashMap::new();
        let mut packs = stream::iter(drafts)
            .map(|draft| async move {
                let sent = self.send_pack(store, &draft, contents).await;
                (draft, sent)
            })
            .buffer_unordered(PACKS_AT_ONCE);
        while let Some((draft, sent)) = packs.next().await {
            match sent {
                Ok((pack, size)) => {
                    pushed.bytes += size;
                    places.extend(draft.places().map(|(digest, offset)| (digest, Place::Packed(pack, offset))));
                }
                Err(problem) => gone.extend(draft.places().map(|(digest, _)| (digest, problem.clone()))),
            }
        }
        let mut objects = stream::iter(large)
            .map(|entry| async move { (entry, self.send_object(store, entry).await) })
            .buffer_unordered(OBJECTS_AT_ONCE);
        while let Some((entry, sent)) = objects.next().await {
            let digest = entry.digest;
            match sent {
                Ok(found) => {
                    pushed.bytes += entry.size;
                    places.insert(digest, Place::Alone);
                    subtrees.extend(found.map(|found| (digest, found.to_text())));
                }
                Err(problem) => {
                    gone.insert(digest, problem);
                }
            }
        }
        gone
    }

    async fn send_pack(
        &self,
        store: &Store,
        draft: &Draft,
        contents: &BTreeMap<Digest, Content<'_>>,
    ) -> Result<(Digest, u64), String> {
        let pack = draft.build(|digest, _| {
            let bytes = match &contents[digest] {
                Content::List(bytes) => bytes.clone(),
                Content::File(entry) => {
                    let path = store.content(entry).ok_or("it is no longer in the store of this machine")?;
                    fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?
                }
            };
            // What the disk has spoilt stays here.
            if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(spoilt(digest)) }
        })?;
        let (name, size) = (Digest::of(&pack), pack.len() as u64);
        self.client.put(&named("packs", &name), pack).await.map_err(|error| error.to_string())?;
        Ok((name, size))
    }
}

impl Offer {
    /// What this machine's store has of a result.
    fn of(store: &Store, record: Record) -> Result<Self, StoreError> {
        let (voucher, manifest) = (Voucher::of(store, &record)?, store.manifest(&record.artifact)?);
        Ok(Self { record, manifest, voucher })
    }

    fn long_list(&self) -> Option<Vec<u8>> {
        Some(self.manifest.bytes()).filter(|list| list.len() > LONG_LIST)
    }

    /// All that has to be there before it is published.
    fn contents(&self) -> impl Iterator<Item = Digest> {
        let list = self.long_list().map(|_| *self.record.artifact.digest());
        self.manifest.files().iter().map(|entry| entry.digest).chain(list)
    }

    fn published(&self, places: &HashMap<Digest, Place>, keys: &Keys) -> Published {
        let mut packed: BTreeMap<Digest, Vec<(u32, u64)>> = BTreeMap::new();
        let mut seen = HashSet::new();
        for (number, entry) in self.manifest.files().iter().enumerate() {
            if let Some(Place::Packed(pack, offset)) = places.get(&entry.digest)
                && seen.insert(entry.digest)
            {
                packed.entry(*pack).or_default().push((number as u32, *offset));
            }
        }
        let long = self.long_list();
        let list = long.as_ref().and_then(|list| match places.get(self.record.artifact.digest())? {
            Place::Packed(pack, offset) => Some(Slice { pack: *pack, offset: *offset, length: list.len() as u64 }),
            Place::Alone => None,
        });
        let manifest = long.is_none().then(|| String::from_utf8_lossy(&self.manifest.bytes()).into_owned());
        let (record, signature) = match &self.voucher {
            Voucher::Own => {
                let record = self.record.to_text();
                let signature = keys.signing.as_ref().map(|key| key.sign(Meaning::Record, &record));
                (record, signature)
            }
            Voucher::Signer { record, signature } => (record.clone(), Some((**signature).clone())),
            Voucher::Nobody => (self.record.to_text(), None),
        };
        Published {
            key: self.record.key,
            artifact: self.record.artifact,
            signature,
            record,
            manifest,
            list,
            packed: packed.into_iter().map(|(pack, files)| Packed { pack, files }).collect(),
            again: 0,
            subtrees: BTreeMap::new(),
        }
    }
}

/// Results that share a segment, so that none becomes too large to be read.
pub(super) fn in_segments(publications: &[Published]) -> impl Iterator<Item = &[Published]> {
    let mut rest = publications;
    std::iter::from_fn(move || {
        let mut size = 0;
        let fits = |published: &&Published| {
            size += serde_json::to_string(published).map_or(0, |text| text.len() as u64 + 128);
            size <= MOST / 2
        };
        let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let (now, later) = rest.split_at(count);
        rest = later;
        (!now.is_empty()).then_some(now)
    })
}

/// The subtrees of large files that are offered, of those that are published and right.
fn subtrees_in(index: &Index, offers: &[Offer], keys: &Keys) -> HashMap<Digest, String> {
    let files = offers.iter().flat_map(|offer| offer.manifest.files());
    let large: HashMap<Digest, u64> =
        files.filter(|entry| entry.size >= SMALL).map(|entry| (entry.digest, entry.size)).collect();
    let mut subtrees = HashMap::new();
    for (digest, text) in index.all(keys).flat_map(|published| &published.subtrees) {
        if let Some(&size) = large.get(digest)
            && !subtrees.contains_key(digest)
            && Subtrees::from_text(text, digest, size).is_some()
        {
            subtrees.insert(*digest, text.clone());
        }
    }
    subtrees
}

/// Where the content of published results lies.
fn places_in<C: FromIterator<(Digest, Place)>>(index: &Index, lost: &HashSet<Digest>, keys: &Keys) -> C {
    let there = index.all(keys).filter(|published| !index.is_lost(published, keys, lost));
    let placed = there.flat_map(|published| {
        let manifest = published.manifest.as_ref().map(String::as_bytes);
        let manifest = manifest.and_then(|list| Manifest::of_artifact(&published.artifact, list).ok());
        list_of(published).into_iter().chain(manifest.into_iter().flat_map(|manifest| files_of(published, &manifest)))
    });
    placed.map(|Placed { digest, place, .. }| (digest, place)).collect()
}

/// How a result stands to what is published of its action.
enum There {
    /// It is published.
    Same,
    /// It is, but its bytes are gone.
    Lost,
    /// Another one is.
    Other(ArtifactId),
    /// Others were, and the log calls all of them lost; the first.
    OthersLost(ArtifactId),
    /// None is.
    Nothing,
}

/// How a result stands to what is published.
fn state_of(index: &Index, new: &Published, keys: &Keys, lost: &HashSet<Digest>) -> There {
    let Some(existing) = index.published(&new.key, keys) else {
        return if index.has(new, keys, lost) { There::Same } else { There::Nothing };
    };
    // That this machine alone misses bytes lets no other result come: the others have the first one still.
    if index.is_vacant(&new.key, keys) {
        let had = index.had(&new.key, new.artifact, keys);
        return if had { There::Lost } else { There::OthersLost(existing.artifact) };
    }
    if existing.artifact != new.artifact {
        return There::Other(existing.artifact);
    }
    if index.usable(&new.key, keys, lost).is_some() { There::Same } else { There::Lost }
}

/// What of some results there is to publish, and what came of them then.
#[derive(Default)]
struct Chosen {
    operations: Vec<Operation>,
    /// Those that are stored.
    stored: Vec<Key>,
    /// Those that the index has others of.
    conflicts: Vec<Conflict>,
    /// Those that it had others of.
    replaced: Vec<Conflict>,
}

fn choose<'a>(
    index: &Index,
    publications: impl Iterator<Item = &'a Published>,
    keys: &Keys,
    lost: &HashSet<Digest>,
) -> Chosen {
    let mut chosen = Chosen::default();
    for published in publications {
        let Published { key, artifact, .. } = *published;
        let there = state_of(index, published, keys, lost);
        if let There::Other(existing) | There::OthersLost(existing) = there {
            let conflict = Conflict { key, published: existing, found: artifact };
            let is_other = matches!(there, There::Other(_));
            (if is_other { &mut chosen.conflicts } else { &mut chosen.replaced }).push(conflict);
            if !index.differing().contains(&(key, artifact)) {
                chosen.operations.push(Operation::Differs { key, artifact });
            }
        }
        if matches!(there, There::Lost | There::OthersLost(_) | There::Nothing) {
            chosen.operations.push(Operation::Publish(Box::new(index.anew(published, keys))));
        }
        if !matches!(there, There::Other(_)) {
            chosen.stored.push(key);
        }
    }
    chosen
}
