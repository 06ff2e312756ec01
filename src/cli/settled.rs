//! What is known without reading a graph: plans in which everything was cached, and still is.

use super::{
    arguments::GraphArguments,
    failure::Failure,
    output::{self, NOTE, paint},
    plan as plan_command,
};
use crate::{
    graph::{Graph, workspace},
    plan::{
        Document, Plan, Status,
        settled::{Asked, Facts, Question, Settled},
    },
    store::Store,
};

/// What came of looking for a settled plan.
pub(super) struct Looked {
    /// The question, for [`settle`].
    pub(super) asked: Option<Asked>,
    /// The plan, if it is settled, and the store, which is held.
    pub(super) settled: Option<(Settled, Store)>,
}

/// Looks for a settled plan. Call it before anything is read.
pub(super) fn look(graph: &GraphArguments, stages: &[String]) -> Result<Looked, Failure> {
    let workspace = workspace(&graph.graph)?;
    let overrides = graph.options.overrides();
    let question = Question { graph: &graph.graph, workspace: &workspace, overrides: &overrides, stages };
    let asked = question.ask();
    let root = graph.options.root(&workspace);
    let mut settled = None;
    if let Some(asked) = asked.as_ref().filter(|asked| asked.may_be_settled(&root)) {
        let store = Store::open(&root)?;
        settled = asked.settled(&store).map(|settled| (settled, store));
    }
    Ok(Looked { asked, settled })
}

/// Keeps a plan, if everything in it is cached, so that it is known at once next time.
pub(super) fn settle(asked: Option<&Asked>, graph: &Graph, plan: &Plan, store: &Store) {
    let Some(asked) = asked.filter(|_| plan.stages.iter().all(|stage| stage.status == Status::Cached)) else { return };
    let (text, json) = (plan_command::text(graph, plan), Document::of(graph, plan).line());
    if let Err(error) = asked.settle(graph, plan, store, &facts(graph, plan), (&text, &json)) {
        output::err(format!("{}: the next plan will take longer than it could: {error}\n", paint(NOTE, "warning")));
    }
}

/// What is known of a plan at once.
pub(super) fn facts(graph: &Graph, plan: &Plan) -> Facts {
    let is_report = |name: &str| name == "Report";
    let reports = plan.stages.iter().filter(|stage| is_report(stage.kind));
    Facts {
        graph: graph.name.clone(),
        stages: plan.stages.len(),
        reports: reports.filter_map(|stage| Some((stage.name.clone(), stage.artifact?))).collect(),
    }
}
