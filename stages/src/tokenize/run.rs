//! The work of a `Tokenize` stage: encode documents in parallel, cut them, shuffle, write parts.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    Newlines, Tokenize, chunks, facts,
    sequences::{Sequences, SequencesIn},
    shuffle,
};
use crate::{
    data::{Corpus, Document, Origin, TextTokenizer, TokenSetWriter},
    stage::{Context, SettingError, StageError},
};

/// Text that is encoded at a time for each thread: it bounds the memory, not the result.
const BATCH_BYTES: usize = 4 << 20;

/// Above this share of unknown tokens the user is told.
const UNKNOWN_SHARE: f64 = 0.01;

/// A sequence with the tokens that need its facts, where facts are known.
type Sequence = (Vec<u32>, Option<Vec<facts::Needed>>);

/// A document in tokens.
pub(super) struct Encoded {
    pub(super) sequences: Vec<Sequence>,
    pub(super) counted: Counted,
}

/// What is counted of a document.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Counted {
    pub(super) sequences: usize,
    pub(super) tokens: usize,
    pub(super) unknown: usize,
}

/// What is counted of all documents.
#[derive(Default)]
pub(super) struct Counts {
    documents: usize,
    short: usize,
    longest: usize,
    tokens: usize,
    unknown: usize,
}

pub(super) fn run(settings: &Tokenize, context: &Context) -> Result<(), StageError> {
    let corpus = open(settings, context)?;
    let tokenizer = TextTokenizer::open(context.input(&settings.tokenizer)?)?;

    let mut sequences = SequencesIn::new(context.scratch(), settings.length)?;
    let mut counts = Counts::default();
    let mut bytes = 0;
    let enough = settings.enough().unwrap_or(usize::MAX);
    let mut documents = corpus.documents();
    while sequences.count() < enough {
        context.check_canceled()?;
        let batch = next_batch(&mut documents, BATCH_BYTES * context.threads())?;
        if batch.is_empty() {
            break;
        }
        let encoded = encode_all(settings, &tokenizer, &batch, context)?;
        for (document, encoded) in batch.iter().zip(encoded) {
            // What was read ahead does not count.
            if sequences.count() >= enough {
                break;
            }
            bytes += document.bytes;
            let document = counts.add(encoded.counted);
            for ((ids, needed), number) in encoded.sequences.into_iter().zip(0..) {
                sequences.push(&ids, Origin { document, number }, needed)?;
            }
        }
        let detail = format!("{} sequences", sequences.count());
        context.progress(bytes, corpus.bytes(), "bytes", detail);
    }
    let sequences = sequences.finish()?;
    write(settings, context, &tokenizer, &counts, &sequences)?;
    sequences.discard()
}

/// The corpora of the stage as one.
pub(super) fn open(settings: &Tokenize, context: &Context) -> Result<Corpus, StageError> {
    let folders = settings.text.iter().map(|text| context.input(text)).collect::<Result<Vec<_>, _>>()?;
    let corpus = Corpus::open(folders)?;
    Ok(match &settings.column {
        Some(column) => corpus.with_column(column),
        None => corpus,
    })
}

/// Shuffles, and writes as many sequences as are wanted.
pub(super) fn write(
    settings: &Tokenize,
    context: &Context,
    tokenizer: &TextTokenizer,
    counts: &Counts,
    sequences: &impl Sequences,
) -> Result<(), StageError> {
    let found = sequences.count();
    counts.tell(settings, found, context)?;
    let order = settings.shuffle.map_or_else(|| (0..found).collect(), |seed| shuffle::permutation(found, seed));
    let mut writer = TokenSetWriter::new(context.output(), settings.length, sequences.has_facts());
    for &sequence in order.iter().take(settings.limit.unwrap_or(found)) {
        let truth = sequences.has_facts().then(|| sequences.truth(sequence)).transpose()?;
        writer.push(&sequences.ids(sequence)?, sequences.origin(sequence), truth.as_ref())?;
    }
    writer.finish(tokenizer.path(), tokenizer.bos(), tokenizer.vocabulary(), counts.documents)?;
    Ok(())
}

