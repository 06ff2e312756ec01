//! Numbers hidden in long texts.

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::{Value, json};

use super::{
    NeedleForm, NeedleScore,
    niah::{Niah, below},
    position::Mean,
    run::{Bench, Findings},
    text::{Prompter, answers},
};
use crate::{
    data::Corpus,
    model::{Generated, Generation, Prompt, Sampling},
    stage::{Reference, SettingError, StageError},
};

/// Settings of the task.
pub(super) struct Needles<'a> {
    pub(super) haystack: Option<&'a Reference>,
    pub(super) lengths: &'a [usize],
    pub(super) depths: &'a [f64],
    pub(super) samples: usize,
    pub(super) form: NeedleForm,
    pub(super) score: NeedleScore,
    pub(super) seed: u64,
}

const WORDS: [&str; 24] = [
    "apple", "bridge", "candle", "dragon", "engine", "forest", "garden", "hammer", "island", "jacket", "kettle",
    "ladder", "mirror", "needle", "orange", "pencil", "rabbit", "saddle", "temple", "violin", "window", "yellow",
    "basket", "castle",
];

const FILLER: [&str; 12] = [
    "The sun came up over the hill and the day began.",
    "A small boat lay on the shore of the lake.",
    "The children played in the yard until it was dark.",
    "An old man sat on a bench and read the news.",
    "Rain fell on the roof for most of the night.",
    "The baker opened his shop before the street woke up.",
    "A black cat walked along the wall without a sound.",
    "The train was late, and nobody knew why.",
    "She put the letter in a box and closed the lid.",
    "In the autumn the leaves turned red and brown.",
    "The river is wide here, and the water is slow.",
    "They talked about the weather and went home.",
];

/// Candidates among which the number has to be the most probable one.
pub(super) const CANDIDATES: usize = 10;

/// Tokens of the samples that are continued at once; no result depends on it.
const TOKENS_AT_ONCE: usize = 16_384;

/// Most bytes of a corpus that are used as haystack.
const HAYSTACK_BYTES: usize = 8 << 20;

/// One sample as text.
struct Sample {
    prompt: String,
    /// The number first, then other numbers.
    candidates: Vec<String>,
}

pub(super) fn measure(bench: &Bench<'_>, name: &str, task: &Needles<'_>) -> Result<Findings, StageError> {
    let sentences = match task.haystack {
        Some(haystack) => sentences_of(bench, haystack)?,
        None => FILLER.iter().map(|&sentence| sentence.to_owned()).collect(),
    };
    let prompter = Prompter::open(bench)?;
    let (reference, model) = bench.model()?;
    if let Some(&longest) = task.lengths.iter().max()
        && longest > model.config().context
    {
        let context = model.config().context;
        bench.context.warn(format!("model `{reference}` is meant for {context} tokens and is shown {longest} at once"));
    }
    let total = task.lengths.len() * task.depths.len() * task.samples;
    let (mut all, mut grid, mut predictions) = (Mean::default(), Vec::new(), Vec::new());
    for (row, &length) in task.lengths.iter().enumerate() {
        for (column, &depth) in task.depths.iter().enumerate() {
            let mut own = Mean::default();
            let cell = (row * task.depths.len() + column) * task.samples;
            let numbers: Vec<usize> = (0..task.samples).collect();
            let together = (TOKENS_AT_ONCE / length.max(1)).max(1);
            for numbers in numbers.chunks(together) {
                bench.advance(all.count, total)?;
                let streams: Vec<u64> = numbers.iter().map(|number| (cell + number) as u64).collect();
                let mut samples = Vec::new();
                for stream in &streams {
                    let mut random = ChaCha8Rng::seed_from_u64(task.seed);
                    random.set_stream(*stream);
                    let Some(sample) = fill(&prompter, &sentences, task, length, depth, &mut random)? else {
                        let expected = "more tokens: the question, one sentence and the answer do not fit into so few";
                        return Err(SettingError::new(format!("tasks.{name}.lengths.{row}"), length, expected).into());
                    };
                    samples.push(sample);
                }
                let judged = match task.score {
                    NeedleScore::Greedy | NeedleScore::Ranking => {
                        samples.iter().map(|sample| forced(bench, &prompter, task.score, sample)).collect()
                    }
                    NeedleScore::Generation { tokens, sampling } => {
                        generated(bench, &prompter, &samples, &streams, tokens, sampling)
                    }
                }?;
                for (number, (correct, found)) in numbers.iter().zip(judged) {
                    own.add(u8::from(correct));
                    all.add(u8::from(correct));
                    let mut line = json!({
                        "task": name, "length": length, "depth": depth, "sample": number, "correct": correct,
                    });
                    for (field, value) in found {
                        line[field] = value;
                    }
                    predictions.push(line);
                }
            }
            grid.push(json!({ "length": length, "depth": depth, "accuracy": own.get(), "samples": own.count }));
        }
    }
    let score = match task.score {
        NeedleScore::Greedy => "Greedy",
        NeedleScore::Ranking => "Ranking",
        NeedleScore::Generation { .. } => "Generation",
    };
    let mut metrics = json!({
        "kind": "Needles", "score": score, "accuracy": all.get(), "samples": all.count, "grid": grid,
    });
    if task.form != NeedleForm::Plain {
        metrics["form"] = json!(task.form);
    }
    Ok(Findings { metrics, predictions })
}

