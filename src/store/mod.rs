//! Artifacts and records.
