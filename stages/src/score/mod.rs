//! Computes the loss of each token under a model, with full context or in short windows.

mod parts;
mod run;
mod suit;
mod window;

pub use suit::suits;
pub use window::{Scorer, WindowPlan};

use serde::{Deserialize, Serialize};

use crate::{
    model::{ComputeDevice, Rope, Scoring, scoring_work},
    stage::{
        Context, Estimate, FinishedPart, Kind, Numerics, Outlook, Outlooks, Part, Reference, SettingError, Split,
        StageError,
    },
};

/// Settings of a `Score` stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// The scoring model.
    pub model: Reference,
    /// The token sequences.
    pub tokens: Reference,
    /// Short windows; the whole sequence at once if absent.
    #[serde(default)]
    pub windows: Option<Windows>,
    /// What the first token of each window is.
    #[serde(default)]
    pub bos: Bos,
    /// Another rotary embedding than the model's own, such as `Default(theta: 500000)` to switch a scaling off.
    #[serde(default)]
    pub rope: Option<Rope>,
    /// Where the model runs. It is in the key: results of another device differ in their last digits.
    #[serde(default, skip_serializing_if = "ComputeDevice::is_default")]
    pub device: ComputeDevice,
}

/// The windows of the short-context side (method.md, section 1.4): `(L - length) mod step` must be 0, unless `rest`
/// says otherwise. LongCE with context K and step d has `(length: K + d, step: d, rest: Shorter)` and `bos: Keep`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Windows {
    /// Tokens in each window, S.
    pub length: usize,
    /// Distance between window starts, T.
    pub step: usize,
    /// What becomes of the tokens at the end of a sequence that whole windows do not reach: refused if absent, as the
    /// authors of the method do it.
    #[serde(default)]
    pub rest: Option<Rest>,
}

/// What becomes of the tokens at the end of a sequence that whole windows do not reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rest {
    /// They get a window of fewer tokens, as in LongCE.
    Shorter,
}

/// What the first token of each window is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bos {
    /// Replaced by BOS if every sequence of the token set starts with BOS; else left as it is. Nothing is shifted.
    #[default]
    Auto,
    /// Left as it is.
    Keep,
}

impl Windows {
    /// Refuses windows that fit no sequence. `inside` is their place in the stage, such as `windows.` (with its dot).
    pub fn check(&self, inside: &str) -> Result<(), SettingError> {
        if self.length < 2 {
            let expected = "2 or more: a window of one token predicts nothing";
            return Err(SettingError::new(format!("{inside}length"), self.length, expected));
        }
        if self.step == 0 || self.step >= self.length {
            let expected = format!("1 to {}: less than the window, or tokens are left out", self.length - 1);
            return Err(SettingError::new(format!("{inside}step"), self.step, expected));
        }
        Ok(())
    }
}

impl Kind for Score {
    const NAME: &'static str = "Score";
    const REVISION: u32 = 4;
    const SUMMARY: &'static str =
        "Computes the loss of each token under a model, with full context or in short windows.";
    const NUMERICS: Numerics = Numerics::Floating;
    const SPLITS: bool = true;

    fn check(&self) -> Result<(), SettingError> {
        self.device.check()?;
        self.windows.map_or(Ok(()), |windows| windows.check("windows."))
    }

    fn numeric_class(&self) -> Option<&'static str> {
        Some(self.device.numeric_class())
    }

    fn estimate(&self, inputs: &Outlooks<'_>) -> Estimate {
        let tokens = inputs(&self.tokens);
        let (Some(sequences), Some(length)) = (tokens.sequences, tokens.length) else { return Estimate::default() };
        let bytes = Some(sequences.saturating_mul(length.saturating_sub(1)).saturating_mul(size_of::<f32>() as u64));
        let outlook = Outlook { sequences: Some(sequences), length: Some(length), bytes, ..Outlook::default() };
        let (window, windows) = match self.windows {
            None => (length, 1),
            Some(windows) => match WindowPlan::new(length as usize, windows, None, "windows.") {
                Ok(plan) => (plan.window() as u64, plan.count() as u64),
                // It is told when the stage runs, with both lengths.
                Err(_) => return Estimate { outlook, work: None },
            },
        };
        let scoring = Scoring { sequences: sequences.saturating_mul(windows), length: window };
        let work = inputs(&self.model).config.and_then(|config| scoring_work(config, &[scoring], self.device));
        Estimate { outlook, work }
    }

    fn run(&self, context: &Context) -> Result<(), StageError> {
        context.in_pool(|| run::run(self, context))
    }

    fn split(&self, context: &Context) -> Result<Option<Split>, StageError> {
        parts::split(self, context)
    }

    fn run_part(&self, part: &Part, context: &Context) -> Result<(), StageError> {
        context.in_pool(|| parts::run(self, part, context))
    }

    fn join(&self, parts: &[FinishedPart], context: &Context) -> Result<(), StageError> {
        parts::join(self, parts, context)
    }
}
