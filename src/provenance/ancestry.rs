//! Walks from a result to everything that it rests on.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Action, Ancestry, Input, Maker, Missing, ProvenanceError, Subject, VERSION, content};
use crate::{
    digest::{ArtifactId, Digest, Key},
    remote::Attribution,
    store::{Lookup, Record, RecordInput, RecordedReference, Store},
};

impl Ancestry {
    /// The ancestry of a result. The files of the result and those that came from outside the graph are read for their SHA-256.
    /// Where `maker` says which action or stage gave it, no other one is told that gave the same bytes.
    pub fn of(store: &Store, name: String, artifact: ArtifactId, maker: Maker) -> Result<Self, ProvenanceError> {
        let records = Records::read(store)?;
        let all = records.makers.get(&artifact).cloned().unwrap_or_default();
        let (made_by, key): (Vec<Key>, _) = match maker {
            Maker::Action(key) => (all.iter().copied().filter(|maker| *maker == key).collect(), Some(key)),
            Maker::Stage => {
                let is_of = |key: &Key| {
                    records.by_key.get(key).is_some_and(|record| record.part.is_none() && record.stage == name)
                };
                (all.iter().copied().filter(is_of).collect(), None)
            }
            Maker::Any => (all.clone(), None),
        };
        let mut walk = Walk { store, records: &records, actions: Vec::new(), missing: Vec::new() };
        if made_by.is_empty() {
            walk.missing.push(Missing {
                reference: Some(name.clone()),
                key,
                artifact: Some(artifact),
                digest: *artifact.digest(),
                read_by: None,
                role: None,
                problem: records.no_record(&all),
            });
        }
        walk.from(&made_by)?;
        let Walk { actions, missing, .. } = walk;
        let subject = Subject { name, artifact, made_by };
        Ok(Self { version: VERSION, subject, complete: missing.is_empty(), actions, missing })
    }
}

const NO_RECORD: &str = "no record in the store tells how it was made";

/// The records of a store, and which of them gave a result.
struct Records {
    by_key: BTreeMap<Key, Record>,
    makers: BTreeMap<ArtifactId, Vec<Key>>,
}

impl Records {
    fn read(store: &Store) -> Result<Self, ProvenanceError> {
        let by_key: BTreeMap<Key, Record> =
            store.all_records()?.into_iter().map(|record| (record.key, record)).collect();
        let mut makers: BTreeMap<ArtifactId, Vec<Key>> = BTreeMap::new();
        for record in by_key.values() {
            makers.entry(record.artifact).or_default().push(record.key);
        }
        Ok(Self { by_key, makers })
    }

    /// All actions that gave a result, but for its reader.
    fn all_makers(&self, artifact: ArtifactId, reader: &Record) -> Vec<Key> {
        let all = self.makers.get(&artifact).into_iter().flatten().copied();
        all.filter(|key| *key != reader.key).collect()
    }

    /// The actions that gave a result to a reader. Several may have given the same bytes: the one that is recorded counts, or else
    /// those of the stage that was read, whose name may have been another one then.
    fn givers(&self, read: &RecordedReference, reader: &Record) -> Vec<Key> {
        let stage = read.reference.split('/').next();
        let all = self.all_makers(read.artifact, reader);
        if let Some(key) = read.key {
            return all.into_iter().filter(|giver| *giver == key).collect();
        }
        let fitting = |fits: &dyn Fn(&Record) -> bool| -> Vec<Key> {
            all.iter().copied().filter(|key| self.by_key.get(key).is_some_and(fits)).collect()
        };
        let same_stage = |record: &Record| stage == Some(record.stage.as_str()) && record.part.is_none();
        let same_graph = fitting(&|record| same_stage(record) && record.graph == reader.graph);
        if same_graph.is_empty() { fitting(&same_stage) } else { same_graph }
    }

    /// Says that no record tells how a result was made, and which others gave the same bytes: one of them may be the stage under
    /// the name that it had before.
    fn no_record(&self, others: &[Key]) -> String {
        let others = others.iter().filter_map(|key| self.by_key.get(key)).filter(|record| record.part.is_none());
        let others: Vec<String> =
            others.map(|record| format!("`{}` of {} ({})", record.stage, record.graph, record.key)).collect();
        if others.is_empty() {
            NO_RECORD.to_owned()
        } else {
            format!("{NO_RECORD}; the same bytes were given by {}", others.join(", "))
        }
    }
}

struct Walk<'a> {
    store: &'a Store,
    records: &'a Records,
    actions: Vec<Action>,
    missing: Vec<Missing>,
}

