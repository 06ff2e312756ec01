//! Stages that are told to compute on a device.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod stage_support;

use stage_support::{Room, in_peace};
use std::io::Write as _;
use twdag_stages::{
    data::{ArrayKind, ArraySet},
    registry,
    score::Score,
    stage::StageError,
};

fn room() -> Room {
    let room = Room::new();
    let ids = |sequence: usize| (0..48).map(|at| 259 + ((at * at + 31 * sequence) % 250) as u32).collect();
    room.tokens(&(0..3).map(ids).collect::<Vec<Vec<u32>>>(), None);
    room
}

fn score(room: &Room, name: &str, rest: &str) -> Result<(), StageError> {
    room.run::<Score>(name, 2, &format!("(model: \"model\", tokens: \"tokens\", {rest})"), in_peace)
}

#[test]
fn the_numeric_class_says_where_and_how_a_stage_computes() {
    let class = |rest: &str| {
        let text = format!("(model: \"model\", tokens: \"tokens\", {rest})");
        let stage = registry::find("Score").unwrap().from_ron(&registry::ron_options(), &text).unwrap();
        stage.numeric_class()
    };
    assert_eq!(class(""), Some("cpu-f32"));
    assert_eq!(class("device: Cpu()"), Some("cpu-f32"));
    assert_eq!(class("device: Cpu(precision: Bf16)"), Some("cpu-bf16"));
    assert_eq!(class("device: Cpu(precision: Bf16Amx)"), Some("cpu-bf16-amx"));
    assert_eq!(class("device: Cuda()"), Some("cuda-f32"));
    assert_eq!(class("device: Cuda(precision: Bf16)"), Some("cuda-bf16"));
    let measured = |rest: &str, score: &str| {
        let text = format!("(tasks: {{\"n\": Needles(lengths: [64], depths: [0.5], samples: 1{score})}}, {rest})");
        registry::find("Evaluate").unwrap().from_ron(&registry::ron_options(), &text).unwrap()
    };
    assert_eq!(measured("model: \"model\"", "").numeric_class(), Some("cpu-f32"));
    assert_eq!(measured("model: \"model\", device: Cuda(precision: Bf16)", "").numeric_class(), Some("cuda-bf16"));
    let rounded = "model: \"model\", device: Cpu(precision: Bf16)";
    assert!(measured(rounded, "").check().is_ok());
    let refused = measured(rounded, ", score: Generation(tokens: 4)").check().unwrap_err();
    insta::assert_snapshot!(refused, @"setting `device` is Cpu(precision: Bf16), expected `Cpu()` or `Cuda(…)`: task `n` writes text, which the CPU does in f32 alone");
    let found = "(tasks: {\"d\": FarTokenDetection(short: \"s\", long: \"l\", tokens: \"t\")}, device: Cuda())";
    let found = registry::find("Evaluate").unwrap().from_ron(&registry::ron_options(), found).unwrap();
    insta::assert_snapshot!(found.check().unwrap_err(), @"setting `device` is given, expected nothing without a `model`");
    let trained = |rest: &str| {
        let text = format!("(model: \"model\", tokens: \"tokens\", steps: 1, batch: 1, {rest})");
        registry::find("Train").unwrap().from_ron(&registry::ron_options(), &text).unwrap()
    };
    assert_eq!(trained("").numeric_class(), Some("cpu-f32"));
    assert_eq!(trained("device: Cuda(precision: Bf16)").numeric_class(), Some("cuda-bf16"));
    let refused = trained("device: Cuda(precision: Bf16Amx)").check().unwrap_err();
    insta::assert_snapshot!(refused, @"setting `device.precision` is Bf16Amx, expected `F32` or `Bf16` with `Cuda`: AMX is the processor's");
    let scored = "(model: \"model\", tokens: \"tokens\", device: Cuda(precision: Bf16Amx))";
    let scored = registry::find("Score").unwrap().from_ron(&registry::ron_options(), scored).unwrap();
    let measured = measured("model: \"model\", device: Cuda(precision: Bf16Amx)", "");
    for stage in [scored, measured] {
        assert_eq!(stage.check().unwrap_err().to_string(), refused.to_string());
    }
    let refused = |rest: &str| trained(&format!("device: Cuda(), {rest}")).check().unwrap_err();
    assert!(trained("device: Cuda(), lora: (rank: 2, alpha: 4), moments: Blockwise8").check().is_ok());
    insta::assert_snapshot!(refused("lora: (rank: 2, alpha: 4), optimizer: Host"), @"setting `optimizer` is Host, expected nothing with `lora`: an adapter's optimizer is on the host in any case");
    insta::assert_snapshot!(refused("moments: Blockwise8"), @"setting `moments` is Blockwise8, expected `F32` with `device: Cuda()`, or `optimizer: Host`: a device has no moments in 8 bits");
    assert!(trained("device: Cuda(), optimizer: Host, moments: Blockwise8").check().is_ok());
    let refused = trained("optimizer: Host").check().unwrap_err();
    insta::assert_snapshot!(refused, @"setting `optimizer` is Host, expected nothing where the model is on the CPU: the optimizer is on the host already");
    let exact = registry::find("Report").unwrap().from_ron(&registry::ron_options(), "(scores: {})");
    assert_eq!(exact.ok().and_then(|stage| stage.numeric_class()), None);
}

/// Nothing falls back to the CPU: there is a result of the device, or an error that says what to do.
#[test]
fn a_device_is_used_or_missed_aloud() {
    let room = room();
    score(&room, "cpu", "").unwrap();
    let losses = |name: &str| ArraySet::open(&room.path(name), ArrayKind::CrossEntropy).unwrap().row(1).unwrap();
    let devices = [("f32", "device: Cuda()", 1e-4), ("bf16", "device: Cuda(precision: Bf16)", 0.2)];
    for (name, device, tolerance) in devices {
        match score(&room, name, device) {
            Ok(()) => {
                for (found, expected) in losses(name).iter().zip(losses("cpu")) {
                    assert!((found - expected).abs() <= tolerance, "{name}: found {found}, expected {expected}");
                }
            }
            Err(error) => {
                writeln!(std::io::stderr(), "SKIPPED on CUDA: {error}").unwrap();
                let said = error.to_string();
                assert!(matches!(error, StageError::Environment { .. }), "{error:?}");
                assert!(cfg!(feature = "cuda") || said.contains("built without CUDA"), "{said}");
                assert!(room.files(name).is_empty(), "a result in spite of {said}");
            }
        }
    }
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_build_without_cuda_says_how_to_get_one() {
    let refused = score(&room(), "scores", "device: Cuda()").unwrap_err();
    insta::assert_snapshot!(refused, @"compute on the device: this program was built without CUDA; build it with `--features cuda`, or leave `device` out of the stage to compute on the CPU, which is another result");
}
