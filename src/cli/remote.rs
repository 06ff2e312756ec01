//! What commands take to use a remote store, and how they tell of it.

use std::path::{Path, PathBuf};

use clap::{Args, builder::PossibleValue};

use super::{
    failure::Failure,
    output::{self, NOTE, paint},
};
use crate::{
    graph::{Graph, WORKSPACE_FILE, Workspace},
    plan::{self, Plan, Status},
    remote::{Keys, Mode, Remote, RemoteError, SigningKey, Tiers},
    store::Store,
};

/// Which remote store there is, and what it is used for.
#[derive(Debug, Args)]
pub(super) struct RemoteOptions {
    #[command(flatten)]
    place: RemotePlace,
    /// What the remote store is used for: results are taken from it (read), given to it (write), or both
    #[arg(long, value_name = "USE", env = "TWDAG_REMOTE", hide_env_values = true, default_value = "readwrite")]
    remote: Mode,
}

/// Which remote store there is.
#[derive(Debug, Args)]
pub(super) struct RemotePlace {
    /// A store that a team shares, behind the one of this machine: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or
    /// file:///FOLDER (docs/team-cache.md) [default: `remote_store` of twdag.ron]
    #[arg(long, value_name = "URL", env = "TWDAG_REMOTE_STORE", hide_env_values = true)]
    remote_store: Option<String>,
    /// Sign the results that are given to the remote store with the key in this file (`twdag store keygen` makes one)
    #[arg(long, value_name = "FILE", env = "TWDAG_SIGNING_KEY", hide_env_values = true)]
    signing_key: Option<PathBuf>,
}

const UNNAMED: &str =
    "no remote store is named; name one with --remote-store, TWDAG_REMOTE_STORE or `remote_store` in twdag.ron";

impl clap::ValueEnum for Mode {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

impl RemoteOptions {
    /// The remote store, if there is one and it is to be used. Nothing is asked of it yet.
    pub(super) fn find(&self, workspace: &Path) -> Result<Option<Remote>, Failure> {
        if self.remote == Mode::Off { Ok(None) } else { self.place.find(workspace, self.remote) }
    }

    /// The remote store of a command that is about nothing else.
    pub(super) fn need(&self, workspace: &Path) -> Result<Remote, Failure> {
        self.find(workspace)?.ok_or_else(|| Failure::usage(format!("{UNNAMED}, and leave --remote as it is")))
    }
}

impl RemotePlace {
    /// The remote store of a command that looks after it.
    pub(super) fn need(&self, workspace: &Path) -> Result<Remote, Failure> {
        self.find(workspace, Mode::ReadWrite)?.ok_or_else(|| Failure::usage(UNNAMED))
    }

    fn find(&self, workspace: &Path, mode: Mode) -> Result<Option<Remote>, Failure> {
        let file = Workspace::load(workspace)?;
        let address = self.remote_store.clone().or(file.remote_store);
        let Some(address) = address.filter(|address| !address.trim().is_empty()) else { return Ok(None) };
        let trusted = file.trusted_keys.iter().map(|key| key.parse());
        let trusted = trusted.collect::<Result<_, String>>().map_err(|problem| {
            Failure::usage(format!("{}: `trusted_keys`: {problem}", workspace.join(WORKSPACE_FILE).display()))
        })?;
        let signing = self.signing_key.as_deref().map(SigningKey::read).transpose()?;
        Ok(Some(Remote::new(address.parse()?, mode, Keys { trusted, signing })))
    }
}

/// Says, where something is not there, that a remote store may have it, which commands without `--remote-store` do not ask.
pub(super) fn tell_unasked(workspace: &Path) {
    let set = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let is_read = set("TWDAG_REMOTE").is_none_or(|mode| mode.starts_with("read"));
    if !is_read {
        return;
    }
    let named = match set("TWDAG_REMOTE_STORE") {
        None => Workspace::load(workspace).map(|file| file.remote_store),
        named => Ok(named),
    };
    match named {
        Ok(None) => {}
        Ok(Some(_)) => output::err(format!(
            "{}: only the store of this machine was asked; what the remote store has comes with `twdag store pull`\n",
            paint(NOTE, "note")
        )),
        // What is not there is what the user asked about, and told besides.
        Err(error) => warn(format!("whether there is a remote store that has it is not known: {error}")),
    }
}

/// Plans, with what the remote store has too. It is asked only if something is not on this machine. If it cannot be reached,
/// the plan is made without it, and the error is returned besides.
pub(super) fn plan_with(
    graph: &Graph,
    targets: &[usize],
    store: &Store,
    remote: Option<&Remote>,
) -> Result<(Plan, Option<RemoteError>), Failure> {
    let tiers = Tiers::new(store, remote);
    let plan = plan::plan(graph, targets, tiers.clone())?;
    let is_open = plan.stages.iter().any(|stage| stage.status != Status::Cached);
    let planned = match tiers.remote().filter(|_| is_open).map(|remote| remote.refresh_now_and_then(store)) {
        None => (plan, None),
        Some(Ok(problems)) => {
            problems.iter().for_each(warn);
            (plan::plan(graph, targets, tiers)?, None)
        }
        Some(Err(error)) => (plan, Some(error)),
    };
    remote.map(Remote::take_problems).iter().flatten().for_each(warn);
    Ok(planned)
}

/// Tells of something that the user should know although the command goes on.
pub(super) fn warn(problem: impl std::fmt::Display) {
    output::err(format!("{}: {problem}\n", paint(NOTE, "warning")));
}
