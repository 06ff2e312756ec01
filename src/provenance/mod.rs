//! The whole ancestry of a result: every action that it rests on, with settings, contents, machine and signer, as records and
//! origins tell it. Nothing is computed, and what the store does not have any more is named as missing.
//!
//! docs/provenance.md is the contract of the three forms.

mod ancestry;
mod content;
mod envelope;
mod in_toto;
mod ro_crate;

use std::{collections::BTreeMap, io, path::PathBuf};

use serde::Serialize;
use serde_json::Value;
use thiserror::Error;

pub use envelope::envelope;
pub use in_toto::statement;
pub use ro_crate::ro_crate;

use crate::{
    blame::Blame,
    digest::{ArtifactId, Digest, Key},
    remote::Attribution,
    store::{Provenance, RecordInput, RecordedPart, StoreError},
};

/// Where the formats find what twdag is.
const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");
const VERSION: u32 = 1;

/// Where a result comes from, back to what was read from outside.
#[derive(Clone, Debug, Serialize)]
pub struct Ancestry {
    /// The version of this form.
    pub version: u32,
    /// What is asked for.
    pub subject: Subject,
    /// Whether nothing is missing.
    pub complete: bool,
    /// All that was computed on the way, each behind those it reads.
    pub actions: Vec<Action>,
    /// What the store does not tell.
    pub missing: Vec<Missing>,
}

/// The result that is asked for.
#[derive(Clone, Debug, Serialize)]
pub struct Subject {
    /// What to call it.
    pub name: String,
    /// The result.
    pub artifact: ArtifactId,
    /// The actions that gave it. More than one if only the result was named and several gave it.
    pub made_by: Vec<Key>,
}

/// What is known of who gave a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    /// This action.
    Action(Key),
    /// The stage of that name.
    Stage,
    /// Nothing: all that gave these bytes are told.
    Any,
}

/// One action and its result.
#[derive(Clone, Debug, Serialize)]
pub struct Action {
    /// Names it by everything that determines the result.
    pub key: Key,
    /// The result.
    pub artifact: ArtifactId,
    /// The kind of the stage.
    pub kind: String,
    /// The revision of the kind: what its code computes.
    pub revision: u32,
    /// The graph that the stage stood in when it was computed.
    pub graph: String,
    /// The name of the stage there.
    pub stage: String,
    /// If it is a part of the stage's work: which, in words.
    pub part: Option<String>,
    /// The settings.
    pub settings: Value,
    /// Device kind and dtype, if the result depends on them.
    pub numeric_class: Option<String>,
    /// What it read of other stages.
    pub inputs: Vec<Input>,
    /// What it read from outside the graph.
    pub sources: Vec<RecordInput>,
    /// The parts that the result was joined from.
    pub parts: Vec<RecordedPart>,
    /// The files of the result; nothing if the list of them is lost.
    pub files: Option<Vec<File>>,
    /// Who computed it, where, when, with what.
    pub provenance: Provenance,
    /// What the stage warned of.
    pub notices: Vec<String>,
    /// Where the result comes from, and who signed it.
    #[serde(flatten)]
    pub attribution: Attribution,
    /// What came of computing it again, if somebody did on this machine.
    pub verdict: Option<Value>,
}

/// Something that an action read of another one.
#[derive(Clone, Debug, Serialize)]
pub struct Input {
    /// Its place in the settings.
    pub role: String,
    /// The digest of its content.
    pub digest: Digest,
    /// What stood there: a stage, or `stage/path`; nothing in records of earlier versions.
    pub reference: Option<String>,
    /// The whole result that it is, or lies in, if that is known.
    pub artifact: Option<ArtifactId>,
    /// The actions that gave that result: one, unless several gave the same bytes under that name.
    pub made_by: Vec<Key>,
}

/// A file of a result.
#[derive(Clone, Debug, Serialize)]
pub struct File {
    /// Its path inside the result.
    pub path: String,
    /// The BLAKE3 digest of its content.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Whether it may be run.
    pub executable: bool,
    /// Its SHA-256, which hubs publish: of what is asked for, and of all that was read from outside the graph.
    pub sha256: Option<String>,
}

/// Something that the ancestry rests on and the store does not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The stage, or `stage/path`, if that is known.
    pub reference: Option<String>,
    /// The action, if that is known.
    pub key: Option<Key>,
    /// The result, if that is known.
    pub artifact: Option<ArtifactId>,
    /// The digest of what was read of it.
    pub digest: Digest,
    /// The action that read it; nothing for the result that is asked for.
    pub read_by: Option<Key>,
    /// The place in that one's settings, or `parts`.
    pub role: Option<String>,
    /// What is not there, in plain words.
    pub problem: String,
}

/// Why an ancestry cannot be told.
#[derive(Debug, Error)]
pub enum ProvenanceError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of a result cannot be read.
    #[error("cannot read {} for its SHA-256: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The form tells of one action, and none or several are known.
    #[error(
        "an in-toto statement tells of one action, and {}; name the stage (GRAPH:STAGE), or use --format json",
        if makers.is_empty() { format!("no record in the store tells what gave {artifact}") }
        else { format!("{} actions gave {artifact}: {}", makers.len(), makers.join(", ")) }
    )]
    NotOneMaker {
        /// The result.
        artifact: ArtifactId,
        /// What gave it.
        makers: Vec<String>,
    },
    /// The form names the files of the result, and they are not known.
    #[error(
        "an in-toto statement names the files of the result, and the list of those of {artifact} is {}; use --format json",
        if *is_lost { "lost (compute it again, or fetch it with: twdag store pull)" } else { "empty" }
    )]
    NoFiles {
        /// The result.
        artifact: ArtifactId,
        /// Whether it has files.
        is_lost: bool,
    },
}

impl ProvenanceError {
    /// Whose fault this is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Store(error) => error.blame(),
            Self::Read { .. } => Blame::Environment,
            Self::NotOneMaker { .. } | Self::NoFiles { .. } => Blame::Input,
        }
    }
}

impl Ancestry {
    /// The action of that key.
    fn action(&self, key: Key) -> Option<&Action> {
        self.actions.iter().find(|action| action.key == key)
    }

    /// Whether an action gave what is asked for.
    fn is_subject(&self, action: &Action) -> bool {
        self.subject.made_by.contains(&action.key)
    }

    /// What was read from outside, each content once, with all who read it and the places in their settings, in the order of the
    /// first of them.
    fn sources(&self) -> Vec<(Digest, Vec<(&Action, &RecordInput)>)> {
        let mut places = BTreeMap::new();
        let mut sources: Vec<(Digest, Vec<_>)> = Vec::new();
        for (action, source) in
            self.actions.iter().flat_map(|action| action.sources.iter().map(move |source| (action, source)))
        {
            let place = *places.entry(source.digest).or_insert(sources.len());
            match sources.get_mut(place) {
                Some((_, readers)) => readers.push((action, source)),
                None => sources.push((source.digest, vec![(action, source)])),
            }
        }
        sources
    }
}

impl Action {
    /// What to call it: the stage, and the part of its work.
    fn name(&self) -> String {
        self.part.as_ref().map_or_else(|| self.stage.clone(), |part| format!("{}, {part}", self.stage))
    }
}
