//! `twdag plan --why`: one stage, and all there is to say of why it is cached, must run or waits.

use super::{
    arguments::{GraphArguments, target, tell_damage},
    failure::Failure,
    output::{self, FAINT, STRONG, paint, table},
    plan::status,
    remote::tell_unasked,
    settled::{look, settle},
    words::short,
};
use crate::{
    blame::{Blame, exit},
    plan::{self, Differing, DocumentStage, Explanation, Sort},
};

/// Explains a stage.
pub(super) fn explain(graph: &GraphArguments, stage: &str, json: bool) -> Result<u8, Failure> {
    let looked = look(graph, &[stage.to_owned()])?;
    let settled = looked.settled.as_ref().and_then(|(settled, _)| settled.json());
    let document = settled.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some(explanation) = document.and_then(|document| Explanation::of_cached(document, stage)) {
        tell(&explanation, json);
        return Ok(exit::SUCCESS);
    }
    let loaded = graph.load()?;
    let node = target(&loaded, stage)?;
    let store = graph.open(&loaded)?;
    let plan = plan::plan(&loaded, &[node], &store)?;
    tell_damage(&store);
    let explanation = Explanation::of(&loaded, &plan, node, &store)?
        .ok_or_else(|| Failure::new("internal error: a stage is not in its own plan; please report it", Blame::Bug))?;
    tell(&explanation, json);
    if plan.stages.iter().any(|stage| stage.artifact.is_none()) {
        tell_unasked(&loaded.workspace);
    }
    settle(looked.asked.as_ref(), &loaded, &plan, &store);
    Ok(exit::SUCCESS)
}

fn tell(explanation: &Explanation, json: bool) {
    if json {
        output::json(explanation);
    } else {
        output::out(text(explanation));
    }
}

fn text(explanation: &Explanation) -> String {
    let Explanation { stage, last_key, differences, waits_for, .. } = explanation;
    let mut lines = vec![format!("{}: {}, {}\n", paint(STRONG, &stage.name), status(stage.status), stage.kind)];
    if differences.is_empty() {
        lines.push(format!("  {}\n", stage.reason));
    }
    lines.extend(differences.iter().map(difference));
    let row = |stage: &DocumentStage| {
        vec![status(stage.status), stage.name.clone(), stage.kind.clone(), paint(FAINT, &stage.reason)]
    };
    if !waits_for.is_empty() {
        lines.push("what has to run before that is known:\n".to_owned());
        lines.push(table(&waits_for.iter().map(row).collect::<Vec<_>>()));
    }
    lines.push(match (stage.key, last_key) {
        (Some(key), Some(last)) if key != *last => {
            paint(FAINT, format!("key {}, the last one was {}\n", short(key), short(last)))
        }
        (Some(key), _) => paint(FAINT, format!("key {}\n", short(key))),
        (None, Some(last)) => paint(FAINT, format!("its last key was {}\n", short(last))),
        (None, None) => String::new(),
    });
    lines.concat()
}

/// A difference in words, and what they leave out: the contents of inputs and sources before and now.
fn difference(differing: &Differing) -> String {
    let Differing { words, reads, from, to, .. } = differing;
    let digest = |digest: &Option<String>| digest.as_ref().map_or_else(|| "nothing".to_owned(), short);
    match reads {
        Some(reads) if matches!(differing.what, Sort::Input | Sort::Source) => {
            format!("  {words}: {reads}, {} → {}\n", digest(from), digest(to))
        }
        _ => format!("  {words}\n"),
    }
}
