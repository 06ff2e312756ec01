//! Looking at every byte of a store that a team shares.
//!
//! What is damaged is not removed: somebody may write it anew in that moment. The log says which results are lost by it, so that nobody
//! is told of it any more, and who has one of them gives it again, with all its bytes, under the same names. What nobody gives again
//! goes when somebody collects.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::{
    Remote, RemoteError, RemoteRetention,
    checkpoint::{Checkpoint, Writer},
    client::{AT_ONCE, PIECE},
    losses::Why,
    place::{Place, Placed, files_of, list_of},
    roots,
    segment::{MOST_OF_CHECKPOINT, Published},
    signing::Meaning,
    survey::{CHECKPOINTS, Survey, Unread},
};
use crate::{
    digest::Digest,
    store::{Hashing, Sort, Store},
};

/// So many objects are read at the same time.
const OBJECTS_AT_ONCE: usize = 3;
/// A larger pack is none.
const MOST_OF_PACK: u64 = 320 << 20;
/// What lies elsewhere is not of twdag.
const ROOMS: &[&str] = &["objects", "packs", "segments", "checkpoints", "claims", "roots", "latest", "collector"];

const LOST: &str = "the results that need it count as not there from now on; who has one gives it again";
const WOULD_BE_LOST: &str = "nothing was changed; without --dry-run, the results that need it count as not there";
const LATER: &str = "left as it is; a later version of twdag may read it";
const SEGMENT: &str = "left as it is, as the order of the log rests on it; its results are not used";
const ROOT: &str = "left as it is; `twdag store push` on that machine writes anew what it keeps";

/// What a check of a remote store has found and done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RemoteChecked {
    /// Published results all of whose bytes are there, as they should be.
    pub results: u64,
    /// Those among them that nobody signed whose key is trusted here.
    pub untrusted: u64,
    /// Results that count as not there from now on, or would.
    pub lost: u64,
    /// File contents and lists of files that are as they should be.
    pub contents: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Contents and packs that no result names; collecting takes them away.
    pub unneeded: u64,
    /// What was wrong.
    pub findings: Vec<RemoteFinding>,
}

impl RemoteChecked {
    /// Whether nothing was lost or other than it must be.
    pub fn is_whole(&self) -> bool {
        self.findings.iter().all(|finding| matches!(finding.sort, Sort::Foreign | Sort::Leftover))
    }

    fn add(&mut self, sort: Sort, object: &str, problem: impl Into<String>, repair: &str) {
        let (object, problem, repair) = (object.to_owned(), problem.into(), repair.to_owned());
        self.findings.push(RemoteFinding { sort, object, problem, repair });
    }
}

/// Something that a check of a remote store has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RemoteFinding {
    /// Of what sort it is.
    pub sort: Sort,
    /// The object's name below the address.
    pub object: String,
    /// What is wrong, in plain words.
    pub problem: String,
    /// What was done about it, in plain words.
    pub repair: String,
}

/// What is read of an object.
#[derive(Default)]
struct Wanted {
    contents: BTreeSet<Content>,
    bytes: u64,
}

/// What somebody says lies in an object. What others say of the same content counts for itself: a stranger's wrong word makes nobody
/// else's wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Content {
    offset: u64,
    digest: Digest,
    size: u64,
}

impl Content {
    fn of(placed: &Placed) -> Self {
        let offset = if let Place::Packed(_, offset) = placed.place { offset } else { 0 };
        Self { offset, digest: placed.digest, size: placed.size }
    }
}

/// What is wrong with an object.
struct Wrong {
    sort: Sort,
    problem: String,
    /// The contents that cannot be had from there.
    contents: HashSet<Content>,
}

