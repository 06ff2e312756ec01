//! What stages are told to cost before anything is there, against numbers that were worked out by hand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::json;
use twdag_stages::{
    model::{Activations, ComputeDevice, Cost, MomentStorage, Precision, Purpose},
    registry::{find, ron_options},
    stage::{Estimate, Outlook, Reference},
};

/// What a stage, as a graph has it, tells if all that it reads is as given.
fn estimate(stage: &str, input: &dyn Fn(&Reference) -> Outlook) -> Estimate {
    let kind = find(stage.split_once('(').unwrap().0).unwrap();
    kind.from_ron(&ron_options(), stage).unwrap().estimate(input)
}

fn model(repository: &str) -> Outlook {
    estimate(&format!("Download(from: Hub(repository: \"{repository}\"))"), &|_| Outlook::default()).outlook
}

/// Input `tokens` is a token set of that form, all others are the model.
fn with(model: &Outlook, sequences: u64, length: u64) -> impl Fn(&Reference) -> Outlook {
    move |reference| {
        if reference.stage() == "tokens" {
            return Outlook { sequences: Some(sequences), length: Some(length), ..Outlook::default() };
        }
        model.clone()
    }
}

#[test]
fn known_models_have_the_parameters_that_their_makers_count() {
    for (repository, parameters) in [
        ("meta-llama/Meta-Llama-3-8B", 8_030_261_248),
        ("meta-llama/Llama-3.2-1B", 1_235_814_400),
        ("microsoft/phi-2", 2_779_683_840),
    ] {
        let outlook = model(repository);
        assert_eq!(outlook.bytes, Some(2 * parameters), "{repository}");
        let extended = "ExtendRope(model: \"model\", context: 32768, method: Linear)";
        assert_eq!(estimate(extended, &|_| outlook.clone()).outlook.bytes, outlook.bytes, "{repository}");
        let scored = estimate("Score(model: \"model\", tokens: \"tokens\")", &with(&outlook, 1, 2048));
        assert_eq!(scored.work.unwrap().parameters, parameters, "{repository}");
    }
    assert_eq!(model("somebody/unknown"), Outlook::default());
}

#[test]
fn scoring_and_training_cost_what_the_hand_calculation_says() {
    let llama = model("meta-llama/Meta-Llama-3-8B");
    let tokens = with(&llama, 3840, 32_768);
    // Without the embedding, which is only looked up, 8,030,261,248 - 128,256 * 4096 parameters are multiplied with.
    let matrices = 2.0 * 7_504_924_672.0;
    let attention = |length: f64| 2.0 * 32.0 * 4096.0 * length;
    let forward = |length: f64| matrices + attention(length);
    // Back, a matrix has two products for one forward (with an adapter one), attention five for two.
    let passes = |of_matrices: f64, of_attention: f64| {
        125_829_120.0 * (of_matrices * matrices + of_attention * attention(32_768.0))
    };

    let score = "Score(model: \"model\", tokens: \"tokens\", windows: (length: 8192, step: 6144), device: Cuda(precision: Bf16))";
    let scored = estimate(score, &tokens);
    assert_eq!(scored.outlook.bytes, Some(3840 * 32_767 * 4));
    let work = scored.work.unwrap();
    assert_eq!((work.forward_tokens, work.training_tokens), (3840 * 5 * 8192, 0));
    assert_eq!(work.operations, 157_286_400.0 * forward(8192.0));
    assert!(work.is_on_device && work.is_bf16);
    // 2 bytes for each parameter, and 184 kB for each token of a window.
    assert!((17.9e9..18.5e9).contains(&(work.memory as f64)), "{}", work.memory);

    let train = |more: &str| {
        let stage = format!("Train(model: \"model\", tokens: \"tokens\", steps: 240, batch: 16{more})");
        estimate(&stage, &tokens).work.unwrap()
    };
    let kept = train("");
    assert_eq!(kept.operations, passes(3.0, 3.5));
    // docs/memory.md has 348.06 and 165.17 GB, with two threads.
    assert!((347.5e9..351e9).contains(&(kept.memory as f64)), "{}", kept.memory);
    let again = train(", activations: Recompute");
    assert_eq!((again.training_tokens, again.operations), (125_829_120, passes(4.0, 4.5)));
    assert!((164.5e9..168e9).contains(&(again.memory as f64)), "{}", again.memory);
    let unfrozen = train(", weighting: Unfrozen(windows: (length: 8192, step: 6144), shape: Dense(lambda: 0.75))");
    assert_eq!(unfrozen.forward_tokens, 3840 * 4 * 8192);
    assert_eq!(unfrozen.operations, kept.operations + 125_829_120.0 * forward(8192.0));
    let lora = train(", lora: (rank: 16, alpha: 32), activations: Recompute");
    assert_eq!(lora.operations, passes(3.0, 4.5));
    assert!((69e9..72e9).contains(&(lora.memory as f64)), "{}", lora.memory);
    let on_device = train(", activations: Recompute, device: Cuda(precision: Bf16)");
    // Without masters and moments: 6 bytes for each parameter where there were 18.
    let host = train(", activations: Recompute, device: Cuda(precision: Bf16), optimizer: Host");
    assert_eq!(on_device.memory - host.memory, 12 * 8_030_261_248);
    assert!((57e9..60e9).contains(&(host.memory as f64)), "{}", host.memory);
}

