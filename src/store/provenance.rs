//! Who computed something, where, when, with what. It stands in records and in no key.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How a result came about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The user's name on that machine.
    pub user: String,
    /// The machine's name.
    pub host: String,
    /// Operating system and processor, such as `linux x86_64`.
    pub platform: String,
    /// The instruction sets that numeric code may have chosen by, such as `avx2 fma`. They change no byte of a result; they
    /// stand here so that an error in this can be found.
    pub processor_features: String,
    /// When the work began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// How long it took, without time spent waiting or in earlier attempts.
    pub seconds: f64,
    /// The version of twdag.
    pub version: String,
}

impl Provenance {
    /// What this process did on this machine.
    pub fn here(started: Timestamp, finished: Timestamp, seconds: f64) -> Self {
        Self {
            user: user(),
            host: host(),
            platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            processor_features: processor_features(),
            started,
            finished,
            seconds,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// The name of this machine.
pub(super) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn user() -> String {
    ["USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()))
        .unwrap_or_else(|| format!("user {}", rustix::process::getuid().as_raw()))
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__cpuid, __cpuid_count};

#[cfg(target_arch = "x86_64")]
fn processor_features() -> String {
    let mut features = Vec::new();
    macro_rules! detect {
        ($($feature:tt),*) => { $(if std::arch::is_x86_feature_detected!($feature) { features.push($feature); })* };
    }
    detect!("avx", "avx2", "fma", "avx512f", "avx512bw", "avx512vnni", "avx512bf16");
    // The standard library's question for it is not stable yet.
    if __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & 1 << 22 != 0 {
        features.push("amx_bf16");
    }
    features.join(" ")
}

#[cfg(not(target_arch = "x86_64"))]
fn processor_features() -> String {
    String::new()
}
