//! `twdag plan --device`: what a graph will cost, told with nothing at hand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod run_support;

use std::fs;

use run_support::Place;
use serde_json::Value;

fn graph(name: &str) -> String {
    format!("{}/graphs/{name}.ron", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_estimate_of_the_headline_graph_is_that_of_the_documentation() {
    let place = Place::new();
    let said = place.output(&["plan", &graph("llama3-frozen"), "dense", "--device", "h100"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let page = fs::read_to_string(format!("{}/docs/long-context.md", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let told = said.stdout.replace(&graph("llama3-frozen"), "graphs/llama3-frozen.ron");
    assert!(page.contains(told.trim_end()), "docs/long-context.md does not have:\n{told}");
    // Nothing was made for it.
    assert!(!place.path("artifacts").exists());
}

#[test]
fn figures_are_given_to_scripts_and_the_host_counts_too() {
    let place = Place::new();
    let plan =
        |more: &[&str]| place.output(&[&["plan", &graph("llama3-frozen"), "dense", "--device", "h100"], more].concat());
    let document = |more: &[&str]| -> Value {
        let said = plan(&[&["--json"], more].concat());
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        serde_json::from_str(&said.stdout).unwrap()
    };
    let found = document(&[]);
    let stages = found["stages"].as_array().unwrap();
    let stage = |name: &str| stages.iter().find(|stage| stage["name"] == name).unwrap();
    assert_eq!((&found["device"], &stage("tokens")["work"]), (&"H100".into(), &Value::Null));
    let work = &stage("dense")["work"];
    // Llama-3 8B by its config.json: 32 blocks, embedding and head apart. Master, gradient and two moments in f32.
    let block = 2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 4096 * 14_336 + 2 * 4096;
    let parameters = 2 * 128_256 * 4096 + 32 * block + 4096_u64;
    assert_eq!((&work["parameters"], &work["host_memory"]), (&parameters.into(), &(16 * parameters).into()));
    assert_eq!((&work["training_tokens"], &work["problems"]), (&125_829_120.into(), &Value::Array(Vec::new())));
    let seconds: f64 = stages.iter().filter_map(|stage| stage["work"]["seconds"].as_f64()).sum();
    assert!((found["seconds"].as_f64().unwrap() - seconds).abs() < 1e-6 * seconds);

    assert_eq!(document(&["--host-memory", "192GB"])["stages"], found["stages"]);
    let told = "`dense` does not fit: it wants 128.5 GB, the host has 100.0 GB";
    let tight = document(&["--host-memory", "100 GB"]);
    assert_eq!(tight["stages"].as_array().unwrap().last().unwrap()["work"]["problems"], serde_json::json!([told]));
    assert!(plan(&["--host-memory", "100 GB"]).stdout.contains(&format!("will not run: {told}")));
    assert_eq!(plan(&["--host-memory", "much"]).code, Some(2));
}

#[test]
fn every_graph_that_ships_is_estimated_on_every_device() {
    let place = Place::new();
    for entry in fs::read_dir(format!("{}/graphs", env!("CARGO_MANIFEST_DIR"))).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().ends_with(".lock.ron") {
            continue;
        }
        for device in ["h100", "h200", "a100", "rtx4090", "cpu"] {
            let said = place.output(&["plan", path.to_str().unwrap(), "--device", device]);
            assert_eq!(said.code, Some(0), "{}: {}", path.display(), said.stderr);
            assert!(said.stdout.contains("assumed, not measured"), "{}", said.stdout);
        }
    }
    let fits = |device: &str| {
        let said = place.output(&["plan", &graph("llama3-frozen"), "short_loss", "--device", device]).stdout;
        !said.contains("will not run")
    };
    assert!(fits("h100") && fits("a100") && fits("rtx4090") && !fits("cpu"));
}
