//! The graphs for real models, from the hub to the report: a hub on this machine serves small models and some books under
//! the names that stand in the graphs, and `--profile tiny` changes sizes alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod hub_server;
mod run_support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use hub_server::{Hub, Repository, Treat};
use parquet::{
    basic::Compression,
    data_type::{ByteArray, ByteArrayType, Int32Type},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};
use run_support::{Place, Ran, Running};
use serde_json::Value;

const TOKEN: &str = "hf_aVerySecretTokenThatNobodyMaySee";
const GRAPHS: [&str; 5] = ["llama3-frozen", "llama3-frozen-1b", "llama3-unfrozen", "phi2", "llama3-sweep"];

fn graph(name: &str) -> String {
    format!("{}/graphs/{name}.ron", env!("CARGO_MANIFEST_DIR"))
}

/// The folder of real models and books, if it is there.
fn data() -> Option<PathBuf> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if data.join("models").is_dir() {
        return Some(data);
    }
    eprintln!("SKIPPED: no real models at ../shared/data/models");
    None
}

/// A model's folder under another name.
fn model(data: &Path, folder: &str, name: &str) -> Repository {
    let files = fs::read_dir(data.join("models").join(folder)).unwrap().map(Result::unwrap);
    let files = files.filter(|entry| entry.file_type().unwrap().is_file());
    let files =
        files.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect();
    Repository { name: format!("models/{name}"), commit: "0123456789abcdef0123456789abcdef01234567".to_owned(), files }
}

