//! How far the programs of `Command` stages are kept from what those do not declare.

use clap::{Args, builder::PossibleValue};
use twdag_stages::stage::Isolation;

use crate::graph::Workspace;

/// What commands take that start programs.
#[derive(Debug, Args)]
pub(super) struct IsolationOptions {
    /// Whether programs of Command stages that read, write or reach what the stage does not declare are told of (warn), or refused
    /// that, so that the stage fails (enforce). It is about how a stage runs and no part of its key: cached results count whatever
    /// mode they were computed with. Needs Linux: docs/reproducibility.md says what is declared, seen and refused, and what is not
    /// [default: `isolation` of twdag.ron, or else off]
    #[arg(long, value_name = "MODE", env = "TWDAG_ISOLATION", hide_env_values = true)]
    isolation: Option<Chosen>,
}

/// As users write it.
#[derive(Clone, Copy, Debug)]
struct Chosen(Isolation);

const ALL: [Chosen; 3] = [Chosen(Isolation::Off), Chosen(Isolation::Warn), Chosen(Isolation::Enforce)];

impl clap::ValueEnum for Chosen {
    fn value_variants<'a>() -> &'a [Self] {
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.name()))
    }
}

impl IsolationOptions {
    /// What counts in a workspace.
    pub(super) fn of(&self, workspace: &Workspace) -> Isolation {
        self.isolation.map(|chosen| chosen.0).or(workspace.isolation).unwrap_or_default()
    }
}
