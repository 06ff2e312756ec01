//! What memory is said to be taken against what processes take.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::{env, fs, process::Command};

use serde_json::json;
use twdag_stages::model::{
    Activations, AdamW, AdamWSettings, Adapter, AdapterSettings, Config, Gradients, MemoryBudget, Model, MomentStorage,
    Precision, Purpose,
};

// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const THREADS: usize = 2;
const CASE: &str = "TWDAG_TEST_MEMORY_CASE";

struct Case {
    name: &'static str,
    /// As in `config.json`.
    architecture: &'static str,
    /// Hidden size, layers, heads, key-value heads, intermediate size, vocabulary.
    shape: [usize; 6],
    batch: usize,
    length: usize,
    precision: Precision,
    purpose: Purpose,
}

fn cases() -> Vec<Case> {
    let wide = [512, 8, 8, 2, 1408, 8000];
    let many_tokens = [192, 6, 6, 6, 512, 1000];
    let many_words = [256, 2, 4, 4, 512, 60_000];
    let adapter = AdapterSettings { rank: 8, alpha: 16.0, rslora: false, targets: Vec::new() };
    let train = |activations, moments, adapter| Purpose::Train { activations, moments, adapter };
    let full = train(Activations::Keep, MomentStorage::F32, None);
    let case = |name, shape, batch, length, purpose: &Purpose| {
        let (purpose, precision) = (purpose.clone(), Precision::F32);
        Case { name, architecture: "llama", shape, batch, length, precision, purpose }
    };
    let phi = |name, shape, batch, length, purpose: &Purpose| {
        let architecture = "phi";
        Case { architecture, ..case(name, shape, batch, length, purpose) }
    };
    let bf16 = |name, shape, batch, length, purpose: &Purpose| {
        let precision = Precision::Bf16;
        Case { precision, ..case(name, shape, batch, length, purpose) }
    };
    vec![
        case("score wide", wide, 2, 1024, &Purpose::Score),
        case("score many tokens", many_tokens, 1, 12_000, &Purpose::Score),
        case("score a large batch", many_tokens, 40, 512, &Purpose::Score),
        case("score many words", many_words, 1, 512, &Purpose::Score),
        case("train wide", wide, 2, 512, &full),
        case("train many tokens", many_tokens, 1, 4096, &full),
        case("train many words", many_words, 1, 512, &full),
        case("recompute", many_tokens, 1, 6000, &train(Activations::Recompute, MomentStorage::F32, None)),
        case("eight bits", wide, 1, 512, &train(Activations::Keep, MomentStorage::Blockwise8, None)),
        case("adapter", wide, 1, 512, &train(Activations::Keep, MomentStorage::F32, Some(adapter.clone()))),
        phi("score a phi", wide, 2, 1024, &Purpose::Score),
        phi("score a phi of many tokens", many_tokens, 1, 12_000, &Purpose::Score),
        phi("train a phi", wide, 2, 512, &full),
        phi("train a phi of many tokens", many_tokens, 1, 4096, &full),
        bf16("score wide in bf16", wide, 2, 1024, &Purpose::Score),
        bf16("score many words in bf16", many_words, 1, 512, &Purpose::Score),
        bf16("train wide in bf16", wide, 2, 512, &full),
        bf16("train many tokens in bf16", many_tokens, 1, 4096, &full),
        bf16("train many words in bf16", many_words, 1, 512, &full),
        bf16("adapter in bf16", wide, 1, 512, &train(Activations::Keep, MomentStorage::F32, Some(adapter))),
    ]
}

fn config(model_type: &str, shape: [usize; 6]) -> Config {
    let [hidden, layers, heads, key_value_heads, intermediate, vocabulary] = shape;
    let epsilon = if model_type == "phi" { "layer_norm_eps" } else { "rms_norm_eps" };
    let object = json!({
        "model_type": model_type, "vocab_size": vocabulary, "hidden_size": hidden,
        "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads, epsilon: 1e-5, "max_position_embeddings": 65_536,
        "rope_theta": 10_000.0, "tie_word_embeddings": true,
    });
    Config::from_json("config.json".as_ref(), object.as_object().unwrap().clone()).unwrap()
}

fn budget(case: &Case) -> MemoryBudget {
    let Case { batch, length, precision, purpose, .. } = case;
    MemoryBudget::new(&config(case.architecture, case.shape), *batch, *length, THREADS, *precision, purpose).unwrap()
}

/// The most that this process had in memory so far, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
#[ignore = "started by `peaks_are_as_counted`, once for each case"]
fn the_work_of_one_case() {
    let wanted = env::var(CASE).unwrap();
    let case = cases().into_iter().find(|case| case.name == wanted).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build().unwrap();
    pool.install(|| work(&case));
    println!("peak {}", peak());
}

