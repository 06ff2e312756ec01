//! The index: all that the segments say, read up to some number.

use std::{
    cell::RefCell,
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};

use super::{
    RemoteError,
    checkpoint::{Basis, Checkpoint, Writer},
    client::{AT_ONCE, Client, Created},
    losses::{self, Losses},
    segment::{Decoded, Heading, LAST, MOST, MOST_OF_CHECKPOINT, Operation, Published, Reading, decode_all, encode},
    signing::{Keys, Meaning, PublicKey},
};
use crate::{
    digest::{ArtifactId, Digest, Key},
    store::Store,
};

const LATEST: &str = "v1/latest";
/// After so many segments comes a checkpoint: who knows nothing reads at most so many segments besides it.
const EVERY: u64 = 8;
/// So many missing segments in a row are passed over; where more are missing, the hint is wrong.
const MISSING: usize = 32;
/// The hint is short: what is longer is none.
const MOST_OF_LATEST: u64 = 64 << 10;
/// The hint names the last checkpoints of so many signers.
const SIGNERS: usize = 64;
/// So many problems are told of.
const PROBLEMS: usize = 20;
/// So often somebody else may be first, before publishing is given up.
const TRIES: u32 = 20;

/// All published results, up to a segment.
#[derive(Debug, Default)]
pub(super) struct Index {
    number: u64,
    origin: Option<Digest>,
    /// The number of the last checkpoint that is known, and may be believed.
    checkpoint: u64,
    /// The last ones of those who sign them, as the hint said.
    signed: BTreeMap<PublicKey, u64>,
    /// On whose word all of it rests.
    basis: Basis,
    /// For each action, in the order in which they were published.
    published: HashMap<Key, Vec<Published>>,
    /// Whether the keys vouch for a publication, by its action and its place there, once that was asked: to read it and verify a signature
    /// takes longer than all else. An index is always asked with the same keys, and publications come after all others of their action.
    accepted: RefCell<HashMap<(Key, usize), bool>>,
    differing: Vec<(Key, ArtifactId)>,
    losses: Losses,
    /// What was found wrong there and passed over.
    problems: Vec<String>,
    /// Kept for whoever removes something.
    heard: Option<Heard>,
}

/// Where in the log something stands, and what of the log is not understood.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Publications, and the segment that each came with.
    pub(super) published: HashMap<Digest, u64>,
    /// Publications that somebody said to be lost, and the segment that said so last.
    pub(super) lost: HashMap<Digest, u64>,
    /// Publications that say more than this version knows.
    pub(super) partly_known: HashSet<Digest>,
    /// Segments that are missing, damaged, or say what this version does not know.
    pub(super) unread: Vec<(u64, String)>,
}

impl Heard {
    fn take(&mut self, number: u64, decoded: &Decoded) {
        for (place, operation) in decoded.operations.iter().enumerate() {
            match operation {
                Operation::Publish(published) => {
                    self.published.entry(published.name()).or_insert(number);
                    if decoded.partly_known.contains(&place) {
                        self.partly_known.insert(published.name());
                    }
                }
                Operation::Lost(statement) => {
                    self.lost.extend(losses::named(statement).into_iter().map(|name| (name, number)));
                }
                Operation::Differs { .. } => {}
            }
        }
        let unread = [(decoded.unknown, "does not know"), (decoded.partly_known.len(), "does not wholly know")];
        for (count, knows) in unread.into_iter().filter(|(count, _)| *count > 0) {
            let lines = if count == 1 { "a line" } else { "lines" };
            self.unread.push((number, format!("{lines} that this version of twdag {knows}")));
        }
    }
}

/// Where the log may end; only a hint.
#[derive(Debug, Serialize, Deserialize)]
struct Latest {
    origin: Digest,
    segment: u64,
    checkpoint: u64,
    /// The last checkpoints that these have signed: who names keys believes no others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    signed: BTreeMap<PublicKey, u64>,
}

