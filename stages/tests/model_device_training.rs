//! Training on a device: the same course as on the CPU engine, and the same bits after an interruption.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod device_support;

use candle_core::Device;
use device_support::{devices, ids, random_llama, real_models, saved};
use twdag_stages::model::{
    Activations, AdamW, AdamWSettings, Adapter, AdapterSettings, DeviceTraining, Gradients, Model, MomentStorage,
    Precision,
};

const SETTINGS: AdamWSettings =
    AdamWSettings { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, moments: MomentStorage::F32 };
const LEARNING_RATE: f64 = 1e-3;

/// As `torch.nn.utils.clip_grad_norm_` does it.
fn clip_factor(norm: f64) -> f64 {
    (1.0 / (norm + 1e-6)).min(1.0)
}

/// Some steps on the device; the mean losses before each.
fn train(
    training: &mut DeviceTraining,
    (host, optimizer): (&mut Model, &mut AdamW),
    ids: &[u32],
    batch: usize,
    steps: usize,
) -> Vec<f64> {
    let targets = ids.len() - batch;
    let coefficients = vec![1.0 / targets as f32; targets];
    let mut course = Vec::new();
    for _ in 0..steps {
        let (model, gradients) = training.parts();
        gradients.zero();
        let losses =
            model.forward_backward_fixed(ids, batch, Activations::Recompute, &coefficients, gradients).unwrap();
        course.push(losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / targets as f64);
        let factor = clip_factor(gradients.global_norm().unwrap());
        training.step(host, optimizer, LEARNING_RATE, factor).unwrap();
    }
    course
}

/// The same on the CPU engine.
fn train_on_cpu(model: &mut Model, optimizer: &mut AdamW, ids: &[u32], batch: usize, steps: usize) -> Vec<f64> {
    let targets = ids.len() - batch;
    let coefficients = vec![1.0 / targets as f32; targets];
    let mut gradients = Gradients::zeros_like(model);
    let mut course = Vec::new();
    for _ in 0..steps {
        gradients.zero();
        let losses = model.forward_backward_fixed(ids, batch, &coefficients, &mut gradients).unwrap();
        course.push(losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / targets as f64);
        optimizer.step(model, &gradients, LEARNING_RATE, clip_factor(gradients.global_norm())).unwrap();
    }
    course
}

/// A model and its optimizer on a device, the optimizer there or on the host.
fn on(device: &Device, precision: Precision, on_host: bool, model: &Model, optimizer: &AdamW) -> DeviceTraining {
    let training = if on_host {
        DeviceTraining::with_host_optimizer(model, device, precision)
    } else {
        DeviceTraining::new(model, optimizer, device, precision)
    };
    training.unwrap()
}

#[test]
fn twenty_steps_take_the_course_of_the_cpu_engine() {
    for (device, on_host) in devices().into_iter().flat_map(|device| [(device.clone(), false), (device, true)]) {
        for folder in real_models() {
            let what = folder.display();
            let (mut cpu, mut host) = (Model::open(&folder).unwrap(), Model::open(&folder).unwrap());
            let ids = ids(2 * 96, cpu.config().vocab_size);
            let mut optimizer = AdamW::new(&cpu, SETTINGS);
            let mut training = on(&device, Precision::F32, on_host, &host, &optimizer);
            let found = train(&mut training, (&mut host, &mut optimizer), &ids, 2, 20);
            let mut optimizer = AdamW::new(&cpu, SETTINGS);
            let expected = train_on_cpu(&mut cpu, &mut optimizer, &ids, 2, 20);
            for (step, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert!((found / expected - 1.0).abs() <= 1e-3, "{what}, step {step}: {found}, expected {expected}");
            }
            assert!(expected[19] < 0.8 * expected[0], "{what}: {expected:?}");
        }
    }
}

#[test]
fn training_that_is_stored_and_taken_up_again_gives_the_same_bits() {
    let ids = ids(2 * 40, 37);
    let in_8_bits = AdamWSettings { moments: MomentStorage::Blockwise8, ..SETTINGS };
    for device in devices() {
        for (precision, on_host, settings) in [
            (Precision::F32, false, SETTINGS),
            (Precision::Bf16, false, SETTINGS),
            (Precision::Bf16, true, SETTINGS),
            (Precision::Bf16, true, in_8_bits),
        ] {
            let mut model = random_llama(4, 2, 8, 2, true);
            let mut optimizer = AdamW::new(&model, settings);
            let mut training = on(&device, precision, on_host, &model, &optimizer);
            let whole = train(&mut training, (&mut model, &mut optimizer), &ids, 2, 5);
            training.store(&mut model, &mut optimizer).unwrap();
            let whole = (whole, model.parameters().to_vec());

            let mut model = random_llama(4, 2, 8, 2, true);
            let mut optimizer = AdamW::new(&model, settings);
            let mut course = Vec::new();
            for steps in [2, 3] {
                let folder = saved(&model);
                optimizer.save(&folder.path().join("optimizer")).unwrap();
                model = Model::open(folder.path()).unwrap();
                optimizer = AdamW::load(&folder.path().join("optimizer"), &model, settings).unwrap();
                let mut training = on(&device, precision, on_host, &model, &optimizer);
                course.extend(train(&mut training, (&mut model, &mut optimizer), &ids, 2, steps));
                training.store(&mut model, &mut optimizer).unwrap();
            }
            assert!((course, model.parameters().to_vec()) == whole, "{precision:?}, on the host: {on_host}");
        }
    }
}

#[test]
fn masters_keep_what_bf16_would_lose() {
    for on_host in [false, true] {
        // One step of 1e-3 is far below the spacing of bf16 numbers near 1.
        let mut model = random_llama(4, 2, 8, 1, true);
        let mut optimizer = AdamW::new(&model, SETTINGS);
        let before = model.parameters().to_vec();
        let mut training = on(&Device::Cpu, Precision::Bf16, on_host, &model, &optimizer);
        train(&mut training, (&mut model, &mut optimizer), &ids(80, 37), 2, 1);
        training.store(&mut model, &mut optimizer).unwrap();
        assert_eq!(optimizer.steps(), 1);
        let moved = model.parameters().iter().zip(&before).filter(|(after, before)| after != before).count();
        assert!(moved * 10 > before.len() * 9, "{moved} of {}", before.len());
    }
}

#[test]
fn what_is_not_trained_on_devices_is_refused() {
    let mut model = random_llama(4, 2, 8, 1, true);
    let optimizer = AdamW::new(&model, AdamWSettings { moments: MomentStorage::Blockwise8, ..SETTINGS });
    let small = DeviceTraining::new(&model, &optimizer, &Device::Cpu, Precision::F32);
    // Tensors of so few numbers stay in f32 in any case.
    assert!(small.is_ok());
    let settings = AdapterSettings { rank: 2, alpha: 4.0, rslora: false, targets: Vec::new() };
    let adapter = Adapter::initialize(&model, settings, 1).unwrap();
    model.set_adapter(adapter).unwrap();
    let refused = DeviceTraining::new(&model, &AdamW::new(&model, SETTINGS), &Device::Cpu, Precision::F32);
    insta::assert_snapshot!(refused.unwrap_err(), @"adapters: found 1, expected none in training on a device");
}
