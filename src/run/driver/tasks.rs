//! The stages of a plan as the scheduler knows them.

use std::cell::LazyCell;

use crate::{
    graph::Graph,
    plan::{Plan, PlannedStage, Status},
    run::{resources::Budget, state::Task},
    store::Store,
};

/// A task for each stage of the plan.
pub(super) fn of_plan(graph: &Graph, plan: &Plan, store: &Store, budget: &Budget) -> Vec<Task> {
    let mut places = vec![None; graph.nodes().len()];
    for (place, stage) in plan.stages.iter().enumerate() {
        places[stage.node] = Some(place);
    }
    let weights = weights(graph, plan, store);
    let asks = budget.asks.iter().zip(&budget.part_asks);
    let tasks = plan.stages.iter().zip(weights).zip(asks).map(|((stage, weight), (asks, part_asks))| Task {
        needs: needs(graph, stage, &places),
        place: stage.node,
        weight,
        asks: asks.clone(),
        part_asks: part_asks.clone(),
        retries: graph.nodes()[stage.node].policy.retries,
    });
    tasks.collect()
}

/// The places in the plan of the stages that a stage reads.
fn needs(graph: &Graph, stage: &PlannedStage, places: &[Option<usize>]) -> Vec<usize> {
    let mut needs: Vec<usize> =
        graph.nodes()[stage.node].inputs.iter().filter_map(|input| places[input.node]).collect();
    needs.sort_unstable();
    needs.dedup();
    needs
}

/// How long each stage of the plan took when it was last computed, in milliseconds; a stage that never was is thought
/// to take as long as the others do on average.
fn weights(graph: &Graph, plan: &Plan, store: &Store) -> Vec<u64> {
    let open = plan.stages.iter().filter(|stage| stage.status != Status::Cached).count();
    let last = LazyCell::new(|| store.last_keys(&graph.name));
    let known = |stage: &PlannedStage| {
        // The order of two stages does not need to be known, nor that of none.
        if open < 3 || stage.status == Status::Cached {
            return None;
        }
        // Only the order in which stages start depends on this, so that whatever cannot be read is unknown.
        let record = store.past_record(&last.key(&stage.name)?)?;
        Some(((record.provenance.seconds * 1000.0) as u64).max(1))
    };
    let known: Vec<Option<u64>> = plan.stages.iter().map(known).collect();
    let count = known.iter().flatten().count() as u64;
    let average = known.iter().flatten().sum::<u64>().checked_div(count).unwrap_or(1).max(1);
    known.into_iter().map(|weight| weight.unwrap_or(average)).collect()
}