impl Latest {
    /// The last checkpoint that is said to be one of those whom the keys trust.
    fn checkpoint_for(&self, keys: &Keys) -> Option<u64> {
        let signed = self.signed.iter().filter(|(signer, _)| keys.trust(Some(signer))).map(|(_, number)| *number);
        let others = keys.trust(None).then_some(self.checkpoint);
        signed.chain(others).max().filter(|number| *number > 0)
    }
}

pub(super) fn segment_name(number: u64) -> String {
    format!("v1/segments/{number:012}")
}

fn checkpoint_name(number: u64) -> String {
    format!("v1/checkpoints/{number:012}")
}

/// What of the index was found under a name.
enum Found {
    Bytes(Bytes),
    /// It is larger than such an object ever is.
    TooLarge(String),
    Nothing,
}

async fn find(client: &Client, object: &str, most: u64) -> Result<Found, RemoteError> {
    match client.get(object, most).await {
        Ok(bytes) => Ok(bytes.map_or(Found::Nothing, Found::Bytes)),
        Err(RemoteError::Damaged { problem, .. }) => Ok(Found::TooLarge(problem)),
        Err(error) => Err(error),
    }
}

/// The hint. Numbers that no segment has tell nothing; which log it is counts all the same.
async fn latest(client: &Client) -> Result<Option<Latest>, RemoteError> {
    let latest = match find(client, LATEST, MOST_OF_LATEST).await? {
        Found::Bytes(bytes) => serde_json::from_slice::<Latest>(&bytes).ok(),
        Found::TooLarge(_) | Found::Nothing => None,
    };
    Ok(latest.map(|latest| Latest {
        segment: latest.segment.min(LAST),
        checkpoint: if latest.checkpoint <= LAST { latest.checkpoint } else { 0 },
        signed: latest.signed.into_iter().filter(|(_, number)| *number <= latest.segment.min(LAST)).collect(),
        ..latest
    }))
}

impl Index {
    /// The log from its first segment on, and no checkpoint, so that nothing rests on what somebody else understood of it. There
    /// must be so many segments at least.
    pub(super) async fn whole(client: &Client, keys: &Keys, last: u64) -> Result<Self, RemoteError> {
        let mut index = Self { heard: Some(Heard::default()), ..Self::default() };
        let latest = latest(client).await?;
        index.origin = latest.as_ref().map(|latest| latest.origin);
        let last = latest.as_ref().map_or(last, |latest| latest.segment.max(last));
        index.read_up_to(client, last).await?;
        if index.number < last {
            let unread = "it is missing, and more after it".to_owned();
            let number = index.number + 1;
            index.heard.get_or_insert_default().unread.push((number, unread));
        }
        let checkpoint = latest.as_ref().and_then(|latest| latest.checkpoint_for(keys)).unwrap_or_default();
        index.checkpoint = if checkpoint <= index.number { checkpoint } else { 0 };
        index.signed = latest.map(|latest| latest.signed).unwrap_or_default();
        index.read_on(client).await?;
        // They are among what was not read.
        index.problems.clear();
        Ok(index)
    }

    /// What whoever removes something has to know; `None` if the log was not read by [`Index::whole`].
    pub(super) fn heard(&self) -> Option<&Heard> {
        self.heard.as_ref()
    }

    /// Whether the bytes of a publication were found to be wrong, by somebody who is trusted.
    pub(super) fn is_damaged(&self, published: &Published, keys: &Keys) -> bool {
        self.losses.is_damaged(published, keys)
    }

    /// The copy that this machine keeps; an empty index if there is none that can be read, or if it rests on the word of somebody who is
    /// not trusted: another workspace that uses the same store may trust others.
    pub(super) fn kept(store: &Store, folder: &Path, keys: &Keys) -> Self {
        let mut index = Self::default();
        if let Ok(bytes) = fs::read(store.derived(folder.join("index")))
            && let Ok(kept) = Checkpoint::from_bytes(&bytes, Writer::Own)
            && kept.basis.suffices(keys)
        {
            index.begin_at(kept);
        }
        index
    }

