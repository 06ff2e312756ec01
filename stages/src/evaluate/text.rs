//! Prompts and answers as tokens.

use super::run::Bench;
use crate::{data::TextTokenizer, model::Predictions, stage::StageError};

/// The tokenizer beside the model, used as the lm-evaluation-harness uses it with `add_bos_token=True`.
pub(super) struct Prompter {
    tokenizer: TextTokenizer,
}

/// Prompt and answer as one sequence, and how many of its tokens are the prompt's.
pub(super) type Pair = (Vec<u32>, usize);

/// The answer's part of what a model says.
pub(super) struct Answer {
    /// Sum of the losses of its tokens, in nats.
    pub(super) loss: f64,
    /// Whether each of its tokens is the most probable one.
    pub(super) greedy: bool,
}

impl Prompter {
    /// Opens the tokenizer of the model.
    pub(super) fn open(bench: &Bench<'_>) -> Result<Self, StageError> {
        let (reference, model) = bench.model()?;
        let folder = bench.context.input(reference)?;
        let tokenizer = TextTokenizer::open(folder)?;
        if tokenizer.vocabulary() > model.config().vocab_size {
            let problem = format!(
                "it has ids up to {}, the model only {} of them",
                tokenizer.vocabulary() - 1,
                model.config().vocab_size
            );
            return Err(StageError::input(tokenizer.path(), problem));
        }
        Ok(Self { tokenizer })
    }

    /// BOS, if the tokenizer has one, and the tokens of a text.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, StageError> {
        let encoding =
            self.tokenizer.inner().encode_fast(text, false).map_err(|error| {
                StageError::input(self.tokenizer.path(), format!("cannot encode a prompt: {error}"))
            })?;
        Ok(self.tokenizer.bos().into_iter().chain(encoding.get_ids().iter().copied()).collect())
    }

    /// A prompt to which the answer is missing. A space at its end belongs to the answer's first token.
    pub(super) fn encode_prompt(&self, prompt: &str) -> Result<Vec<u32>, StageError> {
        self.encode(prompt.trim_end_matches(' '))
    }

    /// The text of tokens, without special ones.
    pub(super) fn decode(&self, ids: &[u32]) -> Result<String, StageError> {
        let text = self.tokenizer.inner().decode(ids, true);
        text.map_err(|error| StageError::input(self.tokenizer.path(), format!("cannot decode an answer: {error}")))
    }

    /// Prompt and answer as one sequence, and how many of its tokens are the prompt's: both are encoded together, so
    /// that the answer's tokens are those that it has after the prompt.
    pub(super) fn encode_pair(&self, prompt: &str, answer: &str) -> Result<Pair, StageError> {
        let before = self.encode_prompt(prompt)?;
        let whole = self.encode(&format!("{prompt}{answer}"))?;
        let prompt = before.len().min(whole.len().saturating_sub(1)).max(1);
        Ok((whole, prompt))
    }
}

/// The part of an answer that starts after `prompt` tokens.
pub(super) fn answer(ids: &[u32], prompt: usize, found: &Predictions) -> Answer {
    let targets = prompt - 1..ids.len() - 1;
    Answer {
        loss: found.cross_entropy[targets.clone()].iter().map(|&loss| f64::from(loss)).sum(),
        greedy: targets.into_iter().all(|target| found.argmax[target] == ids[target + 1]),
    }
}

/// The answers of several sequences, each with the number of its prompt tokens.
pub(super) fn answers(bench: &Bench<'_>, pairs: &[Pair]) -> Result<Vec<Answer>, StageError> {
    let (reference, model) = bench.model()?;
    let answers = pairs
        .iter()
        .map(|(ids, prompt)| Ok(answer(ids, *prompt, &model.score(ids, 1)?)))
        .collect::<Result<Vec<_>, StageError>>()?;
    match answers.iter().find(|answer| !answer.loss.is_finite()) {
        Some(answer) => Err(StageError::Failed(format!(
            "the loss of an answer is {}; model `{reference}` is broken or was trained too fast",
            answer.loss
        ))),
        None => Ok(answers),
    }
}
