//! The graphs for real models, from the hub to the report: a hub on this machine serves small models and some books under
//! the names that stand in the graphs, and `--profile tiny` changes sizes alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod hub_server;
mod run_support;

use std::io::Write as _;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use hub_server::{Hub, Repository, Treat};
use parquet::{
    basic::Compression,
    data_type::{ByteArray, ByteArrayType, Int32Type, Int64Type},
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
    writeln!(std::io::stderr(), "SKIPPED: no real models at ../shared/data/models").unwrap();
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
    assert_eq!(
        tasks.keys().collect::<Vec<_>>(),
        ["loss by position", "niah_multikey_1", "niah_single_2", "short context"]
    );
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

#[test]
fn the_sweep_goes_from_the_hub_to_the_report() {
    let Some(data) = data() else { return };
    let (hub, place) = (hub(&data), Place::new());
    let first = run(&place, &hub, "llama3-sweep", &[]);
    let outcomes = first.outcomes();
    assert!(outcomes.values().all(|outcome| outcome == "ran"), "{outcomes:#?}");
    // All weightings share what was downloaded, tokenized and scored.
    let files = hub.files();
    assert_eq!(files.iter().collect::<std::collections::BTreeSet<_>>().len(), files.len());
    let report = result(&place, "llama3-sweep", "report", "report.html");
    assert!(["uniform", "λ 0.75", "κ 0.4"].iter().all(|label| report.contains(label)));
    assert_eq!(run(&place, &hub, "llama3-sweep", &[]).with_outcome("cached").len(), outcomes.len());
    assert_no_token(&place);
}

/// MMLU as its authors publish it, in the layout of the hub: a folder for each subject, a Parquet file for each split.
fn mmlu(data: &Path, subjects: &[&str]) -> Repository {
    let mut files = BTreeMap::from([("README.md".to_owned(), b"# MMLU\n".to_vec())]);
    for subject in subjects {
        for split in ["test", "dev"] {
            let csv = fs::read_to_string(data.join(format!("eval/mmlu/{split}/{subject}_{split}.csv"))).unwrap();
            let path = format!("{subject}/{split}-00000-of-00001.parquet");
            files.insert(path, questions(subject, &csv));
        }
    }
    let collected = files["astronomy/test-00000-of-00001.parquet"].clone();
    files.insert("all/test-00000-of-00001.parquet".to_owned(), collected);
    Repository {
        name: "datasets/cais/mmlu".to_owned(),
        commit: "c30699e8356da336a370243923dbaf21066bb9fe".to_owned(),
        files,
    }
}

fn questions(subject: &str, csv: &str) -> Vec<u8> {
    let schema = "message schema {
        optional binary question (UTF8);
        optional binary subject (UTF8);
        optional group choices (LIST) { repeated group list { optional binary element (UTF8); } }
        optional int64 answer;
    }";
    let rows: Vec<Vec<String>> = records(csv);
    let properties = Arc::new(WriterProperties::builder().set_compression(Compression::SNAPPY).build());
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let (ones, text) = (vec![1; rows.len()], |text: &String| ByteArray::from(text.as_str()));
    for column in 0..4 {
        let mut writer = group.next_column().unwrap().unwrap();
        let texts: Vec<ByteArray> = match column {
            0 => rows.iter().map(|row| text(&row[0])).collect(),
            1 => rows.iter().map(|_| text(&subject.to_owned())).collect(),
            _ => rows.iter().flat_map(|row| row[1..5].iter().map(text)).collect(),
        };
        let (threes, repeated) = (vec![3; texts.len()], [0, 1, 1, 1].repeat(rows.len()));
        let written = match column {
            3 => {
                let answers: Vec<i64> = rows.iter().map(|row| "ABCD".find(row[5].as_str()).unwrap() as i64).collect();
                writer.typed::<Int64Type>().write_batch(&answers, Some(&ones), None)
            }
            2 => writer.typed::<ByteArrayType>().write_batch(&texts, Some(&threes), Some(&repeated)),
            _ => writer.typed::<ByteArrayType>().write_batch(&texts, Some(&ones), None),
        };
        assert!(written.is_ok());
        writer.close().unwrap();
    }
    group.close().unwrap();
    writer.into_inner().unwrap()
}

/// The records of a CSV text: fields in quotes may hold commas, line breaks and doubled quotes.
fn records(csv: &str) -> Vec<Vec<String>> {
    let (mut records, mut record, mut field, mut is_quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut letters = csv.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if is_quoted && letters.peek() == Some(&'"') => field.extend(letters.next()),
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => record.push(std::mem::take(&mut field)),
            '\n' if !is_quoted => {
                record.push(std::mem::take(&mut field));
                records.push(std::mem::take(&mut record));
            }
            '\r' if !is_quoted => {}
            letter => field.push(letter),
        }
    }
    if !record.is_empty() {
        record.push(field);
        records.push(record);
    }
    records
}

#[test]
fn mmlu_from_the_hub_is_measured_as_its_csv_files_are() {
    let Some(data) = data() else { return };
    let repositories =
        vec![model(&data, "stories260k", "meta-llama/Llama-3.2-1B"), mmlu(&data, &["us_foreign_policy", "astronomy"])];
    let hub = Hub::start(repositories, |_| Treat::Well);
    let folder = data.join("eval/mmlu").display().to_string();
    let choice = |data: &str, more: &str| {
        format!(
            r#"MultipleChoice(data: "{data}", shots: 2, limit: 3, subjects: ["astronomy", "us_foreign_policy"{more}])"#
        )
    };
    let stages = |more: &str| {
        [
            r#""model": Download(from: Hub(repository: "meta-llama/Llama-3.2-1B"))"#.to_owned(),
            r#""hub": Download(from: Hub(repository: "cais/mmlu", holds: Dataset, files: ["*/test-*.parquet", "*/dev-*.parquet"]))"#
                .to_owned(),
            format!(r#""files": Download(from: Folder(path: "{folder}"))"#),
            format!(
                r#""measured": Evaluate(model: "model", tasks: {{"hub": {}, "files": {}}})"#,
                choice("hub", more),
                choice("files", "")
            ),
        ]
    };
    let place = Place::new();
    let run = |more: &str| {
        place.graph(&stages(more).each_ref().map(String::as_str));
        let mut command = place.twdag(&["run", "graph.ron", "--json"]);
        for name in ["HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"] {
            command.env_remove(name);
        }
        command.env("HF_ENDPOINT", &hub.endpoint).env("HF_HOME", place.path("hub-home"));
        Running::of(command).end()
    };
    let ended = run("");
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let metrics: Value = serde_json::from_str(&place.result("measured", "metrics.json")).unwrap();
    assert_eq!(metrics["tasks"]["hub"]["questions"], 6);
    assert_eq!(metrics["tasks"]["hub"], metrics["tasks"]["files"]);
    let ended = run(r#", "all""#);
    let said = ended.event("stage-failed", "measured")["message"].as_str().unwrap();
    assert!(
        said.ends_with("setting `tasks.hub.subjects.2` is all, expected one of astronomy, us_foreign_policy"),
        "{said}"
    );
}