    /// Keeps a copy. If it cannot be written, more has to be read next time.
    pub(super) fn keep(&mut self, store: &Store, folder: &Path) {
        let path = folder.join("index");
        let kept = match self.number {
            0 => store.drop_derived(path).map_err(RemoteError::from),
            // It is for this machine, so that nobody signs it.
            _ => self.as_checkpoint(&Keys::default()).and_then(|bytes| Ok(store.keep_derived(path, &bytes)?)),
        };
        if let Err(error) = kept {
            self.tell(format!("what was read of the index is not kept, so that it is read again next time: {error}"));
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The number of the last checkpoint that is known.
    pub(super) fn checkpoint(&self) -> u64 {
        self.checkpoint
    }

    /// The BLAKE3 of the first segment.
    pub(super) fn origin(&self) -> Option<Digest> {
        self.origin
    }

    pub(super) fn len(&self) -> usize {
        self.published.len()
    }

    /// The result of an action: the first one that the keys vouch for and whose bytes the log does not call lost. If it calls all of
    /// them lost, the first one, until another one comes.
    pub(super) fn published(&self, key: &Key, keys: &Keys) -> Option<&Published> {
        let mut accepted = self.accepted(key, keys);
        let first = accepted.next()?;
        if !self.losses.has(first, keys) {
            return Some(first);
        }
        accepted.find(|published| !self.losses.has(published, keys)).or(Some(first))
    }

    /// The results of an action that the keys vouch for, in their order.
    fn accepted<'a>(&'a self, key: &Key, keys: &Keys) -> impl Iterator<Item = &'a Published> {
        let key = *key;
        let published = self.published.get(&key).into_iter().flatten().enumerate();
        published.filter(move |(place, published)| self.accepts(key, *place, published, keys)).map(|(_, it)| it)
    }

    fn accepts(&self, key: Key, place: usize, published: &Published, keys: &Keys) -> bool {
        let known = self.accepted.borrow().get(&(key, place)).copied();
        known.unwrap_or_else(|| {
            let is_accepted = keys.accept(published);
            self.accepted.borrow_mut().insert((key, place), is_accepted);
            is_accepted
        })
    }

    /// Whether results of an action were published and the log calls all of them lost, so that another one may come.
    pub(super) fn is_vacant(&self, key: &Key, keys: &Keys) -> bool {
        self.published(key, keys).is_some_and(|published| self.losses.has(published, keys))
    }

    /// Whether an action ever had this result, as far as the keys vouch for it.
    pub(super) fn had(&self, key: &Key, artifact: ArtifactId, keys: &Keys) -> bool {
        self.accepted(key, keys).any(|published| published.artifact == artifact)
    }

    /// The publication to use: the first of that result whose bytes are not lost.
    pub(super) fn usable(&self, key: &Key, keys: &Keys, lost: &HashSet<Digest>) -> Option<&Published> {
        let mut accepted = self.accepted(key, keys);
        let first = accepted.find(|published| !self.losses.has(published, keys))?;
        let is_it =
            |published: &&Published| published.artifact == first.artifact && !self.is_lost(published, keys, lost);
        std::iter::once(first).chain(accepted).find(is_it)
    }

    /// Whether a result is published that lies where this publication says it does, and the log does not call it lost.
    pub(super) fn has_at_same_places(&self, lost: &Published, keys: &Keys) -> bool {
        let is_it = |there: &Published| there.lies_like(lost) && !self.losses.has(there, keys) && keys.accept(there);
        self.published.get(&lost.key).is_some_and(|published| published.iter().any(is_it))
    }

    /// Whether the bytes of a publication are gone, as this machine or somebody who is trusted has found.
    pub(super) fn is_lost(&self, published: &Published, keys: &Keys, lost: &HashSet<Digest>) -> bool {
        self.losses.has(published, keys) || (!lost.is_empty() && lost.contains(&published.name()))
    }

    /// Changes whenever publications are said to have lost their bytes, and with the log.
    pub(super) fn losses(&self) -> (Option<Digest>, usize) {
        (self.origin, self.losses.count())
    }

    /// All publications, whoever has signed them.
    pub(super) fn everything(&self) -> impl Iterator<Item = &Published> {
        self.published.values().flatten()
    }

