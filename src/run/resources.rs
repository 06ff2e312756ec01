//! What this machine has for stages, and what each stage of a plan gets of it.

use std::collections::BTreeMap;

use super::{
    error::{Excess, RunError},
    pool::Capacity,
};
use crate::{
    graph::{
        Available, Graph, Request, Workspace,
        amount::{CPU, GPU, MEMORY},
    },
    plan::{Plan, PlannedStage, Status},
};

/// The environment variable by which programs learn which devices they may use.
pub(super) const VISIBLE_DEVICES: &str = "CUDA_VISIBLE_DEVICES";

/// How much there is of every resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    amounts: BTreeMap<String, u64>,
    devices: Option<Vec<String>>,
}

impl Totals {
    /// What the command line says counts first, then the workspace file, then the environment and the machine.
    pub fn find(given: &[(String, Available)], workspace: &Workspace) -> Self {
        let mut totals = Self::default();
        totals.set(CPU, &Available::Amount(std::thread::available_parallelism().map_or(1, usize::from) as u64));
        if let Some(bytes) = memory() {
            totals.set(MEMORY, &Available::Amount(bytes));
        }
        if let Ok(text) = std::env::var(VISIBLE_DEVICES) {
            totals.set(GPU, &Available::Devices(visible(&text)));
        }
        let of_workspace = workspace.resources.iter().map(|(name, available)| (name.as_str(), available));
        for (name, available) in of_workspace.chain(given.iter().map(|(name, available)| (name.as_str(), available))) {
            totals.set(name, available);
        }
        totals
    }

    fn set(&mut self, name: &str, available: &Available) {
        let amount = match available {
            Available::Amount(amount) => *amount,
            Available::Devices(devices) => {
                self.devices = Some(devices.clone());
                devices.len() as u64
            }
        };
        self.amounts.insert(name.to_owned(), amount);
    }

    /// Every resource with its amount.
    pub fn amounts(&self) -> &BTreeMap<String, u64> {
        &self.amounts
    }

    /// The names of the devices, if anything is known of devices here.
    pub fn devices(&self) -> Option<&[String]> {
        self.devices.as_deref()
    }

    /// The names of the devices with these numbers, as workers are told of them.
    pub(super) fn named_devices(&self, numbers: &[usize]) -> Option<Vec<String>> {
        let named = |all: &Vec<String>| numbers.iter().filter_map(|&number| all.get(number).cloned()).collect();
        self.devices.as_ref().map(named)
    }

    /// What there is of each resource, in the order of [`Totals::each`].
    pub(super) fn capacity(&self) -> Capacity {
        let devices = self.amounts.keys().position(|name| name == GPU).filter(|_| self.devices.is_some());
        Capacity { amounts: self.amounts.values().copied().collect(), devices }
    }

    /// An amount of each resource, by its name.
    pub(super) fn each(&self, amount: impl Fn(&str) -> u64) -> Vec<u64> {
        self.amounts.keys().map(|name| amount(name)).collect()
    }

    /// What a stage asks for beyond what there is.
    pub(super) fn excesses(&self, graph: &Graph, stage: &PlannedStage) -> Vec<Excess> {
        let names: Vec<&str> = self.amounts.keys().map(String::as_str).collect();
        let requests = &graph.nodes()[stage.node].policy.resources;
        let excess = |(name, request): (&String, &Request)| {
            let total = self.amounts.get(name).copied();
            (request.amount > total.unwrap_or(0)).then(|| Excess {
                graph: graph.path.clone(),
                line: request.line,
                column: request.column,
                stage: stage.name.clone(),
                resource: name.clone(),
                amount: request.amount,
                total,
                // `gpu` is no mistake for `cpu` where nothing is known of devices.
                similar: crate::graph::similar_name(name, &names)
                    .filter(|_| ![GPU, MEMORY].contains(&name.as_str()))
                    .map(str::to_owned),
            })
        };
        requests.iter().filter_map(excess).collect()
    }

    /// Threads of a stage that does not say how much `cpu` it wants, if `jobs` stages may run at once.
    pub(super) fn default_threads(&self, jobs: Option<usize>) -> usize {
        usize::try_from(self.cpus() / jobs.unwrap_or(1).max(1) as u64).unwrap_or(usize::MAX).max(1)
    }

    pub(super) fn cpus(&self) -> u64 {
        self.amounts.get(CPU).copied().unwrap_or(1)
    }
}

/// The devices of an environment variable as CUDA reads it: up to the first that is none.
fn visible(text: &str) -> Vec<String> {
    let mut devices: Vec<String> = Vec::new();
    for name in text.split(',').map(str::trim) {
        if name.is_empty() || name.starts_with('-') || name == "NoDevFiles" || devices.iter().any(|known| known == name)
        {
            break;
        }
        devices.push(name.to_owned());
    }
    devices
}

/// The bytes of memory of this machine, or of the control group that this process is confined to.
#[cfg(target_os = "linux")]
fn memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let all = kibibytes * 1024;
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = limits.iter().find_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    Some(limit.map_or(all, |limit| limit.min(all)))
}

/// Where the system does not tell in a file, nothing is known of memory.
#[cfg(not(target_os = "linux"))]
fn memory() -> Option<u64> {
    None
}

