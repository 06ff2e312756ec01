//! The documentation names every stage kind, setting and choice that the code has.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::Path};

/// Files whose public fields and variants are settings.
const ROOMS: &[&str] = &[
    "command",
    "download",
    "evaluate",
    "extend_rope",
    "init_model",
    "merge_adapter",
    "postprocess",
    "report",
    "score",
    "synthesize",
    "tokenize",
    "train",
    "train_tokenizer",
    "weighting",
];

/// Names of fields and variants of the types that are read from graphs (those that derive `Deserialize`).
fn settings(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let (mut derived, mut inside) = (false, false);
    for line in text.lines() {
        if line.starts_with("#[derive") {
            derived = line.contains("Deserialize");
        } else if line.starts_with("pub struct") || line.starts_with("pub enum") {
            inside = derived;
        } else if line == "}" {
            (derived, inside) = (false, false);
        } else if inside {
            let code = line.trim().trim_start_matches("pub ");
            let name: String = code.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
            let follows = &code[name.len()..];
            if !name.is_empty() && (follows.starts_with([':', ',', '{', '(']) || follows.starts_with(" {")) {
                names.push(name);
            }
        }
    }
    names
}

#[test]
fn every_setting_is_documented() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/stages.md")).expect("docs/stages.md");
    let mut count = 0;
    for room in ROOMS {
        let text = fs::read_to_string(root.join("stages/src").join(room).join("mod.rs")).expect("a room");
        for name in settings(&text) {
            count += 1;
            let found = page.match_indices(&name).any(|(at, _)| {
                let border =
                    |letter: Option<char>| letter.is_some_and(|letter| !letter.is_alphanumeric() && letter != '_');
                border(page[..at].chars().next_back()) && border(page[at + name.len()..].chars().next())
            });
            assert!(found, "docs/stages.md does not name `{name}` of {room}");
        }
    }
    assert!(count > 80, "only {count} settings found: has the reader of settings gone blind?");
}

#[test]
fn every_kind_has_a_heading() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/stages.md")).expect("docs/stages.md");
    for entry in twdag_stages::registry::KINDS {
        assert!(page.contains(&format!("\n## {}\n", entry.info.name)), "{}", entry.info.name);
        assert!(page.contains(entry.info.summary), "the summary of {}", entry.info.name);
    }
}
