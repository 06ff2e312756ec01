//! Measures a model: loss by position, planted facts, needles, multiple choice.

mod choice;
mod detection;
mod facts;
mod long_ppl;
mod needles;
mod niah;
mod parts;
mod position;
mod questions;
mod run;
mod text;

pub use long_ppl::{is_key, perplexity};

use serde::{Deserialize, Serialize};

use crate::{
    model::{ComputeDevice, ModelError, Sampling, Scoring, scoring_work},
    stage::{
        Context, Estimate, FinishedPart, Kind, Numerics, Outlook, Outlooks, Part, Reference, SettingError, Split,
        StageError,
    },
};

/// Settings of an `Evaluate` stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    /// The model; may be absent if no task needs one.
    #[serde(default)]
    pub model: Option<Reference>,
    /// What to measure, by the name under which it is reported.
    pub tasks: indexmap::IndexMap<String, Task>,
    /// Where the model runs. It is in the key: results of another device differ in their last digits.
    #[serde(default, skip_serializing_if = "ComputeDevice::is_default")]
    pub device: ComputeDevice,
}

/// One thing to measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Task {
    /// Mean loss in nats by position in the sequence.
    LossByPosition {
        /// The token sequences.
        tokens: Reference,
        /// How many buckets of equal width.
        buckets: usize,
    },
    /// Whether facts that were planted far back are recalled: all tokens of the value are the most probable ones
    /// (teacher forcing, which for a greedy choice is an exact match of what would be generated).
    PlantedFacts {
        /// Token sequences of a corpus with facts.
        tokens: Reference,
        /// How many buckets of equal width for the distance to the planted value.
        #[serde(default = "default_distance_buckets")]
        buckets: usize,
    },
    /// Whether a number (or a UUID) that was hidden in a long text is found.
    Needles {
        /// What is hidden, and in what.
        #[serde(default, skip_serializing_if = "NeedleForm::is_default")]
        form: NeedleForm,
        /// A corpus to hide it in; sentences of our own if absent.
        #[serde(default)]
        haystack: Option<Reference>,
        /// Tokens of the whole sample, the answer included.
        lengths: Vec<usize>,
        /// Where the number is hidden: 0 is the start, 1 the end.
        depths: Vec<f64>,
        /// Samples of each length and depth.
        samples: usize,
        /// How an answer is judged.
        #[serde(default)]
        score: NeedleScore,
        /// Chooses words and numbers.
        #[serde(default)]
        seed: u64,
    },
    /// Questions with four answers, as in MMLU, prompted as the lm-evaluation-harness does.
    MultipleChoice {
        /// A folder with `dev/SUBJECT_dev.csv` and `test/SUBJECT_test.csv`: question, four answers, letter. Or as hubs have it:
        /// `SUBJECT/dev-*.parquet` and `SUBJECT/test-*.parquet` with the columns `question`, `choices` and `answer` (0 to 3).
        data: Reference,
        /// Answered questions of `dev` in front of each question, in the order of the file.
        #[serde(default)]
        shots: usize,
        /// At most so many questions of each subject, the first ones.
        #[serde(default)]
        limit: Option<usize>,
        /// Only these subjects, such as `abstract_algebra`.
        #[serde(default)]
        subjects: Option<Vec<String>>,
    },
    /// How well |CE_long - CE_short| tells the tokens that need far context from the others.
    FarTokenDetection {
        /// Per-token loss with short context.
        short: Reference,
        /// Per-token loss with long context.
        long: Reference,
        /// Token sequences of a corpus with facts.
        tokens: Reference,
    },
    /// Perplexity over the key tokens alone: those that an evaluator model knows well with long context and much worse
    /// with short context, CE_short - CE_long > alpha and CE_long < -beta (LongPPL, arXiv 2410.23771). Beside it stands
    /// the perplexity over all tokens.
    LongPpl {
        /// Per-token loss of the evaluator with short context.
        short: Reference,
        /// Per-token loss of the evaluator with long context.
        long: Reference,
        /// The token sequences that both are of.
        tokens: Reference,
        /// The least gain from long context, in nats.
        #[serde(default = "default_alpha")]
        alpha: f64,
        /// The least logarithm of the probability with long context, in nats.
        #[serde(default = "default_beta")]
        beta: f64,
    },
}

