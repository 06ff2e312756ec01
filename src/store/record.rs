//! Records: which artifact an action gave, and how that came about.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    Entry, Provenance, Store, StoreError, TwoResults,
    flush::Flushed,
    ingest::is_taken,
    object,
    sealed::{self, Draft},
};
use crate::digest::{ArtifactId, Digest, Key};

/// What an action gave. Only `key` and `artifact` decide anything; the rest is for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The action.
    pub key: Key,
    /// Its result.
    pub artifact: ArtifactId,
    /// The kind of the stage.
    pub kind: String,
    /// The revision of the kind.
    pub revision: u32,
    /// The graph that the stage stood in.
    pub graph: String,
    /// The name of the stage there.
    pub stage: String,
    /// The settings, as shown to people.
    pub settings: serde_json::Value,
    /// The stages it read.
    pub inputs: Vec<RecordInput>,
    /// Which stages of the graph those inputs are; empty in records of earlier versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<RecordedReference>,
    /// The files and folders outside the graph that it read.
    pub sources: Vec<RecordInput>,
    /// The names of those that are single files, by their places in the settings; empty in records of earlier versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub file_names: BTreeMap<String, String>,
    /// Device kind and dtype, if they count.
    pub numeric_class: Option<String>,
    /// Who computed it, where, when, with what.
    pub provenance: Provenance,
    /// What the stage warned of.
    pub notices: Vec<String>,
    /// If it is a part of the stage's work: which, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// The parts that the result was joined from; none if it was computed whole. What keeps the result keeps them, since
    /// they are what a later result of almost the same input is joined from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<RecordedPart>,
}

/// A part of a stage's work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedPart {
    /// What its result is recorded under.
    pub key: Key,
    /// Its result.
    pub artifact: ArtifactId,
    /// Whether the result was there before the stage ran.
    pub cached: bool,
}

/// Something that an action read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordInput {
    /// Its place in the settings.
    pub role: String,
    /// The digest of its content.
    pub digest: Digest,
}

/// Which result an input was, or lay in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedReference {
    /// The place of the input in the settings.
    pub role: String,
    /// The stage, and the path inside its result if only a part of that was read: `stage` or `stage/path`.
    pub reference: String,
    /// The whole result of that stage.
    pub artifact: ArtifactId,
    /// The action that gave it, whatever the stage was called then; nothing in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
}

/// What the store knows of an action.
#[derive(Clone, Debug, PartialEq)]
pub enum Lookup {
    /// Its result, with all files present.
    Hit(Box<Record>),
    /// Nothing.
    Absent,
    /// There was a result; says in plain words what became of it. To the cache this is a miss.
    Lost(String),
}

