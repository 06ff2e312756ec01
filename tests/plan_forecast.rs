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

/// Two cells of a table of the documentation, by the beginning of the row: the second one, and the last.
fn cells<'p>(page: &'p str, row: &str) -> (&'p str, &'p str) {
    let found = page.lines().find(|line| line.starts_with(row)).unwrap_or_else(|| panic!("no row {row}"));
    let cells: Vec<&str> = found.trim_matches('|').split('|').map(str::trim).collect();
    (cells[1], cells[cells.len() - 1])
}

/// `2.7 · 10¹⁸` and how exact that is.
fn power(cell: &str) -> (f64, f64) {
    let (digits, exponent) = cell.split_once(" · 10").unwrap();
    let exponent: String = exponent
        .chars()
        .map(|digit| "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().position(|other| other == digit).unwrap().to_string())
        .collect();
    let scale = 10_f64.powi(exponent.parse().unwrap());
    let decimals = digits.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    (digits.parse::<f64>().unwrap() * scale, 0.5 * scale / 10_f64.powi(decimals as i32))
}

#[test]
fn the_hand_calculation_of_the_documentation_is_what_the_plan_says() {
    let page = fs::read_to_string(format!("{}/docs/long-context.md", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let place = Place::new();
    let work = |name: &str, stage: &str| -> Value {
        let said = place.output(&["plan", &graph(name), stage, "--device", "h100", "--json"]);
        let plan: Value = serde_json::from_str(&said.stdout).unwrap();
        let found = plan["stages"].as_array().unwrap().iter().find(|planned| planned["name"] == stage).unwrap();
        found["work"].clone()
    };
    let short = work("llama3-frozen", "short_loss");
    let dense = work("llama3-frozen", "dense");
    let unfrozen = work("llama3-unfrozen", "dense");
    let rows = [
        ("| `short_loss`: 3840", &short, "forward_tokens"),
        ("| `dense`: 240", &dense, "training_tokens"),
        ("| the same, unfrozen", &unfrozen, "training_tokens"),
    ];
    for (row, work, count) in rows {
        let (tokens, operations) = cells(&page, row);
        assert_eq!(tokens.replace(',', ""), work[count].to_string(), "{row}");
        let ((by_hand, exact), planned) = (power(operations), work["operations"].as_f64().unwrap());
        assert!((by_hand - planned).abs() <= exact, "{row}: {by_hand} by hand, {planned} planned");
    }
    // The formulas of the page by their letters: P without the embedding, L, a, T.
    let (width, blocks) = (4096.0, 32.0);
    let counted = dense["parameters"].as_f64().unwrap() - 128_256.0 * width;
    let forward = |tokens: f64, length: f64| tokens * (2.0 * counted + 2.0 * blocks * width * length);
    let training = |tokens: f64, length: f64| tokens * (4.0 * 2.0 * counted + 4.5 * 2.0 * blocks * width * length);
    let agrees = |work: &Value, by_hand: f64| {
        let planned = work["operations"].as_f64().unwrap();
        assert!((planned / by_hand - 1.0).abs() < 1e-3, "{planned} planned, {by_hand} by hand");
    };
    agrees(&short, forward(3840.0 * 5.0 * 8192.0, 8192.0));
    agrees(&dense, training(3840.0 * 32_768.0, 32_768.0));
    agrees(&unfrozen, training(3840.0 * 32_768.0, 32_768.0) + forward(3840.0 * 4.0 * 8192.0, 8192.0));
    // Memory in whole GB.
    let gb = |work: &Value, of: &str| format!("{:.0}", work[of].as_f64().unwrap() / 1e9);
    let in_memory = |row: &str| cells(&page, row).1.to_owned();
    assert_eq!(in_memory("| `short_loss`, Llama-3 8B"), gb(&short, "memory"));
    let host = format!("{}, and the optimizer's {} on the host", gb(&dense, "memory"), gb(&dense, "host_memory"));
    assert_eq!(in_memory("| `dense`, Llama-3 8B, `optimizer: Host`"), host);
    assert_eq!(in_memory("| `dense`, Phi-2"), gb(&work("phi2", "dense"), "memory"));
    let evaluation = gb(&work("llama3-frozen", "evaluate_dense"), "memory");
    assert!(in_memory("| `evaluate_*`").starts_with(&format!("{evaluation}, ")), "{evaluation}");
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
