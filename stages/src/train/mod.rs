//! Trains a model by weighted next-token loss.
//!
//! `training.jsonl` has one line for each optimizer step. Its field `seconds` is always `null`: the same settings and
//! inputs must give the same bytes, and times stand in the progress events instead.

mod batches;
mod checkpoint;
mod engine;
mod log;
mod run;
mod schedule;
mod targets;
mod work;

pub use log::TrainingStep;
pub use schedule::learning_rate;

use serde::{Deserialize, Serialize};

use crate::{
    model::{Activations, AdapterSettings, ComputeDevice, MomentStorage, TARGETS, expected_target, model_outlook},
    score::{Bos, Windows},
    stage::{Context, Estimate, Kind, Manner, Numerics, Outlook, Outlooks, Reference, SettingError, StageError},
    weighting::{self, Compare, Rounding, Shape},
};

/// Settings of a `Train` stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// The model to start from. Unless `dropout` is set, it is trained without; a warning tells if its `config.json`
    /// asks for some.
    pub model: Reference,
    /// The token sequences.
    pub tokens: Reference,
    /// Trains a low-rank adapter (LoRA) beside the model, which stays as it is. The result is then the adapter alone, in
    /// PEFT's format, and a `MergeAdapter` stage makes a model of the two; if absent, the whole model is trained.
    #[serde(default)]
    pub lora: Option<Lora>,
    /// Where the weight of each target comes from.
    #[serde(default)]
    pub weighting: Weighting,
    /// Optimizer steps.
    pub steps: usize,
    /// Sequences in each optimizer step.
    pub batch: usize,
    /// Sequences that go through the model at once; the gradient is that of the whole batch. If absent, as many as
    /// have 8192 tokens together, at least one.
    #[serde(default)]
    pub micro_batch: Option<usize>,
    /// The learning rate after warm-up.
    #[serde(default = "default_learning_rate")]
    pub learning_rate: f64,
    /// Steps over which the learning rate grows from 0, whatever the schedule (transformers' schedule `constant` knows no
    /// warm-up; what is meant here is its `constant_with_warmup`).
    #[serde(default)]
    pub warmup: usize,
    /// How it grows. The form `Log` is DeepSpeed's default.
    #[serde(default)]
    pub warmup_shape: WarmupShape,
    /// What the learning rate does after warm-up.
    #[serde(default)]
    pub schedule: Schedule,
    /// Whose schedulers are followed, to the step.
    #[serde(default)]
    pub convention: Convention,
    /// AdamW's decay of the mean of gradients and of the mean of their squares.
    #[serde(default = "default_betas")]
    pub betas: (f64, f64),
    /// AdamW's addition to the root of the mean square.
    #[serde(default = "default_epsilon")]
    pub epsilon: f64,
    /// AdamW's decoupled weight decay, of matrices and not of norms and biases.
    #[serde(default = "default_weight_decay")]
    pub weight_decay: f64,
    /// How AdamW's moments are kept between steps (on a CPU they are in the memory of the host in any case).
    #[serde(default)]
    pub moments: MomentStorage,
    /// Gradients of a larger norm are scaled down to this one; `None` leaves them.
    #[serde(default = "default_clip_norm")]
    pub clip_norm: Option<f64>,
    /// Orders the sequences: another permutation in each epoch. It chooses what dropout drops too.
    #[serde(default)]
    pub seed: u64,
    /// Probability of residual dropout, which a Phi has; without it, a model is trained without, whatever its configuration
    /// says. Scoring never drops, nor does the short side of `Unfrozen`.
    #[serde(default)]
    pub dropout: Option<f64>,
    /// Steps between checkpoints, from which an interrupted training goes on; about one a minute if absent. The
    /// result does not depend on it, nor does the key.
    #[serde(default)]
    pub checkpoint_every: Manner<Option<usize>>,
    /// What is kept of each layer for its backward pass. The result does not depend on it, nor does the key.
    #[serde(default)]
    pub activations: Manner<Activations>,
    /// Where the model is trained. It is in the key: results of another device differ in their last digits. Moments in 8 bits
    /// are for the CPU, for adapters, or for an optimizer on the host.
    #[serde(default, skip_serializing_if = "ComputeDevice::is_default")]
    pub device: ComputeDevice,
    /// Where AdamW is, for a model on a device that is trained whole; that of an adapter is on the host in any case.
    #[serde(default, skip_serializing_if = "OptimizerPlace::is_default")]
    pub optimizer: OptimizerPlace,
}

/// Where the optimizer is, for a model on a device. It is in the key: they round differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OptimizerPlace {
    /// On the device, beside the model: parameters and moments in f32, 12 bytes for each parameter.
    #[default]
    Device,
    /// On the host: in each step gradients go there, and changed parameters come back. The device holds parameters in the type
    /// of the products, and gradients.
    Host,
}