/// Books in the layout of PG19: a row for each, one row group for every two.
fn books(data: &Path, names: &[&str]) -> Vec<u8> {
    let schema = "message schema {
        optional binary short_book_title (UTF8);
        optional int32 publication_date;
        optional binary url (UTF8);
        optional binary text (UTF8);
    }";
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer =
        SerializedFileWriter::new(Vec::new(), Arc::new(parse_message_type(schema).unwrap()), Arc::new(properties))
            .unwrap();
    for names in names.chunks(2) {
        let mut group = writer.next_row_group().unwrap();
        let levels = vec![1; names.len()];
        for column in 0..4 {
            let mut writer = group.next_column().unwrap().unwrap();
            let text = |name: &&str| match column {
                0 => (*name).to_owned(),
                2 => format!("https://example.org/{name}"),
                _ => fs::read_to_string(data.join("corpora/small").join(format!("{name}.txt"))).unwrap(),
            };
            if column == 1 {
                let years = vec![1900; names.len()];
                writer.typed::<Int32Type>().write_batch(&years, Some(&levels), None).unwrap();
            } else {
                let texts: Vec<ByteArray> = names.iter().map(|name| text(name).as_str().into()).collect();
                writer.typed::<ByteArrayType>().write_batch(&texts, Some(&levels), None).unwrap();
            }
            writer.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

/// A hub with all that the graphs ask for. Models of `meta-llama` are gated.
fn hub(data: &Path) -> Hub {
    let train = [
        &["alice-s-adventures-in-wonderland", "grimms-fairy-tales", "through-the-looking-glass"][..],
        &["andersen-s-fairy-tales", "the-jungle-book"],
    ];
    let mut files = BTreeMap::from([(
        "data/test-00000-of-00001.parquet".to_owned(),
        books(data, &["the-wonderful-wizard-of-oz", "treasure-island"]),
    )]);
    for (number, names) in train.iter().enumerate() {
        files.insert(format!("data/train-0000{number}-of-00002.parquet"), books(data, names));
    }
    files.insert("README.md".to_owned(), b"# PG19\n".to_vec());
    let pg19 = Repository {
        name: "datasets/emozilla/pg19".to_owned(),
        commit: "89abcdef0123456789abcdef0123456789abcdef".to_owned(),
        files,
    };
    let models = [
        ("stories260k", "meta-llama/Meta-Llama-3-8B"),
        ("stories260k", "meta-llama/Llama-3.2-1B"),
        ("phi-tiny-random", "microsoft/phi-2"),
    ];
    let mut repositories: Vec<Repository> = models.iter().map(|(folder, name)| model(data, folder, name)).collect();
    repositories.push(pg19);
    Hub::start(repositories, |request| {
        let is_gated = request.target.contains("meta-llama/") && request.is_for_a_file();
        let is_allowed = request.headers.get("authorization").map(String::as_str) == Some(&format!("Bearer {TOKEN}"));
        if is_gated && !is_allowed {
            Treat::Refuse(401, vec![("X-Error-Code", "GatedRepo".to_owned())])
        } else {
            Treat::Well
        }
    })
}

/// Runs a graph with its profile `tiny`.
fn run(place: &Place, hub: &Hub, name: &str, more: &[&str]) -> Ran {
    let graph = graph(name);
    let mut command = place.twdag(&[&["run", &graph, "--profile", "tiny", "--json"], more].concat());
    for name in ["HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE"] {
        command.env_remove(name);
    }
    command.env("HF_ENDPOINT", &hub.endpoint).env("HF_HOME", place.path("hub-home")).env("HF_TOKEN", TOKEN);
    let run = Running::of(command).end();
    assert_eq!(run.code, Some(0), "{run:#?}");
    run
}

/// A file of a stage's result.
fn result(place: &Place, name: &str, stage: &str, file: &str) -> String {
    let said = place.output(&["path", &graph(name), stage, "--profile", "tiny"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    fs::read_to_string(Path::new(said.stdout.trim_end()).join(file)).unwrap()
}

/// No file of the workspace holds the access token.
fn assert_no_token(place: &Place) {
    for entry in walkdir::WalkDir::new(place.path("")).into_iter().map(Result::unwrap) {
        if entry.file_type().is_file() {
            let bytes = fs::read(entry.path()).unwrap();
            let holds = bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes());
            assert!(!holds, "{} holds the token", entry.path().display());
        }
    }
}

#[test]
fn the_headline_command_goes_from_the_hub_to_the_report() {
    let Some(data) = data() else { return };
    let (hub, place) = (hub(&data), Place::new());
    let first = run(&place, &hub, "llama3-frozen", &[]);
    assert_eq!(first.with_outcome("ran").len(), 13, "{:#?}", first.outcomes());
    // What is not asked for is not fetched, and every file once.
    let fetched = hub.files();
    assert!(!fetched.iter().any(|file| file.contains("README") || file.contains("LICENSE")), "{fetched:#?}");
    assert_eq!(fetched.iter().collect::<std::collections::BTreeSet<_>>().len(), fetched.len());

    let tokens: Value = serde_json::from_str(&result(&place, "llama3-frozen", "tokens", "tokens.json")).unwrap();
    assert_eq!((&tokens["sequences"], &tokens["length"], &tokens["documents"]), (&24.into(), &512.into(), &5.into()));
    let scores: Value = serde_json::from_str(&result(&place, "llama3-frozen", "short_loss", "scores.json")).unwrap();
    assert_eq!(scores["windows"]["step"], 96, "{scores}");
    assert_eq!(result(&place, "llama3-frozen", "dense", "training.jsonl").lines().count(), 6);
    let metrics: Value =
        serde_json::from_str(&result(&place, "llama3-frozen", "evaluate_dense", "metrics.json")).unwrap();
    let tasks = metrics["tasks"].as_object().unwrap();
    assert_eq!(tasks.keys().collect::<Vec<_>>(), ["loss by position", "needles", "short context"]);
    assert_eq!(tasks["loss by position"]["buckets"].as_array().unwrap().len(), 8);
    // A model that writes English: far below ln 512 = 6.24 nats, also in the longer context.
    let loss = tasks["loss by position"]["mean"].as_f64().unwrap();
    assert!((1.0..4.5).contains(&loss), "{loss}");
    let report = result(&place, "llama3-frozen", "report", "report.html");
    assert!(["dense", "extended, not trained", "untouched"].iter().all(|label| report.contains(label)));

    // Warm, nothing runs and nobody is asked.
    let before = hub.requests().len();
    assert_eq!(run(&place, &hub, "llama3-frozen", &[]).with_outcome("cached").len(), 13);
    let other = run(&place, &hub, "llama3-frozen", &["--set", "lambda=0.5"]);
    assert_eq!(other.with_outcome("ran"), ["dense", "evaluate_dense", "report"]);
    assert_eq!(hub.requests().len(), before);

    // Another scorer is fetched and scores; the untrained models are measured already.
    let smaller = run(&place, &hub, "llama3-frozen-1b", &[]);
    assert_eq!(smaller.with_outcome("ran"), ["dense", "evaluate_dense", "report", "scorer", "short_loss"]);
    let unfrozen = run(&place, &hub, "llama3-unfrozen", &[]);
    assert_eq!(unfrozen.with_outcome("ran"), ["dense", "evaluate_dense", "report"]);
    assert_no_token(&place);
}

#[test]
fn phi_2_goes_from_the_hub_to_the_report() {
    let Some(data) = data() else { return };
    let (hub, place) = (hub(&data), Place::new());
    let first = run(&place, &hub, "phi2", &[]);
    assert_eq!(first.with_outcome("ran").len(), 13, "{:#?}", first.outcomes());
    assert!(result(&place, "phi2", "report", "report.html").contains("Phi-2"));
    assert_eq!(run(&place, &hub, "phi2", &[]).with_outcome("cached").len(), 13);
    assert_no_token(&place);
}

#[test]
fn the_graphs_for_real_models_are_planned_without_anything_at_hand() {
    let place = Place::new();
    for name in GRAPHS {
        for more in [&[][..], &["--profile", "tiny"]] {
            let said = place.output(&[&["plan", &graph(name), "--json"], more].concat());
            assert_eq!(said.code, Some(0), "{name}: {}", said.stderr);
            let plan: Value = serde_json::from_str(&said.stdout).unwrap();
            let stages = plan["stages"].as_array().unwrap();
            let downloads = stages.iter().filter(|stage| stage["status"] == "run");
            assert!(downloads.clone().count() >= 3 && downloads.clone().all(|stage| stage["kind"] == "Download"));
        }
    }
}