/// What each stage of a plan gets, and how many run at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// How much there is of each resource that counts.
    pub(super) capacity: Capacity,
    /// What each stage takes of it, in the order of the plan.
    pub(super) asks: Vec<Vec<u64>>,
    /// The threads of each stage, in the order of the plan.
    pub(super) threads: Vec<usize>,
    /// What a part of each stage takes.
    pub(super) part_asks: Vec<Vec<u64>>,
    /// The threads of a part of each stage.
    pub(super) part_threads: Vec<usize>,
    /// Stages that may run at the same time.
    pub jobs: usize,
    /// Threads of a stage whose policy does not say how much `cpu` it wants.
    pub default_threads: usize,
}

impl Budget {
    /// Refuses stages that want more than there is. `jobs` is how many stages may run at once; each that does not say
    /// how much `cpu` it wants gets its equal share, or all if nothing is said of `jobs` either.
    pub fn new(graph: &Graph, plan: &Plan, totals: &Totals, jobs: Option<usize>) -> Result<Self, RunError> {
        let cpus = totals.cpus();
        let default_cpu = cpus / jobs.unwrap_or(1).max(1) as u64;
        let (mut asks, mut threads, mut excesses) = (Vec::new(), Vec::new(), Vec::new());
        let (mut part_asks, mut part_threads) = (Vec::new(), Vec::new());
        let (mut open_cpu, mut part_cpu) = (Vec::new(), None);
        for stage in &plan.stages {
            let requests = &graph.nodes()[stage.node].policy.resources;
            let ask = |name: &str| match requests.get(name) {
                Some(request) => request.amount,
                None if name == CPU => default_cpu,
                None => 0,
            };
            asks.push(totals.each(ask));
            let kind = graph.nodes()[stage.node].stage.kind();
            let narrow = kind.part_threads.filter(|_| !requests.contains_key(CPU));
            let part_ask = |name: &str| match narrow {
                Some(threads) if name == CPU => ask(CPU).min(threads as u64),
                _ => ask(name),
            };
            part_asks.push(totals.each(part_ask));
            let as_threads = |cpu: u64| usize::try_from(cpu).unwrap_or(usize::MAX).max(1);
            threads.push(as_threads(ask(CPU)));
            part_threads.push(as_threads(part_ask(CPU)));
            // What has its result needs nothing.
            if stage.status == Status::Cached {
                continue;
            }
            open_cpu.push(ask(CPU));
            if kind.splits {
                part_cpu = Some(part_cpu.map_or(part_ask(CPU), |least: u64| least.min(part_ask(CPU))));
            }
            excesses.extend(totals.excesses(graph, stage));
        }
        if !excesses.is_empty() {
            return Err(RunError::Excess(excesses));
        }
        Ok(Self {
            capacity: totals.capacity(),
            asks,
            threads,
            part_asks,
            part_threads,
            jobs: jobs.unwrap_or_else(|| at_once(open_cpu, part_cpu, cpus)),
            default_threads: totals.default_threads(jobs),
        })
    }
}

/// How many stages, or parts of stages, can run at the same time at most: the smallest that fit together. Of a stage that
/// may fall into parts there may be any number; `part` is what the smallest of those asks for.
fn at_once(mut asks: Vec<u64>, part: Option<u64>, mut cpus: u64) -> usize {
    let parts = part.map_or(1, |ask| cpus / ask.max(1));
    asks.sort_unstable();
    let fit = asks.into_iter().take_while(|&ask| {
        let fits = ask <= cpus;
        cpus = cpus.saturating_sub(ask);
        fits
    });
    usize::try_from(parts).unwrap_or(usize::MAX).max(fit.count()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_the_environment_end_where_cuda_ends_them() {
        assert_eq!(visible("0,1"), ["0", "1"]);
        assert_eq!(visible("GPU-8932f937, 2,-1,3"), ["GPU-8932f937", "2"]);
        assert_eq!(visible(""), [""; 0]);
        assert_eq!(visible("NoDevFiles"), [""; 0]);
    }

    #[test]
    fn the_command_line_outweighs_the_workspace_file_and_that_the_machine() {
        let given = [("cpu".to_owned(), Available::Amount(3)), ("licence".to_owned(), Available::Amount(1))];
        let text = r#"Workspace(version: 1, resources: {"cpu": 64, "gpu": ["a", 1], "memory": "2 GiB"})"#;
        let workspace = Workspace::from_text(std::path::Path::new("twdag.ron"), text).unwrap();
        let totals = Totals::find(&given, &workspace);
        let amounts: Vec<_> = totals.amounts().iter().map(|(name, amount)| (name.as_str(), *amount)).collect();
        assert_eq!(amounts, [("cpu", 3), ("gpu", 2), ("licence", 1), ("memory", 2 << 30)]);
        assert_eq!(totals.devices(), Some(["a".to_owned(), "1".to_owned()].as_slice()));
        let machine = Totals::find(&[], &Workspace::default());
        assert!(machine.cpus() >= 1);
        #[cfg(target_os = "linux")]
        assert!(machine.amounts()[MEMORY] > 64 << 20);
    }

    #[test]
    fn as_many_run_at_once_as_the_smallest_allow() {
        assert_eq!(at_once(vec![8, 8], None, 8), 1);
        assert_eq!(at_once(vec![4, 1, 2, 2], None, 5), 3);
        assert_eq!(at_once(vec![], None, 5), 1);
        assert_eq!(at_once(vec![2, 8], Some(2), 8), 4);
        assert_eq!(at_once(vec![8], Some(8), 8), 1);
    }
}