impl Remote {
    /// Reads every byte that results name, and has the log say which results are lost; with `dry_run`, only tells.
    pub fn check(
        &self,
        store: &Store,
        dry_run: bool,
        progress: &(dyn Fn(Hashing) + Sync),
    ) -> Result<RemoteChecked, RemoteError> {
        if !dry_run {
            self.refuse_unheard()?;
        }
        // Nothing is removed, so that no time counts.
        let retention = RemoteRetention {
            keep_runs: 0,
            older_than: Duration::ZERO,
            forget_after: Duration::ZERO,
            grace: Duration::ZERO,
            max_size: None,
            give_up_unreadable: false,
            dry_run: true,
        };
        let mut survey = self.survey(store, &retention)?;
        survey.look()?;
        // Of what this version does not wholly know nobody can say whether it is whole.
        survey.leave_partly_known();
        let mut checked = RemoteChecked::default();
        let mut lost = understood(&survey, dry_run, &mut checked);
        self.check_rest(&survey, dry_run, &mut checked)?;

        let placed: Vec<(Digest, Vec<Placed>)> = survey
            .there
            .iter()
            .filter_map(|published| {
                let files = files_of(published, survey.lists.get(&published.name())?);
                Some((published.name(), list_of(published).into_iter().chain(files).collect()))
            })
            .collect();
        let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
        for placed in placed.iter().flat_map(|(_, placed)| placed) {
            let object = wanted.entry(placed.place.object(&placed.digest)).or_default();
            if object.contents.insert(Content::of(placed)) {
                object.bytes = object.bytes.saturating_add(placed.size);
            }
        }
        let wrong = self.client.block_on(self.check_contents(&wanted, &mut checked, progress))??;
        let is_bad = |placed: &Placed| {
            let wrong = wrong.get(placed.place.object(&placed.digest).as_str());
            wrong.is_some_and(|wrong| wrong.contents.contains(&Content::of(placed)))
        };
        lost.extend(placed.iter().filter(|(_, placed)| placed.iter().any(is_bad)).map(|(name, _)| *name));
        for (object, Wrong { sort, problem, .. }) in wrong {
            checked.add(sort, object, problem, if dry_run { WOULD_BE_LOST } else { LOST });
        }
        let is_unneeded = |name: &str| {
            (name.starts_with("v1/objects/") || name.starts_with("v1/packs/")) && !wanted.contains_key(name)
        };
        checked.unneeded = survey.listing.iter().filter(|listed| is_unneeded(&listed.name)).count() as u64;
        let (gone, whole): (Vec<Published>, Vec<Published>) =
            survey.there.into_iter().partition(|published| lost.contains(&published.name()));
        let whole: Vec<Published> =
            whole.into_iter().filter(|published| survey.lists.contains_key(&published.name())).collect();
        checked.results = whole.len() as u64;
        checked.untrusted = whole.iter().filter(|published| !self.keys.accept(published)).count() as u64;
        checked.lost = gone.len() as u64;
        if !dry_run {
            self.declare_lost(store, &gone, Why::Damaged, false)?;
        }
        checked.findings.sort_by(|one, two| (one.sort, &one.object).cmp(&(two.sort, &two.object)));
        Ok(checked)
    }

    /// Looks at what members keep, at checkpoints, and for what is not of twdag.
    fn check_rest(&self, survey: &Survey<'_>, dry_run: bool, checked: &mut RemoteChecked) -> Result<(), RemoteError> {
        let roots = self.roots(survey.listing.iter().filter(|listed| listed.name.starts_with(roots::ROOM)), None)?;
        for Unread { object, problem, .. } in roots.unread {
            checked.add(Sort::Damaged, &object, problem, ROOT);
        }
        for listed in &survey.listing {
            let room = listed.name.split('/').nth(1).unwrap_or_default();
            if !ROOMS.contains(&room) {
                checked.add(Sort::Foreign, &listed.name, "not of twdag", "left as it is");
            }
            let Some(number) = listed.name.strip_prefix(CHECKPOINTS) else { continue };
            let problem = match self.client.block_on(self.client.get(&listed.name, MOST_OF_CHECKPOINT))? {
                Ok(None) => continue,
                Ok(Some(bytes)) => match Checkpoint::from_bytes(&bytes, Writer::Anybody) {
                    Ok(checkpoint) if number.parse() == Ok(checkpoint.heading.number) => continue,
                    Ok(_) => "it belongs to another place".to_owned(),
                    Err(problem) => problem,
                },
                Err(RemoteError::Damaged { problem, .. }) => problem,
                Err(error) => return Err(error),
            };
            let repair = if dry_run {
                "nothing was changed; without --dry-run it is removed"
            } else {
                self.client.block_on(self.client.delete(&listed.name))??;
                "removed; the segments are read in its place"
            };
            checked.add(Sort::Damaged, &listed.name, problem, repair);
        }
        Ok(())
    }