/// What is hidden, and in what: a sentence of our own, or a task of RULER (arXiv 2404.06654) in the wording of its generator, with keys
/// of an adjective and a noun and numbers of seven digits. `depths` say where the asked needle lies; the others lie anywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NeedleForm {
    /// `The special magic number for WORD is NUMBER.`, with four digits, between the sentences of the haystack.
    #[default]
    Plain,
    /// A word and its number among lines that say nothing; reads no `haystack`.
    NiahSingle1,
    /// A word and its number in the text of the haystack.
    NiahSingle2,
    /// A word and its UUID in the text of the haystack.
    NiahSingle3,
    /// A word and its number in the text of the haystack, and three other words with theirs.
    NiahMultikey1,
    /// A word and its number among lines that tell other words' numbers; reads no `haystack`.
    NiahMultikey2,
    /// A UUID and its UUID among lines that tell other UUIDs'; reads no `haystack`.
    NiahMultikey3,
}

impl NeedleForm {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the needle is hidden in a text, and not in lines that the form has itself.
    fn reads_text(self) -> bool {
        !matches!(self, Self::NiahSingle1 | Self::NiahMultikey2 | Self::NiahMultikey3)
    }
}

/// How the answer to a hidden number is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum NeedleScore {
    /// All tokens of the number are the most probable ones (teacher forcing).
    #[default]
    Greedy,
    /// The number is more probable than nine others; chance is 0.1.
    Ranking,
    /// The model continues the prompt, and the number stands somewhere in its text, as RULER judges it (there, 128 tokens).
    Generation {
        /// Most tokens that are generated, a number above 0; a token that ends a text ends it before. The length of a
        /// sample includes them.
        tokens: usize,
        /// How each of them is chosen.
        #[serde(default)]
        sampling: Sampling,
    },
}

fn default_distance_buckets() -> usize {
    4
}

fn default_alpha() -> f64 {
    2.0
}

fn default_beta() -> f64 {
    -2.0
}

impl Task {
    /// The name of its kind, as it stands in graphs and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::LossByPosition { .. } => "LossByPosition",
            Self::PlantedFacts { .. } => "PlantedFacts",
            Self::Needles { .. } => "Needles",
            Self::MultipleChoice { .. } => "MultipleChoice",
            Self::FarTokenDetection { .. } => "FarTokenDetection",
            Self::LongPpl { .. } => "LongPpl",
        }
    }

    /// What the model reads, if that is known without the data.
    fn scorings(&self, inputs: &Outlooks<'_>) -> Option<Vec<Scoring>> {
        match self {
            Self::LossByPosition { tokens, .. } | Self::PlantedFacts { tokens, .. } | Self::LongPpl { tokens, .. } => {
                let tokens = inputs(tokens);
                let (sequences, length) = tokens.sequences.zip(tokens.length)?;
                Some(vec![Scoring { sequences, length }])
            }
            Self::Needles { lengths, depths, samples, score, .. } => {
                let passes = match score {
                    NeedleScore::Ranking => needles::CANDIDATES,
                    NeedleScore::Greedy | NeedleScore::Generation { .. } => 1,
                };
                let sequences = (depths.len() as u64).saturating_mul(*samples as u64).saturating_mul(passes as u64);
                Some(lengths.iter().map(|&length| Scoring { sequences, length: length as u64 }).collect())
            }
            Self::FarTokenDetection { .. } => Some(Vec::new()),
            Self::MultipleChoice { .. } => None,
        }
    }

    fn needs_model(&self) -> bool {
        !matches!(self, Self::FarTokenDetection { .. })
    }

    fn check(&self, inside: &str) -> Result<(), SettingError> {
        let positive = |field: &str, value: usize| {
            if value > 0 { Ok(()) } else { Err(SettingError::new(format!("{inside}.{field}"), 0, "a number above 0")) }
        };
        match self {
            Self::LossByPosition { buckets, .. } | Self::PlantedFacts { buckets, .. } => positive("buckets", *buckets),
            Self::Needles { form, haystack, lengths, depths, samples, score, .. } => {
                if haystack.is_some() && !form.reads_text() {
                    let expected = format!("nothing: the form {form:?} has lines of its own");
                    return Err(SettingError::new(format!("{inside}.haystack"), "given", expected));
                }
                if let NeedleScore::Generation { tokens, sampling } = score {
                    positive("score.tokens", *tokens)?;
                    sampling.check().map_err(|error| match error {
                        ModelError::Sampling { setting, found, expected } => {
                            SettingError::new(format!("{inside}.score.sampling.{setting}"), found, expected)
                        }
                        other => SettingError::new(format!("{inside}.score.sampling"), other, "a valid sampling"),
                    })?;
                }
                positive("samples", *samples)?;
                positive("lengths", lengths.len())?;
                positive("depths", depths.len())?;
                match depths.iter().position(|depth| !(0.0..=1.0).contains(depth)) {
                    Some(at) => Err(SettingError::new(
                        format!("{inside}.depths.{at}"),
                        depths[at],
                        "a number from 0 (the start of the text) to 1 (its end)",
                    )),
                    None => Ok(()),
                }
            }
            Self::MultipleChoice { limit, .. } => positive("limit", limit.unwrap_or(1)),
            Self::FarTokenDetection { .. } => Ok(()),
            Self::LongPpl { alpha, beta, .. } => {
                for (field, value) in [("alpha", *alpha), ("beta", *beta)] {
                    if !value.is_finite() {
                        return Err(SettingError::new(format!("{inside}.{field}"), value, "a finite number of nats"));
                    }
                }
                Ok(())
            }
        }
    }
}

