//! How a run that computes a stage is called to those who wait for it.

use std::path::Path;

/// The run of a graph, by this process.
pub(super) fn of_run(graph: &Path) -> String {
    format!("the run of {} in process {} on {}", graph.display(), std::process::id(), machine())
}

/// Whether words of [`of_run`] are of a process of this machine. Other words are taken for such.
pub(super) fn is_here(owner: &str) -> bool {
    owner
        .strip_prefix("the run of ")
        .and_then(|rest| rest.rsplit_once(" on "))
        .is_none_or(|(_, name)| name == machine())
}

fn machine() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_known_to_be_of_this_machine_or_of_another_one() {
        assert!(is_here(&of_run(Path::new("some on graph.ron"))));
        assert!(!is_here(&format!("the run of graph.ron in process 7 on {}-other", machine())));
        for unknown in ["another process", "the guard of a run that was killed", "a download on hold", ""] {
            assert!(is_here(unknown), "{unknown}");
        }
    }
}
