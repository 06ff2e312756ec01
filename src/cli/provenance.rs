//! `twdag provenance`: where a result comes from, back to what was read from outside.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{
    arguments::{ParameterOptions, stage_name},
    failure::Failure,
    output::{self, NOTE, paint},
    side::{Side, SideStage},
    words::{harmless, short},
};
use crate::{
    blame::exit,
    provenance::{Ancestry, Maker, Missing, envelope, ro_crate, statement},
    remote::SigningKey,
};

/// Tell all that a result rests on: inputs, settings, digests, machines, signers
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twdag provenance graphs/babyllama.ron train_dense
  twdag provenance graphs/babyllama.ron:train_dense --format in-toto > train_dense.intoto.json
  twdag provenance graphs/babyllama.ron:train_dense --format in-toto --signing-key key > train_dense.dsse.json
  twdag provenance 659333aabfa8 | jq '.actions[] | select(.kind == \"Download\") | .files[] | {path, sha256}'

A crate is a folder with the files of the result and this description of them:
  mkdir crate && cp -R \"$(twdag path graphs/babyllama.ron train_dense)/.\" crate/ && chmod -R u+w crate
  twdag provenance graphs/babyllama.ron train_dense --format ro-crate > crate/ro-crate-metadata.json

It reads what the store has on record and runs nothing. What the store does not have any more is named as missing, and the exit
code is 1 then. All files of the result, and of stages that read no other one (downloads), are read for their SHA-256.")]
pub(super) struct Arguments {
    /// A stage of a graph, of a lock file or of a run (`A:STAGE`), or an artifact by the first digits of its name
    #[arg(value_name = "ARTIFACT")]
    artifact: String,
    /// The stage, if it is not named behind a colon
    #[arg(value_name = "STAGE", value_parser = stage_name())]
    stage: Option<String>,
    /// In which form
    #[arg(long, value_name = "FORMAT", default_value = "json")]
    format: Format,
    /// Sign the in-toto statement with the key in this file (`twdag store keygen` makes one): a DSSE envelope is printed.
    /// `TWDAG_SIGNING_KEY` signs what is given to a shared store, and does not count here
    #[arg(long, value_name = "FILE")]
    signing_key: Option<PathBuf>,
    /// Under which terms the result may be used, for a crate: an address or words
    #[arg(long, value_name = "LICENSE")]
    license: Option<String>,
    #[command(flatten)]
    parameters: ParameterOptions,
    /// The store [default: the folder `artifacts` of the workspace]
    #[arg(long, value_name = "DIR", env = "TWDAG_STORE", hide_env_values = true)]
    store: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One JSON object, as docs/provenance.md tells
    Json,
    /// An in-toto Statement with SLSA Provenance; with a signing key a DSSE envelope of it
    InToto,
    /// The metadata of a Process Run Crate
    RoCrate,
}

/// Gathers and prints.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    if arguments.license.is_some() && arguments.format != Format::RoCrate {
        return Err(Failure::usage("--license stands in a crate alone: add --format ro-crate"));
    }
    if arguments.signing_key.is_some() && arguments.format != Format::InToto {
        return Err(Failure::usage("--signing-key signs an in-toto statement alone: add --format in-toto"));
    }
    let name = match &arguments.stage {
        Some(stage) => format!("{}:{stage}", arguments.artifact),
        None => arguments.artifact.clone(),
    };
    let overrides = arguments.parameters.overrides();
    let side = Side::find(&name, &overrides, arguments.store.as_deref())?;
    if !side.is_graph() && (!overrides.set.is_empty() || overrides.profile.is_some()) {
        return Err(Failure::usage(format!("--set and --profile are for graphs, and {name} is none")));
    }
    let stage = one_stage(&side, &name)?;
    if stage.artifact.is_none() {
        side.tell_unasked();
    }
    let artifact = stage.artifact.ok_or_else(|| {
        Failure::missing(format!("stage `{}` of {name} has no result yet: run the graph first", stage.name))
    })?;
    let maker = match &stage.action {
        _ if side.is_artifact() => Maker::Any,
        Some(action) => Maker::Action(action.key),
        None => Maker::Stage,
    };
    let ancestry = Ancestry::of(side.store()?, stage.name.clone(), artifact, maker)?;
    match arguments.format {
        Format::Json => output::json(&ancestry),
        Format::InToto => {
            let statement = statement(&ancestry)?;
            match &arguments.signing_key {
                Some(key) => output::json(&envelope(&statement, &SigningKey::read(key)?)),
                None => output::json(&statement),
            }
        }
        Format::RoCrate => output::json(&ro_crate(&ancestry, arguments.license.as_deref())),
    }
    for missing in &ancestry.missing {
        output::err(format!("{}: {}\n", paint(NOTE, "missing"), in_words(missing)));
    }
    if !ancestry.complete {
        side.tell_unasked();
    }
    Ok(if ancestry.complete { exit::SUCCESS } else { exit::STAGE_FAILED })
}

fn one_stage<'a>(side: &'a Side, name: &str) -> Result<&'a SideStage, Failure> {
    match side.stages.as_slice() {
        [stage] => Ok(stage),
        stages => {
            let names: Vec<String> = stages.iter().map(|stage| format!("`{}`", stage.name)).collect();
            Err(Failure::usage(format!("name one stage of {name}: {}", names.join(", "))))
        }
    }
}

fn in_words(missing: &Missing) -> String {
    let what =
        missing.reference.as_ref().map_or_else(|| short(missing.digest), |stage| format!("`{}`", harmless(stage)));
    let digits = missing.artifact.map_or_else(|| short(missing.digest), short);
    let reader = missing.read_by.map(|key| format!(", which action {} read", short(key))).unwrap_or_default();
    format!("{what} ({digits}){reader}: {}", harmless(&missing.problem))
}
