//! Reading a prompt: blocks of 64 rows go through all layers, at most [`ROWS`] rows at a time.
//!
//! A block starts at a multiple of 64 (but for the first one of a prompt that continues), so what a prompt leaves in its
//! cache depends on nothing but the prompt.

use std::ops::Range;

use super::{
    super::{
        Model, ModelError, Precision,
        attention::{self, Queries, STRIDE},
        feed::FeedOutput,
        kernels::{self, ExponentialSum, Matrix, Right},
        layout::BlockLayout,
        packed_weights::Weights,
        rope::RopeTables,
        shape::{BLOCK, Place, Shape},
        workspace::{Scratch, ScratchPool},
    },
    cache::{Cache, Page},
};

/// Most rows that go through the layers at once; it bounds memory and changes no bit.
const ROWS: usize = 1024;

/// Rows of one sequence that go through all layers as one task.
struct Block<'a> {
    /// Number of the sequence among those that are read.
    sequence: usize,
    /// Position of the first row.
    first: usize,
    ids: &'a [u32],
    /// Residual stream, `[rows, hidden]`.
    input: Vec<f32>,
    /// Queries of the next layer, and keys and values, `[rows, projected]`.
    projected: Vec<f32>,
    /// Whether the last row's output is asked for.
    last: bool,
}

/// Reads on in each sequence; answers the last layer's output for each one's last row, `[sequences, hidden]`. `watch` is
/// called after every [`ROWS`] rows.
pub(super) fn prefill<E: From<ModelError>>(
    model: &Model,
    shape: &Shape,
    sequences: &mut [(&mut Cache, &[u32])],
    watch: &mut dyn FnMut() -> Result<(), E>,
) -> Result<Vec<f32>, E> {
    let mut outputs = vec![0.0; sequences.len() * shape.hidden];
    let scratch = ScratchPool::default();
    let mut done = vec![0; sequences.len()];
    let mut current = 0;
    while current < sequences.len() {
        let (mut blocks, mut rows) = (Vec::new(), 0);
        while current < sequences.len() && rows < ROWS {
            let (cache, ids) = &sequences[current];
            let start = done[current];
            let first = cache.length + start;
            let count = (BLOCK - first % BLOCK).min(ids.len() - start);
            blocks.push(Block {
                sequence: current,
                first,
                ids: &ids[start..start + count],
                input: vec![0.0; count * shape.hidden],
                projected: vec![0.0; count * shape.projected()],
                last: start + count == ids.len(),
            });
            rows += count;
            done[current] += count;
            current += usize::from(blocks.last().is_some_and(|block| block.last));
        }
        for (number, (cache, _)) in sequences.iter_mut().enumerate() {
            cache.reserve(shape, done[number]);
        }
        through_layers(model, shape, sequences, &mut blocks, &scratch);
        for block in blocks.iter().filter(|block| block.last) {
            let row = &block.input[block.input.len() - shape.hidden..];
            outputs[block.sequence * shape.hidden..][..shape.hidden].copy_from_slice(row);
        }
        watch()?;
    }
    for ((cache, _), done) in sequences.iter_mut().zip(done) {
        cache.length += done;
    }
    Ok(outputs)
}