    /// A publication as another one than all of its action were: none that was called lost bears its name, whatever others have
    /// written there.
    pub(super) fn anew(&self, published: &Published, keys: &Keys) -> Published {
        let again = self.published.get(&published.key).map_or(0, |published| published.len() as u64);
        let mut new = Published { again, ..published.clone() };
        while self.losses.has(&new, keys) {
            new.again += 1;
        }
        new
    }

    /// Whether anybody has published a result of an action.
    pub(super) fn knows(&self, key: &Key) -> bool {
        self.published.contains_key(key)
    }

    /// Whether the same result was published by the same signer. What only says so does not count.
    pub(super) fn has(&self, new: &Published, keys: &Keys, lost: &HashSet<Digest>) -> bool {
        let same = |old: &Published| {
            old.artifact == new.artifact
                && !self.is_lost(old, keys, lost)
                && old.signer() == new.signer()
                && old.signature.as_ref().is_none_or(|signature| signature.holds(Meaning::Record, &old.record))
                && old.read().is_ok()
        };
        self.published.get(&new.key).is_some_and(|published| published.iter().any(same))
    }

    /// All results that the keys vouch for.
    pub(super) fn all(&self, keys: &Keys) -> impl Iterator<Item = &Published> {
        self.published.values().flatten().filter(|published| keys.accept(published))
    }

    pub(super) fn differing(&self) -> &[(Key, ArtifactId)] {
        &self.differing
    }

    pub(super) fn take_problems(&mut self) -> Vec<String> {
        std::mem::take(&mut self.problems)
    }

    fn tell(&mut self, problem: String) {
        match self.problems.len().cmp(&PROBLEMS) {
            Ordering::Less => self.problems.push(problem),
            Ordering::Equal => self.problems.push("more is wrong there; the rest is not listed".to_owned()),
            Ordering::Greater => {}
        }
    }

    fn begin_at(&mut self, Checkpoint { heading, operations, basis }: Checkpoint) {
        *self = Self {
            basis,
            number: heading.number,
            origin: heading.origin,
            checkpoint: heading.checkpoint,
            problems: std::mem::take(&mut self.problems),
            ..Self::default()
        };
        self.apply(operations);
    }

    fn apply(&mut self, operations: Vec<Operation>) {
        for operation in operations {
            match operation {
                Operation::Publish(published) => {
                    let all = self.published.entry(published.key).or_default();
                    if !all.contains(&published) {
                        all.push(*published);
                    }
                }
                Operation::Differs { key, artifact } => {
                    if !self.differing.contains(&(key, artifact)) {
                        self.differing.push((key, artifact));
                    }
                }
                Operation::Lost(statement) => self.losses.take(statement, self.origin),
            }
        }
    }

    /// All of it as a checkpoint, which these keys sign.
    fn as_checkpoint(&self, keys: &Keys) -> Result<Vec<u8>, RemoteError> {
        let mut published: Vec<&Published> = self.published.values().flatten().collect();
        // Of two that write the same checkpoint, it does not matter who wins.
        published.sort_by_key(|published| published.key);
        let published = published.into_iter().map(|published| Operation::Publish(Box::new(published.clone())));
        let differing = self.differing.iter().map(|&(key, artifact)| Operation::Differs { key, artifact });
        let lost = self.losses.statements().iter().cloned().map(Operation::Lost);
        let operations: Vec<Operation> = published.chain(differing).chain(lost).collect();
        Checkpoint { heading: self.heading(self.number), operations, basis: self.basis.clone() }.to_bytes(keys)
    }

    fn heading(&self, number: u64) -> Heading {
        Heading { number, origin: self.origin, checkpoint: self.checkpoint }
    }

