//! The `profiles` block: sets of values for parameters, of which one can be chosen by name.

use super::{
    Problem,
    outline::{Entry, Named, entries},
    parameters::{class, refuse_calls},
    suggest::{list, similar},
    translate::describe,
};

/// The values of the chosen profile. All profiles are checked, so that one is not found broken when it is needed.
pub(super) fn values<'a>(
    profiles: &[Entry<'a>],
    chosen: Option<&str>,
    parameters: &[Entry<'_>],
    source: &str,
    problems: &mut Vec<Problem>,
) -> Vec<Entry<'a>> {
    let mut values = Vec::new();
    for profile in profiles {
        let found = read(profile, parameters, source, problems);
        if chosen == Some(profile.name) {
            values = found;
        }
    }
    if let Some(name) = chosen
        && !profiles.iter().any(|profile| profile.name == name)
    {
        problems.push(unknown(name, profiles));
    }
    values
}

/// The values of a profile that can be used.
fn read<'a>(
    profile: &Entry<'a>,
    parameters: &[Entry<'_>],
    source: &str,
    problems: &mut Vec<Problem>,
) -> Vec<Entry<'a>> {
    let mut values = entries(Named::Value, &format!("profiles.{}", profile.name), profile.value, source, problems);
    values.retain(|value| {
        let told = check(profile.name, value, parameters, source);
        let is_good = told.is_empty();
        problems.extend(told);
        is_good
    });
    values
}

fn check(profile: &str, value: &Entry<'_>, parameters: &[Entry<'_>], source: &str) -> Vec<Problem> {
    let name = value.name;
    let Some(parameter) = parameters.iter().find(|parameter| parameter.name == name) else {
        let message = format!("profile `{profile}` gives a value to `{}`, which is no parameter", name.escape_debug());
        let names: Vec<&str> = parameters.iter().map(|parameter| parameter.name).collect();
        let spelling = |right: &str| format!("\"{right}\"");
        let problem = Problem::at(value.name_span, message, "not in `params`");
        return vec![problem.with_suggestion("parameter", value.name_span, name, &names, spelling)];
    };
    let refused = refuse_calls(value.value, source);
    if !refused.is_empty() {
        return refused;
    }
    let (expected, found) = (class(parameter.value, source), class(value.value, source));
    if expected == found {
        return Vec::new();
    }
    let message = format!(
        "profile `{profile}` makes parameter `{name}` {}, expected {}",
        describe(value.value, source),
        expected.words()
    );
    let problem = Problem::at(value.value.head(), message, format!("expected {}", expected.words()));
    vec![problem.with_place(parameter.span(), "the parameter's default")]
}

fn unknown(name: &str, profiles: &[Entry<'_>]) -> Problem {
    let problem = Problem::of_file(format!("`--profile {name}`: the graph has no profile `{name}`"));
    let names: Vec<&str> = profiles.iter().map(|profile| profile.name).collect();
    match similar(name, names.iter().copied()) {
        Some(right) => problem.with_hint(format!("a profile with a similar name exists: `--profile {right}`")),
        None if names.is_empty() => problem.with_hint(
            "it has none at all; leave the option out, or give the graph one: `profiles: {\"name\": {\"parameter\": \
             value}}`",
        ),
        None => problem.with_hint(format!("its profiles: {}", list(names))),
    }
}