fn through_layers(
    model: &Model,
    shape: &Shape,
    sequences: &mut [(&mut Cache, &[u32])],
    blocks: &mut [Block<'_>],
    scratch: &ScratchPool,
) {
    let layers = &model.layout().blocks;
    let embedding = &model.parameters()[model.layout().embedding.clone()];
    // Before the first layer, and after each one for the next: the last one is followed by none.
    for next in 0..=layers.len() {
        // What a layer's attention reads, and where the next layer's keys and values go, are different layers of pages.
        let mut read = Vec::new();
        let mut written = Vec::new();
        for (cache, _) in sequences.iter_mut() {
            let (before, after) = cache.layers.split_at_mut(next);
            read.push((before.last().map(Vec::as_slice), cache.tables.as_ref()));
            written.push(after.first_mut().map(|pages| pages.iter_mut().enumerate()));
        }
        // Blocks come in the order of sequences and positions, so each page is passed once.
        let tasks = blocks
            .iter_mut()
            .map(|block| {
                let pages = written[block.sequence].as_mut();
                let page = pages.and_then(|pages| pages.find(|(index, _)| *index == block.first / BLOCK));
                (block, page.map(|(_, page)| page))
            })
            .collect();
        scratch.run(tasks, |(block, page): (&mut Block<'_>, Option<&mut Page>), scratch| {
            let (pages, tables) = read[block.sequence];
            match (next.checked_sub(1), pages) {
                (Some(layer), Some(pages)) => through_layer(model, &layers[layer], shape, pages, block, scratch),
                _ => {
                    for (row, id) in block.input.chunks_exact_mut(shape.hidden).zip(block.ids) {
                        row.copy_from_slice(&embedding[*id as usize * shape.hidden..][..shape.hidden]);
                    }
                }
            }
            if let Some(page) = page {
                project(model, &layers[next], shape, tables, block, page, scratch);
            }
        });
    }
}

/// Norm, projection to queries, keys and values, rotation; keys and values go to their page.
fn project(
    model: &Model,
    layer: &BlockLayout,
    shape: &Shape,
    tables: &RopeTables,
    block: &mut Block<'_>,
    page: &mut Page,
    scratch: &mut Scratch,
) {
    let rows = block.ids.len();
    let [normalized, ..] = scratch.get([rows * shape.hidden, 0, 0, 0]);
    layer.norm.apply(model.parameters(), shape.epsilon, &block.input, normalized);
    layer.query_key_value.apply(Weights::plain(model), normalized, &mut block.projected, false);
    rotate_and_keep(shape, tables, block.first, &mut block.projected, page);
}

/// Rotates queries and keys of rows from position `first`, and writes keys and values to the page of these positions.
pub(super) fn rotate_and_keep(
    shape: &Shape,
    tables: &RopeTables,
    first: usize,
    projected: &mut [f32],
    page: &mut Page,
) {
    let (width, head_dim, pairs) = (shape.projected(), shape.head_dim, shape.rotary_dim / 2);
    let rows = projected.len() / width;
    let heads = shape.heads + shape.key_value_heads;
    let angles = first * pairs..(first + rows) * pairs;
    let (cos, sin) = (&tables.cos[angles.clone()], &tables.sin[angles]);
    kernels::rotate(projected, width, heads, head_dim, shape.rotary_dim, cos, sin, 1.0);
    let place = first % BLOCK;
    let columns = shape.key_value_heads * head_dim;
    kernels::transpose(&projected[shape.key_column()..], width, rows, columns, &mut page.keys[place..], BLOCK);
    for (index, row) in projected.chunks_exact(width).enumerate() {
        let values = row[shape.value_column()..].chunks_exact(head_dim);
        for (head, values) in values.enumerate() {
            let start = (head * BLOCK + place + index) * head_dim;
            page.values[start..start + head_dim].copy_from_slice(values);
        }
    }
}

/// Attention and what follows it.
fn through_layer(
    model: &Model,
    layer: &BlockLayout,
    shape: &Shape,
    pages: &[Page],
    block: &mut Block<'_>,
    scratch: &mut Scratch,
) {
    let rows = block.ids.len();
    let mut attended = vec![0.0; rows * shape.attended()];
    attend(shape, pages, block.first, &block.projected, &mut attended, scratch);
    let mut output = vec![0.0; rows * shape.hidden];
    let (mut middle, mut raised) = (vec![0.0; rows * shape.middle], vec![0.0; rows * shape.raised]);
    let result = FeedOutput { middle: &mut middle, raised: &mut raised, output: &mut output };
    let place = Place { sequence: 0, block: block.first / BLOCK, first: block.first, rows, row: block.first };
    layer.feed.forward(Weights::plain(model), layer, shape, place, &block.input, &attended, result, scratch);
    block.input = output;
}

/// Causal attention of a block of queries to all keys up to its own. Scores exist for one head and 64 rows at a time.
fn attend(shape: &Shape, pages: &[Page], first: usize, projected: &[f32], attended: &mut [f32], scratch: &mut Scratch) {
    let (width, head_dim, output_width) = (shape.projected(), shape.head_dim, shape.attended());
    let rows = projected.len() / width;
    let [scores, ..] = scratch.get([rows * STRIDE, 0, 0, 0]);
    let mut sums = [ExponentialSum::default(); BLOCK];
    for head in 0..shape.heads {
        let start = head / shape.group() * head_dim * BLOCK;
        let together = |positions: &Range<usize>| positions.len().min(BLOCK - positions.start % BLOCK);
        let key = |positions: Range<usize>| {
            let keys = &pages[positions.start / BLOCK].keys[start + positions.start % BLOCK..];
            Right::from(Matrix::new(keys, head_dim, together(&positions), BLOCK))
        };
        let value = |positions: Range<usize>| {
            let values = &pages[positions.start / BLOCK].values[start + positions.start % BLOCK * head_dim..];
            Right::from(Matrix::new(values, together(&positions), head_dim, head_dim))
        };
        let matrix = Matrix::new(&projected[head * head_dim..], rows, head_dim, width);
        let queries = Queries { matrix, first, precision: Precision::F32 };
        attention::attend(queries, key, value, scores, &mut attended[head * head_dim..], output_width, &mut sums, 1);
    }
}