    /// Takes the next segment in. One that is damaged or missing is passed over: its results count as not there.
    fn take(&mut self, number: u64, found: &Found) {
        let reading = if self.heard.is_some() { Reading::Whole } else { Reading::Known };
        let read = match found {
            Found::Bytes(bytes) => decode_all(bytes, MOST, reading).and_then(|decoded| {
                let heading = decoded.heading;
                let is_it = heading.number == number && (number == 1 || heading.origin == self.origin);
                if is_it { Ok(decoded) } else { Err("it belongs to another place".to_owned()) }
            }),
            Found::TooLarge(problem) => Err(problem.clone()),
            Found::Nothing => Err("it is missing".to_owned()),
        };
        self.number = number;
        if number == 1
            && read.is_ok()
            && let Found::Bytes(bytes) = found
        {
            self.origin = Some(Digest::of(bytes));
        }
        match read {
            Ok(decoded) => {
                if let Some(heard) = &mut self.heard {
                    heard.take(number, &decoded);
                }
                self.apply(decoded.operations);
            }
            Err(problem) => {
                if let Some(heard) = &mut self.heard {
                    heard.unread.push((number, problem.clone()));
                }
                self.tell(format!("{}: {problem}; its results are not used", segment_name(number)));
            }
        }
    }

    /// Reads what was published since; with `probe`, also what the hint does not tell of.
    pub(super) async fn refresh(&mut self, client: &Client, keys: &Keys, probe: bool) -> Result<(), RemoteError> {
        let latest = latest(client).await?;
        let is_another = match &latest {
            Some(latest) => Some(latest.origin) != self.origin,
            // Whoever wrote the first segment may have died before the hint: then whoever reads all of it goes on.
            None => self.heard.is_none(),
        };
        if self.number > 0 && is_another {
            // It is another bucket than it was.
            *self = Self::default();
        }
        if let Some(latest) = latest {
            // If the first segment is gone, the others belong together all the same.
            self.origin = self.origin.or(Some(latest.origin));
            let named = latest.checkpoint_for(keys);
            // Older versions do not say who has signed it.
            let checkpoint = named.unwrap_or(latest.checkpoint);
            if checkpoint > self.number + 2
                && let Err(problem) = self.begin_with(client, keys, checkpoint, latest.origin).await?
                // That others write checkpoints, too, is no news.
                && named.is_some()
            {
                self.tell(format!("{}: {problem}; it is not used", checkpoint_name(checkpoint)));
            }
            self.read_up_to(client, latest.segment).await?;
            self.checkpoint = self.checkpoint.max(named.filter(|named| *named <= self.number).unwrap_or_default());
            self.signed = latest.signed;
        }
        if probe { self.read_on(client).await } else { Ok(()) }
    }

    /// Begins anew with a checkpoint of a log; says what is wrong with it otherwise.
    async fn begin_with(
        &mut self,
        client: &Client,
        keys: &Keys,
        number: u64,
        origin: Digest,
    ) -> Result<Result<(), String>, RemoteError> {
        let bytes = match find(client, &checkpoint_name(number), MOST_OF_CHECKPOINT).await? {
            Found::Bytes(bytes) => bytes,
            Found::TooLarge(problem) => return Ok(Err(problem)),
            Found::Nothing => return Ok(Err("it is missing".to_owned())),
        };
        Ok(Checkpoint::from_bytes(&bytes, Writer::Anybody).and_then(|checkpoint| {
            if checkpoint.heading.number != number || checkpoint.heading.origin != Some(origin) {
                return Err("it belongs to another place".to_owned());
            }
            if !checkpoint.basis.suffices(keys) {
                return Err("not all on whose word it rests are trusted here".to_owned());
            }
            self.begin_at(checkpoint);
            Ok(())
        }))
    }

    /// Reads the segments after the last that is known.
    pub(super) async fn read_on(&mut self, client: &Client) -> Result<(), RemoteError> {
        while self.number < LAST {
            match find(client, &segment_name(self.number + 1), MOST).await? {
                Found::Nothing => break,
                found => self.take(self.number + 1, &found),
            }
        }
        Ok(())
    }

