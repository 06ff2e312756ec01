//! Measures the engine on random weights and prints one JSON object a case; `benches/engine.py` puts PyTorch beside it.
//!
//!     cargo bench --workspace --bench engine -- score 15m 2048 1
//!     cargo bench --workspace --bench engine -- train 15m 512 4
//!     cargo bench --workspace --bench engine -- recompute 135m 2048 1
//!     cargo bench --workspace --bench engine -- decode 135m 512 1
//!     cargo bench --workspace --bench engine -- score 15m 2048 1 bf16
//!     cargo bench --workspace --features cuda --bench engine -- recompute 1b 32768 1 bf16 cuda
//!
//! With `bf16` the factors of products are rounded to it; with `cuda` it runs on the first CUDA device.
//! `recompute` trains with activation checkpointing, `lora` an adapter of rank 16 on all matrices, `lora-recompute` both.
//! On a device there is `host`, too: as `recompute`, with the optimizer on the host and its moments in 8 bits.
//! `decode` appends [`DECODED`] tokens to prompts of LENGTH; it counts and times these alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::{
    cell::Cell,
    fs,
    time::{Duration, Instant},
};

use candle_core::Device;
use serde_json::{Value, json};
use twdag_stages::model::{
    Activations, AdamW, AdamWSettings, Adapter, AdapterSettings, Config, DeviceTraining, Generation, Gradients, Model,
    ModelError, MomentStorage, Precision, Prompt, Sampling,
};

// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Repetitions after one to warm up: as many as fit this time, but no fewer than [`LEAST`], or one if it takes longer itself.
const BUDGET: Duration = Duration::from_secs(10);
const LEAST: usize = 3;

/// Tokens that one repetition of `decode` appends to each sequence.
const DECODED: usize = 64;

fn main() {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let (case, on_cuda) = match &arguments[..] {
        [case @ .., device] if device == "cuda" => (case, true),
        case => (case, false),
    };
    let ([task, name, length, batch], precision) = (match case {
        [case @ .., precision] if precision == "bf16" => (case, Precision::Bf16),
        [case @ .., precision] if precision == "bf16-amx" => (case, Precision::Bf16Amx),
        case => (case, Precision::F32),
    }) else {
        panic!(
            "expected TASK MODEL LENGTH BATCH, such as `score 15m 2048 1`, and perhaps `bf16` or `bf16-amx`, and perhaps `cuda`; \
             found {arguments:?}"
        );
    };
    let (length, batch): (usize, usize) = (length.parse().expect("a length"), batch.parse().expect("a batch"));
    let mut model = Model::initialize(config(name), 0.02, 0);
    model.set_precision(precision);
    let vocabulary = model.config().vocab_size as u32;
    let ids: Vec<u32> = (0..(batch * length) as u32).map(|i| i.wrapping_mul(2_654_435_761) % vocabulary).collect();
    let measured = match task.as_str() {
        _ if on_cuda => on_device(task, model, &ids, batch, precision),
        "score" => measure(|| {
            model.score(&ids, batch).expect("scores");
        }),
        "train" | "recompute" | "lora" | "lora-recompute" => {
            if task.ends_with("recompute") {
                model.set_activations(Activations::Recompute);
            }
            if task.starts_with("lora") {
                let settings = AdapterSettings { rank: 16, alpha: 32.0, rslora: false, targets: Vec::new() };
                let adapter = Adapter::initialize(&model, settings, 0).expect("an adapter");
                model.set_adapter(adapter).expect("an adapter of this model");
            }
            let mut optimizer = AdamW::new(&model, AdamWSettings::default());
            let mut gradients = Gradients::zeros_like(&model);
            let targets = ids.len() - batch;
            let coefficients = vec![1.0 / targets as f32; targets];
            measure(move || {
                gradients.zero();
                model.forward_backward_fixed(&ids, batch, &coefficients, &mut gradients).expect("gradients");
                let clip_factor = (1.0 / gradients.global_norm()).min(1.0);
                optimizer.step(&mut model, &gradients, 1e-4, clip_factor).expect("a step");
            })
        }
        "decode" => {
            let mut caches: Vec<_> = (0..batch).map(|_| model.cache(length + DECODED).expect("a cache")).collect();
            let mut sequences: Vec<_> = caches.iter_mut().zip(ids.chunks_exact(length)).collect();
            let best = |logits: &[f32]| -> Vec<u32> {
                logits.chunks_exact(vocabulary as usize).map(|logits| Sampling::Greedy.choose(logits, 0, 0)).collect()
            };
            let first = best(&model.prefill(&mut sequences, &mut || Ok::<_, ModelError>(())).expect("a prompt"));
            measure(|| {
                for cache in &mut caches {
                    cache.truncate(length);
                }
                let mut next = first.clone();
                for _ in 0..DECODED {
                    let mut sequences: Vec<_> = caches.iter_mut().zip(next).collect();
                    next = best(&model.decode(&mut sequences).expect("logits"));
                }
            })
        }
        other => panic!(
            "unknown task `{other}`, expected `score`, `train`, `recompute`, `lora`, `lora-recompute` or `decode`"
        ),
    };
    let tokens = (batch * if task == "decode" { DECODED } else { length }) as f64;
    println!(
        "{}",
        json!({
            "tokens_per_second": tokens / measured.seconds, "repetitions": measured.repetitions,
            "peak_mib": peak_mib(), "others": measured.others,
        })
    );
}

