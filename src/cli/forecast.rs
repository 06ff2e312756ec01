//! `twdag plan --device`: what a graph will cost on a device, before a byte is fetched.

use std::thread;

use clap::ValueEnum;
use serde::Serialize;
use twdag_stages::stage::Work;

use super::{
    output::{self, BAD, FAINT, STRONG, paint, table},
    words::{bytes, stages as count_stages},
};
use crate::{
    graph::Graph,
    plan::{Forecast, forecast},
};

/// A device by its name. Figures are those of its maker: dense, without sparsity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum NamedDevice {
    /// NVIDIA H100 SXM, 80 GB
    H100,
    /// NVIDIA H200, 141 GB
    H200,
    /// NVIDIA A100 SXM, 80 GB
    A100,
    /// NVIDIA GeForce RTX 4090, 24 GB
    Rtx4090,
    /// This machine's processor and memory
    Cpu,
}

/// What share of the maker's figure such work is taken to reach. It is an assumption, not a measurement.
const UTILISATION: f64 = 0.4;
/// Operations a second that a core is taken to reach: an assumption, too.
const CORE: f64 = 50e9;

/// What a device can do.
struct Ability {
    memory: u64,
    /// Operations a second that are taken to be reached, of products in bf16 and in f32.
    bf16: f64,
    f32: f64,
}

impl NamedDevice {
    const fn name(self) -> &'static str {
        match self {
            Self::H100 => "H100",
            Self::H200 => "H200",
            Self::A100 => "A100",
            Self::Rtx4090 => "RTX 4090",
            Self::Cpu => "CPU",
        }
    }

    /// How long work is taken to need.
    fn seconds(self, work: &Work) -> f64 {
        let ability = self.ability();
        work.operations / if work.is_bf16 { ability.bf16 } else { ability.f32 }
    }

    fn ability(self) -> Ability {
        let (memory, bf16, f32) = match self {
            Self::H100 => (80, 989.0, 67.0),
            Self::H200 => (141, 989.0, 67.0),
            Self::A100 => (80, 312.0, 19.5),
            Self::Rtx4090 => (24, 165.2, 82.6),
            Self::Cpu => {
                let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get) as f64;
                let found = rustix::system::sysinfo();
                let memory = found.totalram as u64 * u64::from(found.mem_unit);
                return Ability { memory, bf16: cores * CORE, f32: cores * CORE };
            }
        };
        Ability { memory: memory * 1_000_000_000, bf16: UTILISATION * bf16 * 1e12, f32: UTILISATION * f32 * 1e12 }
    }
}

/// Where stages are to run.
#[derive(Clone, Copy)]
pub(super) struct Host {
    pub(super) device: NamedDevice,
    /// The memory of the machine that the device is in, if it is told.
    pub(super) memory: Option<u64>,
}

/// Prints what the stages will cost.
pub(super) fn run(graph: &Graph, targets: &[usize], host: Host, json: bool) {
    let forecasts = forecast(graph, targets);
    output::out(if json { document(graph, &forecasts, host) } else { text(graph, &forecasts, host) });
}

/// What `plan --device --json` prints; `docs/machine-readable.md` is the contract.
#[derive(Serialize)]
struct Document<'a> {
    graph: String,
    device: &'static str,
    stages: Vec<DocumentStage<'a>>,
    /// Of all stages, one after the other.
    seconds: f64,
    disk: u64,
}

#[derive(Serialize)]
struct DocumentStage<'a> {
    name: &'a str,
    kind: &'static str,
    work: Option<DocumentWork>,
    disk: Option<u64>,
}

#[derive(Serialize)]
struct DocumentWork {
    on: &'static str,
    parameters: u64,
    forward_tokens: u64,
    training_tokens: u64,
    operations: f64,
    memory: u64,
    host_memory: u64,
    seconds: f64,
    /// Why it will not run there.
    problems: Vec<String>,
}

fn document(graph: &Graph, forecasts: &[Forecast], host: Host) -> String {
    let stages = forecasts.iter().filter_map(|Forecast { node, estimate }| {
        let node = graph.nodes().get(*node)?;
        let work = estimate.work.as_ref().map(|work| {
            let on = host.of(work);
            DocumentWork {
                on: on.name(),
                parameters: work.parameters,
                forward_tokens: work.forward_tokens,
                training_tokens: work.training_tokens,
                operations: work.operations,
                memory: work.memory,
                host_memory: work.host_memory,
                seconds: on.seconds(work),
                problems: problems(&node.name, work, host),
            }
        });
        Some(DocumentStage { name: &node.name, kind: node.stage.kind().name, work, disk: estimate.outlook.bytes })
    });
    let stages: Vec<DocumentStage<'_>> = stages.collect();
    let document = Document {
        graph: graph.path.display().to_string(),
        device: host.device.name(),
        seconds: stages.iter().filter_map(|stage| stage.work.as_ref()).map(|work| work.seconds).sum(),
        disk: stages.iter().filter_map(|stage| stage.disk).sum(),
        stages,
    };
    // Strings and numbers always have a JSON form.
    serde_json::to_string(&document).unwrap_or_default() + "\n"
}

