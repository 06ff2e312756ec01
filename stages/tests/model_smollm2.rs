//! SmolLM2-135M against `transformers`. Its weights are not here: `fixtures/smollm2.py` says how to make the folder that
//! `TWDAG_SMOLLM2` names.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::path::PathBuf;

use serde::Deserialize;
use twdag_stages::model::Model;

#[test]
fn losses_of_smollm2_are_those_of_transformers() {
    #[derive(Deserialize)]
    struct Reference {
        ids: Vec<u32>,
        cross_entropy: Vec<f32>,
    }
    let Some(folder) = std::env::var_os("TWDAG_SMOLLM2").map(PathBuf::from) else {
        eprintln!("SKIPPED: SmolLM2-135M is checked where TWDAG_SMOLLM2 names its folder; see fixtures/smollm2.py");
        return;
    };
    let reference: Reference = serde_json::from_str(include_str!("fixtures/smollm2.json")).unwrap();
    let model = Model::open(&folder).unwrap();
    assert_eq!(model.parameters().len(), 134_515_008);
    let scored = model.score(&reference.ids, 1).unwrap();
    assert_eq!(scored.cross_entropy.len(), reference.cross_entropy.len());
    for (index, (found, expected)) in scored.cross_entropy.iter().zip(&reference.cross_entropy).enumerate() {
        assert!((found - expected).abs() < 1e-4, "target {index}: found {found}, expected {expected}");
    }
}