    /// Reads contents; what is wrong, by object.
    async fn check_contents<'a>(
        &self,
        wanted: &'a BTreeMap<String, Wanted>,
        checked: &mut RemoteChecked,
        progress: &(dyn Fn(Hashing) + Sync),
    ) -> Result<HashMap<&'a str, Wrong>, RemoteError> {
        let total = wanted.values().fold(0_u64, |total, wanted| total.saturating_add(wanted.bytes));
        let done = AtomicU64::new(0);
        let tell = |bytes: u64| progress(Hashing { done: done.fetch_add(bytes, Ordering::Relaxed) + bytes, total });
        let mut all = stream::iter(wanted)
            .map(|(object, wanted)| {
                let tell = &tell;
                async move {
                    let wrong = if object.starts_with("v1/packs/") {
                        self.check_pack(object, wanted, tell).await
                    } else {
                        self.check_object(object, wanted, tell).await
                    };
                    (object, wanted.contents.len(), wrong)
                }
            })
            .buffer_unordered(OBJECTS_AT_ONCE);
        let mut found = HashMap::new();
        while let Some((object, contents, wrong)) = all.next().await {
            let wrong = wrong?;
            let bad = wrong.as_ref().map_or(0, |wrong| wrong.contents.len());
            checked.contents += contents.saturating_sub(bad) as u64;
            found.extend(wrong.map(|wrong| (object.as_str(), wrong)));
        }
        drop(all);
        checked.bytes = done.into_inner();
        Ok(found)
    }

    async fn check_pack(
        &self,
        object: &str,
        wanted: &Wanted,
        tell: &(dyn Fn(u64) + Sync),
    ) -> Result<Option<Wrong>, RemoteError> {
        let all = || wanted.contents.iter().copied().collect();
        let bytes = match self.client.get(object, MOST_OF_PACK).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(Some(gone(all()))),
            Err(RemoteError::Damaged { problem, .. }) => return Ok(Some(damaged(problem, all()))),
            Err(error) => return Err(error),
        };
        let slice = |offset: u64, size: u64| -> Option<Bytes> {
            let (begin, end) = (usize::try_from(offset).ok()?, usize::try_from(offset.checked_add(size)?).ok()?);
            (end <= bytes.len()).then(|| bytes.slice(begin..end))
        };
        let is_bad = |content: &&Content| {
            slice(content.offset, content.size).is_none_or(|bytes| Digest::of(&bytes) != content.digest)
        };
        let bad: HashSet<Content> = wanted.contents.iter().filter(is_bad).copied().collect();
        // What is said to lie beyond its end was not read.
        let read = |content: &Content| slice(content.offset, content.size).map(|bytes| bytes.len() as u64);
        tell(wanted.contents.iter().filter_map(read).sum());
        let problem = format!("{} of {} contents that are read from it are others", bad.len(), wanted.contents.len());
        Ok((!bad.is_empty()).then(|| damaged(problem, bad)))
    }

    async fn check_object(
        &self,
        object: &str,
        wanted: &Wanted,
        tell: &(dyn Fn(u64) + Sync),
    ) -> Result<Option<Wrong>, RemoteError> {
        let mut bad = None;
        for content in &wanted.contents {
            match self.check_content(object, *content, tell).await? {
                // Nobody else finds it there.
                Some(wrong) if wrong.sort == Sort::Lost => {
                    return Ok(Some(Wrong { contents: wanted.contents.iter().copied().collect(), ..wrong }));
                }
                Some(wrong) => {
                    bad.get_or_insert_with(|| Wrong { contents: HashSet::new(), ..wrong }).contents.insert(*content)
                }
                None => false,
            };
        }
        Ok(bad)
    }

    /// Reads an object that is one content.
    async fn check_content(
        &self,
        object: &str,
        content: Content,
        tell: &(dyn Fn(u64) + Sync),
    ) -> Result<Option<Wrong>, RemoteError> {
        let Content { digest, size, .. } = content;
        let all = HashSet::from([content]);
        let starts = (0..size.div_ceil(PIECE)).map(|piece| piece * PIECE);
        let pieces = stream::iter(starts)
            .map(|start| self.client.get_piece(object, start..(start + PIECE).min(size)))
            .buffered(AT_ONCE);
        let hashed = pieces
            .try_fold(Some(blake3::Hasher::new()), |hasher, piece| async move {
                let (Some(mut hasher), Some(piece)) = (hasher, piece) else { return Ok(None) };
                hasher.update_rayon(&piece);
                tell(piece.len() as u64);
                Ok(Some(hasher))
            })
            .await;
        match hashed {
            Ok(Some(hasher)) if Digest::from(hasher.finalize()) == digest => Ok(None),
            Ok(Some(_)) => Ok(Some(damaged("its bytes are others than its name says".to_owned(), all))),
            Ok(None) => Ok(Some(gone(all))),
            Err(RemoteError::Damaged { problem, .. }) => Ok(Some(damaged(problem, all))),
            Err(error) => Err(error),
        }
    }
}

