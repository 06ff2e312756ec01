//! The page: one file that needs no script and no network.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{
    collect::Contents,
    measures::{Better, Column, Measure},
    number, svg,
};

pub(super) fn page(contents: &Contents) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (contents.title) }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                h1 { (contents.title) }
                p.findings { (contents.findings) }
                @for note in &contents.notes { p.note { (note) } }
                @if !contents.table.is_empty() {
                    h2 { "Variants" }
                    (table(contents))
                }
                @if !contents.plots.is_empty() {
                    h2 { "Plots" }
                    div.plots { @for chart in &contents.plots { (svg::figure(chart)) } }
                }
                footer {
                    "Every variant is one run: small differences can be chance. The numbers of this page stand in "
                    code { "report.json" } " beside it."
                }
            }
        }
    }
}

fn table(contents: &Contents) -> Markup {
    let first = &contents.variants[0];
    html! {
        div.scroll {
            table {
                thead {
                    tr {
                        th scope="col" { "variant" }
                        @for column in &contents.table { (head(column)) }
                    }
                }
                tbody {
                    @for (index, variant) in contents.variants.iter().enumerate() {
                        tr {
                            th scope="row" { (svg::sample(index)) (variant) }
                            @for column in &contents.table { (cell(column, index)) }
                        }
                    }
                }
            }
        }
        p.note {
            "Best in bold"
            @if contents.variants.len() > 1 { "; below each value the difference to " (first) }
            ". Losses in nats a token."
        }
        details {
            summary { "What is measured" }
            dl { @for measure in measures(contents) { dt { (measure.name()) } dd { (measure.explanation()) } } }
        }
    }
}

/// The measures of the table, each once, in order.
fn measures(contents: &Contents) -> Vec<Measure> {
    let mut measures: Vec<Measure> = contents.table.iter().map(|column| column.measure).collect();
    measures.sort_unstable();
    measures.dedup();
    measures
}

fn head(column: &Column) -> Markup {
    let direction = match column.better {
        Better::Lower => "lower is better",
        Better::Higher => "higher is better",
    };
    html! {
        th scope="col" {
            (column.measure.name()) @if column.unit == "%" { ", %" }
            small { (column.task) }
            small { (direction) }
        }
    }
}

fn cell(column: &Column, variant: usize) -> Markup {
    let Some(value) = column.values[variant] else { return html! { td.none { "–" } } };
    let text = number::value(column.measure, value.value);
    let difference = column.difference(variant).map(|difference| {
        let shown = number::difference(column.measure, difference);
        let is_better = (difference < 0.0) == (column.better == Better::Lower);
        let class = if shown == "±0" {
            "same"
        } else if is_better {
            "better"
        } else {
            "worse"
        };
        (shown, class)
    });
    html! {
        td {
            @if column.best.contains(&variant) && column.values.iter().flatten().count() > 1 { b { (text) } }
            @else { (text) }
            @if let Some((shown, class)) = difference { small class=(class) { (shown) } }
        }
    }
}
