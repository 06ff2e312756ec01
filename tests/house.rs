//! The plan of the house, enforced: which room may know which.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// For each room of `src/`, the rooms that it may use. `main.rs` and `lib.rs` only open the door.
const ALLOWED: &[(&str, &[&str])] = &[
    ("digest", &[]),
    ("canon", &["digest"]),
    ("blame", &[]),
    ("failpoint", &[]),
    ("graph", &["digest", "canon", "blame", "graph"]),
    ("store", &["digest", "canon", "blame", "failpoint", "store"]),
    ("remote", &["digest", "blame", "store", "remote"]),
    ("compare", &["digest", "blame", "store", "compare"]),
    ("provenance", &["digest", "blame", "store", "remote", "provenance"]),
    ("plan", &["digest", "canon", "blame", "graph", "store", "remote", "plan"]),
    ("lock", &["digest", "canon", "blame", "graph", "store", "plan", "lock"]),
    ("run", &["digest", "canon", "blame", "failpoint", "graph", "store", "remote", "compare", "plan", "lock", "run"]),
    (
        "cli",
        &[
            "digest",
            "canon",
            "blame",
            "failpoint",
            "graph",
            "store",
            "remote",
            "provenance",
            "compare",
            "plan",
            "lock",
            "run",
            "cli",
        ],
    ),
];

/// For each room of `stages/src/`, the rooms that it may use: the floors know no room above them.
const FLOORS: &[(&str, &[&str])] = &[
    ("stage", &["stage"]),
    ("bucket", &["bucket"]),
    ("model", &["model", "stage"]),
    ("data", &["data", "stage"]),
    ("weighting", &["weighting", "stage"]),
];

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a source folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The first path segment below the source folder, without `.rs`.
fn room(source: &Path, file: &Path) -> String {
    let below = file.strip_prefix(source).expect("a file below its source folder");
    let first = below.components().next().expect("a name").as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// The rooms named after `crate::` anywhere in the code of a file, nested `use crate::{a::b, c}` lists included.
fn used_rooms(text: &str) -> Vec<String> {
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .fold(String::new(), |all, line| all + line + "\n");
    let mut rooms = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let (mut depth, mut word, mut fresh) = (1, String::new(), true);
            for letter in list.chars() {
                match letter {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 1 => fresh = true,
                    _ if depth == 1 && fresh && (letter.is_alphanumeric() || letter == '_') => word.push(letter),
                    _ if depth == 1 && !letter.is_whitespace() => fresh = false,
                    _ => {}
                }
                if (!fresh || letter == ',' || depth == 0) && !word.is_empty() {
                    rooms.push(std::mem::take(&mut word));
                }
                if depth == 0 {
                    break;
                }
            }
        } else {
            rooms.push(rest.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect());
        }
    }
    rooms
}

fn forbidden_arrows(source: &Path, allowed: &[(&str, &[&str])], rooms: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    for file in rust_files(source) {
        let from = room(source, &file);
        let Some((_, may)) = allowed.iter().find(|(name, _)| *name == from) else { continue };
        let text = fs::read_to_string(&file).expect("a source file");
        for to in used_rooms(&text) {
            if rooms.contains(&to) && to != from && !may.contains(&to.as_str()) {
                wrong.push(format!("{}: {from} -> {to}", file.display()));
            }
        }
    }
    wrong
}

fn rooms_of(source: &Path) -> Vec<String> {
    let mut rooms: Vec<String> = rust_files(source).iter().map(|file| room(source, file)).collect();
    rooms.sort();
    rooms.dedup();
    rooms
}

#[test]
fn no_arrow_runs_backwards_in_the_orchestrator() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let rooms = rooms_of(&source);
    for room in &rooms {
        assert!(
            matches!(room.as_str(), "lib" | "main") || ALLOWED.iter().any(|(name, _)| name == room),
            "room `{room}` stands in no plan: add it to ALLOWED with what it may use"
        );
    }
    assert_eq!(forbidden_arrows(&source, ALLOWED, &rooms), Vec::<String>::new());
}

#[test]
fn the_floors_of_the_stages_know_no_room_above_them() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("stages/src");
    assert_eq!(forbidden_arrows(&source, FLOORS, &rooms_of(&source)), Vec::<String>::new());
}

#[test]
fn stages_know_nothing_of_the_orchestrator() {
    let manifest =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("stages/Cargo.toml")).expect("a manifest");
    let depends = manifest.lines().any(|line| line.starts_with("twdag ") || line.starts_with("twdag="));
    assert!(!depends, "stages/Cargo.toml depends on the orchestrator");
}

#[test]
fn only_the_command_line_prints() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in rust_files(&source) {
        if room(&source, &file) == "cli" {
            continue;
        }
        let text = fs::read_to_string(&file).expect("a source file");
        for word in ["println!", "eprintln!", "print!(", "eprint!("] {
            assert!(!text.contains(word), "{} prints with {word}", file.display());
        }
    }
}

#[test]
fn the_reader_of_arrows_sees_nested_lists() {
    let text = "use crate::{store::{A, B}, graph, plan::C};\nlet x = crate::run::go();\n// crate::cli\n";
    assert_eq!(used_rooms(text), ["store", "graph", "plan", "run"]);
}
