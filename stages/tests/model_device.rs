//! The device engine on candle's CPU device: against the CPU engine, and against PyTorch values. What it gives there,
//! the same operations give on CUDA, as far as rounding goes; where there is a CUDA device, all of it runs there too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod device_support;

use std::path::PathBuf;

use candle_core::Device;
use device_support::{Expected, architectures, assert_close, devices, ids, random_llama, real_models, saved};
use twdag_stages::model::{DeviceModel, Model, ModelError, Precision, Rope};

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

#[test]
fn a_sequence_gets_the_same_bits_alone_and_among_others() {
    for device in devices() {
        for folder in architectures() {
            let model = open(&folder, &device, Precision::F32);
            let ids = ids(40 * 75, 23);
            let together = model.score(&ids, 40).unwrap();
            let alone: Vec<f32> = ids.chunks(75).flat_map(|ids| model.score(ids, 1).unwrap()).collect();
            let bits = |losses: &[f32]| losses.iter().map(|loss| loss.to_bits()).collect::<Vec<_>>();
            assert!(bits(&together) == bits(&alone), "{}", folder.display());
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