/// Encodes documents on as many threads as the stage may use.
pub(super) fn encode_all(
    settings: &Tokenize,
    tokenizer: &TextTokenizer,
    documents: &[Document],
    context: &Context,
) -> Result<Vec<Encoded>, StageError> {
    context.in_pool(|| documents.par_iter().map(|document| encode(settings, tokenizer, document)).collect())
}

fn next_batch(
    documents: &mut impl Iterator<Item = Result<Document, crate::data::DataError>>,
    bytes: usize,
) -> Result<Vec<Document>, StageError> {
    let mut batch = Vec::new();
    let mut taken = 0;
    while taken < bytes {
        let Some(document) = documents.next() else { break };
        let document = document?;
        taken += document.text.len().max(1);
        batch.push(document);
    }
    Ok(batch)
}

fn encode(settings: &Tokenize, tokenizer: &TextTokenizer, document: &Document) -> Result<Encoded, StageError> {
    let spaced;
    let text = match settings.newlines {
        Newlines::Keep => document.text.as_str(),
        // Byte for byte, so that the places of facts stay right.
        Newlines::Space => {
            spaced = document.text.replace(['\n', '\r'], " ");
            &spaced
        }
    };
    let encoding = tokenizer.encode(text, document.facts.is_some())?;
    let ids = encoding.get_ids();
    if let Some(&id) = ids.iter().find(|&&id| id as usize >= tokenizer.vocabulary()) {
        let vocabulary = tokenizer.vocabulary();
        let problem = format!("document `{}` got the id {id}, but the vocabulary ends at {vocabulary}", document.id);
        return Err(StageError::input(tokenizer.path(), problem));
    }
    let located = document.facts.as_ref().map(|facts| facts::locate(text, encoding.get_offsets(), facts));
    let shift = usize::from(tokenizer.bos().is_some());
    let sequences: Vec<Sequence> = chunks::windows(ids, settings.length, tokenizer.bos(), settings.chunking)
        .into_iter()
        .map(|window| {
            let needed = located.as_ref().map(|facts| facts::in_window(facts, &window, shift));
            (tokenizer.bos().into_iter().chain(ids[window].iter().copied()).collect(), needed)
        })
        .collect();
    let unknown = ids.iter().filter(|&&id| Some(id) == tokenizer.unknown()).count();
    let counted = Counted { sequences: sequences.len(), tokens: ids.len(), unknown };
    Ok(Encoded { sequences, counted })
}

impl Counts {
    /// Counts the next document, and says which number it has.
    pub(super) fn add(&mut self, document: Counted) -> u32 {
        self.documents += 1;
        self.short += usize::from(document.sequences == 0);
        self.longest = self.longest.max(document.tokens);
        self.tokens += document.tokens;
        self.unknown += document.unknown;
        (self.documents - 1) as u32
    }

    /// Warns of what was lost; no sequence at all is an error.
    fn tell(&self, settings: &Tokenize, sequences: usize, context: &Context) -> Result<(), StageError> {
        if sequences == 0 {
            let expected = format!(
                "at most {}, the tokens of the longest of {} documents; no document fills a sequence",
                self.longest, self.documents
            );
            return Err(SettingError::new("length", settings.length, expected).into());
        }
        if self.short > 0 {
            context.warn(format!(
                "{} of {} documents are shorter than a sequence of {} tokens and were left out",
                self.short, self.documents, settings.length
            ));
        }
        let share = self.unknown as f64 / self.tokens.max(1) as f64;
        if share > UNKNOWN_SHARE {
            let advice = match settings.newlines {
                Newlines::Keep => "; if it has no token for line breaks, set `newlines: Space`",
                Newlines::Space => "",
            };
            context.warn(format!("{:.1} % of the tokens are unknown to the tokenizer{advice}", share * 100.0));
        }
        Ok(())
    }
}
