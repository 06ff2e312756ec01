//! The training loop.

use std::time::{Duration, Instant};

use super::{
    Train, TrainingStep,
    batches::Batches,
    checkpoint::{self, State},
    engine::Engine,
    learning_rate,
    log::{self, Live},
    targets::Targets,
};
use crate::{
    data::TokenSet,
    model::{
        AdamW, AdamWSettings, Adapter, Architecture, BaseModel, Companions, Dropout, Model, ModelError, copy_companions,
    },
    score::suits,
    stage::{Context, SettingError, StageError},
    weighting::weighted_mean,
};

/// Tokens of a micro-batch if the settings do not say otherwise.
pub(super) const MICRO_BATCH_TOKENS: usize = 8192;

/// Time between checkpoints if the settings do not say otherwise.
const CHECKPOINT_INTERVAL: Duration = Duration::from_mins(1);

pub(super) fn run(settings: &Train, context: &Context) -> Result<(), StageError> {
    let tokens = TokenSet::open(context.input(&settings.tokens)?)?;
    let folder = context.input(&settings.model)?;
    let optimizer = AdamWSettings {
        beta1: settings.betas.0,
        beta2: settings.betas.1,
        epsilon: settings.epsilon,
        weight_decay: settings.weight_decay,
        moments: settings.moments,
    };
    let mut base = settings.lora.is_some().then(|| Model::open(folder)).transpose()?;
    let mut state = if let Some(state) = checkpoint::newest(context, optimizer, &mut base)? {
        state
    } else {
        let mut model = base.map_or_else(|| Model::open(folder), Ok)?;
        if let Some(lora) = &settings.lora {
            let adapter = Adapter::initialize(&model, lora.adapter(), settings.seed).map_err(in_lora)?;
            model.set_adapter(adapter)?;
        }
        State { optimizer: AdamW::new(&model, optimizer), model, log: Vec::new() }
    };
    state.model.set_activations(settings.activations.0);
    if settings.device.is_cpu() {
        settings.device.notice().into_iter().for_each(|notice| context.warn(notice));
        state.model.set_precision(settings.device.precision());
    }
    suits(context, &settings.model, state.model.config(), (&settings.tokens, &tokens), tokens.length())?;
    let config = state.model.config();
    if let (Some(probability), Architecture::Llama { .. }) = (settings.dropout, config.architecture) {
        let expected = "nothing: a Llama has no residual dropout";
        return Err(SettingError::new("dropout", probability, expected).into());
    }
    for (field, probability) in config.dropout().into_iter().filter(|(field, _)| !applied(settings, field)) {
        context.warn(format!(
            "model `{}` asks for dropout (`{field}` is {probability} in its config.json); it is trained without",
            settings.model
        ));
    }
    if tokens.sequences() == 0 || tokens.length() < 2 {
        let found = format!("{} sequences of {} tokens", tokens.sequences(), tokens.length());
        return Err(SettingError::new("tokens", found, "at least one sequence of two or more tokens").into());
    }

    let mut trainer = Trainer {
        settings,
        context,
        targets: Targets::open(settings, context, &tokens)?,
        batches: Batches::new(tokens.sequences(), settings.batch, settings.seed),
        engine: Engine::new(settings, &state)?,
        micro_batch: settings.micro_batch_of(tokens.length()),
        tokens: &tokens,
    };
    let mut live = Live::start(context, &state.log);
    let mut saved = Instant::now();
    while state.log.len() < settings.steps {
        let started = Instant::now();
        match trainer.step(&mut state) {
            Ok(()) => {
                let taken = started.elapsed();
                if let Some(last) = state.log.last_mut() {
                    last.seconds = Some(taken.as_secs_f64());
                    live.add(std::slice::from_ref(last));
                }
                trainer.report(&state, taken);
            }
            // What a step changes, it changes in the end, so the state is that of the last whole step.
            Err(StageError::Canceled) => {
                trainer.engine.store(&mut state)?;
                checkpoint::save(context.scratch(), &state)?;
                return Err(StageError::Canceled);
            }
            Err(error) => return Err(error),
        }
        let due = match settings.checkpoint_every.0 {
            Some(steps) => state.log.len().is_multiple_of(steps),
            None => saved.elapsed() >= CHECKPOINT_INTERVAL,
        };
        if due && state.log.len() < settings.steps {
            trainer.engine.store(&mut state)?;
            checkpoint::save(context.scratch(), &state)?;
            saved = Instant::now();
        }
    }
    trainer.engine.store(&mut state)?;
    copy_companions(folder, context.output(), Companions::Tokenizer)?;
    if let Some(adapter) = state.model.adapter() {
        adapter.save(context.output())?;
        BaseModel::of(folder)?.save(context.output())?;
    } else {
        state.model.save(context.output())?;
    }
    log::write_result(&context.output().join(log::FILE), &state.log)
}

/// Whether a training has the dropout that a field of a configuration asks for.
fn applied(settings: &Train, field: &str) -> bool {
    field == "resid_pdrop" && settings.dropout.is_some()
}

/// An adapter that the model cannot have is a wrong setting.
fn in_lora(error: ModelError) -> StageError {
    match error {
        ModelError::Adapter { setting, found, expected } => {
            SettingError::new(format!("lora.{setting}"), found, expected).into()
        }
        other => other.into(),
    }
}

