//! A workspace of its own for each test, and the real program in it.

#![allow(dead_code, unreachable_pub, reason = "a room of several test targets, of which each uses its own share")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test, whatever goes wrong is a failure of the test")]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Lines},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// No condition of these tests takes longer, on however slow a machine.
const DEADLINE: Duration = Duration::from_mins(1);

/// Text that is made, a tokenizer, a model that is trained and scored, and a program.
pub const EXPERIMENT: &[&str] = &[
    r#""text": Synthesize(documents: 12, seed: 1)"#,
    r#""tokenizer": TrainTokenizer(text: ["text"], vocabulary: 300)"#,
    r#""tokens": Tokenize(text: ["text"], tokenizer: "tokenizer", length: 64, chunking: Lossless)"#,
    r#""random": InitModel(tokenizer: "tokenizer", hidden_size: 32, layers: 2, heads: 2, intermediate_size: 64, context: 64, seed: 1)"#,
    r#""trained": Train(model: "random", tokens: "tokens", steps: 3, batch: 4, learning_rate: 1e-3, seed: 1)"#,
    r#""loss": Score(model: "trained", tokens: "tokens")"#,
    r#""sorted": Command(run: ["sh", "-c", "ls \"$0\" | sort > \"$1/names\"", "{in.trained}", "{out}"], inputs: {"trained": "trained"})"#,
];

/// A folder with a workspace file, a graph and a store.
pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// An empty workspace.
    pub fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        place.write("twdag.ron", "Workspace(version: 1)\n");
        place
    }

    /// A workspace with a graph of these stages, each a line `"name": Kind(…)`.
    pub fn with(stages: &[&str]) -> Self {
        let place = Self::new();
        place.graph(stages);
        place
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Writes `graph.ron`.
    pub fn graph(&self, stages: &[&str]) {
        self.write("graph.ron", &graph(stages));
    }

    /// The program, with this workspace as its current folder.
    pub fn twdag(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_twdag"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_remove("TWDAG_STORE")
            .env_remove("CLICOLOR_FORCE")
            .env("TERM", "dumb")
            .stdin(Stdio::null());
        command
    }

    /// Runs the program to its end.
    pub fn output(&self, arguments: &[&str]) -> Said {
        Said::from(self.twdag(arguments).output().unwrap())
    }

    /// `twdag run graph.ron --json` with more arguments, to its end.
    pub fn run(&self, more: &[&str]) -> Ran {
        let said = self.output(&[&["run", "graph.ron", "--json"], more].concat());
        let events = said.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        Ran { code: said.code, events, stderr: said.stderr }
    }

    /// The same, left running.
    pub fn start(&self, more: &[&str]) -> Running {
        Running::of(self.twdag(&[&["run", "graph.ron", "--json"], more].concat()))
    }

    /// The text of a file in a stage's output.
    pub fn result(&self, stage: &str, file: &str) -> String {
        let said = self.output(&["path", "graph.ron", stage]);
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        fs::read_to_string(Path::new(said.stdout.trim_end()).join(file)).unwrap()
    }

    /// The same after a run that must succeed.
    pub fn result_after_run(&self, stage: &str, file: &str) -> String {
        let run = self.run(&[]);
        assert_eq!(run.code, Some(0), "{run:#?}");
        self.result(stage, file)
    }

    /// Replaces what differs between runs and machines by names in brackets.
    pub fn filters(&self) -> insta::internals::SettingsBindDropGuard {
        let mut settings = insta::Settings::clone_current();
        settings.add_filter(r"\b[0-9a-f]{64}\b", "[digest]");
        settings.add_filter(r"\b[0-9a-f]{12}\b", "[short]");
        settings.add_filter(r"\d+(\.\d)? s\b", "[time]");
        settings.add_filter(r"\d{8}T\d{6}\.\d{3}Z-\d+", "[run]");
        settings.add_filter(r"\d+ threads? each", "[threads] each");
        settings.add_filter(&regex_of(&self.folder.path().canonicalize().unwrap()), "[workspace]");
        settings.bind_to_scope()
    }
}

fn regex_of(path: &Path) -> String {
    path.display().to_string().replace('.', r"\.")
}

/// The text of a graph.
pub fn graph(stages: &[&str]) -> String {
    format!("Graph(\n    version: 1,\n    stages: {{\n        {},\n    }},\n)\n", stages.join(",\n        "))
}

/// What a program said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A run that has ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub events: Vec<Value>,
    pub stderr: String,
}

impl Ran {
    /// The last event.
    pub fn finished(&self) -> &Value {
        let last = self.events.last().unwrap_or_else(|| panic!("no events; {}", self.stderr));
        assert_eq!(last["event"], "run-finished");
        last
    }

    /// What became of the stages.
    pub fn outcomes(&self) -> BTreeMap<String, String> {
        let stages = self.finished()["stages"].as_array().unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        stages.iter().map(|stage| (text(&stage["name"]), text(&stage["outcome"]))).collect()
    }

    /// The stages with that outcome, in the order of their names.
    pub fn with_outcome(&self, outcome: &str) -> Vec<String> {
        self.outcomes().into_iter().filter(|(_, what)| what == outcome).map(|(name, _)| name).collect()
    }

    /// The first event of that sort, about a stage if one is given.
    pub fn event(&self, sort: &str, stage: &str) -> &Value {
        let is_it = |event: &&Value| event["event"] == sort && (stage.is_empty() || event["stage"] == stage);
        self.events.iter().find(is_it).unwrap_or_else(|| panic!("no {sort} of {stage} in {:#?}", self.events))
    }
}

/// A run that goes on.
pub struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    events: Vec<Value>,
}

impl Running {
    /// Starts a command that prints events.
    pub fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, events: Vec::new() }
    }

    /// Reads events until one of that sort comes, about that stage if one is given.
    pub fn until(&mut self, sort: &str, stage: &str) -> Value {
        loop {
            let line = self.lines.next().unwrap_or_else(|| panic!("the run ended: {:#?}", self.events)).unwrap();
            let event: Value = serde_json::from_str(&line).expect(&line);
            self.events.push(event.clone());
            if event["event"] == sort && (stage.is_empty() || event["stage"] == stage) {
                return event;
            }
        }
    }

    /// The process of the program.
    pub fn pid(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }

    /// The signal that ended the program.
    pub fn end_killed(mut self) -> Option<i32> {
        std::os::unix::process::ExitStatusExt::signal(&self.child.wait().unwrap())
    }

    /// Reads on to the end.
    pub fn end(mut self) -> Ran {
        for line in &mut self.lines {
            let line = line.unwrap();
            self.events.push(serde_json::from_str(&line).expect(&line));
        }
        let output = self.child.wait_with_output().unwrap();
        Ran { code: output.status.code(), events: self.events, stderr: String::from_utf8(output.stderr).unwrap() }
    }
}

/// The process that an event tells of.
pub fn pid(event: &Value) -> i32 {
    event["pid"].as_i64().unwrap().try_into().unwrap()
}

/// Sends a signal.
pub fn send(process: i32, signal: Signal) {
    kill_process(Pid::from_raw(process).unwrap(), signal).unwrap();
}

/// Whether a process lives; one that is dead but not yet buried does not.
pub fn lives(process: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything; the state follows.
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}

/// Waits for a condition.
pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
