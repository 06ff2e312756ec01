//! Which names stages and parameters may have, and how names in quotes are read.

use super::{Problem, syntax::Value};

/// Why `name` cannot be a stage's name.
pub(super) fn refuse_stage(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("a name may not be empty")
    } else if name.contains('/') {
        Some("a `/` may not be in a name: in a reference it parts the stage from the path inside")
    } else if name.starts_with('-') {
        Some("a name may not start with `-`: on the command line it would be an option")
    } else if name == "." || name == ".." {
        Some("this is no name but a folder")
    } else if !name.chars().all(is_allowed) {
        Some("only A-Z a-z 0-9 . _ - = , [ ] may be in a name")
    } else {
        None
    }
}

/// Why `name` cannot be a parameter's name.
pub(super) fn refuse_parameter(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("a name may not be empty")
    } else if name.starts_with('-') {
        Some("a name may not start with `-`")
    } else if !name.chars().all(|next| is_allowed(next) && next != '=') {
        Some("only A-Z a-z 0-9 . _ - , [ ] may be in such a name")
    } else {
        None
    }
}

/// Why `name` cannot be a resource's name.
pub(super) fn refuse_resource(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("a name may not be empty")
    } else if name.starts_with('-') {
        Some("a name may not start with `-`")
    } else if !name.chars().all(|next| next.is_ascii_alphanumeric() || matches!(next, '.' | '_' | '-')) {
        Some("only A-Z a-z 0-9 . _ - may be in a resource's name")
    } else {
        None
    }
}

fn is_allowed(next: char) -> bool {
    next.is_ascii_alphanumeric() || matches!(next, '.' | '_' | '-' | '=' | ',' | '[' | ']')
}

/// The content of a key, which must be a string.
pub(super) fn quoted<'a>(key: &'a Value, what: &str, source: &str, problems: &mut Vec<Problem>) -> Option<&'a str> {
    let text = key.as_text();
    if text.is_none() {
        let found = key.span.of(source);
        problems.push(
            Problem::at(key.span, format!("a {what}'s name must be in quotes"), "expected a string").with_patch(
                "put it in quotes",
                key.span,
                format!("\"{}\"", found.escape_debug()),
            ),
        );
    }
    text
}
