//! What typed stages must fulfil together: references exist, settings are in range, nothing reads itself.

use std::collections::HashMap;

use petgraph::algo::kosaraju_scc;
use twdag_stages::stage::{Reference, SettingError};

use super::{
    Input, Node, Policy, Problem,
    model::edges,
    suggest::similar,
    syntax::{Span, Value},
    translate::Site,
    typing::Typed,
};

/// Checks all stages and resolves their references.
pub(super) fn nodes(typed: Vec<(Site<'_>, Typed)>, problems: &mut Vec<Problem>) -> Vec<Node> {
    let names = Names::of(typed.iter().map(|(site, _)| site.stage).collect());
    let mut nodes = Vec::with_capacity(typed.len());
    let mut links: Vec<Vec<Link>> = Vec::with_capacity(typed.len());
    for (site, Typed { stage, renamed }) in typed {
        let mut found = Vec::new();
        let mut inputs = Vec::new();
        if let Some(stage) = &stage {
            if let Err(error) = stage.check() {
                problems.push(setting(site, &renamed, &error));
            }
            for (role, reference) in stage.references() {
                let (value, is_exact) = locate(site, &renamed, &role);
                let span = if is_exact { value.span } else { value.head() };
                let place = Place { site, value, span, is_exact };
                if let Some(node) = resolve(&place, &role, &reference, &names, problems) {
                    found.push(Link { node, span: place.span });
                    inputs.push(Input { role, reference, node });
                }
            }
        }
        links.push(found);
        if let Some(stage) = stage {
            nodes.push(Node { name: site.stage.to_owned(), stage, inputs, policy: Policy::default() });
        }
    }
    cycles(&names.all, &links, problems);
    nodes
}

/// The names of all stages.
struct Names<'a> {
    all: Vec<&'a str>,
    places: HashMap<&'a str, usize>,
}

impl<'a> Names<'a> {
    fn of(all: Vec<&'a str>) -> Self {
        // Of two stages with the same name, which is told elsewhere, the first counts.
        let places = all.iter().enumerate().rev().map(|(place, name)| (*name, place)).collect();
        Self { all, places }
    }
}

/// A reference that leads to a stage.
struct Link {
    node: usize,
    span: Span,
}

/// Where a reference stands.
struct Place<'a> {
    site: Site<'a>,
    value: &'a Value,
    span: Span,
    /// Whether the reference stands here, rather than being left out.
    is_exact: bool,
}

/// The value at a path, or the innermost on the way there and `false`.
fn locate<'a>(site: Site<'a>, renamed: &[(String, String)], path: &str) -> (&'a Value, bool) {
    let (value, is_exact) = site.value.locate(path, site.source);
    // What is inside a parameter's value stands where the parameter is called.
    if is_exact || renamed.is_empty() || site.parameter(value).is_some() {
        return (value, is_exact || site.parameter(value).is_some());
    }
    let path: Vec<&str> = path
        .split('.')
        .map(|part| renamed.iter().find(|(right, _)| right == part).map_or(part, |(_, wrong)| wrong.as_str()))
        .collect();
    site.value.locate(&path.join("."), site.source)
}

fn setting(site: Site<'_>, renamed: &[(String, String)], error: &SettingError) -> Problem {
    let SettingError { path, found, expected } = error;
    let (value, exact) = locate(site, renamed, path);
    let message = format!("setting `{path}` of stage `{}` is {found}, expected {expected}", site.stage);
    let whole = exact && (value.name().is_none() || site.parameter(value).is_some());
    let span = if whole { value.span } else { value.head() };
    let problem = Problem::at(span, message, format!("expected {expected}"));
    let problem = if exact {
        problem
    } else {
        problem.with_note(format!("`{path}` is not written in the file: {found} is what it is without"))
    };
    site.explain(problem, value)
}

