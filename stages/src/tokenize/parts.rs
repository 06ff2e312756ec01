//! Tokenizing in parts: a long document alone, short ones a few together. Encoding is what takes time; cutting the
//! order of sequences, shuffling and limiting is left to the join, so that what is added to a corpus, or renamed in it,
//! leaves the parts of all other documents what they are.

use std::fs;

use serde::{Deserialize, Serialize};

use super::{
    Chunking, Newlines, Tokenize,
    run::{Counted, Counts, encode_all, open, write},
    sequences::{Sequences, truth},
};
use crate::{
    data::{
        Document, DocumentPlace, GroundTruth, Item, Origin, TensorFile, TensorOut, TextTokenizer, groups, read_json,
        write_json, write_tensors,
    },
    stage::{Context, FinishedPart, Part, Split, StageError},
};

/// About how much text a part has: several times what it costs to start a process.
const PART_BYTES: u64 = 256 << 10;

/// Packed lines and archives are unpacked from the first document on, once for each part. It is worth having larger parts
/// that this is done only so often.
const PASSES: u64 = 16;
/// A part is not made larger than that, as it has all of its documents in memory. What would need larger ones stays in one piece.
const MOST_BYTES: u64 = 64 << 20;

const SEQUENCES: &str = "sequences.safetensors";
const COUNTS: &str = "documents.json";

/// What the result of a part depends on.
#[derive(Serialize, Deserialize, PartialEq)]
struct Settings {
    length: usize,
    chunking: Chunking,
    newlines: Newlines,
    /// BLAKE3 of `tokenizer.json`, and of `tokenizer_config.json` if there is one.
    tokenizer: [Option<String>; 2],
    /// BLAKE3 of each document: its text, and what is known of its facts.
    documents: Vec<String>,
}

/// What is counted of each document of a part, and whether something is known of its facts.
#[derive(Serialize, Deserialize)]
struct DocumentCounts {
    #[serde(flatten)]
    counted: Counted,
    facts: bool,
}

pub(super) fn split(settings: &Tokenize, context: &Context) -> Result<Option<Split>, StageError> {
    // It ends early, nobody knows at which document.
    if settings.enough().is_some() {
        return Ok(None);
    }
    let corpus = open(settings, context)?;
    let size = context.part_size(PART_BYTES);
    // To look at a small corpus twice is no use.
    if corpus.bytes() <= size {
        return Ok(None);
    }
    let tokenizer = tokenizer(settings, context)?;
    let (mut items, mut documents) = (Vec::new(), Vec::new());
    for document in corpus.documents() {
        context.check_canceled()?;
        let document = document?;
        let digest = digest(&document);
        let start = digest.as_bytes().first_chunk().copied().unwrap_or_default();
        items.push(Item { size: document.text.len() as u64, fingerprint: u64::from_le_bytes(start) });
        documents.push((document.id, document.place, digest.to_hex().to_string()));
    }
    let size = if corpus.has_direct_access() {
        size
    } else {
        let total: u64 = items.iter().map(|item| item.size).sum();
        // A power of two, so that a corpus which grows a little keeps its parts.
        let larger = (total / PASSES).next_power_of_two();
        if larger > MOST_BYTES {
            return Ok(None);
        }
        size.max(larger)
    };
    let parts = groups(&items, size).into_iter().map(|group| {
        let work = items[group.clone()].iter().map(|item| item.size).sum();
        let documents = &documents[group];
        let name = match documents {
            [(id, ..)] => id.clone(),
            _ => format!("{} documents from {}", documents.len(), documents.first().map_or("", |(id, ..)| id)),
        };
        let settings = Settings {
            length: settings.length,
            chunking: settings.chunking,
            newlines: settings.newlines,
            tokenizer: tokenizer.clone(),
            documents: documents.iter().map(|(_, _, digest)| digest.clone()).collect(),
        };
        let places: Vec<DocumentPlace> = documents.iter().map(|(_, place, _)| *place).collect();
        Part::new(name, &settings, &[], &places, work)
    });
    let parts = parts.collect::<Result<Vec<_>, _>>()?;
    Ok((parts.len() > 1).then(|| Split { unit: "bytes".to_owned(), parts }))
}

/// Of the text and of the facts in it, if something is known of them.
fn digest(document: &Document) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(document.text.len() as u64).to_le_bytes()).update_rayon(document.text.as_bytes());
    for fact in document.facts.iter().flatten() {
        // Keys and values of facts are for people; only where they stand shows in tokens.
        for place in fact.planted.iter().chain(&fact.needed) {
            hasher.update(&(*place as u64).to_le_bytes());
        }
    }
    hasher.update(&[u8::from(document.facts.is_some())]).finalize()
}