impl OptimizerPlace {
    /// Whether it is what a stage that says nothing has. Keys leave it out then.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

fn default_learning_rate() -> f64 {
    2e-5
}

fn default_betas() -> (f64, f64) {
    (0.9, 0.95)
}

fn default_epsilon() -> f64 {
    1e-8
}

fn default_weight_decay() -> f64 {
    0.01
}

#[allow(clippy::unnecessary_wraps)] // serde wants the type of the field
fn default_clip_norm() -> Option<f64> {
    Some(1.0)
}

/// A low-rank adapter: beside a matrix W stand A and B, and its product with x becomes W x + scaling B (A x).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// Rows of A, columns of B.
    pub rank: usize,
    /// The scaling is `alpha` / `rank`.
    pub alpha: f64,
    /// Whether the scaling is `alpha` / sqrt(`rank`) instead (rank-stabilised LoRA).
    #[serde(default)]
    pub rslora: bool,
    /// Names of the adapted matrices as in PEFT's `target_modules`, such as `"q_proj"`, in every block; all matrices of
    /// the blocks if empty (PEFT's `all-linear`).
    #[serde(default)]
    pub targets: Vec<String>,
}

impl Lora {
    fn check(&self) -> Result<(), SettingError> {
        if self.rank == 0 {
            return Err(SettingError::new("lora.rank", 0, "a number above 0"));
        }
        if !(self.alpha > 0.0 && self.alpha.is_finite()) {
            return Err(SettingError::new("lora.alpha", self.alpha, "a finite number above 0"));
        }
        match self.targets.iter().position(|target| !TARGETS.contains(&target.as_str())) {
            Some(index) => {
                let (path, found) = (format!("lora.targets.{index}"), &self.targets[index]);
                Err(SettingError::new(path, found, expected_target(found, &TARGETS)))
            }
            None => Ok(()),
        }
    }

    /// The adapter's form.
    fn adapter(&self) -> AdapterSettings {
        let Self { rank, alpha, rslora, ref targets } = *self;
        AdapterSettings { rank, alpha, rslora, targets: targets.clone() }
    }
}

/// How the learning rate grows during warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WarmupShape {
    /// In a straight line.
    #[default]
    Linear,
    /// With the logarithm of the step: fast at first. DeepSpeed alone has it.
    Log,
}

/// What the learning rate does after warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Schedule {
    /// It stays.
    #[default]
    Constant,
    /// It falls to 0 in a straight line.
    Linear,
    /// It falls along half a cosine wave: to 0, or to 0.0001 of it in DeepSpeed's convention.
    Cosine,
}

/// Whose schedulers are followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Convention {
    /// transformers' schedulers: with warm-up, the first update has a learning rate of 0.
    #[default]
    HuggingFace,
    /// DeepSpeed's schedulers (`WarmupLR`, `WarmupDecayLR`, `WarmupCosineLR` for the three schedules): one update later,
    /// so that the first two have a learning rate of 0. The authors of the method use it: `Constant`, `Linear` warm-up
    /// over 20 steps.
    DeepSpeed,
}

/// Where the weight of each target comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Weighting {
    /// Every target weighs 1.
    #[default]
    Uniform,
    /// Weights of a `Postprocess` stage: short and long side are both computed once (frozen, static).
    Static {
        /// The weights.
        weights: Reference,
    },
    /// (1 - p)^gamma, where p is the probability that the model in training gives to the target at each step; no
    /// gradient flows through it (focal loss, see the shape `Focal`).
    Focal {
        /// 0 is uniform; the larger, the less a token weighs that is known already.
        #[serde(default = "weighting::focusing")]
        gamma: f64,
    },
    /// Short side from a `Score` stage, long side from the model in training at each step (frozen, live: the paper).
    Frozen {
        /// Per-token loss with short context.
        short: Reference,
        /// How losses are compared; the shape chooses if absent (see [`Compare`]).
        #[serde(default)]
        compare: Option<Compare>,
        /// Losses that are rounded to bf16 before they are compared; none if absent (see [`Rounding`]).
        #[serde(default)]
        rounding: Option<Rounding>,
        /// The form of the weights.
        shape: Shape,
    },
    /// Both sides from the model in training at each step (unfrozen: the paper).
    Unfrozen {
        /// The short windows.
        windows: Windows,
        /// What the first token of each window is.
        #[serde(default)]
        bos: Bos,
        /// Whether the short loss of the first S targets is taken from the long side, as the authors do it. Window 0
        /// has only S - 1 targets; with `false`, target S - 1 keeps what window 1 says of it, as LongCE wants it.
        #[serde(default = "yes")]
        compat_overwrite: bool,
        /// How losses are compared; the shape chooses if absent (see [`Compare`]).
        #[serde(default)]
        compare: Option<Compare>,
        /// Losses that are rounded to bf16 before they are compared; none if absent (see [`Rounding`]).
        #[serde(default)]
        rounding: Option<Rounding>,
        /// The form of the weights.
        shape: Shape,
    },
}

fn yes() -> bool {
    true
}

