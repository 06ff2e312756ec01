//! As an RO-Crate with the profile Process Run Crate 0.5: the form in which research archives take "this run made these files".

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use twdag_stages::stage::Allowed;

use super::{Action, Ancestry, File, Missing, REPOSITORY};
use crate::{
    digest::{ArtifactId, Digest},
    store::RecordInput,
};

const PROFILE: &str = "https://w3id.org/ro/wfrun/process/0.5";

/// The content of `ro-crate-metadata.json` for a folder that holds the files of the result. Files of earlier results are
/// named by their content and lie outside. `license` says under which terms the result may be used, by an address or in words:
/// a crate must tell, and no record does.
pub fn ro_crate(ancestry: &Ancestry, license: Option<&str>) -> Value {
    let mut graph = Entities::default();
    let files: Vec<Value> = ancestry
        .actions
        .iter()
        .find(|action| ancestry.is_subject(action))
        .map(|action| action.files.iter().flatten().map(|file| graph.file(escape(&file.path), file)).collect())
        .unwrap_or_default();
    let mut parts = files.clone();
    let mut mentions = Vec::new();
    for action in &ancestry.actions {
        let result = if ancestry.is_subject(action) { files.clone() } else { vec![graph.result(action)] };
        if !ancestry.is_subject(action) {
            parts.extend(result.clone());
        }
        let mut object: Vec<Value> =
            action.inputs.iter().map(|input| graph.content(input.digest, input.artifact)).collect();
        object.extend(action.parts.iter().map(|part| graph.content(*part.artifact.digest(), Some(part.artifact))));
        object.extend(action.sources.iter().map(|source| graph.source(action, source)));
        object.extend(graph.settings(action));
        mentions.push(graph.action(action, object, result));
    }
    for missing in &ancestry.missing {
        graph.missing(missing);
    }
    // Everything that a crate tells of must hang on its root.
    parts.extend(graph.loose.values().cloned());
    let root = graph.root(ancestry, license, parts, mentions);
    let descriptor = json!({
        "@id": "ro-crate-metadata.json",
        "@type": "CreativeWork",
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
        "about": {"@id": "./"},
    });
    let all: Vec<Value> = [descriptor, root].into_iter().chain(graph.all.into_values()).collect();
    json!({
        "@context": ["https://w3id.org/ro/crate/1.1/context", {"sha256": "http://schema.org/sha256"}],
        "@graph": all,
    })
}

/// All entities by their names.
#[derive(Default)]
struct Entities {
    all: BTreeMap<String, Value>,
    /// Contents that belong to no result that is told of.
    loose: BTreeMap<String, Value>,
}

impl Entities {
    /// Adds one; a reference to it.
    fn add(&mut self, name: String, mut entity: Map<String, Value>) -> Value {
        entity.insert("@id".to_owned(), Value::from(name.clone()));
        self.all.entry(name.clone()).or_insert(Value::Object(entity));
        json!({"@id": name})
    }

    fn file(&mut self, name: String, file: &File) -> Value {
        let mut entity = object(json!({
            "@type": "File",
            "name": file.path,
            "contentSize": file.size.to_string(),
            "encodingFormat": encoding_format(&file.path),
            "identifier": blake3(file.digest),
        }));
        if let Some(sha256) = &file.sha256 {
            entity.insert("sha256".to_owned(), Value::from(sha256.clone()));
        }
        self.add(name, entity)
    }

    /// The result of an earlier action.
    fn result(&mut self, action: &Action) -> Value {
        let files = action.files.iter().flatten().map(|file| self.file(content_name(file.digest), file));
        let files: Vec<Value> = files.collect();
        let entity = object(json!({
            "@type": "Dataset",
            "name": format!("result of `{}`", action.name()),
            "identifier": format!("twdag-artifact:{}", action.artifact),
            "hasPart": one_or_many(files),
        }));
        let name = artifact_name(action.artifact);
        self.loose.remove(&name);
        self.add(name, entity)
    }

