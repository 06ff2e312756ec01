//! `twdag plan --device`: what a graph will cost on a device, before a byte is fetched.

use std::thread;

use clap::ValueEnum;
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

/// Prints what the stages will cost.
pub(super) fn run(graph: &Graph, targets: &[usize], device: NamedDevice) {
    output::out(text(graph, &forecast(graph, targets), device));
}

fn text(graph: &Graph, forecasts: &[Forecast], device: NamedDevice) -> String {
    let head = ["stage", "kind", "parameters", "forward", "trained", "operations", "on", "memory", "time", "disk"];
    let mut rows = vec![head.map(|word| paint(FAINT, word)).to_vec()];
    let (mut problems, mut disk, mut hours) = (Vec::new(), 0, 0.0);
    for Forecast { node, estimate } in forecasts {
        let Some(node) = graph.nodes().get(*node) else { continue };
        let mut row = vec![node.name.clone(), node.stage.kind().name.to_owned()];
        if let Some(work) = &estimate.work {
            let on = if work.is_on_device { device } else { NamedDevice::Cpu };
            let ability = on.ability();
            let seconds = work.operations / if work.is_bf16 { ability.bf16 } else { ability.f32 };
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
            if let Some(problem) = problem(&node.name, work, on, ability.memory) {
                problems.push(format!("{}: {problem}\n", paint(BAD, "will not run")));
            }
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
        problems.concat(),
        assumptions(device)
    )
}

/// Why the stage cannot run there.
fn problem(stage: &str, work: &Work, on: NamedDevice, there_is: u64) -> Option<String> {
    if work.is_on_device && on == NamedDevice::Cpu {
        return Some(format!("`{stage}` asks for a device; give it `Cpu()`, or estimate another device"));
    }
    (work.memory > there_is).then(|| {
        let (wanted, there_is) = (bytes(work.memory as f64), bytes(there_is as f64));
        format!("`{stage}` does not fit: it wants {wanted}, the {} has {there_is}", on.name())
    })
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