/// Tells what of the log cannot be understood, and whose signature does not hold; the publications that are lost by it.
fn understood(survey: &Survey<'_>, dry_run: bool, checked: &mut RemoteChecked) -> HashSet<Digest> {
    let mut lost = HashSet::new();
    let repair = if dry_run { WOULD_BE_LOST } else { LOST };
    for Unread { object, problem, publication, is_later } in &survey.unread {
        let published = survey.there.iter().find(|published| Some(published.name()) == *publication);
        // A copy that somebody made for another action bears the name of what is whole.
        if published.is_some_and(|published| survey.lists.contains_key(&published.name())) {
            continue;
        }
        match published {
            None => checked.add(Sort::Damaged, object, problem, SEGMENT),
            Some(_) if *is_later => checked.add(Sort::Damaged, object, problem, LATER),
            Some(published) => {
                checked.add(Sort::Damaged, object, problem, repair);
                lost.insert(published.name());
            }
        }
    }
    for published in &survey.there {
        let name = published.name();
        if survey.unlisted.contains(&name) {
            let object = list_of(published).map(|list| list.place.object(&list.digest));
            let problem = format!("it is no longer there: the list of files of {}", published.artifact);
            checked.add(Sort::Lost, &object.unwrap_or_else(|| survey.object_of(published)), problem, repair);
            lost.insert(name);
        }
        let signature = published.signature.as_ref();
        if signature.is_some_and(|signature| !signature.holds(Meaning::Record, &published.record)) {
            let problem = format!("the result of action {}: its signature does not hold", published.key);
            checked.add(Sort::Damaged, &survey.object_of(published), problem, repair);
            lost.insert(name);
        }
    }
    lost
}

fn gone(contents: HashSet<Content>) -> Wrong {
    Wrong { sort: Sort::Lost, problem: "it is no longer there".to_owned(), contents }
}

fn damaged(problem: String, contents: HashSet<Content>) -> Wrong {
    Wrong { sort: Sort::Damaged, problem, contents }
}
