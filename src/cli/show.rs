//! `twdag show`: all there is to know of one stage.

use std::{fs, path::Path};

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use twdag_stages::stage::Allowed;

use super::{
    arguments::{GraphArguments, stage_name},
    check::verdict_rows,
    failure::Failure,
    output::{self, FAINT, STRONG, paint, table},
    remote::tell_unasked,
    words::{bytes, duration, harmless, short},
};
use crate::{
    blame::{Blame, exit},
    canon,
    digest::{ArtifactId, Digest, Key},
    graph::Node,
    plan::PlannedStage,
    run::{
        check::Verdict,
        driver::announced,
        event::{AnnouncedStatus, PartCounts},
    },
    store::{Entry, Provenance, Record, Store},
};

/// Show a stage's settings, inputs, key, files, provenance and metrics
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twdag show graphs/quickstart.ron dense
  twdag show graphs/quickstart.ron dense --json | jq .provenance")]
pub(super) struct Arguments {
    #[command(flatten)]
    graph: GraphArguments,
    /// The stage
    #[arg(value_name = "STAGE", value_parser = stage_name())]
    stage: String,
    /// Print one JSON object (docs/machine-readable.md)
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document {
    graph: String,
    name: String,
    kind: String,
    revision: u32,
    summary: &'static str,
    status: AnnouncedStatus,
    reason: String,
    key: Option<Key>,
    artifact: Option<ArtifactId>,
    numeric_class: Option<String>,
    settings: Value,
    inputs: Vec<Read>,
    sources: Vec<Read>,
    files: Vec<Entry>,
    provenance: Option<Provenance>,
    notices: Vec<String>,
    /// What came of computing this result again, if somebody did.
    verdict: Option<Verdict>,
    parts: Option<PartCounts>,
    metrics: Option<Value>,
}

/// Something that the stage reads.
#[derive(Serialize)]
struct Read {
    role: String,
    from: String,
    digest: Option<Digest>,
}

/// Collects and prints.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let (graph, store, planned) = arguments.graph.plan_stage(&arguments.stage)?;
    let node = &graph.nodes()[planned.node];
    if planned.artifact.is_none() {
        tell_unasked(&graph.workspace);
    }
    let record = planned.key.as_ref().map(|key| store.record(key)).transpose()?.flatten();
    let document = collect(graph.path.display().to_string(), node, &planned, record, &store)?;
    if arguments.json {
        let text = serde_json::to_string_pretty(&document)
            .map_err(|error| Failure::new(format!("internal error: {error}; please report it"), Blame::Bug))?;
        output::out(text + "\n");
    } else {
        output::out(page(&document));
    }
    Ok(exit::SUCCESS)
}

fn collect(
    graph: String,
    node: &Node,
    planned: &PlannedStage,
    record: Option<Record>,
    store: &Store,
) -> Result<Document, Failure> {
    let info = node.stage.kind();
    let digest = |inputs: fn(&crate::plan::Action) -> &[crate::store::RecordInput], role: &str| {
        let action = planned.action.as_ref()?;
        inputs(action).iter().find(|input| input.role == role).map(|input| input.digest)
    };
    let inputs = node.inputs.iter().map(|input| Read {
        role: input.role.clone(),
        from: input.reference.to_string(),
        digest: digest(|action| &action.inputs, &input.role),
    });
    let sources = node.stage.sources().into_iter().map(|source| Read {
        digest: digest(|action| &action.sources, &source.role),
        from: source.path.to_string(),
        role: source.role,
    });
    let (files, metrics) = match &planned.artifact {
        Some(artifact) => {
            let files = store.manifest(artifact)?.files().to_vec();
            let has_metrics = files.iter().any(|file| file.path == METRICS);
            let metrics = if has_metrics { metrics(&store.view(artifact)?) } else { None };
            (files, metrics)
        }
        None => (Vec::new(), None),
    };
    // One on an earlier result says nothing of this one.
    let verdict = planned.key.map(|key| store.verdict::<Verdict>(&key)).transpose()?.flatten();
    let verdict = verdict.filter(|verdict| Some(verdict.artifact) == planned.artifact);
    let announced = announced(planned);
    let parts = record.as_ref().and_then(part_counts);
    let (provenance, notices) = record.map(|record| (record.provenance, record.notices)).unzip();
    Ok(Document {
        graph,
        name: announced.name,
        kind: announced.kind,
        revision: info.revision,
        summary: info.summary,
        status: announced.status,
        reason: announced.reason,
        key: planned.key,
        artifact: planned.artifact,
        numeric_class: planned.action.as_ref().and_then(|action| action.numeric_class.clone()),
        settings: canon::display(node.stage.settings()),
        inputs: inputs.collect(),
        sources: sources.collect(),
        files,
        provenance,
        notices: notices.unwrap_or_default(),
        verdict,
        parts,
        metrics,
    })
}

