//! The walk of examples/team-bucket.

use std::{env, path::Path, process::Command};

use serde_json::Value;

use crate::{place::Team, run_support::Said};

#[test]
fn the_walk_of_the_example_ends_where_it_says() {
    for team in Team::all() {
        let folder = tempfile::tempdir().unwrap();
        let walk = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/team-bucket/walk.sh");
        let program = Path::new(env!("CARGO_BIN_EXE_twdag")).parent().unwrap();
        let path = format!("{}:{}", program.display(), env::var("PATH").unwrap());
        let said = |command: &mut Command| {
            command.env("PATH", &path).env("TWDAG_REMOTE_STORE", &team.address).envs(team.environment());
            Said::from(command.output().unwrap())
        };
        let walked = said(Command::new(walk).arg(folder.path()));
        assert_eq!(walked.code, Some(0), "{walked:#?}");
        let steps: Vec<&str> = walked.stdout.split("\n== ").collect();
        let [_, _, laptop, untrusted, ci, gpu, again, status] = steps[..] else { panic!("{walked:#?}") };
        assert!(laptop.contains("3 ran") && ci.contains("3 ran"), "{walked:#?}");
        // What follows is keyed by what the first stage gives, which nobody who is trusted says.
        assert_eq!(untrusted.matches("by nobody whose key is trusted here").count(), 1, "{walked:#?}");
        assert_eq!(untrusted.matches("neither").count(), 3, "{walked:#?}");
        assert!(!gpu.contains(" ran") && !again.contains(" ran"), "{walked:#?}");
        assert_eq!(status.matches("\n  there").count() + status.matches("\n  both").count(), 3, "{walked:#?}");
        let plan =
            said(Command::new("twdag").args(["plan", "graph.ron", "--json"]).current_dir(folder.path().join("gpu")));
        let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
        assert!(plan["stages"].as_array().unwrap().iter().all(|stage| stage["status"] == "cached"), "{plan}");
    }
}