fn resolve(
    place: &Place<'_>,
    role: &str,
    reference: &Reference,
    names: &Names<'_>,
    problems: &mut Vec<Problem>,
) -> Option<usize> {
    let Place { site, value, span, is_exact } = place;
    let stage = site.stage;
    let wrong = reference.stage();
    if let Some(why) = refuse_path(reference) {
        let message =
            format!("setting `{role}` of stage `{stage}`: `{}` is no reference", reference.as_str().escape_debug());
        problems.push(
            site.explain(Problem::at(*span, message, "expected `stage` or `stage/path/inside`"), value).with_note(why),
        );
        return None;
    }
    let found = names.places.get(wrong).copied();
    if found.is_none() {
        let message = format!("stage `{stage}` reads `{}`, which does not exist", wrong.escape_debug());
        let problem = site.explain(Problem::at(*span, message, "no such stage"), value);
        let others: Vec<&str> = names.all.iter().copied().filter(|name| *name != stage).collect();
        let below = reference.path().map(|path| format!("/{path}")).unwrap_or_default();
        problems.push(if *is_exact && site.parameter(value).is_none() {
            problem.with_suggestion("stage", *span, wrong, &others, |right| format!("\"{right}{below}\""))
        } else if let Some(right) = similar(wrong, others.iter().copied()) {
            problem.with_hint(format!("a stage with a similar name exists: `{right}`"))
        } else {
            problem.with_hint(format!("known stages: {}", super::suggest::list(others)))
        });
    }
    found
}

fn refuse_path(reference: &Reference) -> Option<&'static str> {
    if reference.stage().is_empty() {
        return Some("the name of the stage is empty");
    }
    let mut parts = reference.path()?.split('/');
    parts
        .any(|part| part.is_empty() || part == "." || part == "..")
        .then_some("the path inside may not hold empty parts, `.` or `..`")
}

/// Tells each cycle as a path along the data: `a → b → a`.
fn cycles(names: &[&str], links: &[Vec<Link>], problems: &mut Vec<Problem>) {
    let inputs: Vec<Vec<usize>> = links.iter().map(|links| links.iter().map(|link| link.node).collect()).collect();
    // Not Tarjan's way, which recurses as deep as the graph is.
    for mut group in kosaraju_scc(&edges(&inputs))
        .into_iter()
        .map(|group| group.into_iter().map(petgraph::graph::NodeIndex::index).collect::<Vec<usize>>())
    {
        group.sort_unstable();
        let Some(&start) = group.first() else { continue };
        // Nearly all stages lie on no cycle, and there are many.
        if group.len() == 1 && inputs.get(start).is_none_or(|read| !read.contains(&start)) {
            continue;
        }
        let Some(path) = shortest_cycle(start, &group, links) else { continue };
        let name = |node: usize| names.get(node).copied().unwrap_or_default();
        if let [(node, span)] = path.as_slice() {
            let message = format!("stage `{}` reads itself", name(*node));
            problems.push(Problem::at(*span, message, "the stage's own name"));
            continue;
        }
        // The search walks from readers to what they read; data goes the other way.
        let mut along: Vec<&str> = path.iter().rev().map(|(node, _)| name(*node)).collect();
        along.rotate_right(1);
        along.push(name(start));
        let mut places = path.iter().enumerate().map(|(index, (node, span))| {
            let read = path.get(index + 1).map_or(start, |(next, _)| *next);
            (*span, format!("`{}` reads `{}`", name(*node), name(read)))
        });
        let Some((span, label)) = places.next() else { continue };
        let mut problem = Problem::at(span, format!("the stages form a cycle: {}", along.join(" → ")), label);
        problem.places.extend(places);
        problems.push(
            problem
                .with_hint("a stage can only read what is finished before it starts: remove one of these references"),
        );
    }
}

/// The shortest way from `start` along what is read back to `start`, inside `group`: each stage with the place of
/// the reference that leads on.
fn shortest_cycle(start: usize, group: &[usize], links: &[Vec<Link>]) -> Option<Vec<(usize, Span)>> {
    let mut came: Vec<Option<(usize, Span)>> = links.iter().map(|_| None).collect();
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        for link in links.get(node)? {
            if link.node == start {
                let mut path = vec![(node, link.span)];
                let mut at = node;
                while at != start {
                    let step = (*came.get(at)?)?;
                    path.push(step);
                    at = step.0;
                }
                path.reverse();
                return Some(path);
            }
            if group.contains(&link.node)
                && let Some(free) = came.get_mut(link.node)
                && free.is_none()
            {
                *free = Some((node, link.span));
                queue.push_back(link.node);
            }
        }
    }
    None
}