    /// What an action read: a whole result, or a file or folder of one.
    fn content(&mut self, digest: Digest, artifact: Option<ArtifactId>) -> Value {
        let whole = ArtifactId::from(digest);
        if artifact == Some(whole) {
            return json!({"@id": artifact_name(whole)});
        }
        let file = content_name(digest);
        if self.all.contains_key(&file) {
            return json!({"@id": file});
        }
        // A folder inside a result, or something that is not told of.
        let name = artifact_name(whole);
        let entity = object(json!({
            "@type": "Dataset",
            "name": "folder inside a result",
            "identifier": format!("twdag-artifact:{whole}"),
            "isPartOf": artifact.map(|artifact| json!({"@id": artifact_name(artifact)})),
        }));
        let reference = self.add(name.clone(), entity);
        self.loose.insert(name, reference.clone());
        reference
    }

    /// What an action read from outside the graph. A name of its own, since a result may have a file of the same content.
    fn source(&mut self, action: &Action, source: &RecordInput) -> Value {
        let entity = object(json!({
            "@type": "CreativeWork",
            "name": format!("`{}` of stage `{}`, read from outside the graph", source.role, action.name()),
            "identifier": blake3(source.digest),
        }));
        self.add(format!("#{}/source/{}", action.key, escape(&source.role)), entity)
    }

    fn settings(&mut self, action: &Action) -> Vec<Value> {
        let fields = action.settings.as_object().into_iter().flatten();
        let setting = |(name, value): (&String, &Value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let entity = object(json!({"@type": "PropertyValue", "name": name, "value": value}));
            self.add(format!("#{}/{}", action.key, escape(name)), entity)
        };
        fields.map(setting).collect()
    }

    fn action(&mut self, action: &Action, object_of: Vec<Value>, result: Vec<Value>) -> Value {
        let provenance = &action.provenance;
        let tool = self.add(
            format!(
                "{REPOSITORY}#{}-{}-{}-{}",
                action.kind,
                action.revision,
                escape(&provenance.version),
                escape(&provenance.commit)
            ),
            object(json!({
                "@type": "SoftwareApplication",
                "name": format!("twdag {}", action.kind),
                "softwareVersion": format!(
                    "{} (commit {}), revision {} of {}",
                    provenance.version, provenance.commit, action.revision, action.kind
                ),
                "url": REPOSITORY,
            })),
        );
        let agent = self.add(
            format!("#user-{}", escape(&provenance.user)),
            object(json!({"@type": "Person", "name": provenance.user})),
        );
        let location = self.add(
            format!("#machine-{}", escape(&format!("{}-{}", provenance.host, provenance.platform))),
            object(json!({
                "@type": "Place",
                "name": provenance.host,
                "description": format!("{} {}", provenance.platform, provenance.processor_features),
            })),
        );
        let of = &action.attribution;
        let mut description = vec![format!(
            "Stage `{}` of graph `{}`: {} revision {}, key {}.",
            action.name(),
            action.graph,
            action.kind,
            action.revision,
            action.key
        )];
        description.extend(action.numeric_class.iter().map(|class| format!("Computed with {class}.")));
        description.extend(provenance.isolation.map(|isolation| {
            let allowed: Vec<&str> = provenance.allowed.iter().flat_map(Allowed::names).collect();
            let exceptions =
                if allowed.is_empty() { String::new() } else { format!(", but for {}", allowed.join(", ")) };
            format!("Isolation: {}{exceptions}.", isolation.name())
        }));
        description.extend(of.fetched_from.iter().map(|store| format!("Fetched from {store}.")));
        description.extend(of.signed_by.iter().map(|signer| format!("Signed by {signer}.")));
        description.extend(action.notices.iter().map(|notice| format!("Warning: {notice}.")));
        self.add(
            format!("#{}", action.key),
            object(json!({
                "@type": "CreateAction",
                "name": action.name(),
                "description": description.join(" "),
                "startTime": time(provenance.started),
                "endTime": time(provenance.finished),
                "agent": agent,
                "location": location,
                "instrument": tool,
                "object": one_or_many(object_of),
                "result": one_or_many(result),
                "actionStatus": "http://schema.org/CompletedActionStatus",
            })),
        )
    }

