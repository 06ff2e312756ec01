//! Landlock: the kernel refuses files that are not declared.

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, LandlockStatus, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};

use super::Declared;

/// What must be there: with less, a program could move files between folders or cut them short.
const NEEDED: ABI = ABI::V3;
/// What is used where it is there: from Linux 6.12 on, also the scopes of signals and of abstract Unix sockets, which both stay open
/// among the programs of a stage.
const WANTED: ABI = ABI::V6;
const NO_SCOPES: &str = "this kernel is older than Linux 6.12: neither signals to processes outside the stage nor abstract Unix sockets of \
                         theirs are refused";

/// Rules that are made and bind nobody yet.
pub(super) fn rules(declared: &Declared) -> Result<RulesetCreated, String> {
    let made = || -> Result<RulesetCreated, RulesetError> {
        Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(NEEDED))?
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(WANTED))?
            .scope(Scope::from_all(WANTED))?
            .create()?
            .add_rules(path_beneath_rules(declared.readable(), AccessFs::from_read(WANTED)))?
            .add_rules(path_beneath_rules(declared.writable(), AccessFs::from_all(WANTED)))
    };
    made().map_err(|error| {
        format!(
            "this kernel has no Landlock that could refuse files, or an older one than that of Linux 6.2 (`landlock` must stand in \
             /sys/kernel/security/lsm): {error}"
        )
    })
}

/// Binds this thread, and all that it starts. Also says what this kernel leaves open.
pub(super) fn bind(rules: RulesetCreated) -> Result<Option<String>, String> {
    let status = rules.restrict_self().map_err(|error| format!("Landlock cannot be used: {error}"))?;
    match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => Ok((effective_abi < WANTED).then(|| NO_SCOPES.to_owned())),
        _ => Err("this kernel has no Landlock".to_owned()),
    }
}
