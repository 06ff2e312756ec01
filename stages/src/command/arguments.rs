//! Placeholders in arguments and environment.

use std::path::{Component, Path, PathBuf};

use super::Command;
use crate::stage::{Context, SettingError, StageError};

/// What a placeholder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placeholder<'a> {
    Input(&'a str),
    File(&'a str),
    Output,
    Threads,
}

/// A piece of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    Placeholder(Placeholder<'a>),
}

fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut from, mut at) = (0, 0);
    while let Some(open) = text[at..].find('{').map(|found| at + found) {
        at = open + 1;
        let Some(close) = text[at..].find('}').map(|found| at + found) else { break };
        let name = &text[at..close];
        let placeholder = match name {
            "out" => Placeholder::Output,
            "threads" => Placeholder::Threads,
            _ => match name.split_once('.') {
                Some(("in", input)) => Placeholder::Input(input),
                Some(("file", index)) => Placeholder::File(index),
                _ => continue,
            },
        };
        pieces.push(Piece::Text(&text[from..open]));
        pieces.push(Piece::Placeholder(placeholder));
        from = close + 1;
        at = from;
    }
    pieces.push(Piece::Text(&text[from..]));
    pieces
}

/// All texts with placeholders, each with its place in the settings.
fn texts(command: &Command) -> impl Iterator<Item = (String, &str)> {
    let arguments = command.run.iter().enumerate().map(|(index, text)| (format!("run.{index}"), text.as_str()));
    arguments.chain(command.env.iter().map(|(name, text)| (format!("env.{name}"), text.as_str())))
}

pub(super) fn check(command: &Command) -> Result<(), SettingError> {
    let Some(program) = command.run.first() else {
        return Err(SettingError::new("run", "empty", "a program and its arguments"));
    };
    if program.is_empty() {
        return Err(SettingError::new("run.0", "empty", "a program"));
    }
    if program.contains('/') && !program.starts_with(['/', '{']) {
        let expected = format!("a program in PATH, or `{{file.0}}` with `files: [\"{program}\"]`");
        return Err(SettingError::new("run.0", format!("`{program}`"), expected));
    }
    for (place, text) in texts(command) {
        if text.contains('\0') {
            return Err(SettingError::new(place, "a text with a zero byte", "a text without one"));
        }
        for piece in pieces(text) {
            check_piece(command, &place, piece)?;
        }
    }
    for name in command.env.keys() {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(SettingError::new("env", format!("`{name}`"), "names without `=`"));
        }
    }
    for (index, name) in command.outputs.iter().enumerate() {
        let is_plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        if name.is_empty() || !is_plain {
            let expected = "a path relative to the output folder, without `.` and `..`";
            return Err(SettingError::new(format!("outputs.{index}"), format!("`{name}`"), expected));
        }
    }
    Ok(())
}

fn check_piece(command: &Command, place: &str, piece: Piece<'_>) -> Result<(), SettingError> {
    let (found, expected) = match piece {
        Piece::Placeholder(Placeholder::Input(name)) if !command.inputs.contains_key(name) => {
            let names: Vec<_> = command.inputs.keys().map(|name| format!("`{{in.{name}}}`")).collect();
            let names = if names.is_empty() { "none is declared".to_owned() } else { names.join(", ") };
            (format!("`{{in.{name}}}`"), format!("a name declared in `inputs` ({names})"))
        }
        Piece::Placeholder(Placeholder::File(index)) if file_index(command, index).is_none() => {
            let count = command.files.len();
            (format!("`{{file.{index}}}`"), format!("a number below {count}, the number of `files`"))
        }
        _ => return Ok(()),
    };
    Err(SettingError::new(place, found, expected))
}

fn file_index(command: &Command, index: &str) -> Option<usize> {
    index.parse().ok().filter(|&index| index < command.files.len())
}

/// Puts paths and numbers in the places of the placeholders.
pub(super) fn fill(command: &Command, text: &str, context: &Context) -> Result<String, StageError> {
    let mut filled = String::new();
    for piece in pieces(text) {
        match piece {
            Piece::Text(text) => filled.push_str(text),
            Piece::Placeholder(Placeholder::Threads) => filled.push_str(&context.threads().to_string()),
            Piece::Placeholder(Placeholder::Output) => filled.push_str(&absolute(context.output())?),
            Piece::Placeholder(Placeholder::Input(name)) => {
                let reference = command.inputs.get(name);
                let reference = reference.ok_or_else(|| StageError::Bug(format!("input `{name}` was not checked")))?;
                filled.push_str(&absolute(context.input(reference)?)?);
            }
            Piece::Placeholder(Placeholder::File(index)) => {
                let path = file_index(command, index).and_then(|index| command.files.get(index));
                let path = path.ok_or_else(|| StageError::Bug(format!("file {index} was not checked")))?;
                filled.push_str(&absolute(&context.source(path))?);
            }
        }
    }
    Ok(filled)
}

/// The program does not run where twdag runs, so relative paths would lead it astray.
fn absolute(path: &Path) -> Result<String, StageError> {
    let absolute: PathBuf = std::path::absolute(path).map_err(StageError::io("find", path))?;
    let text = absolute.to_str().map(str::to_owned);
    text.ok_or_else(|| StageError::input(absolute, "the path is no UTF-8 text, which arguments must be"))
}