fn work(case: &Case) {
    let mut model = Model::initialize(config(case.architecture, case.shape), 0.02, 0);
    model.set_precision(case.precision);
    let vocabulary = model.config().vocab_size as u32;
    let ids: Vec<u32> =
        (0..(case.batch * case.length) as u32).map(|i| i.wrapping_mul(2_654_435_761) % vocabulary).collect();
    let Purpose::Train { activations, moments, adapter } = &case.purpose else {
        model.score(&ids, case.batch).unwrap();
        return;
    };
    model.set_activations(*activations);
    if let Some(settings) = adapter {
        let adapter = Adapter::initialize(&model, settings.clone(), 0).unwrap();
        model.set_adapter(adapter).unwrap();
    }
    let mut optimizer = AdamW::new(&model, AdamWSettings { moments: *moments, ..AdamWSettings::default() });
    let mut gradients = Gradients::zeros_like(&model);
    let targets = ids.len() - case.batch;
    let coefficients = vec![1.0 / targets as f32; targets];
    for _ in 0..2 {
        gradients.zero();
        model.forward_backward_fixed(&ids, case.batch, &coefficients, &mut gradients).unwrap();
        optimizer.step(&mut model, &gradients, 1e-4, 1.0).unwrap();
    }
}

const FOLDER: &str = "TWDAG_TEST_MEMORY_FOLDER";

#[test]
#[ignore = "started by `opening_a_model_holds_it_once`"]
fn a_model_is_opened() {
    let model = Model::open(env::var(FOLDER).unwrap().as_ref()).unwrap();
    println!("peak {} of {}", peak(), size_of_val(model.parameters()));
}

#[test]
fn opening_a_model_holds_it_once() {
    let folder = tempfile::tempdir().unwrap();
    Model::initialize(config("llama", [768, 6, 12, 12, 2048, 20_000]), 0.02, 0).save(folder.path()).unwrap();
    let said = Command::new(env::current_exe().unwrap())
        .args(["--exact", "a_model_is_opened", "--ignored", "--nocapture"])
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let (peak, model) = said.lines().find_map(|line| line.split("peak ").nth(1)?.split_once(" of ")).expect(&said);
    let (peak, model): (u64, u64) = (peak.parse().unwrap(), model.parse().unwrap());
    println!("{} MiB for a model of {} MiB", peak >> 20, model >> 20);
    // The largest tensor, of 59 MiB, is there twice for a moment.
    assert!(model > 200 << 20 && peak < model + (96 << 20), "{said}");
}

#[test]
fn peaks_are_as_counted() {
    let mut wrong = Vec::new();
    for case in cases() {
        let said = Command::new(env::current_exe().unwrap())
            .args(["--exact", "the_work_of_one_case", "--ignored", "--nocapture"])
            .env(CASE, case.name)
            .output()
            .unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let measured: u64 = said.lines().find_map(|line| line.split("peak ").nth(1)).expect(&said).parse().unwrap();
        let counted = budget(&case).total();
        let ratio = counted as f64 / measured as f64;
        println!("{}: counted {} MiB, measured {} MiB, ratio {ratio:.3}", case.name, counted >> 20, measured >> 20);
        if !(0.85..=1.15).contains(&ratio) {
            wrong.push(format!("{}: {ratio:.3}; {:?}", case.name, budget(&case)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The shape of Llama-3 8B.
fn large() -> Config {
    let object = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128_256, "hidden_size": 4096,
        "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5, "max_position_embeddings": 8192, "rope_theta": 500_000.0, "tie_word_embeddings": false,
    });
    Config::from_json("config.json".as_ref(), object.as_object().unwrap().clone()).unwrap()
}

#[test]
fn the_documented_budget_of_a_large_model_is_the_counted_one() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/memory.md");
    let page = fs::read_to_string(page).unwrap();
    let adapter = AdapterSettings { rank: 16, alpha: 32.0, rslora: false, targets: Vec::new() };
    let train = |activations, adapter| Purpose::Train { activations, moments: MomentStorage::F32, adapter };
    let purposes = [
        train(Activations::Keep, None),
        train(Activations::Recompute, None),
        train(Activations::Recompute, Some(adapter)),
        Purpose::Score,
    ];
    let budgets = purposes.map(|purpose| MemoryBudget::new(&large(), 1, 32_768, 2, Precision::F32, &purpose).unwrap());
    // 128256 * 4096 * 2 for embedding and head, 32 blocks of 218112000, the last norm.
    assert_eq!(budgets[3].parameters, 4 * 8_030_261_248);
    let row = |name: &str, bytes: [u64; 4]| {
        let cells = bytes.map(|bytes| format!("{:.2}", bytes as f64 / 1e9));
        format!("| {name} | {} |\n", cells.join(" | "))
    };
    for number in 0..budgets[0].parts().len() {
        let (name, _) = budgets[0].parts()[number];
        let row = row(name, budgets.clone().map(|budget| budget.parts()[number].1));
        assert!(page.contains(&row), "docs/memory.md lacks {row}");
    }
    let row = row("**together**", budgets.map(|budget| budget.total()));
    assert!(page.contains(&row), "docs/memory.md lacks {row}");
}