struct Trainer<'a> {
    settings: &'a Train,
    context: &'a Context,
    tokens: &'a TokenSet,
    targets: Targets<'a>,
    batches: Batches,
    engine: Engine,
    micro_batch: usize,
}

impl Trainer<'_> {
    /// One optimizer step: gradients of all micro-batches, clipping, AdamW.
    fn step(&mut self, state: &mut State) -> Result<(), StageError> {
        let step = state.log.len() + 1;
        let sequences = self.batches.of_step(step);
        let count = (sequences.len() * (self.tokens.length() - 1)) as f64;
        let (mut loss, mut unweighted) = (0.0, 0.0);
        self.engine.zero();
        for (number, sequences) in sequences.chunks(self.micro_batch).enumerate() {
            self.context.check_canceled()?;
            state.model.set_dropout(self.settings.dropout.map(|probability| Dropout {
                probability,
                seed: self.settings.seed,
                step: step as u64,
                first_sequence: (number * self.micro_batch) as u64,
            }));
            let (weighted_sum, sum) = self.micro_batch(state, step, sequences, count)?;
            loss += weighted_sum / count;
            unweighted += sum / count;
        }
        let norm = self.engine.global_norm()?;
        if !norm.is_finite() {
            let names: Vec<String> = sequences.iter().map(ToString::to_string).collect();
            return Err(diverged(step, &format!("the gradient over sequences {} has norm {norm}", names.join(", "))));
        }
        // As torch.nn.utils.clip_grad_norm_ does it.
        let clip_factor = self.settings.clip_norm.map_or(1.0, |bound| (bound / (norm + 1e-6)).min(1.0));
        let rate = learning_rate(self.settings, step);
        self.engine.step(state, rate, clip_factor)?;
        state.log.push(TrainingStep {
            step,
            loss,
            unweighted_loss: unweighted,
            learning_rate: rate,
            grad_norm: norm,
            tokens: (step * sequences.len() * self.tokens.length()) as u64,
            seconds: None,
        });
        Ok(())
    }

    /// Adds the gradient of some sequences; answers the sums of weighted and of plain losses of their targets.
    /// `count` is the number of targets of the whole step, by which the loss is divided.
    fn micro_batch(
        &mut self,
        state: &State,
        step: usize,
        sequences: &[usize],
        count: f64,
    ) -> Result<(f64, f64), StageError> {
        let ids = sequences.iter().map(|&sequence| self.tokens.sequence(sequence)).collect::<Result<Vec<_>, _>>()?;
        let targets = self.tokens.length() - 1;
        let coefficients = |weights: &[f32]| -> Vec<f32> {
            weights.iter().map(|&weight| (f64::from(weight) / count) as f32).collect()
        };
        let weighted_sum = |losses: &[f32], weights: &[f32]| weighted_mean(losses, weights) * losses.len() as f64;
        let (losses, weighted) = if let Some(weights) = self.targets.fixed(sequences, targets)? {
            let coefficients = coefficients(&weights);
            let batch = sequences.len();
            let losses = self.engine.forward_backward_fixed(state, &ids.concat(), batch, &coefficients)?;
            check_finite(step, sequences, &losses)?;
            let weighted = weighted_sum(&losses, &weights);
            (losses, weighted)
        } else {
            let short = self.targets.short_pass(&ids, &mut |ids, batch| {
                self.context.check_canceled()?;
                Ok(self.engine.score(state, ids, batch)?)
            })?;
            let weigh = &self.targets;
            let mut weighted = 0.0;
            let losses =
                self.engine.forward_backward(state, &ids.concat(), sequences.len(), &mut |long: &[f32]| {
                    check_finite(step, sequences, long)?;
                    let weights = weigh.weights(sequences, long, &short)?;
                    weighted = weighted_sum(long, &weights);
                    Ok::<_, StageError>(coefficients(&weights))
                })?;
            (losses, weighted)
        };
        Ok((weighted, losses.iter().map(|&loss| f64::from(loss)).sum()))
    }

    fn report(&self, state: &State, taken: Duration) {
        let Some(last) = state.log.last() else { return };
        let speed = (self.settings.batch * self.tokens.length()) as f64 / taken.as_secs_f64().max(1e-9);
        let detail = format!(
            "loss {:.3}, {} tokens/s, learning rate {:.3e}",
            last.loss,
            grouped(speed as u64),
            last.learning_rate
        );
        self.context.progress(last.step as u64, self.settings.steps as u64, "steps", detail);
    }
}

/// Training cannot go on from a loss that is infinite or NaN.
fn check_finite(step: usize, sequences: &[usize], losses: &[f32]) -> Result<(), StageError> {
    let targets = losses.len() / sequences.len();
    match losses.iter().position(|loss| !loss.is_finite()) {
        Some(at) => {
            let (sequence, target) = (sequences[at / targets], at % targets);
            Err(diverged(step, &format!("sequence {sequence}, target {target}: the loss is {}", losses[at])))
        }
        None => Ok(()),
    }
}

fn diverged(step: usize, what: &str) -> StageError {
    StageError::Failed(format!(
        "step {step}: {what}; training diverged: try a smaller `learning_rate`, a longer `warmup` or a smaller `clip_norm`"
    ))
}

/// 12345 as `12 345`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}