impl Kind for Train {
    const NAME: &'static str = "Train";
    const REVISION: u32 = 5;
    const SUMMARY: &'static str = "Trains a model by weighted next-token loss.";
    const NUMERICS: Numerics = Numerics::Floating;

    fn check(&self) -> Result<(), SettingError> {
        for (field, value) in [
            ("steps", Some(self.steps)),
            ("batch", Some(self.batch)),
            ("micro_batch", self.micro_batch),
            ("checkpoint_every", self.checkpoint_every.0),
        ] {
            if value == Some(0) {
                return Err(SettingError::new(field, 0, "a number above 0"));
            }
        }
        if self.convention == Convention::DeepSpeed && self.warmup < 2 {
            let expected = "2 or more, which is what DeepSpeed makes of smaller numbers; or `convention: HuggingFace`";
            return Err(SettingError::new("warmup", self.warmup, expected));
        }
        if self.convention == Convention::HuggingFace && self.warmup_shape == WarmupShape::Log {
            let expected = "`Linear`, the only one that transformers has; or `convention: DeepSpeed`";
            return Err(SettingError::new("warmup_shape", "Log", expected));
        }
        let inside = |path: &str, value: f64, fits: bool, expected: &str| {
            if fits { Ok(()) } else { Err(SettingError::new(path, value, expected)) }
        };
        let rate = self.learning_rate;
        inside("learning_rate", rate, rate >= 0.0 && rate.is_finite(), "a finite number, 0 or more")?;
        for (path, beta) in [("betas.0", self.betas.0), ("betas.1", self.betas.1)] {
            inside(path, beta, (0.0..1.0).contains(&beta), "a number from 0 to below 1")?;
        }
        inside("epsilon", self.epsilon, self.epsilon > 0.0 && self.epsilon.is_finite(), "a finite number above 0")?;
        let decay = self.weight_decay;
        inside("weight_decay", decay, decay >= 0.0 && decay.is_finite(), "a finite number, 0 or more")?;
        if let Some(norm) = self.clip_norm {
            inside("clip_norm", norm, norm > 0.0 && norm.is_finite(), "a finite number above 0, or None")?;
        }
        if let Some(probability) = self.dropout {
            inside("dropout", probability, (0.0..1.0).contains(&probability), "a number from 0 to below 1")?;
            if !self.device.is_cpu() {
                let expected = "nothing with `device: Cuda()`: a device trains without dropout";
                return Err(SettingError::new("dropout", probability, expected));
            }
        }
        if let Some(lora) = &self.lora {
            lora.check()?;
        }
        self.device.check()?;
        if !self.device.is_cpu() {
            if self.lora.is_some() && self.optimizer == OptimizerPlace::Host {
                let expected = "nothing with `lora`: an adapter's optimizer is on the host in any case";
                return Err(SettingError::new("optimizer", "Host", expected));
            }
            let is_on_device = self.optimizer == OptimizerPlace::Device && self.lora.is_none();
            if self.moments != MomentStorage::F32 && is_on_device {
                let expected = "`F32` with `device: Cuda()`, or `optimizer: Host`: a device has no moments in 8 bits";
                return Err(SettingError::new("moments", "Blockwise8", expected));
            }
        } else if self.optimizer == OptimizerPlace::Host {
            let expected = "nothing where the model is on the CPU: the optimizer is on the host already";
            return Err(SettingError::new("optimizer", "Host", expected));
        }
        match &self.weighting {
            Weighting::Uniform | Weighting::Static { .. } => Ok(()),
            Weighting::Focal { gamma } => weighting::focal("weighting.gamma".to_owned(), *gamma),
            Weighting::Frozen { compare, rounding, shape, .. } => {
                Rounding::check(*rounding, shape, "weighting.")?;
                weighting::check(*compare, shape, "weighting.")
            }
            Weighting::Unfrozen { windows, compare, rounding, shape, .. } => {
                windows.check("weighting.windows.")?;
                if *rounding == Some(Rounding::Long) {
                    let expected = "Both, or nothing: both sides are the model in training";
                    return Err(SettingError::new("weighting.rounding", "Long", expected));
                }
                Rounding::check(*rounding, shape, "weighting.")?;
                weighting::check(*compare, shape, "weighting.")
            }
        }
    }

    fn numeric_class(&self) -> Option<&'static str> {
        Some(self.device.numeric_class())
    }

    fn estimate(&self, inputs: &Outlooks<'_>) -> Estimate {
        let (config, length) = (inputs(&self.model).config, inputs(&self.tokens).length);
        let work = config.clone().zip(length).and_then(|(config, length)| self.work(config, length));
        // How large an adapter is hangs on the names of the matrices that it has.
        let outlook = if self.lora.is_some() { Outlook::default() } else { model_outlook(config) };
        Estimate { outlook, work }
    }

    fn run(&self, context: &Context) -> Result<(), StageError> {
        context.in_pool(|| run::run(self, context))
    }
}
