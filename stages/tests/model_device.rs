//! The device engine on candle's CPU device: against the CPU engine, and against PyTorch values. What it gives there,
//! the same operations give on CUDA, as far as rounding goes; where there is a CUDA device, all of it runs there too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod device_support;

use std::path::PathBuf;

use candle_core::Device;
use device_support::{Expected, architectures, assert_close, devices, ids, random_llama, real_models, saved};
use twdag_stages::model::{DeviceModel, Generation, Model, ModelError, Precision, Prompt, Rope, Sampling};

fn open(folder: &std::path::Path, device: &Device, precision: Precision) -> DeviceModel {
    DeviceModel::open(folder, None, device, precision).unwrap()
}

#[test]
fn losses_of_every_architecture_are_those_of_pytorch() {
    for device in devices() {
        for folder in architectures() {
            let (model, expected) = (open(&folder, &device, Precision::F32), Expected::open(&folder));
            let what = folder.display().to_string();
            let losses = model.score(&expected.ids("ids"), 2).unwrap();
            assert_close(&losses, &expected.numbers("cross_entropy"), 1e-4, &what);
            if expected.has("long_ids") {
                let losses = model.score(&expected.ids("long_ids"), 1).unwrap();
                assert_close(&losses, &expected.numbers("long_cross_entropy"), 1e-4, &what);
            }
        }
    }
}

#[test]
fn losses_of_real_models_are_those_of_the_cpu_engine() {
    for device in devices() {
        for folder in real_models() {
            let (model, cpu) = (open(&folder, &device, Precision::F32), Model::open(&folder).unwrap());
            let what = folder.display().to_string();
            let vocabulary = cpu.config().vocab_size;
            // More than a block of positions, and a batch that is filled up.
            for (length, batch) in [(1100, 1), (512, 2), (150, 3)] {
                let ids = ids(length * batch, vocabulary);
                let expected = cpu.score(&ids, batch).unwrap().cross_entropy;
                assert_close(&model.score(&ids, batch).unwrap(), &expected, 1e-4, &what);
            }
        }
    }
}

#[test]
fn most_probable_tokens_are_those_of_the_cpu_engine() {
    for device in devices() {
        for folder in real_models() {
            let (model, cpu) = (open(&folder, &device, Precision::F32), Model::open(&folder).unwrap());
            let ids = ids(3 * 150, cpu.config().vocab_size);
            let (found, expected) = (model.predict(&ids, 3).unwrap(), cpu.score(&ids, 3).unwrap());
            assert_eq!(found.cross_entropy, model.score(&ids, 3).unwrap());
            assert_eq!(found.argmax, expected.argmax, "{}", folder.display());
        }
    }
}

/// Prompts of more and of fewer tokens than a block of positions has, continued together and alone.
#[test]
fn texts_are_continued_as_by_the_cpu_engine() {
    let cpu = random_llama(6, 2, 4, 2, true);
    let folder = saved(&cpu);
    let folders = real_models().into_iter().chain([folder.path().to_owned()]);
    for (folder, device) in folders.flat_map(|folder| devices().into_iter().map(move |device| (folder.clone(), device)))
    {
        let (model, cpu) = (open(&folder, &device, Precision::F32), Model::open(&folder).unwrap());
        // More than go through the layers together; some end before others.
        let lengths: Vec<usize> = [511, 512, 530].into_iter().chain(1..=15).collect();
        let prompts: Vec<_> = lengths.into_iter().map(|length| ids(length, cpu.config().vocab_size)).collect();
        let prompts: Vec<_> =
            prompts.iter().enumerate().map(|(number, ids)| Prompt { ids, stream: number as u64 }).collect();
        let random = Sampling::Random { temperature: 0.7, top_k: Some(20), top_p: 0.95, seed: 3 };
        for sampling in [Sampling::Greedy, random] {
            let settings = Generation { tokens: 12, stop: vec![1], sampling };
            let mut watch = || Ok::<_, ModelError>(());
            let expected = cpu.generate(&prompts, &settings, &mut watch).unwrap();
            let found = model.generate(&prompts, &settings, &mut watch).unwrap();
            // A random number may fall so near a border that a rounding decides.
            let other = found.iter().zip(&expected).filter(|(found, expected)| found != expected).count();
            let allowed = if sampling == Sampling::Greedy { 0 } else { 2 };
            assert!(other <= allowed, "{}, {sampling:?}: {found:?}, expected {expected:?}", folder.display());
            if sampling != Sampling::Greedy {
                continue;
            }
            for (prompt, together) in prompts.iter().zip(&found) {
                let alone = model.generate(&[*prompt], &settings, &mut watch).unwrap();
                assert_eq!(alone[0], *together, "{}, {sampling:?}", folder.display());
            }
        }
    }
}