impl Kind for Evaluate {
    const NAME: &'static str = "Evaluate";
    // 6: texts and JSON lines in zip and tar archives count as documents.
    const REVISION: u32 = 6;
    const SUMMARY: &'static str = "Measures a model: loss by position, planted facts, needles, multiple choice.";
    const NUMERICS: Numerics = Numerics::Floating;
    const SPLITS: bool = true;

    fn check(&self) -> Result<(), SettingError> {
        if self.tasks.is_empty() {
            return Err(SettingError::new("tasks", "empty", "at least one task"));
        }
        self.device.check()?;
        for (name, task) in &self.tasks {
            task.check(&format!("tasks.{name}"))?;
            if self.model.is_none() && task.needs_model() {
                let expected = format!("a model: task `{name}` ({}) needs one", task.kind());
                return Err(SettingError::new("model", "absent", expected));
            }
            let writes = matches!(task, Task::Needles { score: NeedleScore::Generation { .. }, .. });
            if writes && self.device.is_cpu() && self.device.precision().is_bf16() {
                let expected =
                    format!("`Cpu()` or `Cuda(…)`: task `{name}` writes text, which the CPU does in f32 alone");
                let found = format!("Cpu(precision: {:?})", self.device.precision());
                return Err(SettingError::new("device", found, expected));
            }
        }
        if self.model.is_none() && !self.device.is_default() {
            return Err(SettingError::new("device", "given", "nothing without a `model`"));
        }
        Ok(())
    }

    fn numeric_class(&self) -> Option<&'static str> {
        Some(self.device.numeric_class())
    }

    fn estimate(&self, inputs: &Outlooks<'_>) -> Estimate {
        let scorings: Option<Vec<Vec<Scoring>>> = self.tasks.values().map(|task| task.scorings(inputs)).collect();
        let config = self.model.as_ref().and_then(|model| inputs(model).config);
        let work =
            config.zip(scorings).and_then(|(config, scorings)| scoring_work(config, &scorings.concat(), self.device));
        Estimate { outlook: Outlook::default(), work }
    }

    fn run(&self, context: &Context) -> Result<(), StageError> {
        let found = context.in_pool(|| run::measure_all(self, self.sorted_tasks(), context))?;
        run::write(found, context.output())
    }

    fn split(&self, _: &Context) -> Result<Option<Split>, StageError> {
        parts::split(self)
    }

    fn run_part(&self, part: &Part, context: &Context) -> Result<(), StageError> {
        context.in_pool(|| parts::run(self, part, context))
    }

    fn join(&self, parts: &[FinishedPart], context: &Context) -> Result<(), StageError> {
        parts::join(parts, context)
    }
}
