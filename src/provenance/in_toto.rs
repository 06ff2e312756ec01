//! As an in-toto Statement (version 1) with the predicate SLSA Provenance (version 1): what supply-chain tools read, and sign.

use serde_json::{Value, json};

use super::{Action, Ancestry, File, Missing, ProvenanceError, REPOSITORY};
use crate::digest::ArtifactId;

/// The name of a digest of a list of files among those of contents. docs/provenance.md tells how it is made.
const ARTIFACT_DIGEST: &str = "twdagArtifact";

/// The statement on the one action that gave the result. Everything that this rests on stands among its resolved
/// dependencies, each with an annotation that tells how it was made.
pub fn statement(ancestry: &Ancestry) -> Result<Value, ProvenanceError> {
    let subject = &ancestry.subject;
    let not_one = || ProvenanceError::NotOneMaker {
        artifact: subject.artifact,
        makers: subject.made_by.iter().map(ToString::to_string).collect(),
    };
    let [key] = subject.made_by.as_slice() else { return Err(not_one()) };
    let action = ancestry.action(*key).ok_or_else(not_one)?;
    // The format does not allow a statement on nothing.
    let files = action.files.as_deref().unwrap_or_default();
    if files.is_empty() {
        return Err(ProvenanceError::NoFiles { artifact: action.artifact, is_lost: action.files.is_none() });
    }
    let others = ancestry.actions.iter().filter(|other| other.key != *key);
    let dependencies = others
        .flat_map(of_action)
        .chain(ancestry.sources().into_iter().map(|(digest, readers)| {
            let names: Vec<String> =
                readers.iter().map(|(action, source)| format!("{}: {}", action.name(), source.role)).collect();
            let readers = readers.iter().map(|(action, source)| json!({"key": action.key, "role": source.role}));
            json!({
                "name": names.join(", "),
                "digest": {"blake3": digest},
                "annotations": {"readFromOutsideTheGraphBy": readers.collect::<Vec<_>>()},
            })
        }))
        .chain(ancestry.missing.iter().map(of_missing));
    let provenance = &action.provenance;
    Ok(json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": files.iter().map(|file| of_file(None, file)).collect::<Vec<_>>(),
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": format!("{REPOSITORY}/blob/main/docs/provenance.md#build-type"),
                "externalParameters": {
                    "graph": action.graph,
                    "stage": action.stage,
                    "kind": action.kind,
                    "settings": action.settings,
                },
                "internalParameters": {
                    "artifact": action.artifact,
                    "revision": action.revision,
                    "numericClass": action.numeric_class,
                    "complete": ancestry.complete,
                    "madeFrom": made_from(action),
                    "machine": machine(action),
                    "isolation": provenance.isolation,
                    "allowed": provenance.allowed,
                },
                "resolvedDependencies": dependencies.collect::<Vec<_>>(),
            },
            "runDetails": {
                "builder": {"id": REPOSITORY, "version": {"twdag": provenance.version, "commit": provenance.commit}},
                "metadata": {
                    "invocationId": action.key,
                    "startedOn": provenance.started,
                    "finishedOn": provenance.finished,
                },
            },
        },
    }))
}

fn digest(artifact: &ArtifactId) -> Value {
    json!({ARTIFACT_DIGEST: artifact})
}

/// A result as a whole, and, if they are known by their SHA-256, its files.
fn of_action(action: &Action) -> Vec<Value> {
    let whole = json!({
        "name": action.name(),
        "digest": digest(&action.artifact),
        "annotations": {
            "key": action.key,
            "graph": action.graph,
            "kind": action.kind,
            "revision": action.revision,
            "numericClass": action.numeric_class,
            "settings": action.settings,
            "madeFrom": made_from(action),
            "machine": machine(action),
            "twdag": {"version": action.provenance.version, "commit": action.provenance.commit},
            "isolation": action.provenance.isolation,
            "allowed": action.provenance.allowed,
            "fetchedFrom": action.attribution.fetched_from,
            "signedBy": action.attribution.signed_by,
        },
    });
    let known = action.files.iter().flatten().filter(|file| file.sha256.is_some());
    let stage = action.name();
    [whole].into_iter().chain(known.map(|file| of_file(Some(&stage), file))).collect()
}

fn of_file(stage: Option<&str>, file: &File) -> Value {
    let name = stage.map_or_else(|| file.path.clone(), |stage| format!("{stage}/{}", file.path));
    match &file.sha256 {
        Some(sha256) => json!({"name": name, "digest": {"sha256": sha256, "blake3": file.digest}}),
        None => json!({"name": name, "digest": {"blake3": file.digest}}),
    }
}

fn of_missing(missing: &Missing) -> Value {
    let named = missing.artifact.map_or_else(|| json!({"blake3": missing.digest}), |artifact| digest(&artifact));
    json!({
        "name": missing.reference.clone().unwrap_or_else(|| missing.digest.to_string()),
        "digest": named,
        "annotations": {"missing": missing.problem, "readBy": missing.read_by, "role": missing.role},
    })
}

/// What an action read, to be looked up among the dependencies. No action gave what came from outside.
fn made_from(action: &Action) -> Value {
    let inputs = action.inputs.iter().map(|input| {
        json!({
            "role": input.role,
            "reference": input.reference,
            "artifact": input.artifact,
            "digest": input.digest,
            "keys": input.made_by,
        })
    });
    let parts = action
        .parts
        .iter()
        .map(|part| json!({"role": "parts", "artifact": part.artifact, "digest": part.artifact, "keys": [part.key]}));
    let sources = action.sources.iter().map(|source| json!({"role": source.role, "digest": source.digest, "keys": []}));
    inputs.chain(parts).chain(sources).collect()
}

fn machine(action: &Action) -> Value {
    let provenance = &action.provenance;
    json!({
        "host": provenance.host,
        "user": provenance.user,
        "platform": provenance.platform,
        "processorFeatures": provenance.processor_features,
    })
}