/// The digests of the two files that a tokenizer is made of.
fn tokenizer(settings: &Tokenize, context: &Context) -> Result<[Option<String>; 2], StageError> {
    let place = context.input(&settings.tokenizer)?;
    let path = if place.is_dir() { place.join("tokenizer.json") } else { place.to_owned() };
    let config = path.with_file_name("tokenizer_config.json");
    let digest = |path| match fs::read(path) {
        Ok(bytes) => Ok(Some(blake3::hash(&bytes).to_hex().to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StageError::io("read", path)(error)),
    };
    Ok([digest(&path)?, digest(&config)?])
}

pub(super) fn run(settings: &Tokenize, part: &Part, context: &Context) -> Result<(), StageError> {
    let (keyed, places): (Settings, Vec<DocumentPlace>) = part.read()?;
    let corpus = open(settings, context)?;
    let mut documents = Vec::with_capacity(places.len());
    for document in corpus.documents_at(places) {
        context.check_canceled()?;
        documents.push(document?);
    }
    let found = documents.iter().map(|document| digest(document).to_hex().to_string());
    if !found.eq(keyed.documents) || tokenizer(settings, context)? != keyed.tokenizer {
        return Err(StageError::Bug(format!("part `{}` was given other content than it is named by", part.name)));
    }
    let tokenizer = TextTokenizer::open(context.input(&settings.tokenizer)?)?;
    let encoded = encode_all(settings, &tokenizer, &documents, context)?;
    let counts: Vec<DocumentCounts> = documents
        .iter()
        .zip(&encoded)
        .map(|(document, encoded)| DocumentCounts { counted: encoded.counted, facts: document.facts.is_some() })
        .collect();
    let (mut ids, mut all) = (Vec::new(), GroundTruth { far: Vec::new(), fact: Vec::new(), distance: Vec::new() });
    let has_facts = counts.iter().any(|count| count.facts);
    for (sequence, needed) in encoded.into_iter().flat_map(|encoded| encoded.sequences) {
        ids.extend(sequence);
        if has_facts {
            let mut truth = truth(settings.length, &needed.unwrap_or_default());
            all.far.append(&mut truth.far);
            all.fact.append(&mut truth.fact);
            all.distance.append(&mut truth.distance);
        }
    }
    let mut tensors = vec![TensorOut::new("input_ids", settings.length, &ids)];
    if has_facts {
        tensors.push(TensorOut::new("far", settings.length, &all.far));
        tensors.push(TensorOut::new("fact", settings.length, &all.fact));
        tensors.push(TensorOut::new("distance", settings.length, &all.distance));
    }
    write_tensors(&context.output().join(SEQUENCES), &tensors)?;
    write_json(&context.output().join(COUNTS), &counts)?;
    context.progress(part.size, part.size, "bytes", "");
    Ok(())
}

pub(super) fn join(settings: &Tokenize, parts: &[FinishedPart], context: &Context) -> Result<(), StageError> {
    let tokenizer = TextTokenizer::open(context.input(&settings.tokenizer)?)?;
    let mut counts = Counts::default();
    let mut joined = Joined { length: settings.length, has_facts: false, parts: Vec::new(), rows: Vec::new() };
    for (part, number) in parts.iter().zip(0..) {
        let file = TensorFile::open(&part.folder.join(SEQUENCES))?;
        let documents: Vec<DocumentCounts> = read_json(&part.folder.join(COUNTS))?;
        let mut row = 0;
        for document in &documents {
            let sequences = document.counted.sequences;
            joined.has_facts |= document.facts && sequences > 0;
            let document = counts.add(document.counted);
            joined.rows.extend((0..sequences as u32).map(|of_document| Row {
                part: number,
                at: row + of_document,
                origin: Origin { document, number: of_document },
            }));
            row += sequences as u32;
        }
        joined.parts.push(PartFile { has_facts: file.has("far"), file });
    }
    write(settings, context, &tokenizer, &counts, &joined)
}

/// The sequences of all parts.
struct Joined {
    length: usize,
    has_facts: bool,
    parts: Vec<PartFile>,
    rows: Vec<Row>,
}

struct PartFile {
    has_facts: bool,
    file: TensorFile,
}

/// Where a sequence lies.
#[derive(Clone, Copy)]
struct Row {
    part: u32,
    at: u32,
    origin: Origin,
}

impl Sequences for Joined {
    fn count(&self) -> usize {
        self.rows.len()
    }

    fn has_facts(&self) -> bool {
        self.has_facts
    }

    fn origin(&self, sequence: usize) -> Origin {
        self.rows[sequence].origin
    }

    fn ids(&self, sequence: usize) -> Result<Vec<u32>, StageError> {
        let Row { part, at, .. } = self.rows[sequence];
        Ok(self.parts[part as usize].file.read_row("input_ids", self.length, at as usize)?)
    }

    fn truth(&self, sequence: usize) -> Result<GroundTruth, StageError> {
        let Row { part, at, .. } = self.rows[sequence];
        let part = &self.parts[part as usize];
        if !part.has_facts {
            return Ok(truth(self.length, &[]));
        }
        Ok(GroundTruth {
            far: part.file.read_row("far", self.length, at as usize)?,
            fact: part.file.read_row("fact", self.length, at as usize)?,
            distance: part.file.read_row("distance", self.length, at as usize)?,
        })
    }
}
