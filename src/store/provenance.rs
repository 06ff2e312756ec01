//! Who computed something, where, when, with what. It stands in records and in no key.

use std::sync::LazyLock;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use twdag_stages::stage::{Allowed, Isolation};

/// The last commit that changed the code of this program, with `-changed` behind it if it was compiled with changes to that;
/// `unknown` if it was not compiled in a checkout of the repository.
pub const COMMIT: &str = env!("TWDAG_COMMIT");
const UNKNOWN: &str = "unknown";

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
    /// The commit of its code, as [`COMMIT`]; `unknown` in records of earlier versions, too.
    #[serde(default = "unknown")]
    pub commit: String,
    /// How far the programs that the stage starts were kept from what it does not declare; nothing for kinds that start none, and in
    /// records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// What the policy of the stage allowed them beyond that; nothing if it allowed nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<Allowed>,
}

fn unknown() -> String {
    UNKNOWN.to_owned()
}

impl Provenance {
    /// What this process did on this machine.
    pub fn here(started: Timestamp, finished: Timestamp, seconds: f64) -> Self {
        Self {
            user: user(),
            host: host(),
            platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            processor_features: FEATURES.clone(),
            started,
            finished,
            seconds,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: COMMIT.to_owned(),
            isolation: None,
            allowed: None,
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

/// Asked for once: a virtual machine takes its time to answer.
static FEATURES: LazyLock<String> = LazyLock::new(processor_features);

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
