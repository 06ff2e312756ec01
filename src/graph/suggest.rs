//! "Did you mean …?"

use super::{Problem, syntax::Span};

/// The candidate that is most like `wrong`, if one is like enough; the first of equals.
pub(super) fn similar<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut best: Option<(f64, &str)> = None;
    for candidate in candidates {
        let likeness = strsim::jaro_winkler(&wrong.to_lowercase(), &candidate.to_lowercase());
        let near = strsim::damerau_levenshtein(&wrong.to_lowercase(), &candidate.to_lowercase()) <= 1
            && wrong.chars().count() > 1;
        let likeness = if near { likeness + 1.0 } else { likeness };
        if likeness > 0.83 && best.is_none_or(|(other, _)| likeness > other) {
            best = Some((likeness, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// `` `a`, `b`, `c` ``, cut after twelve.
pub(super) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut quoted: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    if quoted.len() > 12 {
        let more = quoted.len() - 12;
        quoted.truncate(12);
        quoted.push(format!("and {more} more"));
    }
    quoted.join(", ")
}

impl Problem {
    /// Proposes the candidate that is like `wrong` as a patch at `span`, or lists all.
    pub(super) fn with_suggestion(
        self,
        what: &str,
        span: Span,
        wrong: &str,
        candidates: &[&str],
        spelling: impl Fn(&str) -> String,
    ) -> Self {
        match similar(wrong, candidates.iter().copied()) {
            Some(right) => {
                self.with_patch(format!("a {what} with a similar name exists: `{right}`"), span, spelling(right))
            }
            None if candidates.is_empty() => self.with_hint(format!("no {what} of another name exists")),
            None => self.with_hint(format!("known {what}s: {}", list(candidates.iter().copied()))),
        }
    }
}
