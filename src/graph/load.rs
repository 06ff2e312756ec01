//! From a file to a graph.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
};

use super::{
    Graph, GraphError, Overrides, Parameter, Problem, check,
    model::Parts,
    outline, parameters, policy,
    syntax::{Span, parse},
    translate::Site,
    typing,
    workspace::WORKSPACE_FILE,
};

/// A larger file is not read: it is surely no graph.
const LARGEST: u64 = 16 << 20;

const EXAMPLE: &str =
    r#"a graph looks like this: Graph(version: 1, stages: {"corpus": Synthesize(documents: 100, seed: 1)})"#;

impl Graph {
    /// Reads a graph, with other values for its parameters, and checks everything that needs no data.
    pub fn load(path: &Path, overrides: &Overrides) -> Result<Self, GraphError> {
        let source = read(path)?;
        Self::from_text(path, &source, workspace(path)?, overrides)
    }

    /// As [`Graph::load`], for text that is already there.
    pub fn from_text(path: &Path, source: &str, workspace: PathBuf, overrides: &Overrides) -> Result<Self, GraphError> {
        let refuse = |problems| GraphError::new(path, source, problems);
        let mut parsed = parse(source);
        let mut problems = std::mem::take(&mut parsed.problems);
        if parsed.value.is_none() {
            return Err(refuse(if is_blank(source) { vec![empty()] } else { problems }));
        }
        let outline = outline::read(&parsed, source, &mut problems);
        let parameters =
            parameters::apply(&outline.parameters, &outline.profiles, overrides, &parsed.commas, source, &mut problems);
        let mut typed = Vec::with_capacity(outline.stages.len());
        for entry in &outline.stages {
            let site = Site { source, stage: entry.name, value: entry.value, parameters: &parameters };
            typed.push((site, typing::stage(site, &parsed.commas, &mut problems)));
        }
        let mut nodes = check::nodes(typed, &mut problems);
        policy::apply(&outline.policies, &outline.stages, &parameters, source, &mut nodes, &mut problems);
        if !problems.is_empty() {
            return Err(refuse(problems));
        }
        let parameters = parameters
            .into_iter()
            .map(|parameter| Parameter { name: parameter.name, value: parameter.text, is_set: !parameter.is_default })
            .collect();
        Ok(Self::new(Parts {
            name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            path: path.to_owned(),
            workspace,
            title: outline.title,
            parameters,
            nodes,
        }))
    }
}

fn read(path: &Path) -> Result<String, GraphError> {
    let refuse = |problem| GraphError::new(path, "", vec![problem]);
    let failed = |error: std::io::Error| refuse(Problem::of_file(format!("the graph file cannot be read: {error}")));
    let file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => refuse(
            Problem::of_file(format!("the graph file `{}` does not exist", path.display()))
                .with_hint("check the path; it is relative to the current folder"),
        ),
        _ => failed(error),
    })?;
    if file.metadata().map_err(failed)?.is_dir() {
        return Err(refuse(
            Problem::of_file(format!("`{}` is a folder, expected a graph file", path.display()))
                .with_hint("name a file in it, such as `graphs/quickstart.ron`"),
        ));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err(refuse(Problem::of_file("the file is larger than 16 MiB, which no graph is")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let byte = error.as_bytes().get(at).copied().unwrap_or_default();
        let source = String::from_utf8_lossy(error.as_bytes()).into_owned();
        let label = format!("byte {at} is 0x{byte:02x}");
        let problem = Problem::at(Span::new(at, at + '\u{fffd}'.len_utf8()), "the file is not UTF-8 text", label)
            .with_hint("save it as UTF-8");
        GraphError::new(path, source, vec![problem])
    })
}

/// The nearest folder at or above the graph that holds the workspace file, else the current folder.
pub fn workspace(path: &Path) -> Result<PathBuf, GraphError> {
    let refuse = |error: std::io::Error| {
        let problem = Problem::of_file(format!("the current folder cannot be found: {error}"));
        GraphError::new(path, "", vec![problem])
    };
    let absolute = std::path::absolute(path).map_err(refuse)?;
    match absolute.ancestors().skip(1).find(|folder| folder.join(WORKSPACE_FILE).is_file()) {
        Some(folder) => Ok(folder.to_owned()),
        None => std::env::current_dir().map_err(refuse),
    }
}

fn is_blank(source: &str) -> bool {
    parse(&format!("{source}\n0")).value.is_some_and(|value| value.span.end == source.len() + 2)
}

fn empty() -> Problem {
    Problem::at(Span::new(0, 0), "the graph file is empty", "expected `Graph(…)`").with_hint(EXAMPLE)
}