    /// Says of what is missing that it is.
    fn missing(&mut self, missing: &Missing) {
        let name = artifact_name(missing.artifact.unwrap_or_else(|| missing.digest.into()));
        let reference = json!({"@id": name.clone()});
        let entity = self.all.entry(name.clone()).or_insert_with(|| {
            json!({
                "@id": name.clone(),
                "@type": "Dataset",
                "name": missing.reference.as_ref().map_or_else(
                    || "missing result".to_owned(),
                    |reference| format!("missing: result of `{reference}`"),
                ),
            })
        });
        if let Some(entity) = entity.as_object_mut() {
            entity.insert("description".to_owned(), Value::from(format!("Missing: {}.", missing.problem)));
        }
        self.loose.insert(name, reference);
    }

    fn root(&mut self, ancestry: &Ancestry, license: Option<&str>, parts: Vec<Value>, mentions: Vec<Value>) -> Value {
        let subject = &ancestry.subject;
        let made = ancestry.actions.iter().filter(|action| ancestry.is_subject(action));
        // The same store gives the same text, so the time is that of the work.
        let published = made.map(|action| action.provenance.finished).max().unwrap_or(Timestamp::UNIX_EPOCH);
        let license = match license {
            Some(license) if license.contains("://") => self.add(
                license.to_owned(),
                object(json!({"@type": "CreativeWork", "name": license, "description": license})),
            ),
            Some(license) => self.add(
                "#license".to_owned(),
                object(json!({"@type": "CreativeWork", "name": license, "description": license})),
            ),
            None => self.add(
                "#license".to_owned(),
                object(json!({
                    "@type": "CreativeWork",
                    "name": "no license stated",
                    "description": "Whoever made this crate has not stated under which terms the result may be used.",
                })),
            ),
        };
        let profile = self.add(
            PROFILE.to_owned(),
            object(json!({"@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"})),
        );
        let author = ancestry
            .actions
            .iter()
            .rev()
            .find(|action| ancestry.is_subject(action))
            .map(|action| json!({"@id": format!("#user-{}", escape(&action.provenance.user))}));
        let mut root = object(json!({
            "@id": "./",
            "@type": "Dataset",
            "name": subject.name,
            "description": format!(
                "Result {} and everything that it rests on{}.",
                subject.artifact,
                if ancestry.complete { "" } else { ", as far as the store that told it still has that" },
            ),
            "datePublished": time(published),
            "identifier": format!("twdag-artifact:{}", subject.artifact),
            "license": license,
            "conformsTo": profile,
            "hasPart": one_or_many(parts),
            "mentions": one_or_many(mentions),
        }));
        if let Some(author) = author {
            root.insert("author".to_owned(), author);
        }
        Value::Object(root)
    }
}

/// What is written as an object, without fields that have no value.
fn object(value: Value) -> Map<String, Value> {
    let Value::Object(fields) = value else { return Map::new() };
    fields
        .into_iter()
        .filter(|(_, value)| !value.is_null() && value.as_array().is_none_or(|all| !all.is_empty()))
        .collect()
}

/// One value stands alone, as the format recommends; several stand in a list, each once.
fn one_or_many(values: Vec<Value>) -> Value {
    let mut once: Vec<Value> = Vec::with_capacity(values.len());
    let mut seen = std::collections::BTreeSet::new();
    for value in values {
        if seen.insert(value.to_string()) {
            once.push(value);
        }
    }
    if once.len() == 1 { once.remove(0) } else { Value::Array(once) }
}

fn artifact_name(artifact: ArtifactId) -> String {
    format!("urn:twdag-artifact:{artifact}/")
}

fn content_name(digest: Digest) -> String {
    format!("urn:blake3:{digest}")
}

fn blake3(digest: Digest) -> String {
    format!("blake3:{digest}")
}

fn time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%3f+00:00").to_string()
}

/// A path as part of an address.
fn escape(path: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    path.bytes().map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn encoding_format(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("json") => "application/json",
        Some("jsonl") => "application/jsonl",
        Some("txt") => "text/plain",
        Some("tsv") => "text/tab-separated-values",
        Some("csv") => "text/csv",
        Some("md") => "text/markdown",
        Some("html") => "text/html",
        Some("svg") => "image/svg+xml",
        Some("parquet") => "application/vnd.apache.parquet",
        Some("gz") => "application/gzip",
        Some("zst") => "application/zstd",
        _ => "application/octet-stream",
    }
}
