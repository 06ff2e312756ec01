//! What whoever removes something from a shared store has to know first: the whole log, all objects, and the files of all results.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    time::SystemTime,
};

use super::{
    Remote, RemoteError,
    client::Listed,
    collect::{RemoteRetention, before, parts},
    index::{Index, segment_name},
    place::objects_of,
    push::in_segments,
    segment::{Operation, Published},
    understood::is_wholly_known,
};
use crate::{
    digest::{ArtifactId, Digest, Key},
    store::{Manifest, Record, Root, RootSort, Store, with_parts},
};

/// Written to learn what time the server has.
pub(super) const COLLECTOR: &str = "v1/collector";
const SEGMENTS: &str = "v1/segments/";
pub(super) const CHECKPOINTS: &str = "v1/checkpoints/";

/// Something that cannot be understood, and may say that something is needed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Unread {
    pub(super) object: String,
    pub(super) problem: String,
    /// The publication that it concerns.
    pub(super) publication: Option<Digest>,
    /// A later version of twdag wrote it.
    pub(super) is_later: bool,
}

impl Unread {
    pub(super) fn of(object: &str, problem: impl Into<String>) -> Self {
        Self { object: object.to_owned(), problem: problem.into(), publication: None, is_later: false }
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.object, self.problem)
    }
}

/// What is known of a shared store.
pub(super) struct Survey<'a> {
    pub(super) remote: &'a Remote,
    pub(super) store: &'a Store,
    pub(super) retention: RemoteRetention,
    /// The server's time, before the objects were listed.
    pub(super) now: SystemTime,
    pub(super) listing: Vec<Listed>,
    names: HashSet<String>,
    segments: HashMap<u64, SystemTime>,
    /// The publications that are not lost for those who trust the same keys.
    pub(super) there: Vec<Published>,
    /// Those that are.
    pub(super) gone: Vec<Published>,
    /// The lists of files of publications, by their names.
    pub(super) lists: HashMap<Digest, Manifest>,
    /// Publications whose list of files is gone.
    pub(super) unlisted: HashSet<Digest>,
    /// What of the log and the lists cannot be understood.
    pub(super) unread: BTreeSet<Unread>,
    /// What should be told.
    pub(super) problems: Vec<String>,
}

fn number_of(name: &str, room: &str) -> Option<u64> {
    name.strip_prefix(room)?.parse().ok()
}

impl Remote {
    /// Learns what time the server has, what is there by then, and all that the log says.
    pub(super) fn survey<'a>(
        &'a self,
        store: &'a Store,
        retention: &RemoteRetention,
    ) -> Result<Survey<'a>, RemoteError> {
        let look = async {
            // Who only asks changes nothing; then the clock of this machine has to do for a forecast.
            let now = if retention.dry_run {
                SystemTime::now()
            } else {
                self.client.put(COLLECTOR, Vec::new()).await?;
                let written = self.client.modified(COLLECTOR).await?;
                written.ok_or_else(|| self.client.damaged(COLLECTOR, "it is gone although it was written just now"))?
            };
            let listing = self.client.list("v1").await?;
            let last = |room| listing.iter().filter_map(|listed| number_of(&listed.name, room)).max().unwrap_or(0);
            let index = Index::whole(&self.client, &self.keys, last(SEGMENTS).max(last(CHECKPOINTS))).await?;
            Ok::<_, RemoteError>((now, listing, index))
        };
        let (now, listing, index) = self.client.block_on(look)??;
        let mut survey = Survey {
            remote: self,
            store,
            retention: *retention,
            now,
            names: listing.iter().map(|listed| listed.name.clone()).collect(),
            segments: listing
                .iter()
                .filter_map(|listed| Some((number_of(&listed.name, SEGMENTS)?, listed.modified)))
                .collect(),
            listing,
            there: Vec::new(),
            gone: Vec::new(),
            lists: HashMap::new(),
            unlisted: HashSet::new(),
            unread: BTreeSet::new(),
            problems: Vec::new(),
        };
        self.state().index = Some(index);
        survey.sort();
        Ok(survey)
    }
}