impl Walk<'_> {
    /// Adds these actions and all that they rest on, each behind those it reads.
    fn from(&mut self, subjects: &[Key]) -> Result<(), ProvenanceError> {
        let mut seen = BTreeSet::new();
        // No recursion: a chain may have as many stages as a graph can.
        let mut stack: Vec<(Key, Option<Action>)> = subjects.iter().rev().map(|key| (*key, None)).collect();
        while let Some((key, told)) = stack.pop() {
            if let Some(action) = told {
                self.actions.push(action);
                continue;
            }
            let records = self.records;
            let Some(record) = records.by_key.get(&key).filter(|_| seen.insert(key)) else { continue };
            let action = self.action(record, subjects.contains(&key))?;
            let read = action.inputs.iter().flat_map(|input| input.made_by.iter().copied());
            let parts = action.parts.iter().map(|part| part.key);
            let before: Vec<Key> = read.chain(parts).collect();
            stack.push((key, Some(action)));
            stack.extend(before.into_iter().rev().map(|key| (key, None)));
        }
        Ok(())
    }

    fn action(&mut self, record: &Record, is_subject: bool) -> Result<Action, ProvenanceError> {
        let lost = match self.store.lookup(&record.key)? {
            Lookup::Lost(problem) => Some(problem),
            Lookup::Hit(_) => None,
            Lookup::Absent => Some("its record has gone".to_owned()),
        };
        let files = match self.store.manifest(&record.artifact) {
            Ok(list) => {
                // What no other stage gave came from outside.
                let is_wanted = lost.is_none() && (is_subject || record.inputs.is_empty());
                let view = is_wanted.then(|| self.store.view(&record.artifact)).transpose()?;
                Some(content::files(list.files(), view.as_deref())?)
            }
            Err(_) => None,
        };
        if let Some(problem) = lost {
            self.missing.push(Missing {
                reference: Some(record.stage.clone()),
                key: Some(record.key),
                artifact: Some(record.artifact),
                digest: *record.artifact.digest(),
                read_by: None,
                role: None,
                problem: format!("it is recorded how it was made, but its files are lost: {problem}"),
            });
        }
        let inputs = record.inputs.iter().map(|input| self.input(record, input)).collect();
        for part in record.parts.iter().filter(|part| !self.records.by_key.contains_key(&part.key)) {
            self.missing.push(Missing {
                reference: Some(record.stage.clone()),
                key: Some(part.key),
                artifact: Some(part.artifact),
                digest: *part.artifact.digest(),
                read_by: Some(record.key),
                role: Some("parts".to_owned()),
                problem: NO_RECORD.to_owned(),
            });
        }
        // A verdict on an earlier result says nothing of this one.
        let verdict = self.store.verdict::<Value>(&record.key)?;
        let of_this = |verdict: &Value| verdict.get("artifact") == Some(&Value::from(record.artifact.to_string()));
        Ok(Action {
            key: record.key,
            artifact: record.artifact,
            kind: record.kind.clone(),
            revision: record.revision,
            graph: record.graph.clone(),
            stage: record.stage.clone(),
            part: record.part.clone(),
            settings: record.settings.clone(),
            numeric_class: record.numeric_class.clone(),
            inputs,
            sources: record.sources.clone(),
            parts: record.parts.clone(),
            files,
            provenance: record.provenance.clone(),
            notices: record.notices.clone(),
            attribution: Attribution::of(self.store, record)?,
            verdict: verdict.filter(of_this),
        })
    }

    fn input(&mut self, reader: &Record, input: &RecordInput) -> Input {
        let recorded = reader.references.iter().find(|reference| reference.role == input.role);
        let artifact = match recorded {
            Some(recorded) => Some(recorded.artifact),
            None => self.holding(reader, input.digest),
        };
        let made_by = match recorded {
            Some(recorded) => self.records.givers(recorded, reader),
            None => artifact.map(|artifact| self.records.all_makers(artifact, reader)).unwrap_or_default(),
        };
        let reference = recorded.map(|recorded| recorded.reference.clone());
        if made_by.is_empty() {
            let problem = match recorded {
                Some(recorded) => self.records.no_record(&self.records.all_makers(recorded.artifact, reader)),
                None => {
                    "an earlier version of twdag recorded the digest alone, and nothing in the store has it".to_owned()
                }
            };
            self.missing.push(Missing {
                reference: reference.clone(),
                key: recorded.and_then(|recorded| recorded.key),
                artifact,
                digest: input.digest,
                read_by: Some(reader.key),
                role: Some(input.role.clone()),
                problem,
            });
        }
        Input { role: input.role.clone(), digest: input.digest, reference, artifact, made_by }
    }

    /// A result that is this content or has a file of it, for records that do not tell which one was read: one that was there
    /// before the reader began.
    fn holding(&self, reader: &Record, digest: Digest) -> Option<ArtifactId> {
        let whole = ArtifactId::from(digest);
        if self.records.makers.contains_key(&whole) {
            return Some(whole);
        }
        let mut earlier: Vec<&Record> = self.records.by_key.values().collect();
        earlier.retain(|record| record.part.is_none() && record.provenance.finished <= reader.provenance.started);
        // The same graph first, then the latest.
        earlier.sort_by_key(|record| (record.graph == reader.graph, record.provenance.finished));
        let has_it = |record: &&Record| {
            let list = self.store.manifest(&record.artifact);
            list.is_ok_and(|list| list.files().iter().any(|file| file.digest == digest))
        };
        earlier.into_iter().rev().find(has_it).map(|record| record.artifact)
    }
}
