//! The work of a `Tokenize` stage: encode documents in parallel, cut them, shuffle, write parts.

use rayon::prelude::*;

use super::{Newlines, Tokenize, chunks, facts, sequences::SequencesIn, shuffle};
use crate::{
    data::{Corpus, Document, TextTokenizer, TokenSetWriter},
    stage::{Context, SettingError, StageError},
};

/// Text that is encoded at a time for each thread: it bounds the memory, not the result.
const BATCH_BYTES: usize = 4 << 20;

/// Above this share of unknown tokens the user is told.
const UNKNOWN_SHARE: f64 = 0.01;

/// A sequence with the tokens that need its facts, where facts are known.
type Sequence = (Vec<u32>, Option<Vec<facts::Needed>>);

struct Encoded {
    sequences: Vec<Sequence>,
    tokens: usize,
    unknown: usize,
}

#[derive(Default)]
struct Counts {
    documents: usize,
    short: usize,
    longest: usize,
    tokens: usize,
    unknown: usize,
    bytes: u64,
}

pub(super) fn run(settings: &Tokenize, context: &Context) -> Result<(), StageError> {
    let folders = settings.text.iter().map(|text| context.input(text)).collect::<Result<Vec<_>, _>>()?;
    let corpus = Corpus::open(folders)?;
    let tokenizer = TextTokenizer::open(context.input(&settings.tokenizer)?)?;

    let mut sequences = SequencesIn::new(context.scratch(), settings.length)?;
    let mut counts = Counts::default();
    let enough = settings.limit.filter(|_| settings.shuffle.is_none()).unwrap_or(usize::MAX);
    let mut documents = corpus.documents();
    while sequences.count() < enough {
        context.check_canceled()?;
        let batch = next_batch(&mut documents, BATCH_BYTES * context.threads())?;
        if batch.is_empty() {
            break;
        }
        let encoded: Vec<_> = context.in_pool(|| {
            batch.par_iter().map(|document| encode(settings, &tokenizer, document)).collect::<Result<_, _>>()
        })?;
        for (document, encoded) in batch.iter().zip(encoded) {
            counts.add(document, &encoded);
            for (ids, needed) in encoded.sequences {
                sequences.push(&ids, needed)?;
            }
        }
        let detail = format!("{} sequences", sequences.count());
        context.progress(counts.bytes, corpus.bytes(), "bytes", detail);
    }
    counts.tell(settings, sequences.count(), context)?;

    let found = sequences.count();
    let sequences = sequences.finish()?;
    let order = settings.shuffle.map_or_else(|| (0..found).collect(), |seed| shuffle::permutation(found, seed));
    let mut writer = TokenSetWriter::new(context.output(), settings.length, sequences.has_facts());
    for &sequence in order.iter().take(settings.limit.unwrap_or(found)) {
        let truth = sequences.has_facts().then(|| sequences.truth(sequence));
        writer.push(&sequences.ids(sequence)?, truth.as_ref())?;
    }
    writer.finish(tokenizer.path(), tokenizer.bos(), tokenizer.vocabulary(), counts.documents)?;
    sequences.discard()
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
    let sequences = chunks::windows(ids, settings.length, tokenizer.bos(), settings.chunking)
        .into_iter()
        .map(|window| {
            let needed = located.as_ref().map(|facts| facts::in_window(facts, &window, shift));
            (tokenizer.bos().into_iter().chain(ids[window].iter().copied()).collect(), needed)
        })
        .collect();
    let unknown = ids.iter().filter(|&&id| Some(id) == tokenizer.unknown()).count();
    Ok(Encoded { sequences, tokens: ids.len(), unknown })
}

impl Counts {
    fn add(&mut self, document: &Document, encoded: &Encoded) {
        self.documents += 1;
        self.short += usize::from(encoded.sequences.is_empty());
        self.longest = self.longest.max(encoded.tokens);
        self.tokens += encoded.tokens;
        self.unknown += encoded.unknown;
        self.bytes += document.bytes;
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
