//! The reruns of a check as the scheduler knows them.

use super::{
    inputs::{InMemory, Room},
    surroundings::threads,
};
use crate::{
    graph::{
        Graph, Node,
        amount::{CPU, GPU, MEMORY},
    },
    plan::{Forecast, forecast},
    run::{
        pool::Capacity,
        resources::Totals,
        state::{Rules, Scheduler, Task},
    },
};

/// The reruns so far: those of the first stage, those of the next one, and so on.
pub(super) struct Tasks<'a> {
    graph: &'a Graph,
    totals: &'a Totals,
    jobs: Option<usize>,
    forecasts: Vec<Forecast>,
    reruns: Vec<Task>,
}

/// The threads of a stage.
#[derive(Clone, Copy)]
pub(super) struct Threads {
    /// What a run would give it, held to the same number of jobs.
    pub(super) usual: usize,
    /// What a run would give it that is held to none.
    plain: usize,
    /// The most cores that a rerun takes.
    cores: usize,
}

impl Threads {
    fn new(node: &Node, totals: &Totals, jobs: Option<usize>) -> Self {
        let all = usize::try_from(totals.cpus()).unwrap_or(usize::MAX).max(1);
        if let Some(request) = node.policy.resources.get(CPU) {
            let asked = usize::try_from(request.amount).unwrap_or(usize::MAX).clamp(1, all);
            return Self { usual: asked, plain: asked, cores: all };
        }
        let share = totals.default_threads(jobs);
        Self { usual: share, plain: totals.default_threads(None), cores: share }
    }

    /// Those of the `run`-th run, from 1: not as many as the result on record may have had.
    pub(super) fn of(self, run: usize) -> usize {
        let others = (1..).map(|run| threads(run, self.usual)).filter(|threads| *threads != self.plain);
        others.take(run).last().unwrap_or(1)
    }

    /// The cores that the `run`-th run takes.
    fn cores(self, run: usize) -> usize {
        self.of(run).min(self.cores)
    }
}

impl<'a> Tasks<'a> {
    /// Of reruns of these nodes of the graph, of which at most `jobs` go on at the same time.
    pub(super) fn new(graph: &'a Graph, nodes: &[usize], totals: &'a Totals, jobs: Option<usize>) -> Self {
        Self { graph, totals, jobs, forecasts: forecast(graph, nodes), reruns: Vec::new() }
    }

    /// Adds so many reruns of a stage that took `seconds`, one after another: a run has no two of a stage at once, and a program may have a
    /// port or a lock for itself.
    pub(super) fn add(&mut self, node: usize, runs: usize, seconds: f64, in_memory: &InMemory) -> Threads {
        let first = self.reruns.len();
        let threads = Threads::new(&self.graph.nodes()[node], self.totals, self.jobs);
        for run in 1..=runs {
            let place = self.reruns.len();
            let cores = threads.cores(run);
            let seconds = seconds * threads.usual as f64 / cores as f64;
            self.reruns.push(Task {
                needs: place.checked_sub(1).filter(|before| *before >= first).into_iter().collect(),
                place,
                weight: ((seconds * 1000.0) as u64).max(1),
                asks: self.asks(node, cores as u64, in_memory),
                ..Task::default()
            });
        }
        threads
    }

    /// What a rerun takes of each resource: those that have names, the memory for copies, and the device that nobody lends.
    fn asks(&self, node: usize, cores: u64, in_memory: &InMemory) -> Vec<u64> {
        let requests = &self.graph.nodes()[node].policy.resources;
        let mut asks = self.totals.each(|name| match requests.get(name) {
            _ if name == CPU => cores,
            Some(request) => request.amount,
            None if name == MEMORY => self.memory(node),
            None => 0,
        });
        asks.extend([in_memory.bytes(), u64::from(takes_first_device(&self.graph.nodes()[node]))]);
        asks
    }

