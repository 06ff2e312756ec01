//! Writes long plain-English documents whose facts are planted early and needed much later.
//!
//! A fact is a subject with a value: "the ship was Minerva". One sentence plants it, later sentences need it, ordinary
//! village life fills the space between. The value is drawn uniformly from the subject's 32 words, each of which stands
//! nowhere else in the document, so nothing but the planted sentence tells it: without that sentence in view the best
//! possible loss on a value is ln 32 = 3.47 nats. What is needed is recorded up to the letter that tells a value from all
//! others of its subject ("Mi" of "Minerva"): from there on spelling tells the rest, with or without far context.

mod document;
mod grammar;
mod random;
mod schedule;

use std::{
    fs::File,
    io::{BufWriter, Write},
};

use serde::{Deserialize, Serialize};

use crate::{
    data::Fact,
    stage::{Context, Kind, Numerics, SettingError, StageError},
};

/// Settings of a `Synthesize` stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Synthesize {
    /// How many documents.
    pub documents: usize,
    /// Seeds every random choice; document `i` of a seed is the same however many there are.
    pub seed: u64,
    /// Sentences in each document; a sentence is about eight words.
    #[serde(default = "sentences")]
    pub sentences: usize,
    /// Facts planted in each document, each about another subject; fewer if they find no room at their distance.
    #[serde(default = "facts")]
    pub facts: usize,
    /// How often each fact is needed after it was planted.
    #[serde(default = "mentions")]
    pub mentions: usize,
    /// Sentences from the planted one to the first that needs it, and from one that needs it to the next.
    #[serde(default)]
    pub distance: Distance,
}

/// A range of distances, both ends included, counted in sentences: 1 is the next sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distance {
    /// The nearest.
    pub least: usize,
    /// The farthest.
    pub most: usize,
}

impl Default for Distance {
    fn default() -> Self {
        Self { least: 16, most: 40 }
    }
}

fn sentences() -> usize {
    56
}

fn facts() -> usize {
    8
}

fn mentions() -> usize {
    1
}

/// Every value that a fact can have, by subject; within a subject each is as likely as any other.
pub fn values() -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    grammar::SUBJECTS.iter().map(|subject| (subject.name, &subject.values[..]))
}

/// A line of `documents.jsonl`.
#[derive(Serialize)]
struct Line<'a> {
    id: String,
    text: &'a str,
    facts: &'a [Fact],
}

/// Documents between two signs of life.
const STRIDE: usize = 64;

impl Kind for Synthesize {
    const NAME: &'static str = "Synthesize";
    const REVISION: u32 = 2;
    const SUMMARY: &'static str =
        "Writes long plain-English documents whose facts are planted early and needed much later.";
    const NUMERICS: Numerics = Numerics::Exact;

    fn check(&self) -> Result<(), SettingError> {
        let Distance { least, most } = self.distance;
        let subjects = grammar::SUBJECTS.len();
        if self.documents == 0 {
            return Err(SettingError::new("documents", 0, "1 or more"));
        }
        if self.sentences == 0 {
            return Err(SettingError::new("sentences", 0, "1 or more"));
        }
        if self.facts > subjects {
            let expected = format!("at most {subjects}, as many as there are subjects to tell of");
            return Err(SettingError::new("facts", self.facts, expected));
        }
        if self.facts == 0 {
            return Ok(());
        }
        if self.mentions == 0 {
            return Err(SettingError::new("mentions", 0, "1 or more: a fact that nothing needs is no fact"));
        }
        if least == 0 {
            return Err(SettingError::new("distance.least", 0, "1 or more: a fact is needed after it was planted"));
        }
        if most < least {
            return Err(SettingError::new("distance.most", most, format!("`least` ({least}) or more")));
        }
        if least >= self.sentences {
            let expected = format!("less than `sentences` ({}), or no fact finds room", self.sentences);
            return Err(SettingError::new("distance.least", least, expected));
        }
        Ok(())
    }

    fn run(&self, context: &Context) -> Result<(), StageError> {
        let path = context.output().join("documents.jsonl");
        let file = File::create(&path).map_err(StageError::io("create", &path))?;
        let mut writer = BufWriter::new(file);
        let mut told = 0;
        for index in 0..self.documents {
            if index % STRIDE == 0 {
                context.check_canceled()?;
                context.progress(index as u64, self.documents as u64, "documents", format!("{told} facts planted"));
            }
            let document = document::write(self, index);
            told += document.facts.len();
            let line = Line { id: format!("document-{index:05}"), text: &document.text, facts: &document.facts };
            serde_json::to_writer(&mut writer, &line).map_err(|error| StageError::io("write", &path)(error.into()))?;
            writer.write_all(b"\n").map_err(StageError::io("write", &path))?;
        }
        writer.flush().map_err(StageError::io("write", &path))?;
        let total = self.documents as u64;
        context.progress(total, total, "documents", format!("{told} facts planted"));
        Ok(())
    }
}