/// Whether an answer is right, and what its line in `predictions.jsonl` says besides.
type Judged = (bool, Vec<(&'static str, Value)>);

/// Judges by the losses of given answers.
fn forced(bench: &Bench<'_>, prompter: &Prompter, score: NeedleScore, sample: &Sample) -> Result<Judged, StageError> {
    bench.context.check_canceled()?;
    let candidates = if score == NeedleScore::Ranking { CANDIDATES } else { 1 };
    let pairs = sample.candidates[..candidates]
        .iter()
        .map(|candidate| prompter.encode_pair(&sample.prompt, candidate))
        .collect::<Result<Vec<_>, _>>()?;
    let found = answers(bench, &pairs)?;
    let correct = match score {
        NeedleScore::Ranking => found[1..].iter().all(|other| found[0].loss < other.loss),
        _ => found[0].greedy,
    };
    Ok((correct, vec![("loss", json!(found[0].loss)), ("tokens", json!(pairs[0].0.len()))]))
}

/// Judges by texts that the model writes; `streams` has one random stream for each sample.
fn generated(
    bench: &Bench<'_>,
    prompter: &Prompter,
    samples: &[Sample],
    streams: &[u64],
    tokens: usize,
    sampling: Sampling,
) -> Result<Vec<Judged>, StageError> {
    let (_, model) = bench.model()?;
    let prompts = samples.iter().map(|sample| prompter.encode_prompt(&sample.prompt)).collect::<Result<Vec<_>, _>>()?;
    let settings = Generation { tokens, stop: model.config().eos_token_id.clone(), sampling };
    let asked: Vec<_> = prompts.iter().zip(streams).map(|(ids, &stream)| Prompt { ids, stream }).collect();
    let found = model.generate(&asked, &settings, &mut || bench.context.check_canceled())?;
    let judge = |((sample, prompt), found): ((&Sample, &Vec<u32>), &Generated)| {
        let text = prompter.decode(&found.ids)?;
        let answer = &sample.candidates[0];
        let said =
            vec![("answer", json!(answer)), ("generated", json!(text)), ("tokens", json!(prompt.len() + tokens))];
        // As RULER's `string_match_all`: anywhere, in capitals or not.
        Ok((text.to_lowercase().contains(&answer.to_lowercase()), said))
    };
    samples.iter().zip(&prompts).zip(&found).map(judge).collect()
}

/// The sample with the longest text that fits into `length` tokens, the answer included; none if not even the shortest does.
fn fill(
    prompter: &Prompter,
    sentences: &[String],
    task: &Needles<'_>,
    length: usize,
    depth: f64,
    random: &mut ChaCha8Rng,
) -> Result<Option<Sample>, StageError> {
    let (candidates, mut prompt) = draw(sentences, task.form, depth, random);
    let mut tokens = |count: usize| -> Result<usize, StageError> {
        Ok(match task.score {
            NeedleScore::Generation { tokens, .. } => {
                prompter.encode_prompt(&prompt(count))?.len().saturating_add(tokens)
            }
            NeedleScore::Greedy | NeedleScore::Ranking => prompter.encode_pair(&prompt(count), &candidates[0])?.0.len(),
        })
    };
    if tokens(1)? > length {
        return Ok(None);
    }
    // The number of tokens grows with that of sentences, lines or words.
    let mut fits = 1;
    while tokens(2 * fits)? <= length {
        fits *= 2;
    }
    let mut too_many = 2 * fits;
    while too_many - fits > 1 {
        let middle = fits.midpoint(too_many);
        if tokens(middle)? <= length { fits = middle } else { too_many = middle }
    }
    let prompt = prompt(fits);
    Ok(Some(Sample { prompt, candidates }))
}

/// A prompt around so many sentences, lines or words, with a space at its end.
type Prompts<'a> = Box<dyn FnMut(usize) -> String + 'a>;

/// The candidates of a sample, and its prompts.
fn draw<'a>(
    sentences: &'a [String],
    form: NeedleForm,
    depth: f64,
    random: &mut ChaCha8Rng,
) -> (Vec<String>, Prompts<'a>) {
    if let Some(mut sample) = Niah::draw(form, sentences.len(), CANDIDATES, random) {
        return (sample.values().to_vec(), Box::new(move |count| sample.prompt(sentences, count, depth)));
    }
    let word = WORDS[below(random, WORDS.len())];
    let start = below(random, sentences.len());
    let mut candidates = Vec::new();
    while candidates.len() < CANDIDATES {
        let number = (1000 + below(random, 9000)).to_string();
        if !candidates.contains(&number) {
            candidates.push(number);
        }
    }
    let needle = format!("The special magic number for {word} is {}.", candidates[0]);
    let prompt = move |count: usize| {
        let mut text: Vec<&str> = (0..count).map(|at| sentences[(start + at) % sentences.len()].as_str()).collect();
        text.insert((depth * count as f64).round() as usize, &needle);
        format!(
            "{} What is the special magic number for {word}? The special magic number for {word} is ",
            text.join(" ")
        )
    };
    (candidates, Box::new(prompt))
}

/// The sentences of a corpus, in order.
fn sentences_of(bench: &Bench<'_>, haystack: &Reference) -> Result<Vec<String>, StageError> {
    let folder = bench.context.input(haystack)?;
    let mut sentences = Vec::new();
    let mut bytes = 0;
    for document in Corpus::open([folder])?.documents() {
        let text = document?.text;
        bytes += text.len();
        let words: Vec<&str> = text.split_whitespace().collect();
        sentences.extend(words.chunk_by(|word, _| !word.ends_with(['.', '!', '?'])).map(|sentence| sentence.join(" ")));
        if bytes > HAYSTACK_BYTES {
            break;
        }
    }
    if sentences.is_empty() {
        return Err(StageError::input(folder, "no sentence found, expected text"));
    }
    Ok(sentences)
}