    /// Reads the segments up to one that the hint names. It may name any number, so a long row of missing ones ends it.
    async fn read_up_to(&mut self, client: &Client, last: u64) -> Result<(), RemoteError> {
        let mut missing = Vec::new();
        let mut segments = stream::iter(self.number + 1..=last)
            .map(|number| async move { (number, find(client, &segment_name(number), MOST).await) })
            .buffered(AT_ONCE);
        while let Some((number, found)) = segments.next().await {
            let found = found?;
            if matches!(found, Found::Nothing) {
                missing.push(number);
                if missing.len() > MISSING {
                    let first = segment_name(missing[0]);
                    self.tell(format!(
                        "{LATEST} names segment {last}, but there is none from {first} on; it is not used"
                    ));
                    return Ok(());
                }
                continue;
            }
            for number in missing.drain(..) {
                self.take(number, &Found::Nothing);
            }
            self.take(number, &found);
        }
        for number in missing {
            self.take(number, &Found::Nothing);
        }
        Ok(())
    }

    /// Publishes. `choose` says what there is to publish, as the index is; it is asked again if somebody else was first. What
    /// it says then is published, unless it is nothing.
    pub(super) async fn commit(
        &mut self,
        client: &Client,
        keys: &Keys,
        mut choose: impl FnMut(&Self) -> Vec<Operation>,
    ) -> Result<(), RemoteError> {
        for tries in 0..TRIES {
            let operations = choose(self);
            if operations.is_empty() {
                return Ok(());
            }
            let number = self.number + 1;
            let bytes = encode(&self.heading(number), &operations, MOST)?;
            match client.create(&segment_name(number), bytes.clone()).await? {
                Created::Yes => {
                    self.take(number, &Found::Bytes(bytes.into()));
                    self.hint(client, keys).await;
                    return Ok(());
                }
                // Who reads all of it goes on reading all of it.
                Created::Taken if self.heard.is_some() => self.read_on(client).await?,
                Created::Taken => self.refresh(client, keys, true).await?,
            }
            if self.number < number {
                // It is there and cannot be read: the server is late, or lies.
                tokio::time::sleep(Duration::from_millis(50 << tries.min(5))).await;
            }
        }
        let problem = format!("others were first, or it cannot be read, {TRIES} times in a row; try again later");
        Err(client.damaged(&segment_name(self.number + 1), problem))
    }

    /// Takes in what [`Index::commit`] would publish, and publishes nothing: for a forecast. Such an index is not kept.
    pub(super) fn suppose(&mut self, operations: &[Operation]) -> Result<(), RemoteError> {
        if operations.is_empty() {
            return Ok(());
        }
        let number = self.number + 1;
        let bytes = encode(&self.heading(number), operations, MOST)?;
        self.take(number, &Found::Bytes(bytes.into()));
        if number >= self.checkpoint + EVERY {
            self.checkpoint = number;
        }
        Ok(())
    }

    /// Tells where the log ends. All of it is derived: if it fails, readers take longer.
    async fn hint(&mut self, client: &Client, keys: &Keys) {
        if self.number >= self.checkpoint + EVERY {
            let created = match self.as_checkpoint(keys) {
                Ok(bytes) => client.create(&checkpoint_name(self.number), bytes).await,
                Err(error) => Err(error),
            };
            match created {
                Ok(Created::Yes) => {
                    self.checkpoint = self.number;
                    self.signed.extend(self.basis.signer(keys).map(|signer| (signer, self.number)));
                }
                // Nobody but the writer of a segment has anything to say there, so that it may be a lie: the next segment gets one.
                Ok(Created::Taken) => {}
                Err(error) => self.tell(error.to_string()),
            }
        }
        let Some(origin) = self.origin else { return };
        let mut signed: Vec<_> = self.signed.iter().map(|(signer, number)| (*signer, *number)).collect();
        signed.sort_by_key(|(signer, number)| Reverse((keys.trusted.contains(signer), *number)));
        let signed = signed.into_iter().take(SIGNERS).collect();
        let latest = Latest { origin, segment: self.number, checkpoint: self.checkpoint, signed };
        let written = match serde_json::to_vec(&latest) {
            Ok(bytes) => client.put(LATEST, bytes).await,
            Err(error) => Err(RemoteError::Encoding { what: LATEST, source: error.into() }),
        };
        if let Err(error) = written {
            self.tell(error.to_string());
        }
    }
}
