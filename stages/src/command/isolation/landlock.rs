//! Landlock: the kernel refuses files that are not declared.

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, LandlockStatus, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, path_beneath_rules,
};

use super::Declared;

/// What must be there: with less, a program could move files between folders or cut them short.
const NEEDED: ABI = ABI::V3;
/// What is used where it is there. Not the scopes of later ones: what they refuse of signals and abstract sockets nobody could tell of,
/// since those may be sent and reached among the programs of a stage.
const WANTED: ABI = ABI::V5;

/// Rules that are made and bind nobody yet.
pub(super) fn rules(declared: &Declared) -> Result<RulesetCreated, String> {
    let made = || -> Result<RulesetCreated, RulesetError> {
        Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(NEEDED))?
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(WANTED))?
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

/// Binds this thread, and all that it starts.
pub(super) fn bind(rules: RulesetCreated) -> Result<(), String> {
    let status = rules.restrict_self().map_err(|error| format!("Landlock cannot be used: {error}"))?;
    match status.landlock {
        LandlockStatus::Available { .. } => Ok(()),
        _ => Err("this kernel has no Landlock".to_owned()),
    }
}