/// A record that is written and has no name yet. It goes if it never gets one.
pub(super) struct Unpublished {
    draft: Draft,
    path: PathBuf,
    bytes: Vec<u8>,
}

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Stored<R> {
    version: u32,
    record: R,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl Unpublished {
    /// Where it lies as yet.
    pub(super) fn place(&self) -> &Path {
        self.draft.place()
    }
}

impl Record {
    /// The record as text, with the version of its form.
    pub fn to_text(&self) -> String {
        // Strings, numbers and digests cannot fail to become JSON.
        serde_json::to_string(&Stored { version: VERSION, record: self }).unwrap_or_default()
    }

    /// Reads what [`Record::to_text`] wrote; says in plain words what is wrong otherwise.
    pub fn from_text(text: &[u8]) -> Result<Self, String> {
        match serde_json::from_slice::<Stored<Self>>(text) {
            Ok(Stored { version: VERSION, record }) => Ok(record),
            // What another version's record looks like is unknown.
            other => Err(match Self::other_version(text) {
                Some(version) => format!("it has version {version}, this twdag reads version {VERSION}"),
                None => {
                    format!("it cannot be read: {}", other.err().map(|error| error.to_string()).unwrap_or_default())
                }
            }),
        }
    }

    /// The version of a record that another version of twdag wrote, which is not damaged for that.
    pub fn other_version(text: &[u8]) -> Option<u32> {
        let version = serde_json::from_slice::<Version>(text).ok()?.version;
        (version != VERSION).then_some(version)
    }
}

impl Store {
    /// The result of an action, if it is in the store with all its files. What is missing or damaged is a miss;
    /// [`Store::lookup`] tells the difference.
    pub fn record(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        Ok(match self.lookup(key)? {
            Lookup::Hit(record) => Some(*record),
            Lookup::Absent | Lookup::Lost(_) => None,
        })
    }

    /// The result of an action, or why there is none. Costs two small reads and one `stat` for each file.
    pub fn lookup(&self, key: &Key) -> Result<Lookup, StoreError> {
        let record = match self.read_record(key) {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(Lookup::Absent),
            Err(problem) => return Ok(Lookup::Lost(format!("its record was ignored: {problem}"))),
        };
        Ok(match self.problem(&record.artifact) {
            None => Lookup::Hit(Box::new(record)),
            Some(problem) => Lookup::Lost(problem),
        })
    }

    /// The record of an action, whether its files are there or not; `None` also if it cannot be read.
    pub fn past_record(&self, key: &Key) -> Option<Record> {
        self.read_record(key).ok().flatten()
    }

    /// Whether something is recorded for an action, good or bad. Costs one `stat`.
    pub fn has_record(&self, key: &Key) -> bool {
        self.named("actions", key.digest()).symlink_metadata().is_ok()
    }

    /// What is wrong with an artifact, if anything.
    pub(super) fn problem(&self, artifact: &ArtifactId) -> Option<String> {
        match self.read_manifest(artifact) {
            Ok(manifest) => self.look_all(manifest.files()).err(),
            Err(problem) => Some(problem),
        }
    }

    pub(super) fn read_record(&self, key: &Key) -> Result<Option<Record>, String> {
        let path = self.named("actions", key.digest());
        let (bytes, inode) = match self.look_twice(&path, sealed::read) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
        };
        let named = |problem: String| format!("{}: {problem}", path.display());
        let damaged = |problem: String| {
            let problem = named(problem);
            self.set_aside(&path, inode, &problem);
            problem
        };
        let content = sealed::content(&bytes).map_err(damaged)?;
        let record = Record::from_text(content).map_err(named)?;
        if record.key == *key { Ok(Some(record)) } else { Err(damaged(format!("it belongs to action {}", record.key))) }
    }

    /// Makes a result known. If the store has recorded another result for the same action, this is
    /// [`StoreError::Nondeterministic`], and the first one stays, unless its files are lost: then the new one is
    /// recorded all the same, since nobody could go on from the first. A damaged record is replaced. The name of the
    /// record is on the disk after the next call of [`Store::flush_names`]: a power cut before may lose the record, and
    /// nothing else.
    pub fn publish(&self, record: &Record) -> Result<(), StoreError> {
        let unpublished = self.draft(record)?;
        let (place, added) = (unpublished.place(), self.seals().count());
        let flushed = self.flush(|| self.pointed_at(&record.artifact).into_iter().chain([place.to_owned()]).collect());
        self.secured(&[record.artifact], flushed, added)?;
        self.put(record, unpublished)
    }

    /// Whether the disk takes everything at once when it is asked to, so that results can be made known before. Where each
    /// file is asked for by its name, that saves nothing.
    pub fn can_publish_early(&self) -> bool {
        self.flushes_everything()
    }

    /// As [`Store::publish`], before the result is on the disk: [`Store::secure`] puts it there. A power cut before that
    /// may leave files that are cut short; they are set aside when they are looked at, and computed again.
    pub fn publish_early(&self, record: &Record) -> Result<(), StoreError> {
        let unpublished = self.draft(record)?;
        let published = self.put(record, unpublished);
        if !matches!(published, Ok(()) | Err(StoreError::Nondeterministic(_))) {
            self.abandon();
        }
        published
    }

    /// Puts results on the disk that were published early. If that fails, what the disk does not have is set aside.
    pub fn secure(&self, artifacts: &[ArtifactId]) -> Result<(), StoreError> {
        let added = self.seals().count();
        let flushed = self.flush(|| artifacts.iter().flat_map(|artifact| self.pointed_at(artifact)).collect());
        self.secured(artifacts, flushed, added)
    }

    pub(super) fn draft(&self, record: &Record) -> Result<Unpublished, StoreError> {
        let path = self.named("actions", record.key.digest());
        let bytes = sealed::seal(&Stored { version: VERSION, record })
            .map_err(|error| StoreError::Bug { path: path.clone(), problem: error.to_string() })?;
        match Draft::write(&path, &bytes) {
            Ok(draft) => Ok(Unpublished { draft, path, bytes }),
            Err(error) => {
                self.abandon();
                Err(StoreError::io("write", &path)(error))
            }
        }
    }

    /// What a flush means for what is known of the files of results; `added` is how much was known when it began.
    pub(super) fn secured(
        &self,
        artifacts: &[ArtifactId],
        flushed: Result<Flushed, StoreError>,
        added: u64,
    ) -> Result<(), StoreError> {
        match flushed {
            Ok(flushed) => {
                for _ in artifacts {
                    self.seals().let_go(added, flushed == Flushed::Everything);
                }
                Ok(())
            }
            Err(error) => {
                self.doubt(artifacts.len());
                Err(error)
            }
        }
    }

    /// Looks at what the disk has of all that was on its way there. The kernel says once that something could not be
    /// written, and goes on to show what was written for as long as it remembers.
    fn doubt(&self, results: usize) {
        let lost = self.seals().give_up(results);
        for digest in lost {
            let path = self.object(&digest);
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            object::forget_cached(&path);
            let path = "a file that could not be written".to_owned();
            // Whatever is found is told by those who ask for damage.
            let _ = self.look(&Entry { path, digest, size: metadata.len(), executable: false });
        }
    }

    /// Says that a result which was taken in is not recorded: it is looked at before it is trusted.
    pub fn abandon(&self) {
        self.seals().give_up(1);
    }

    /// Gives the record its name.
    pub(super) fn put(&self, record: &Record, unpublished: Unpublished) -> Result<(), StoreError> {
        let Unpublished { draft, path, bytes } = unpublished;
        match draft.put(sealed::Existing::Keep) {
            Ok(()) => {
                self.flush_later(path.parent());
                return Ok(());
            }
            Err(error) if is_taken(&error) => {}
            Err(error) => return Err(StoreError::io("write", &path)(error)),
        }
        let replace =
            || sealed::write(&path, &bytes, sealed::Existing::Replace).map_err(StoreError::io("write", &path));
        // A record that cannot be read promises nothing.
        let Ok(Some(existing)) = self.read_record(&record.key) else { return replace() };
        let lost = self.problem(&existing.artifact);
        if lost.is_some() {
            replace()?;
        }
        if existing.artifact == record.artifact {
            return Ok(());
        }
        let (file, difference) = self.first_difference(&existing.artifact, &record.artifact);
        Err(StoreError::Nondeterministic(Box::new(TwoResults {
            key: record.key,
            existing: existing.artifact,
            new: record.artifact,
            file,
            difference,
            lost,
        })))
    }

    /// The list of files of an artifact, those files, and the folders in which they have their names.
    pub(super) fn pointed_at(&self, artifact: &ArtifactId) -> Vec<PathBuf> {
        let files = self.read_manifest(artifact).map(|list| list.files().to_vec()).unwrap_or_default();
        let objects = files.iter().map(|entry| self.object(&entry.digest));
        let names: BTreeSet<PathBuf> = objects.chain([self.named("trees", artifact.digest())]).collect();
        let folders: BTreeSet<PathBuf> = names.iter().filter_map(|path| Some(path.parent()?.to_owned())).collect();
        names.into_iter().chain(folders).collect()
    }
}