/// Peaks of the whole device, in MiB, as `nvidia-smi` had them on an H100 while `benches/engine.rs` ran (docs/memory.md).
#[test]
fn a_device_takes_what_was_measured() {
    let shape = |hidden: usize, layers: usize, inner: usize| {
        let object = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128_256, "hidden_size": hidden,
            "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": 32,
            "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "max_position_embeddings": 65_536, "rope_theta": 10_000.0,
            "tie_word_embeddings": true,
        });
        Cost::of(object.as_object().unwrap().clone()).unwrap()
    };
    let (small, large) = (shape(2048, 16, 8192), shape(4096, 32, 14_336));
    let train = Purpose::Train { activations: Activations::Recompute, moments: MomentStorage::F32, adapter: None };
    for (what, cost, length, purpose, on_host, measured) in [
        ("score 1b 8192", &small, 8192, &Purpose::Score, false, 3885.0),
        ("score 1b 32768", &small, 32_768, &Purpose::Score, false, 6413.0),
        ("recompute 1b 8192", &small, 8192, &train, false, 24_559.0),
        ("score 8b 32768", &large, 32_768, &Purpose::Score, false, 21_325.0),
        ("host 8b 32768", &large, 32_768, &train, true, 56_591.0),
    ] {
        let device = ComputeDevice::Cuda { precision: Precision::Bf16 };
        let counted = cost.memory(1, length, purpose, device, on_host).unwrap() as f64 / f64::from(1 << 20);
        let ratio = counted / measured;
        assert!((0.85..1.15).contains(&ratio), "{what}: counted {counted:.0}, measured {measured}, {ratio:.3}");
    }
}

#[test]
fn what_is_not_known_is_not_counted_as_nothing() {
    let phi = model("microsoft/phi-2");
    let tokens = with(&phi, 10, 512);
    let evaluate = |tasks: &str| estimate(&format!("Evaluate(model: \"model\", tasks: {{{tasks}}})"), &tokens).work;
    let losses = "\"losses\": LossByPosition(tokens: \"tokens\", buckets: 2)";
    assert_eq!(evaluate(losses).unwrap().forward_tokens, 10 * 512);
    assert_eq!(evaluate(&format!("{losses}, \"choice\": MultipleChoice(data: \"questions\")")), None);
    let needles = |score: &str| {
        evaluate(&format!("\"needles\": Needles(lengths: [1024], depths: [0.0, 1.0], samples: 3{score})")).unwrap()
    };
    assert_eq!(needles("").forward_tokens, 2 * 3 * 1024);
    assert_eq!(needles(", score: Ranking").forward_tokens, 2 * 3 * 10 * 1024);
    // A step holds no more sequences than its batch.
    let train = |batch: usize| {
        let stage = format!("Train(model: \"model\", tokens: \"tokens\", steps: 1, batch: {batch})");
        estimate(&stage, &tokens).work.unwrap().memory
    };
    assert!(train(1) < train(2));
}
