//! Gradients of the device engine, every parameter: against PyTorch's, against the CPU engine's, and against slopes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod device_support;

use std::path::Path;

use candle_core::Device;
use device_support::{Expected, architectures, assert_close, devices, ids, random_llama, real_models, saved};
use twdag_stages::model::{Activations, DeviceGradients, DeviceModel, Gradients, Model, ModelError, Precision};

fn open(folder: &Path, device: &Device, precision: Precision) -> DeviceModel {
    DeviceModel::open(folder, None, device, precision).unwrap()
}

/// Uneven, some zero.
fn weights(count: usize) -> Vec<f32> {
    (0..count).map(|i| [0.01, 0.0, 0.03, 0.005, 0.02][i % 5]).collect()
}

fn norm(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

/// How far two gradients of one tensor are apart, as a share of the expected one.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    norm(found.iter().zip(expected).map(|(a, b)| a - b)) / norm(expected.iter().copied())
}

#[test]
fn the_gradient_of_every_parameter_is_that_of_pytorch() {
    for device in devices() {
        for folder in architectures() {
            let (model, expected) = (open(&folder, &device, Precision::F32), Expected::open(&folder));
            let layout = Model::open(&folder).unwrap().layout().clone();
            let (ids, coefficients) = (expected.ids("ids"), expected.numbers("coefficients"));
            for activations in [Activations::Keep, Activations::Recompute] {
                let mut gradients = DeviceGradients::zeros_like(&model);
                let losses = model.forward_backward_fixed(&ids, 2, activations, &coefficients, &mut gradients).unwrap();
                assert_close(&losses, &expected.numbers("cross_entropy"), 1e-4, &folder.display().to_string());
                let found = gradients.values().unwrap();
                for tensor in layout.tensors() {
                    let expected = expected.numbers(&format!("gradient.{}", tensor.name));
                    let off = distance(&found[tensor.range.clone()], &expected);
                    assert!(off <= 1e-4, "{}: {} is off by {off:e}", folder.display(), tensor.name);
                }
            }
        }
    }
}

/// Against the CPU engine, which is compared with PyTorch and with finite differences in tests of its own.
fn check(folder: &Path, length: usize, batch: usize) {
    let cpu = Model::open(folder).unwrap();
    let ids = ids(length * batch, cpu.config().vocab_size);
    let mut expected = Gradients::zeros_like(&cpu);
    let coefficients = weights(batch * (length - 1));
    let losses = cpu.forward_backward_fixed(&ids, batch, &coefficients, &mut expected).unwrap();
    for device in devices() {
        let model = open(folder, &device, Precision::F32);
        let mut gradients = DeviceGradients::zeros_like(&model);
        let what = format!("{}, {length} tokens", folder.display());
        let found = model
            .forward_backward(
                &ids,
                batch,
                Activations::Keep,
                |found| {
                    assert_close(found, &losses, 1e-4, &what);
                    Ok::<_, ModelError>(coefficients.clone())
                },
                &mut gradients,
            )
            .unwrap();
        assert_close(&found, &model.score(&ids, batch).unwrap(), 1e-4, &what);
        let values = gradients.values().unwrap();
        for tensor in cpu.layout().tensors() {
            let expected = &expected.values()[tensor.range.clone()];
            assert!(norm(expected.iter().copied()) > 1e-7, "{what}: {} has no gradient", tensor.name);
            let off = distance(&values[tensor.range.clone()], expected);
            assert!(off <= 1e-4, "{what}: {} is off by {off:e}", tensor.name);
        }
        let norm = gradients.global_norm().unwrap();
        assert!((norm / expected.global_norm() - 1.0).abs() < 1e-5, "{what}: norm {norm}");

        // A second call adds; zeros are zeros.
        let fixed = model.forward_backward_fixed(&ids, batch, Activations::Recompute, &coefficients, &mut gradients);
        assert_eq!(fixed.unwrap(), found, "{what}");
        assert!((gradients.global_norm().unwrap() / norm - 2.0).abs() < 1e-6, "{what}");
        gradients.zero();
        assert!(
            gradients.values().unwrap().iter().all(|value| *value == 0.0) && gradients.global_norm().unwrap() == 0.0
        );
    }
}

#[test]
fn gradients_of_real_models_are_those_of_the_cpu_engine() {
    for folder in real_models() {
        check(&folder, 150, 2);
        check(&folder, 700, 1);
    }
}

#[test]
fn gradients_over_several_blocks_of_positions() {
    for (heads, key_value_heads, head_dim, tied) in [(6, 2, 4, true), (2, 2, 16, false), (3, 1, 8, true)] {
        let folder = saved(&random_llama(heads, key_value_heads, head_dim, 2, tied));
        for (length, batch) in [(9, 2), (512, 1), (1300, 1)] {
            check(folder.path(), length, batch);
        }
    }
}