    /// The memory of the host that a stage takes whose policy does not say so: in a run without policies stages have the machine for themselves.
    fn memory(&self, node: usize) -> u64 {
        let forecast = self.forecasts.iter().find(|forecast| forecast.node == node);
        let work = forecast.and_then(|forecast| forecast.estimate.work.as_ref());
        work.map_or(0, |work| if work.is_on_device { work.host_memory } else { work.memory })
    }

    pub(super) fn len(&self) -> usize {
        self.reruns.len()
    }

    pub(super) fn schedule(self, room: &Room) -> Scheduler {
        let Capacity { mut amounts, devices } = self.totals.capacity();
        amounts.extend([room.free(), 1]);
        let rules = Rules { jobs: self.jobs.unwrap_or(usize::MAX), keep_going: true };
        Scheduler::new(self.reruns, &Capacity { amounts, devices }, rules)
    }
}

/// Whether a stage computes on a device and asks for none: it takes the first that there is.
fn takes_first_device(node: &Node) -> bool {
    let is_on_device = node.stage.numeric_class().is_some_and(|class| !class.starts_with("cpu"));
    is_on_device && !node.policy.resources.contains_key(GPU)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::{
        graph::{Available, Overrides, Workspace},
        run::state::{Effect, Happened},
    };

    const GRAPH: &str = r#"Graph(version: 1, policy: {"lent": (resources: {"gpu": 1, "cpu": 1})}, stages: {
        "data": Download(from: Folder(path: "data")),
        "tokenizer": TrainTokenizer(text: ["data"], vocabulary: 300),
        "tokens": Tokenize(text: ["data"], tokenizer: "tokenizer", length: 32),
        "model": InitModel(tokenizer: "tokenizer", hidden_size: 16, layers: 1, heads: 2, intermediate_size: 32, context: 32, seed: 1),
        "first": Score(model: "model", tokens: "tokens", device: Cuda(precision: F32)),
        "second": Score(model: "model", tokens: "tokens", device: Cuda(precision: F32)),
        "lent": Score(model: "model", tokens: "tokens", device: Cuda(precision: F32)),
        "host": Score(model: "model", tokens: "tokens"),
    })"#;

    /// The first tasks to start, of two reruns of each of these stages on 8 cores.
    fn started(stages: &[&str], jobs: usize) -> Vec<Effect> {
        let graph = Graph::from_text(Path::new("graph.ron"), GRAPH, PathBuf::new(), &Overrides::default()).unwrap();
        let node = |name: &&str| graph.nodes().iter().position(|node| node.name == *name).unwrap();
        let nodes: Vec<usize> = stages.iter().map(node).collect();
        let totals = Totals::find(&[("cpu".to_owned(), Available::Amount(8))], &Workspace::default());
        let mut tasks = Tasks::new(&graph, &nodes, &totals, Some(jobs));
        for node in nodes {
            tasks.add(node, 2, 1.0, &InMemory::default());
        }
        tasks.schedule(&Room::find()).on(Happened::Begin)
    }

    #[test]
    fn stages_that_take_the_first_device_do_so_in_turn() {
        assert_eq!(started(&["first", "second", "host"], 4), [Effect::Start(0), Effect::Start(4)]);
        assert_eq!(started(&["first", "lent"], 4), [Effect::Start(0), Effect::Start(2)]);
    }

    #[test]
    fn each_of_so_many_has_its_share() {
        assert_eq!(started(&["tokens", "model", "host"], 2), [Effect::Start(0), Effect::Start(2)]);
        let threads = |usual, plain| {
            let threads = Threads { usual, plain, cores: usual };
            (1..=4).map(|run| (threads.of(run), threads.cores(run))).collect::<Vec<_>>()
        };
        assert_eq!(threads(4, 8), [(3, 3), (5, 4), (2, 2), (6, 4)]);
        // As many as in a run that is held to no number of jobs are no other number.
        assert_eq!(threads(1, 2), [(3, 1), (4, 1), (5, 1), (6, 1)]);
        assert_eq!(threads(2, 2), [(1, 1), (3, 2), (4, 2), (5, 2)]);
    }
}
