//! `twdag plan --device`: what a graph will cost, told with nothing at hand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod run_support;

use std::fs;

use run_support::Place;

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