impl Survey<'_> {
    /// Tells the publications that are there from those that are lost, as the log says by now.
    fn sort(&mut self) {
        let state = self.remote.state();
        let Some(index) = &state.index else { return };
        let none = HashSet::new();
        (self.gone, self.there) =
            index.everything().cloned().partition(|published| index.is_lost(published, &self.remote.keys, &none));
        match index.heard() {
            Some(heard) => {
                let unread = heard.unread.iter();
                self.unread.extend(unread.map(|(number, problem)| Unread::of(&segment_name(*number), problem)));
            }
            None => {
                self.unread.insert(Unread::of("v1/latest", "the log is another one than it was a moment ago"));
            }
        }
    }

    /// Learns what the log says by now, and the lists of files of all that is there, or was a short time ago.
    pub(super) fn look(&mut self) -> Result<(), RemoteError> {
        self.sort();
        let late: Vec<Published> = self.lately_lost().cloned().collect();
        let mut fetched: HashMap<ArtifactId, Manifest> = HashMap::new();
        for (published, is_there) in
            self.there.iter().map(|published| (published, true)).chain(late.iter().map(|published| (published, false)))
        {
            let name = published.name();
            if self.lists.contains_key(&name) || self.unlisted.contains(&name) {
                continue;
            }
            // What is wrong with results that nobody uses concerns nobody.
            let concerns = is_there && self.remote.keys.vouch(published);
            let unread = |problem: String| Unread {
                object: self.object_of(published),
                problem: format!("the result of action {}: {problem}", published.key),
                publication: Some(name),
                is_later: false,
            };
            let known = match published.open(&published.key) {
                Ok(known) => known,
                Err(problem) => {
                    if concerns {
                        let is_later = Record::other_version(published.record.as_bytes()).is_some();
                        self.unread.insert(Unread { is_later, ..unread(problem) });
                    }
                    continue;
                }
            };
            // What is not understood of a record may say what else is needed.
            let record = serde_json::from_str::<serde_json::Value>(&known.record.to_text());
            if concerns && !record.is_ok_and(|record| is_wholly_known(published.record.as_bytes(), &record)) {
                let problem = "the record holds fields that this version of twdag does not know".to_owned();
                self.unread.insert(Unread { is_later: true, ..unread(problem) });
                continue;
            }
            let manifest = match known.manifest.clone().or_else(|| fetched.get(&published.artifact).cloned()) {
                Some(manifest) => manifest,
                None => match self.remote.fetch_list(&known) {
                    Ok(manifest) => fetched.entry(published.artifact).or_insert(manifest).clone(),
                    Err(RemoteError::Damaged { object, problem, .. }) => {
                        if self.is_gone(&object)? {
                            self.unlisted.insert(name);
                        } else if concerns {
                            self.unread.insert(unread(format!("its list of files in {object}: {problem}")));
                        }
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            self.lists.insert(name, manifest);
        }
        Ok(())
    }

    /// Leaves publications out that say more than this version knows.
    pub(super) fn leave_partly_known(&mut self) {
        let state = self.remote.state();
        let Some(heard) = state.index.as_ref().and_then(Index::heard) else { return };
        self.there.retain(|published| !heard.partly_known.contains(&published.name()));
    }

    fn is_gone(&self, object: &str) -> Result<bool, RemoteError> {
        let client = &self.remote.client;
        Ok(!self.names.contains(object) && client.block_on(client.modified(object))??.is_none())
    }

    /// Refuses to go on if anything could not be read, unless that was asked for.
    pub(super) fn refuse_unread(&mut self, more: &[Unread]) -> Result<(), RemoteError> {
        let unread: Vec<String> = self.unread.iter().chain(more).map(Unread::to_string).collect();
        if unread.is_empty() {
            return Ok(());
        }
        if !self.retention.give_up_unreadable {
            return Err(RemoteError::Unread { address: self.remote.address.clone(), unread });
        }
        for problem in unread {
            let problem = format!("{problem}; it keeps nothing");
            if !self.problems.contains(&problem) {
                self.problems.push(problem);
            }
        }
        Ok(())
    }

    fn segment_of(&self, published: &Published) -> Option<u64> {
        let state = self.remote.state();
        state.index.as_ref()?.heard()?.published.get(&published.name()).copied()
    }

    /// The segment that something was published in, as an object.
    pub(super) fn object_of(&self, published: &Published) -> String {
        self.segment_of(published).map_or(SEGMENTS.to_owned(), segment_name)
    }

    /// When something was published, by the server's clock. What came after all was listed came now.
    pub(super) fn time_of(&self, published: &Published) -> SystemTime {
        let time = self.segment_of(published).and_then(|number| self.segments.get(&number));
        time.copied().unwrap_or(self.now)
    }

    /// What was written later stays: whoever wrote it may be about to publish it.
    pub(super) fn grace(&self) -> SystemTime {
        before(self.now, self.retention.grace)
    }

    /// The publications that were said to be lost within the grace period.
    pub(super) fn lately_lost(&self) -> impl Iterator<Item = &Published> {
        let grace = self.grace();
        let state = self.remote.state();
        let heard = state.index.as_ref().and_then(Index::heard);
        let is_late = |number: &u64| self.segments.get(number).copied().unwrap_or(self.now) > grace;
        let late = heard.into_iter().flat_map(|heard| &heard.lost).filter(|(_, number)| is_late(number));
        let late: HashSet<Digest> = late.map(|(name, _)| *name).collect();
        self.gone.iter().filter(move |published| late.contains(&published.name()))
    }

    /// Whether there is something whose objects are not known.
    pub(super) fn is_unlisted(&self, published: &Published) -> bool {
        !self.lists.contains_key(&published.name())
    }

    /// What publications name, as far as their lists of files are known.
    pub(super) fn objects<'a>(&self, published: impl IntoIterator<Item = &'a Published>) -> HashSet<String> {
        let objects =
            published.into_iter().flat_map(|published| objects_of(published, self.lists.get(&published.name())));
        objects.collect()
    }

    /// Those of some objects that are gone.
    pub(super) fn missing(&self, objects: HashSet<String>) -> Result<HashSet<String>, RemoteError> {
        let objects: Vec<String> = objects.into_iter().collect();
        let client = &self.remote.client;
        let found = client.block_on(client.all_modified(&objects))??;
        Ok(objects.into_iter().zip(found).filter(|(_, found)| found.is_none()).map(|(object, _)| object).collect())
    }

    /// Publications of which objects are gone: those that were published a short time ago, and a server that is late, are left alone.
    pub(super) fn dangling(&self) -> Result<HashSet<Digest>, RemoteError> {
        let grace = self.grace();
        let old = self.there.iter().filter(|published| self.time_of(published) <= grace);
        let old: Vec<(Digest, HashSet<String>)> =
            old.map(|published| (published.name(), self.objects([published]))).collect();
        let unseen = old.iter().flat_map(|(_, objects)| objects).filter(|object| !self.names.contains(*object));
        let missing = self.missing(unseen.cloned().collect())?;
        let dangling = old.into_iter().filter(|(name, objects)| {
            self.unlisted.contains(name) || (!missing.is_empty() && !objects.is_disjoint(&missing))
        });
        Ok(dangling.map(|(name, _)| name).collect())
    }

    /// When a publication was said to be lost.
    fn lost_at(&self, published: &Published) -> SystemTime {
        let state = self.remote.state();
        let heard = state.index.as_ref().and_then(Index::heard);
        let number = heard.and_then(|heard| heard.lost.get(&published.name()));
        number.and_then(|number| self.segments.get(number)).copied().unwrap_or(self.now)
    }

    /// Says which pins keep a result that is lost and whose place another one has taken: nothing brings it back.
    pub(super) fn superseded(&self, pins: &[Root]) -> BTreeSet<String> {
        let state = self.remote.state();
        let (Some(index), keys) = (&state.index, &self.remote.keys) else { return BTreeSet::new() };
        let is_superseded = |published: &&Published| {
            let counts = index.published(&published.key, keys).map(|counts| counts.artifact);
            keys.accept(published) && counts != Some(published.artifact) && !index.is_vacant(&published.key, keys)
        };
        let mut told = BTreeSet::new();
        for published in self.gone.iter().filter(is_superseded) {
            for pin in pins.iter().filter(|pin| pin.artifacts.contains(&published.artifact)) {
                told.insert(format!(
                    "{}: its result of action {} is lost, and another result of it counts now; it keeps nothing of that action",
                    pin.name, published.key
                ));
            }
        }
        told
    }

    /// Publishes anew what was said to be lost, is kept by somebody and still whole; how many results that are.
    pub(super) fn revive(&mut self, mut roots: Vec<Root>) -> Result<u64, RemoteError> {
        let keys = &self.remote.keys;
        let joined: Vec<_> = self.gone.iter().chain(&self.there).filter(|one| keys.accept(one)).map(parts).collect();
        with_parts(&mut roots, joined.iter().map(|(artifact, parts)| (*artifact, parts.as_slice())));
        // Runs that were known when their results were let go for a size do not bring them back.
        let (runs, firm): (Vec<Root>, Vec<Root>) =
            roots.into_iter().partition(|root| self.retention.max_size.is_some() && root.sort != RootSort::Pin);
        let firm: HashSet<ArtifactId> = firm.into_iter().flat_map(|root| root.artifacts).collect();
        let mut told: HashMap<ArtifactId, SystemTime> = HashMap::new();
        for root in runs {
            let time = SystemTime::try_from(root.time).unwrap_or(self.now);
            for artifact in root.artifacts {
                told.entry(artifact).and_modify(|last| *last = time.max(*last)).or_insert(time);
            }
        }
        // What lies elsewhere may not be what it is told to be, whoever says so: the places alone tell that it is there already.
        let is_wanted = |index: &Index, published: &Published| {
            let counts = || index.published(&published.key, keys).map(|counts| counts.artifact);
            keys.accept(published)
                && !index.is_damaged(published, keys)
                && !index.has_at_same_places(published, keys)
                && (counts() == Some(published.artifact) || index.is_vacant(&published.key, keys))
        };
        let is_kept = |published: &&Published| {
            let is_new = |told: &SystemTime| *told > before(self.lost_at(published), self.retention.grace);
            firm.contains(&published.artifact) || told.get(&published.artifact).is_some_and(is_new)
        };
        let mut wanted: Vec<Published> = self.gone.iter().filter(is_kept).cloned().collect();
        wanted.retain(|published| self.remote.state().index.as_ref().is_some_and(|index| is_wanted(index, published)));
        // What was published after all was listed has objects that are not in the list. Of older ones they are gone.
        let late: HashSet<Digest> = self.lately_lost().map(Published::name).collect();
        // Of an action that has several lost results, the first that is whole comes back, and no other.
        let mut whole: HashMap<Key, Vec<Published>> = HashMap::new();
        for published in wanted {
            let chosen = whole.get(&published.key).map_or(&[][..], Vec::as_slice);
            let is_other = chosen.first().is_some_and(|chosen| chosen.artifact != published.artifact);
            if is_other || chosen.iter().any(|chosen| chosen.lies_like(&published)) {
                continue;
            }
            let Ok(known) = published.open(&published.key) else { continue };
            let manifest = match known.manifest.clone() {
                Some(manifest) => manifest,
                None => match self.remote.fetch_list(&known) {
                    Ok(manifest) => manifest,
                    Err(RemoteError::Damaged { .. }) => continue,
                    Err(error) => return Err(error),
                },
            };
            let objects = objects_of(&published, Some(&manifest));
            let may_be_there = |object: &String| late.contains(&published.name()) || self.names.contains(object);
            if objects.iter().all(may_be_there) && self.missing(objects.into_iter().collect())?.is_empty() {
                whole.entry(published.key).or_default().push(published);
            }
        }
        let whole: Vec<Published> = whole.into_values().flatten().collect();
        let mut revived: HashSet<Key> = HashSet::new();
        for whole in in_segments(&whole) {
            let mut now = Vec::new();
            let problems = self.remote.commit(self.store, self.retention.dry_run, |index| {
                let wanted = whole.iter().filter(|published| is_wanted(index, published));
                let anew: Vec<Published> = wanted.map(|published| index.anew(published, keys)).collect();
                now = anew.iter().map(|published| published.key).collect();
                anew.into_iter().map(Box::new).map(Operation::Publish).collect()
            })?;
            self.problems.extend(problems);
            revived.extend(now);
        }
        self.look()?;
        self.refuse_unread(&[])?;
        Ok(revived.len() as u64)
    }
}