/// The same on the first CUDA device, but for adapters, which are for the CPU alone.
fn on_device(task: &str, mut model: Model, ids: &[u32], batch: usize, precision: Precision) -> Measured {
    let device = Device::new_cuda(0).expect("a CUDA device");
    let targets = ids.len() - batch;
    match task {
        "score" => {
            let device =
                DeviceTraining::with_host_optimizer(&model, &device, precision).expect("a model on the device");
            drop(model);
            measure(|| {
                device.model().score(ids, batch).expect("scores");
            })
        }
        "train" | "recompute" | "host" => {
            let activations = if task == "train" { Activations::Keep } else { Activations::Recompute };
            let moments = if task == "host" { MomentStorage::Blockwise8 } else { MomentStorage::F32 };
            let mut optimizer = AdamW::new(&model, AdamWSettings { moments, ..AdamWSettings::default() });
            let training = if task == "host" {
                DeviceTraining::with_host_optimizer(&model, &device, precision)
            } else {
                DeviceTraining::new(&model, &optimizer, &device, precision)
            };
            let mut training = training.expect("a model on the device");
            let coefficients = vec![1.0 / targets as f32; targets];
            measure(|| {
                let (on_device, gradients) = training.parts();
                gradients.zero();
                on_device.forward_backward_fixed(ids, batch, activations, &coefficients, gradients).expect("gradients");
                let clip_factor = (1.0 / gradients.global_norm().expect("a norm")).min(1.0);
                training.step(&mut model, &mut optimizer, 1e-4, clip_factor).expect("a step");
                device.synchronize().expect("an idle device");
            })
        }
        "decode" => {
            let device =
                DeviceTraining::with_host_optimizer(&model, &device, precision).expect("a model on the device");
            drop(model);
            let settings = Generation { tokens: DECODED + 1, stop: Vec::new(), sampling: Sampling::Greedy };
            let prompts: Vec<_> = ids.chunks_exact(ids.len() / batch).map(|ids| Prompt { ids, stream: 0 }).collect();
            // The prompts are read in the first `batch` looks.
            let mut looks = 0;
            let started = Cell::new(Instant::now());
            let mut watch = || {
                looks += 1;
                if looks % (batch + DECODED) == batch {
                    started.set(Instant::now());
                }
                Ok::<_, ModelError>(())
            };
            let mut seconds = Vec::new();
            for _ in 0..=LEAST {
                device.model().generate(&prompts, &settings, &mut watch).expect("texts");
                seconds.push(started.get().elapsed().as_secs_f64());
            }
            seconds.remove(0);
            seconds.sort_by(f64::total_cmp);
            Measured { seconds: seconds[seconds.len() / 2], repetitions: seconds.len(), others: 0.0 }
        }
        other => {
            panic!("unknown task `{other}` on a device, expected `score`, `train`, `recompute`, `host` or `decode`")
        }
    }
}

/// The shapes that both sides know.
fn config(name: &str) -> Config {
    let (hidden, layers, heads, key_value_heads, intermediate, vocabulary) = match name {
        "15m" => (288, 6, 6, 6, 768, 32_000),
        "135m" => (576, 30, 9, 3, 1536, 49_152),
        "1b" => (2048, 16, 32, 8, 8192, 128_256),
        "8b" => (4096, 32, 32, 8, 14_336, 128_256),
        other => panic!("unknown model `{other}`, expected `15m`, `135m`, `1b` or `8b`"),
    };
    let object = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary, "hidden_size": hidden,
        "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads, "rms_norm_eps": 1e-5, "max_position_embeddings": 65_536,
        "rope_theta": 10_000.0, "tie_word_embeddings": true,
    });
    let Value::Object(object) = object else { unreachable!() };
    Config::from_json("config.json".as_ref(), object).expect("a configuration")
}

struct Measured {
    /// Median of the repetitions.
    seconds: f64,
    repetitions: usize,
    /// Cores that other processes kept busy meanwhile.
    others: f64,
}

fn measure(mut work: impl FnMut()) -> Measured {
    let started = Instant::now();
    work();
    let least = if started.elapsed() > BUDGET { 1 } else { LEAST };
    let mut seconds = Vec::new();
    let (started, busy, own) = (Instant::now(), machine_seconds(), own_seconds());
    while seconds.len() < least || started.elapsed() < BUDGET {
        let started = Instant::now();
        work();
        seconds.push(started.elapsed().as_secs_f64());
    }
    let wall = started.elapsed().as_secs_f64();
    let others = ((machine_seconds() - busy) - (own_seconds() - own)).max(0.0) / wall;
    seconds.sort_by(f64::total_cmp);
    Measured { seconds: seconds[seconds.len() / 2], repetitions: seconds.len(), others }
}

/// Clock ticks a second in /proc, the same on every Linux that Rust runs on.
const TICKS: f64 = 100.0;

/// Seconds that all cores were busy since the start of the machine.
fn machine_seconds() -> f64 {
    let text = fs::read_to_string("/proc/stat").expect("/proc/stat");
    let fields = text.lines().next().expect("a line").split_whitespace().skip(1).take(8);
    let ticks: Vec<f64> = fields.map(|field| field.parse().expect("ticks")).collect();
    // The fourth and fifth count idle time.
    (ticks.iter().sum::<f64>() - ticks[3] - ticks[4]) / TICKS
}

/// Seconds of all cores that this process used.
fn own_seconds() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").expect("/proc/self/stat");
    let after_name = text.rsplit_once(')').expect("a name").1;
    after_name.split_whitespace().skip(11).take(2).map(|field| field.parse::<f64>().expect("ticks")).sum::<f64>()
        / TICKS
}

/// The largest resident size of this process.
fn peak_mib() -> u64 {
    let text = fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let line = text.lines().find(|line| line.starts_with("VmHWM")).expect("a peak");
    line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number") / 1024
}