/// The parts that a result was joined from.
fn part_counts(record: &Record) -> Option<PartCounts> {
    let cached = record.parts.iter().filter(|part| part.cached).count();
    let total = record.parts.len();
    (total > 0).then_some(PartCounts { total, cached, ran: total - cached })
}

const METRICS: &str = "metrics.json";

/// A file that some program wrote under this name may hold anything; what is no JSON is not shown.
fn metrics(view: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(view.join(METRICS)).ok()?).ok()
}

/// The document for people.
fn page(document: &Document) -> String {
    let mut text = format!("{} {}  {}\n", paint(STRONG, &document.name), document.kind, paint(FAINT, document.summary));
    let status = match document.status {
        AnnouncedStatus::Cached => format!("cached: {}", document.reason),
        AnnouncedStatus::Run => format!("will run: {}", document.reason),
        // The reason says of whom.
        AnnouncedStatus::Waits => document.reason.clone(),
    };
    let mut head = vec![vec!["status".to_owned(), status]];
    let mut row = |name: &str, value: Option<String>| head.extend(value.map(|value| vec![name.to_owned(), value]));
    row("key", document.key.map(|key| key.to_string()));
    row("artifact", document.artifact.map(|artifact| artifact.to_string()));
    row("revision", Some(document.revision.to_string()));
    row("numerics", document.numeric_class.clone());
    text += &table(&head);
    section(&mut text, "settings", settings(&document.settings));
    let read = |read: &Read| {
        let digest = read.digest.map_or_else(|| "not there yet".to_owned(), short);
        vec![read.role.clone(), read.from.clone(), paint(FAINT, digest)]
    };
    section(&mut text, "inputs", document.inputs.iter().map(read).collect());
    section(&mut text, "sources", document.sources.iter().map(read).collect());
    let file = |file: &Entry| vec![file.path.clone(), bytes(file.size as f64), paint(FAINT, short(file.digest))];
    section(&mut text, "files", document.files.iter().map(file).collect());
    if let Some(provenance) = &document.provenance {
        let rows = [
            (
                "computed",
                format!("{} in {}", provenance.started.strftime("%Y-%m-%d %H:%M:%S UTC"), duration(provenance.seconds)),
            ),
            ("by", format!("{} on {} ({})", provenance.user, provenance.host, provenance.platform)),
            (
                "parts",
                document.parts.map_or_else(String::new, |PartCounts { total, cached, .. }| {
                    format!("{total}, of which {cached} were there before")
                }),
            ),
            ("processor", provenance.processor_features.clone()),
            ("twdag", format!("{}, commit {}", provenance.version, provenance.commit)),
            ("isolation", isolation(provenance)),
        ];
        let rows = rows.into_iter().filter(|(_, value)| !value.is_empty());
        section(&mut text, "provenance", rows.map(|(name, value)| vec![name.to_owned(), value]).collect());
    }
    section(&mut text, "checked", document.verdict.as_ref().map(verdict_rows).unwrap_or_default());
    section(&mut text, "warnings", document.notices.iter().map(|notice| vec![notice.clone()]).collect());
    section(&mut text, "metrics", document.metrics.as_ref().map(scalars).unwrap_or_default());
    text
}

/// How far programs were kept from what the stage does not declare, and what was allowed all the same.
fn isolation(provenance: &Provenance) -> String {
    let mode = provenance.isolation.map(|isolation| isolation.name().to_owned()).unwrap_or_default();
    let allowed = provenance.allowed.iter().flat_map(Allowed::names).map(harmless);
    let allowed: Vec<String> = allowed.collect();
    if allowed.is_empty() { mode } else { format!("{mode}, but for {}", allowed.join(", ")) }
}

fn section(text: &mut String, title: &str, rows: Vec<Vec<String>>) {
    if !rows.is_empty() {
        text.extend([paint(STRONG, title), "\n".to_owned(), table(&rows)]);
    }
}

fn settings(settings: &Value) -> Vec<Vec<String>> {
    match settings {
        Value::Object(fields) => fields.iter().map(|(name, value)| vec![name.clone(), value.to_string()]).collect(),
        Value::Null => Vec::new(),
        other => vec![vec![other.to_string()]],
    }
}

/// The plain numbers of each task, without its lists.
fn scalars(metrics: &Value) -> Vec<Vec<String>> {
    let Some(Value::Object(tasks)) = metrics.get("tasks") else { return Vec::new() };
    let numbers = |task: &Value| -> String {
        let fields = task.as_object().into_iter().flatten();
        let numbers = fields.filter(|(_, value)| value.is_number());
        numbers.map(|(name, value)| format!("{name} {}", rounded(value))).collect::<Vec<_>>().join(", ")
    };
    let kind = |task: &Value| task.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    tasks.iter().map(|(name, task)| vec![name.clone(), kind(task), numbers(task)]).collect()
}

fn rounded(number: &Value) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => format!("{float:.4}"),
        _ => number.to_string(),
    }
}
