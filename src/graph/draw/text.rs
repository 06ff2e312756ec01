//! One stage a line in topological order. Every stage has a lane from its line down to its last reader; a line
//! branches off into each reader, and jumps over lanes that it does not touch.

use super::{Graph, heading, inputs};

/// Lists of inputs go on in the next line behind this column.
const WIDTH: usize = 100;

pub(super) fn draw(graph: &Graph) -> String {
    let rows = rows(graph);
    let nodes = graph.nodes();
    let lanes = rows.iter().map(|row| row.line.chars().count()).max().unwrap_or(0);
    let names = nodes.iter().map(|node| node.name.chars().count()).max().unwrap_or(0);
    let kinds = nodes.iter().map(|node| node.stage.kind().name.len()).max().unwrap_or(0);
    let indent = lanes + 2 + names + 2 + kinds;
    let mut lines = vec![heading(graph).to_owned(), String::new()];
    for row in rows {
        let Some(node) = nodes.get(row.node) else { continue };
        let start = format!("{:lanes$}  {:names$}  {:kinds$}", row.line, node.name, node.stage.kind().name);
        let read = inputs(graph, row.node).into_iter().filter_map(|input| nodes.get(input));
        let mut wrapped =
            wrap(read.map(|input| input.name.as_str()), WIDTH.saturating_sub(indent + 4).max(20)).into_iter();
        lines.push(match wrapped.next() {
            Some(first) => format!("{start}  ← {first}"),
            None => start,
        });
        lines.extend(wrapped.map(|more| format!("{:indent$}    {more}", row.below)));
    }
    lines.iter().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// The left part of a stage's lines.
struct Row {
    node: usize,
    line: String,
    below: String,
}

fn rows(graph: &Graph) -> Vec<Row> {
    let mut unread: Vec<usize> = (0..graph.nodes().len()).map(|node| graph.readers(node).len()).collect();
    let mut lanes: Vec<Option<usize>> = Vec::new();
    let mut rows = Vec::new();
    for &node in graph.order() {
        let inputs = inputs(graph, node);
        for &input in &inputs {
            if let Some(unread) = unread.get_mut(input) {
                *unread -= 1;
            }
        }
        let goes_on = |producer: usize| unread.get(producer).is_some_and(|unread| *unread > 0);
        let own = lanes.iter().position(|lane| lane.is_none_or(|producer| !goes_on(producer))).unwrap_or(lanes.len());
        if own == lanes.len() {
            lanes.push(None);
        }
        let touched: Vec<bool> =
            lanes.iter().map(|lane| lane.is_some_and(|producer| inputs.contains(&producer))).collect();
        let first = touched.iter().position(|touched| *touched).unwrap_or(own).min(own);
        let last = touched.iter().rposition(|touched| *touched).unwrap_or(own).max(own);
        let mut line = String::new();
        for (column, lane) in lanes.iter().enumerate() {
            let (left, right) = (first < column && column <= last, first <= column && column < last);
            let is_touched = touched.get(column) == Some(&true);
            line.push(match lane {
                _ if column == own => '●',
                Some(producer) if is_touched => branch(goes_on(*producer), left, right),
                Some(_) => '│',
                None if left && right => '─',
                None => ' ',
            });
            line.push(if right { '─' } else { ' ' });
        }
        for lane in &mut lanes {
            *lane = lane.filter(|producer| goes_on(*producer));
        }
        if let Some(lane) = lanes.get_mut(own) {
            *lane = goes_on(node).then_some(node);
        }
        let below = lanes.iter().map(|lane| if lane.is_some() { "│ " } else { "  " }).collect();
        rows.push(Row { node, line: line.trim_end().to_owned(), below });
    }
    rows
}

/// Where a lane's line branches off.
const fn branch(goes_on: bool, left: bool, right: bool) -> char {
    match (goes_on, left, right) {
        (true, true, true) => '┼',
        (true, true, false) => '┤',
        (true, false, _) => '├',
        (false, true, true) => '┴',
        (false, true, false) => '┘',
        (false, false, _) => '└',
    }
}

/// Names with commas, broken into lines of at most `width` characters where that is possible.
fn wrap<'a>(names: impl Iterator<Item = &'a str>, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for name in names {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 2 + name.chars().count() < width => {
                line.push_str(", ");
                line.push_str(name);
            }
            Some(line) => {
                line.push(',');
                lines.push(name.to_owned());
            }
            None => lines.push(name.to_owned()),
        }
    }
    lines
}
