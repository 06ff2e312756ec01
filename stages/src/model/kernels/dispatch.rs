//! Which instruction set the kernels are run with: the best that the machine has.
//!
//! They give the same bytes with each. Tests see to that: the environment variable [`VARIABLE`] holds a process to a
//! lesser set than its machine has (`portable`, `avx2`).

use std::sync::OnceLock;

use pulp::{Arch, WithSimd};

/// Names the instruction set for a whole process, in tests.
const VARIABLE: &str = "TWDAG_TEST_INSTRUCTION_SET";

/// Runs code that is compiled for several instruction sets.
#[inline]
pub(super) fn dispatch<Call: WithSimd>(call: Call) -> Call::Output {
    chosen().dispatch(call)
}

/// Leave to use AVX2, if the machine has it.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) fn avx2() -> Option<pulp::x86::V3> {
    match chosen() {
        Arch::Scalar => None,
        _ => pulp::x86::V3::try_new(),
    }
}

/// The set of this process.
#[inline]
pub(super) fn chosen() -> Arch {
    static CHOSEN: OnceLock<Arch> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let wanted = std::env::var(VARIABLE).unwrap_or_default();
        sets().into_iter().find(|(name, _)| *name == wanted).map_or_else(Arch::new, |(_, arch)| arch)
    })
}

/// The sets of this machine by name, the plainest first.
pub(super) fn sets() -> Vec<(&'static str, Arch)> {
    let mut sets = vec![("portable", Arch::Scalar)];
    #[cfg(target_arch = "x86_64")]
    {
        use pulp::x86::{V3, V4};
        sets.extend(V3::try_new().map(|simd| ("avx2", Arch::V3(simd))));
        sets.extend(V4::try_new().map(|simd| ("avx512", Arch::V4(simd))));
    }
    sets
}
