//! Scoring in parts: some sequences of one document, wherever they stand in the token set, or those of a few short
//! documents. So what is added to a corpus leaves the parts of all other documents what they are, also if sequences
//! are shuffled.

use std::{collections::BTreeMap, ops::Range};

use serde::{Deserialize, Serialize};

use super::{
    Score, WindowPlan, Windows,
    run::{Work, open_model, score_all},
};
use crate::{
    data::{ArrayKind, Item, Origin, TensorFile, TensorOut, TokenSet, groups, part_name, write_tensors},
    model::{Config, Rope},
    stage::{Context, FinishedPart, Part, Split, StageError},
};

/// About how many multiplications a part has: a second or so of two cores, many times what it costs to start a
/// process and to open a model.
const PART_MULTIPLICATIONS: u64 = 1 << 35;

/// The same on a device, which computes some hundred times as fast but takes longer to be started.
const DEVICE_PART_MULTIPLICATIONS: u64 = 1 << 45;

/// What the result of a part depends on, beside the model.
#[derive(Serialize, Deserialize)]
struct Settings {
    length: usize,
    windows: Option<Windows>,
    /// The id that takes the place of the first token of each window. It is known from all sequences of the set.
    bos: Option<u32>,
    rope: Option<Rope>,
    /// BLAKE3 of the ids of the sequences.
    tokens: String,
}

/// The sequences of a part, as numbers in the token set, in runs of neighbours.
type Place = Vec<Range<usize>>;

pub(super) fn split(settings: &Score, context: &Context) -> Result<Option<Split>, StageError> {
    let config = Config::read(context.input(&settings.model)?)?;
    let work = Work::open(settings, context)?;
    work.check(settings, &config, context)?;
    let tokens = &work.tokens;
    let multiplications_of_part =
        if settings.device.is_cpu() { PART_MULTIPLICATIONS } else { DEVICE_PART_MULTIPLICATIONS };
    let size = context.part_size(multiplications_of_part / multiplications(&config).max(1));
    if (tokens.sequences() * tokens.length()) as u64 <= size {
        return Ok(None);
    }
    let blocks = blocks(tokens, size)?;
    let mut items = Vec::with_capacity(blocks.len());
    for block in &blocks {
        context.check_canceled()?;
        let digest = tokens.digest_of(block.sequences.iter().copied())?;
        let fingerprint = u64::from_str_radix(digest.get(..16).unwrap_or("0"), 16).unwrap_or_default();
        // Of a document that is worth a part of its own, each block is one.
        items.push(Item { size: if block.alone { size } else { block.tokens(tokens) }, fingerprint });
    }
    let parts = groups(&items, size).into_iter().map(|group| {
        let blocks = &blocks[group];
        let sequences: Vec<usize> = blocks.iter().flat_map(|block| block.sequences.iter().copied()).collect();
        let keyed = Settings {
            length: tokens.length(),
            windows: settings.windows,
            bos: work.bos,
            rope: settings.rope.clone(),
            tokens: tokens.digest_of(sequences.iter().copied())?,
        };
        let work = blocks.iter().map(|block| block.tokens(tokens)).sum();
        let model = std::slice::from_ref(&settings.model);
        Part::new(name(blocks, sequences.len()), &keyed, model, &runs(&sequences), work)
    });
    let parts = parts.collect::<Result<Vec<_>, StageError>>()?;
    Ok((parts.len() > 1).then(|| Split { unit: "tokens".to_owned(), parts }))
}

/// The multiplications that it takes to score a token, without those of attention, which depend on the context.
fn multiplications(config: &Config) -> u64 {
    let (hidden, heads) = (config.hidden_size, (config.heads + config.key_value_heads) * config.head_dim * 2);
    let layer = hidden * (heads + 3 * config.intermediate_size);
    (config.layers * layer + hidden * config.vocab_size) as u64
}

/// Sequences of one document, in its order.
struct Block {
    document: u32,
    first: u32,
    /// Whether the document has enough of them to stand alone.
    alone: bool,
    sequences: Vec<usize>,
}

impl Block {
    fn tokens(&self, tokens: &TokenSet) -> u64 {
        (self.sequences.len() * tokens.length()) as u64
    }
}