/// What is continued with bf16 products is what the same model says of its own text, but for tokens that are as good.
#[test]
fn texts_of_bf16_products_are_what_the_model_finds_probable() {
    for device in devices() {
        for folder in real_models() {
            let model = open(&folder, &device, Precision::Bf16);
            let prompt = ids(600, model.config().vocab_size);
            let settings = Generation { tokens: 24, stop: Vec::new(), sampling: Sampling::Greedy };
            let mut watch = || Ok::<_, ModelError>(());
            let said = model.generate(&[Prompt { ids: &prompt, stream: 0 }], &settings, &mut watch).unwrap();
            let whole = [prompt.as_slice(), &said[0].ids].concat();
            let found = model.predict(&whole, 1).unwrap();
            let agreed = said[0].ids.iter().zip(&found.argmax[599..]).filter(|(said, best)| said == best).count();
            assert!(agreed >= 21, "{}, {device:?}: {agreed} of 24", folder.display());
        }
    }
}

#[test]
fn continuing_can_be_stopped_and_refused() {
    let folder = saved(&random_llama(4, 2, 8, 1, true));
    let model = open(folder.path(), &Device::Cpu, Precision::F32);
    let settings = Generation { tokens: 5, stop: Vec::new(), sampling: Sampling::Greedy };
    let prompts = [Prompt { ids: &[1, 2, 3], stream: 0 }];
    let mut calls = 0;
    let stopped = model.generate(&prompts, &settings, &mut || {
        calls += 1;
        if calls < 3 { Ok(()) } else { Err(ModelError::Device { problem: "stopped".to_owned() }) }
    });
    assert!(matches!(stopped, Err(ModelError::Device { problem }) if problem == "stopped") && calls == 3);
    let mut watch = || Ok::<_, ModelError>(());
    let outside = [Prompt { ids: &[1, 40], stream: 0 }];
    insta::assert_snapshot!(model.generate(&outside, &settings, &mut watch).unwrap_err(), @"token 40 at sequence 0, position 1 is outside the model's vocabulary of 37; the tokens were made with another tokenizer");
    let none = Generation { tokens: 0, ..settings };
    assert_eq!(model.generate(&prompts, &none, &mut watch).unwrap()[0].ids, Vec::<u32>::new());
}

#[test]
fn every_kind_of_heads_over_several_blocks() {
    for (heads, key_value_heads, head_dim, tied) in [(6, 2, 4, true), (2, 2, 16, false), (3, 1, 8, true)] {
        let cpu = random_llama(heads, key_value_heads, head_dim, 2, tied);
        let folder = saved(&cpu);
        for device in devices() {
            let model = open(folder.path(), &device, Precision::F32);
            for (length, batch) in [(1, 2), (2, 1), (511, 1), (512, 1), (513, 2), (1600, 1)] {
                let ids = ids(length * batch, 37);
                let expected = cpu.score(&ids, batch).unwrap().cross_entropy;
                let what = format!("{heads} heads, {length} tokens");
                assert_close(&model.score(&ids, batch).unwrap(), &expected, 1e-4, &what);
            }
        }
    }
}

