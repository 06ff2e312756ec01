//! What a graph will cost, told from its settings alone: nothing is read, fetched or computed.

use twdag_stages::stage::{Estimate, Outlook, Reference};

use crate::graph::Graph;

/// What is told of a stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    /// Index into [`Graph::nodes`].
    pub node: usize,
    /// What its kind makes of its settings and of what is told of its inputs.
    pub estimate: Estimate,
}

/// The targets and all they need, each stage behind those it reads.
pub fn forecast(graph: &Graph, targets: &[usize]) -> Vec<Forecast> {
    let mut outlooks = vec![Outlook::default(); graph.nodes().len()];
    let mut forecasts = Vec::new();
    for node in graph.closure(targets) {
        let Some(stage) = graph.nodes().get(node) else { continue };
        let outlook = |reference: &Reference| {
            let input = stage.inputs.iter().find(|input| input.reference == *reference);
            input.and_then(|input| outlooks.get(input.node)).cloned().unwrap_or_default()
        };
        let estimate = stage.stage.estimate(&outlook);
        if let Some(slot) = outlooks.get_mut(node) {
            slot.clone_from(&estimate.outlook);
        }
        forecasts.push(Forecast { node, estimate });
    }
    forecasts
}