#[test]
fn the_gradient_is_the_slope_of_the_loss() {
    // A check that shares no formula with another engine: along the gradient the loss changes by its squared length.
    for folder in architectures() {
        let cpu = Model::open(&folder).unwrap();
        let ids = ids(2 * 40, cpu.config().vocab_size);
        let coefficients = weights(2 * 39);
        let model = open(&folder, &Device::Cpu, Precision::F32);
        let mut gradients = DeviceGradients::zeros_like(&model);
        model.forward_backward_fixed(&ids, 2, Activations::Keep, &coefficients, &mut gradients).unwrap();
        let (values, length) = (gradients.values().unwrap(), gradients.global_norm().unwrap());
        let loss = |step: f64| {
            let mut moved = Model::open(&folder).unwrap();
            moved.update(|parameters| {
                for (parameter, gradient) in parameters.iter_mut().zip(&values) {
                    *parameter += (step * f64::from(*gradient) / length) as f32;
                }
            });
            let losses = open(saved(&moved).path(), &Device::Cpu, Precision::F32).score(&ids, 2).unwrap();
            losses.iter().zip(&coefficients).map(|(loss, weight)| f64::from(*loss) * f64::from(*weight)).sum::<f64>()
        };
        let step = 2e-3;
        let slope = (loss(step) - loss(-step)) / (2.0 * step);
        assert!((slope / length - 1.0).abs() < 1e-3, "{}: slope {slope}, gradient {length}", folder.display());
    }
}

#[test]
fn gradients_of_bf16_products_point_the_same_way() {
    for device in devices() {
        for folder in real_models() {
            let ids = ids(2 * 120, 20);
            let coefficients = weights(2 * 119);
            let gradients = |precision| {
                let model = open(&folder, &device, precision);
                let mut gradients = DeviceGradients::zeros_like(&model);
                model.forward_backward_fixed(&ids, 2, Activations::Keep, &coefficients, &mut gradients).unwrap();
                gradients.values().unwrap()
            };
            let (exact, rounded) = (gradients(Precision::F32), gradients(Precision::Bf16));
            let off = distance(&rounded, &exact);
            assert!(off > 1e-4 && off < 0.03, "{}: off by {off}", folder.display());
        }
    }
}

/// On CUDA by kernels of our own where these know a head's width (16 to 128), and else by candle's operations, tensor by
/// tensor against f32 on the same device. The same bits come a second time.
#[test]
fn bf16_gradients_of_every_width_of_heads() {
    for (heads, key_value_heads, head_dim) in [(4, 2, 16), (8, 2, 64), (3, 1, 80), (4, 1, 128), (2, 1, 12), (2, 1, 144)]
    {
        let folder = saved(&random_llama(heads, key_value_heads, head_dim, 2, false));
        let layout = Model::open(folder.path()).unwrap().layout().clone();
        for (device, (length, batch)) in devices()
            .into_iter()
            .flat_map(|device| [(3, 2), (64, 1), (129, 2), (700, 1)].map(|size| (device.clone(), size)))
        {
            let ids = ids(length * batch, 37);
            let coefficients = weights(batch * (length - 1));
            let run = |precision| {
                let model = open(folder.path(), &device, precision);
                let mut gradients = DeviceGradients::zeros_like(&model);
                let losses = model
                    .forward_backward_fixed(&ids, batch, Activations::Recompute, &coefficients, &mut gradients)
                    .unwrap();
                (losses, gradients.values().unwrap())
            };
            let (exact, rounded) = (run(Precision::F32), run(Precision::Bf16));
            let what = format!("{heads} heads of {head_dim}, {batch} times {length} tokens, {device:?}");
            assert!(run(Precision::Bf16) == rounded, "{what}: other bits");
            assert!(distance(&rounded.0, &exact.0) < 0.02, "{what}: losses");
            // With so few keys the gradients of queries are small differences of large numbers.
            for tensor in layout.tensors().iter().filter(|_| length > 3) {
                let off = distance(&rounded.1[tensor.range.clone()], &exact.1[tensor.range.clone()]);
                assert!(off < 0.15, "{what}: {} is off by {off}", tensor.name);
            }
        }
    }
}

#[test]
fn the_number_of_coefficients_is_checked() {
    let folder = saved(&random_llama(4, 2, 8, 1, true));
    let model = open(folder.path(), &Device::Cpu, Precision::F32);
    let mut gradients = DeviceGradients::zeros_like(&model);
    let refused = model.forward_backward_fixed(&[1, 2, 3], 1, Activations::Keep, &[0.5; 3], &mut gradients);
    insta::assert_snapshot!(refused.unwrap_err(), @"number of coefficients: found 3, expected 2");
}