/// The sequences by document, and long documents cut into blocks of `size` tokens: each holds the sequences that have
/// certain numbers in the document, as far as they are in the set.
fn blocks(tokens: &TokenSet, size: u64) -> Result<Vec<Block>, StageError> {
    let together = u32::try_from((size / tokens.length() as u64).max(1)).unwrap_or(u32::MAX);
    let mut blocks: BTreeMap<(u32, u32), Vec<(u32, usize)>> = BTreeMap::new();
    for sequence in 0..tokens.sequences() {
        // A set that does not tell is taken for one document.
        let origin = tokens.origin(sequence)?.unwrap_or(Origin { document: 0, number: sequence as u32 });
        blocks.entry((origin.document, origin.number / together)).or_default().push((origin.number, sequence));
    }
    let mut of_document: BTreeMap<u32, usize> = BTreeMap::new();
    for ((document, _), sequences) in &blocks {
        *of_document.entry(*document).or_default() += sequences.len();
    }
    let alone = |document| of_document.get(&document).is_some_and(|count| *count as u64 * 4 >= u64::from(together));
    Ok(blocks
        .into_iter()
        .map(|((document, _), mut sequences)| {
            sequences.sort_unstable();
            Block {
                document,
                first: sequences.first().map_or(0, |(number, _)| *number),
                alone: alone(document),
                sequences: sequences.into_iter().map(|(_, sequence)| sequence).collect(),
            }
        })
        .collect())
}

fn name(blocks: &[Block], count: usize) -> String {
    let (document, from) = blocks.first().map_or((0, 0), |block| (block.document, block.first));
    if blocks.len() == 1 {
        format!("{count} sequences of document {document} from {from}")
    } else {
        format!("{count} sequences of {} documents from {document}", blocks.len())
    }
}

fn runs(sequences: &[usize]) -> Place {
    sequences.chunk_by(|one, next| one + 1 == *next).filter_map(|run| Some(*run.first()?..run.last()? + 1)).collect()
}

pub(super) fn run(settings: &Score, part: &Part, context: &Context) -> Result<(), StageError> {
    let (keyed, place): (Settings, Place) = part.read()?;
    let tokens = TokenSet::open(context.input(&settings.tokens)?)?;
    let sequences: Vec<usize> = place.into_iter().flatten().collect();
    if tokens.length() != keyed.length || tokens.digest_of(sequences.iter().copied())? != keyed.tokens {
        return Err(StageError::Bug(format!("part `{}` was given other tokens than it is named by", part.name)));
    }
    let plan = match keyed.windows {
        Some(windows) => Some(WindowPlan::new(keyed.length, windows, keyed.bos, "windows.")?),
        None => None,
    };
    let model = open_model(settings, context)?;
    let losses = score_all(settings, context, (&model, &tokens, plan), &sequences, |done| {
        context.progress(done, part.size, "tokens", "");
    })?;
    let tensor = TensorOut::new(ArrayKind::CrossEntropy.tensor(), keyed.length - 1, &losses);
    write_tensors(&context.output().join(part_name(0)), &[tensor])?;
    Ok(())
}

pub(super) fn join(settings: &Score, parts: &[FinishedPart], context: &Context) -> Result<(), StageError> {
    let work = Work::open(settings, context)?;
    let targets = work.tokens.length() - 1;
    let mut files = Vec::with_capacity(parts.len());
    let mut rows = vec![None; work.tokens.sequences()];
    for (number, part) in parts.iter().enumerate() {
        let (_, place): (Settings, Place) = part.part.read()?;
        for (row, sequence) in place.into_iter().flatten().enumerate() {
            if let Some(slot) = rows.get_mut(sequence) {
                *slot = Some((number, row));
            }
        }
        files.push(TensorFile::open(&part.folder.join(part_name(0)))?);
    }
    let writer = work.writer(settings, context.output());
    for part in 0..work.tokens.layout().parts() {
        let sequences = work.tokens.layout().range(part);
        let mut losses = Vec::with_capacity(sequences.len() * targets);
        for sequence in sequences {
            let (file, row) =
                rows[sequence].ok_or_else(|| StageError::Bug(format!("no part has scored sequence {sequence}")))?;
            losses.extend(files[file].read_row::<f32>(ArrayKind::CrossEntropy.tensor(), targets, row)?);
        }
        writer.write_part(part, &losses)?;
    }
    writer.finish()?;
    Ok(())
}