impl Host {
    /// What a stage computes on.
    fn of(self, work: &Work) -> NamedDevice {
        if work.is_on_device { self.device } else { NamedDevice::Cpu }
    }
}

fn text(graph: &Graph, forecasts: &[Forecast], host: Host) -> String {
    let device = host.device;
    let head = ["stage", "kind", "parameters", "forward", "trained", "operations", "on", "memory", "time", "disk"];
    let mut rows = vec![head.map(|word| paint(FAINT, word)).to_vec()];
    let (mut remarks, mut disk, mut hours) = (Vec::new(), 0, 0.0);
    for Forecast { node, estimate } in forecasts {
        let Some(node) = graph.nodes().get(*node) else { continue };
        let mut row = vec![node.name.clone(), node.stage.kind().name.to_owned()];
        if let Some(work) = &estimate.work {
            let on = host.of(work);
            let seconds = on.seconds(work);
            hours += seconds / 3600.0;
            row.extend([
                count(work.parameters as f64),
                count(work.forward_tokens as f64),
                count(work.training_tokens as f64),
                count(work.operations),
                on.name().to_owned(),
                bytes(work.memory as f64),
                time(seconds),
            ]);
            if work.host_memory > 0 {
                let wanted = bytes(work.host_memory as f64);
                remarks.push(format!("beside the device: `{}` keeps {wanted} in the host's memory\n", node.name));
            }
            let told = problems(&node.name, work, host);
            remarks.extend(told.iter().map(|problem| format!("{}: {problem}\n", paint(BAD, "will not run"))));
        } else {
            row.extend(std::iter::repeat_n(String::new(), 7));
        }
        disk += estimate.outlook.bytes.unwrap_or_default();
        row.push(estimate.outlook.bytes.map_or_else(String::new, |count| bytes(count as f64)));
        rows.push(row);
    }
    format!(
        "{}: {}, estimated\n{}together {} of work with models, one stage after the other, and {} on the disk; what is \
         left empty is not known before it runs\n{}{}",
        paint(STRONG, graph.path.display()),
        count_stages(forecasts.len()),
        table(&rows),
        time(hours * 3600.0),
        bytes(disk as f64),
        remarks.concat(),
        assumptions(device)
    )
}

/// Why the stage cannot run there.
fn problems(stage: &str, work: &Work, host: Host) -> Vec<String> {
    let on = host.of(work);
    if work.is_on_device && on == NamedDevice::Cpu {
        return vec![format!("`{stage}` asks for a device; give it `Cpu()`, or estimate another device")];
    }
    let there_is = [(work.memory, Some(on.ability().memory), on.name()), (work.host_memory, host.memory, "host")];
    let lacks = there_is.into_iter().filter_map(|(wanted, there_is, place)| {
        let there_is = there_is.filter(|there_is| wanted > *there_is)?;
        let (wanted, there_is) = (bytes(wanted as f64), bytes(there_is as f64));
        Some(format!("`{stage}` does not fit: it wants {wanted}, the {place} has {there_is}"))
    });
    lacks.collect()
}

fn assumptions(device: NamedDevice) -> String {
    let Ability { bf16, f32, .. } = device.ability();
    let of_device = match device {
        NamedDevice::Cpu => String::new(),
        _ => format!(
            "the {} reaches {:.0} % of its maker's figure ({} operations a second in bf16, {} in f32), ",
            device.name(),
            UTILISATION * 100.0,
            count(bf16),
            count(f32)
        ),
    };
    format!(
        "assumed, not measured: {of_device}a core of this CPU {}\ncounted: operations (docs/long-context.md), memory \
         (docs/memory.md); not in the times: loading models, tokenizing, generating text, the disk\n",
        count(CORE)
    )
}

/// `15.7 T`, with the letters of the metric system up to 10¹⁸.
fn count(number: f64) -> String {
    if number == 0.0 {
        return String::new();
    }
    let mut value = number;
    for unit in ["", " k", " M", " G", " T", " P"] {
        if value < 999.5 {
            return if value < 99.95 && !unit.is_empty() {
                format!("{value:.1}{unit}")
            } else {
                format!("{value:.0}{unit}")
            };
        }
        value /= 1000.0;
    }
    format!("{value:.1} E")
}

/// The time in the largest unit that it has one of.
fn time(seconds: f64) -> String {
    for (unit, size) in [("d", 86_400.0), ("h", 3600.0), ("min", 60.0)] {
        if seconds >= size {
            return format!("{:.1} {unit}", seconds / size);
        }
    }
    format!("{seconds:.1} s")
}