#[test]
fn another_rotary_embedding_is_followed() {
    let cpu = random_llama(4, 2, 8, 2, true);
    let folder = saved(&cpu);
    let ropes = [
        Rope::Linear { theta: 100.0, factor: 4.0 },
        Rope::DynamicNtk { theta: 100.0, factor: 2.0, original_context: 64 },
        Rope::Yarn {
            theta: 100.0,
            factor: 4.0,
            original_context: 64,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: None,
            truncate: true,
        },
    ];
    let plain = cpu.score(&ids(200, 37), 1).unwrap().cross_entropy;
    for rope in ropes {
        let cpu = Model::open_with_rope(folder.path(), rope.clone()).unwrap();
        for device in devices() {
            let model = DeviceModel::open(folder.path(), Some(rope.clone()), &device, Precision::F32).unwrap();
            for length in [200, 90] {
                let ids = ids(length, 37);
                let expected = cpu.score(&ids, 1).unwrap().cross_entropy;
                assert_close(&model.score(&ids, 1).unwrap(), &expected, 1e-4, &format!("{rope:?}"));
            }
            let found = model.score(&ids(200, 37), 1).unwrap();
            assert!(found.iter().zip(&plain).any(|(found, plain)| (found - plain).abs() > 1e-2), "{rope:?}");
        }
    }
}

/// On CUDA, products may give a row other bits in another place, so there it is the sequences before it that must be the same.
#[test]
fn a_sequence_gets_the_same_bits_whatever_follows_it() {
    for device in devices() {
        for (folder, precision) in
            architectures().into_iter().flat_map(|folder| [(folder.clone(), Precision::F32), (folder, Precision::Bf16)])
        {
            let model = open(&folder, &device, precision);
            let ids = ids(40 * 75, 23);
            let bits = |losses: &[f32]| losses.iter().map(|loss| loss.to_bits()).collect::<Vec<_>>();
            let all = bits(&model.score(&ids, 40).unwrap());
            let what = format!("{}, {precision:?}, {device:?}", folder.display());
            assert!(all == bits(&model.score(&ids, 40).unwrap()), "{what}: a second time");
            for count in [1, 3, 30] {
                let found = bits(&model.score(&ids[..count * 75], count).unwrap());
                assert!(all[..count * 74] == found, "{what}: {count} sequences");
            }
            if device.is_cpu() {
                let alone: Vec<_> = ids.chunks(75).flat_map(|ids| bits(&model.score(ids, 1).unwrap())).collect();
                assert!(all == alone, "{what}: alone");
            }
        }
    }
}

#[test]
fn bf16_products_are_near_those_of_f32() {
    for device in devices() {
        for folder in real_models().into_iter().chain(architectures()) {
            let ids = ids(2 * 120, 20);
            let exact = open(&folder, &device, Precision::F32).score(&ids, 2).unwrap();
            let rounded = open(&folder, &device, Precision::Bf16).score(&ids, 2).unwrap();
            let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
            let what = folder.display();
            assert!((mean(&rounded) / mean(&exact) - 1.0).abs() < 5e-3, "{what}: {} {}", mean(&rounded), mean(&exact));
            assert!(rounded != exact, "{what}: nothing was rounded");
        }
    }
}

#[test]
fn bad_batches_and_folders_are_refused() {
    let cpu = random_llama(4, 2, 8, 1, true);
    let folder = saved(&cpu);
    let model = open(folder.path(), &Device::Cpu, Precision::F32);
    let refused = |ids: &[u32], batch| model.score(ids, batch).unwrap_err().to_string();
    insta::assert_snapshot!(refused(&[1, 2, 3], 2), @"number of token ids: found 3, expected a positive multiple of the 2 sequences");
    insta::assert_snapshot!(refused(&[1, 37], 1), @"token 37 at sequence 0, position 1 is outside the model's vocabulary of 37; the tokens were made with another tokenizer");
    let missing = DeviceModel::open(&PathBuf::from("no-such-folder"), None, &Device::Cpu, Precision::F32);
    assert!(matches!(missing, Err(ModelError::Io { .. })));
}
