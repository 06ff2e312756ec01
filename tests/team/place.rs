//! Machines that share a store.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    bucket_server::{Proxy, Treat, prefix, server},
    run_support::{Place, Ran, Said},
};

/// A graph of three stages, of which each reads the one before: a small file, some small files, a large file.
pub(crate) const CHAIN: &[&str] = &[
    r#""one": Command(run: ["sh", "-c", "echo one > $0/one", "{out}"])"#,
    r#""many": Command(run: ["sh", "-c", "seq 20 | split -l 1 - $1/; cat $0/one > $1/last", "{in.one}", "{out}"], inputs: {"one": "one"})"#,
    r#""large": Command(run: ["sh", "-c", "seq 1500000 > $1/large; cat $0/last >> $1/large", "{in.many}", "{out}"], inputs: {"many": "many"})"#,
];

/// A stage with a thousand small files.
pub(crate) const THOUSAND: &str =
    r#""thousand": Command(run: ["sh", "-c", "seq 1000 | split -l 1 -a 4 - $0/", "{out}"])"#;

/// A store that is shared: a folder, or a part of a bucket behind a proxy.
pub(crate) struct Team {
    pub(crate) address: String,
    environment: BTreeMap<String, String>,
    pub(crate) proxy: Option<Proxy>,
    folder: Option<tempfile::TempDir>,
}

impl Team {
    /// In a folder.
    pub(crate) fn in_a_folder() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = format!("file://{}", folder.path().display());
        Self { address, environment: BTreeMap::new(), proxy: None, folder: Some(folder) }
    }

    /// In a bucket; `None` where there is no server.
    pub(crate) fn in_a_bucket() -> Option<Self> {
        Self::behind(|_| Treat::Well)
    }

    /// In a bucket, with requests treated so.
    pub(crate) fn behind(
        treat: impl Fn(&crate::bucket_server::Request) -> Treat + Send + Sync + 'static,
    ) -> Option<Self> {
        let proxy = Proxy::start(server()?, treat);
        let environment = proxy.environment();
        Some(Self { address: prefix(), environment, proxy: Some(proxy), folder: None })
    }

    /// Both sorts, as far as there is a server.
    pub(crate) fn all() -> Vec<Self> {
        [Some(Self::in_a_folder()), Self::in_a_bucket()].into_iter().flatten().collect()
    }

    /// What a program needs to know to reach it.
    pub(crate) const fn environment(&self) -> &BTreeMap<String, String> {
        &self.environment
    }

    /// A new machine with a graph of these stages.
    pub(crate) fn machine(&self, stages: &[&str]) -> Machine<'_> {
        Machine { place: Place::with(stages), team: self }
    }

    /// The files of a store in a folder, without what only hints.
    pub(crate) fn files(&self, room: &str) -> Vec<PathBuf> {
        let folder = self.folder.as_ref().unwrap().path().join("v1").join(room);
        let mut files: Vec<PathBuf> = walkdir::WalkDir::new(folder)
            .into_iter()
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_file())
            .map(walkdir::DirEntry::into_path)
            .collect();
        files.sort();
        files
    }

    /// How many requests went by since this was last asked; `None` if there are none to count.
    pub(crate) fn requests(&self) -> Option<usize> {
        self.proxy.as_ref().map(|proxy| proxy.take().len())
    }
}

/// A machine of a team.
pub(crate) struct Machine<'a> {
    pub(crate) place: Place,
    team: &'a Team,
}

impl Machine<'_> {
    fn options(&self) -> [&str; 2] {
        ["--remote-store", &self.team.address]
    }

    /// The program with the shared store.
    pub(crate) fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.place.twdag(&[arguments, &self.options()].concat());
        command.envs(&self.team.environment);
        command
    }

    /// Runs the program with the shared store to its end.
    pub(crate) fn output(&self, arguments: &[&str]) -> Said {
        Said::from(self.command(arguments).output().unwrap())
    }

    /// `twdag store VERB graph.ron --json`, and the object that it prints.
    pub(crate) fn store(&self, verb: &str) -> (Option<i32>, Value) {
        let said = self.output(&["store", verb, "graph.ron", "--json"]);
        let value = serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said:#?}"));
        (said.code, value)
    }

    /// A run with the shared store.
    pub(crate) fn run(&self, more: &[&str]) -> Ran {
        let said = self.output(&[&["run", "graph.ron", "--json"], more].concat());
        let events = said.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        Ran { code: said.code, events, stderr: said.stderr }
    }

    /// A run without the shared store, which must succeed.
    pub(crate) fn run_alone(&self) -> Ran {
        let ran = self.place.run(&[]);
        assert_eq!(ran.code, Some(0), "{ran:#?}");
        ran
    }

    /// The results that are on this machine, as stages.
    pub(crate) fn here(&self) -> Vec<String> {
        let said = self.place.output(&["plan", "graph.ron", "--json"]);
        let plan: Value = serde_json::from_str(&said.stdout).unwrap();
        let stages = plan["stages"].as_array().unwrap().iter();
        let cached = stages.filter(|stage| stage["status"] == "cached");
        cached.map(|stage| stage["name"].as_str().unwrap().to_owned()).collect()
    }

    /// All files of the workspace, results, records, logs and events, that hold a text.
    pub(crate) fn holding(&self, text: &str) -> Vec<PathBuf> {
        let holds = |path: &Path| {
            fs::read(path).is_ok_and(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
        };
        walkdir::WalkDir::new(self.place.path(""))
            .into_iter()
            .filter_map(Result::ok)
            .map(walkdir::DirEntry::into_path)
            .filter(|path| path.is_file() && holds(path))
            .collect()
    }
}
