//! What is wrong with a graph, as data, and how it looks when told.

use std::{fmt, path::PathBuf};

use annotate_snippets::{AnnotationKind, Group, Level, Patch, Renderer, Snippet};

use super::syntax::Span;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, in one sentence.
    pub message: String,
    /// Where; nothing if the file as a whole is meant.
    pub span: Option<Span>,
    /// What to say at that place.
    pub label: String,
    /// Other places that matter.
    pub places: Vec<(Span, String)>,
    /// What explains it, and ways out.
    pub remarks: Vec<Remark>,
}

/// What helps with a problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remark {
    /// An explanation.
    Note(String),
    /// What to do.
    Hint(String),
    /// What to do, as a change of the file.
    Patch {
        /// What to do.
        message: String,
        /// What to replace; may be empty.
        span: Span,
        /// What takes its place.
        text: String,
    },
}

impl Problem {
    /// A problem at a place.
    pub fn at(span: Span, message: impl Into<String>, label: impl Into<String>) -> Self {
        Self { span: Some(span), label: label.into(), ..Self::of_file(message) }
    }

    /// A problem of the file as a whole.
    pub fn of_file(message: impl Into<String>) -> Self {
        Self { message: message.into(), span: None, label: String::new(), places: Vec::new(), remarks: Vec::new() }
    }

    pub(super) fn with_place(mut self, span: Span, label: impl Into<String>) -> Self {
        self.places.push((span, label.into()));
        self
    }

    pub(super) fn with_note(mut self, note: impl Into<String>) -> Self {
        self.remarks.push(Remark::Note(note.into()));
        self
    }

    /// With a way out.
    #[must_use]
    pub fn with_hint(mut self, message: impl Into<String>) -> Self {
        self.remarks.push(Remark::Hint(message.into()));
        self
    }

    pub(super) fn with_patch(mut self, message: impl Into<String>, span: Span, text: impl Into<String>) -> Self {
        self.remarks.push(Remark::Patch { message: message.into(), span, text: text.into() });
        self
    }

    fn groups<'a>(&'a self, path: &'a str, source: &'a str) -> Vec<Group<'a>> {
        let title = Level::ERROR.primary_title(self.message.as_str());
        let mut first = match self.span {
            None => Group::with_title(title).element(annotate_snippets::Origin::path(path)),
            Some(span) => {
                let primary = AnnotationKind::Primary.span(span.range()).label(self.label.as_str());
                let others = self
                    .places
                    .iter()
                    .map(|(span, label)| AnnotationKind::Context.span(span.range()).label(label.as_str()));
                title.element(Snippet::source(source).path(path).annotation(primary).annotations(others))
            }
        };
        for remark in &self.remarks {
            first = match remark {
                Remark::Note(message) => first.element(Level::NOTE.message(message.as_str())),
                Remark::Hint(message) => first.element(Level::HELP.message(message.as_str())),
                Remark::Patch { .. } => first,
            };
        }
        let mut groups = vec![first];
        for remark in &self.remarks {
            if let Remark::Patch { message, span, text } = remark {
                let snippet = Snippet::source(source).patch(Patch::new(span.range(), text.as_str()));
                groups.push(Level::HELP.secondary_title(message.as_str()).element(snippet));
            }
        }
        groups
    }
}

/// A graph that cannot be used, with everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphError {
    /// The file as the user named it.
    pub path: PathBuf,
    /// What was read of it; spans are places in this text.
    pub source: String,
    /// What is wrong, in the order of the file.
    pub problems: Vec<Problem>,
}

impl std::error::Error for GraphError {}

impl fmt::Display for GraphError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.render(false))
    }
}

impl GraphError {
    /// Problems of a file; the text is what was read of it.
    pub fn new(path: impl Into<PathBuf>, source: impl Into<String>, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.span);
        Self { path: path.into(), source: source.into(), problems }
    }

    /// All problems as the Rust compiler would tell them, a blank line between each two.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let path = self.path.display().to_string();
        let told: Vec<String> =
            self.problems.iter().map(|problem| renderer.render(&problem.groups(&path, &self.source))).collect();
        told.join("\n\n")
    }
}
