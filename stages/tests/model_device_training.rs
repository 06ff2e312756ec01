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

fn with_adapter(mut model: Model, targets: &[&str]) -> Model {
    let targets = targets.iter().map(|&target| target.to_owned()).collect();
    let settings = AdapterSettings { rank: 3, alpha: 6.0, rslora: false, targets };
    let adapter = Adapter::initialize(&model, settings, 1).unwrap();
    model.set_adapter(adapter).unwrap();
    model
}

/// Models with adapters of all matrices, and of some that are applied together with others; each can be made again.
fn adapted() -> Vec<(String, Box<dyn Fn() -> Model>)> {
    let mut found: Vec<(String, Box<dyn Fn() -> Model>)> = Vec::new();
    for folder in real_models() {
        let of_phi = folder.ends_with("phi-tiny-random");
        for targets in [&[], if of_phi { &["v_proj", "fc1"] } else { &["q_proj", "up_proj"] } as &[&str]] {
            let what = format!("{}, {targets:?}", folder.display());
            let folder = folder.clone();
            found.push((what, Box::new(move || with_adapter(Model::open(&folder).unwrap(), targets))));
        }
    }
    let targets = &["k_proj", "gate_proj", "down_proj"];
    found.push(("random".to_owned(), Box::new(|| with_adapter(random_llama(4, 2, 16, 2, false), targets))));
    found
}

#[test]
fn an_adapter_takes_the_course_of_the_cpu_engine() {
    for ((what, model), device) in
        devices().into_iter().flat_map(|device| adapted().into_iter().map(move |adapted| (adapted, device.clone())))
    {
        let (mut cpu, mut host) = (model(), model());
        let ids = ids(2 * 96, cpu.config().vocab_size);
        let (mut expected, mut found) = (AdamW::new(&cpu, SETTINGS), AdamW::new(&host, SETTINGS));
        let mut training = on(&device, Precision::F32, true, &host, &found);
        let course = train(&mut training, (&mut host, &mut found), &ids, 2, 12);
        let on_cpu = train_on_cpu(&mut cpu, &mut expected, &ids, 2, 12);
        for (step, (found, expected)) in course.iter().zip(&on_cpu).enumerate() {
            assert!((found / expected - 1.0).abs() <= 1e-4, "{what}, step {step}: {found}, expected {expected}");
        }
        assert!(on_cpu[11] < on_cpu[0], "{what}: {on_cpu:?}");
        assert!(host.parameters() == cpu.parameters(), "{what}: the model beside it has changed");

        // Now that B is not zero any more, A has gradients, too.
        let coefficients = vec![0.01; ids.len() - 2];
        let mut expected = Gradients::zeros_like(&host);
        let losses = host.forward_backward_fixed(&ids, 2, &coefficients, &mut expected).unwrap();
        for activations in [Activations::Keep, Activations::Recompute] {
            let mut training = on(&device, Precision::F32, true, &host, &found);
            let (on_device, gradients) = training.parts();
            let scored = on_device.score(&ids, 2).unwrap();
            let fixed = on_device.forward_backward_fixed(&ids, 2, activations, &coefficients, gradients).unwrap();
            for ((loss, scored), fixed) in losses.iter().zip(&scored).zip(&fixed) {
                assert!((loss - scored).abs() < 1e-4 && (loss - fixed).abs() < 1e-4, "{what}: {loss} {scored} {fixed}");
            }
            let values = gradients.values().unwrap();
            for tensor in host.adapter().unwrap().tensors() {
                let [found, expected] = [&values, expected.values()].map(|all| &all[tensor.range.clone()]);
                let norm =
                    |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
                let length = norm(&mut expected.iter().copied());
                let off = norm(&mut found.iter().zip(expected).map(|(found, expected)| found - expected));
                assert!(length > 0.0 && off <= 2e-4 * length, "{what}: {} is off by {off} of {length}", tensor.name);
            }
        }
    }
}

#[test]
fn an_adapter_beside_bf16_products_learns_the_same() {
    for device in devices() {
        for (what, model) in adapted() {
            let ids = ids(2 * 96, model().config().vocab_size);
            let course = |precision| {
                let mut host = model();
                let mut optimizer = AdamW::new(&host, SETTINGS);
                let mut training = on(&device, precision, true, &host, &optimizer);
                train(&mut training, (&mut host, &mut optimizer), &ids, 2, 12)
            };
            let (exact, rounded) = (course(Precision::F32), course(Precision::Bf16));
            let fall = exact[0] - exact[11];
            assert!((rounded[0] - rounded[11] - fall).abs() < 0.1 * fall, "{what}: {exact:?} {rounded:?}");
            assert!(rounded != exact, "{what}: nothing was rounded");
        }
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
    insta::assert_snapshot!(refused.unwrap_err(), @"adapters: found 1, expected none where the optimizer is on the device");
}
