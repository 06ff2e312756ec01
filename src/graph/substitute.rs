//! A stage's text with its parameters put in, which still knows where everything came from.

use super::syntax::Span;

/// A piece of text that takes the place of another.
#[derive(Clone, Debug)]
pub(super) struct Edit {
    /// What is replaced; may be empty.
    pub(super) span: Span,
    /// What takes its place.
    pub(super) text: String,
}

/// The result of edits.
pub(super) struct Edited {
    pub(super) text: String,
    pieces: Vec<Piece>,
}

struct Piece {
    /// Where it starts in the result.
    start: usize,
    /// What it stands for in the original.
    original: Span,
    is_copy: bool,
}

impl Edited {
    /// Carries out edits inside `span` of `source`. An edit that lies in an earlier or longer one is dropped.
    pub(super) fn new(source: &str, span: Span, edits: &[Edit]) -> Self {
        let mut sorted: Vec<&Edit> = edits.iter().collect();
        sorted.sort_by_key(|edit| (edit.span.start, std::cmp::Reverse(edit.span.end)));
        let mut edited = Self { text: String::new(), pieces: Vec::new() };
        let mut from = span.start;
        for edit in sorted {
            if edit.span.start < from || edit.span.end > span.end {
                continue;
            }
            edited.push(Span::new(from, edit.span.start), Span::new(from, edit.span.start).of(source), true);
            edited.push(edit.span, &edit.text, false);
            from = edit.span.end;
        }
        edited.push(Span::new(from, span.end), Span::new(from, span.end).of(source), true);
        edited
    }

    fn push(&mut self, original: Span, text: &str, is_copy: bool) {
        if !text.is_empty() {
            self.pieces.push(Piece { start: self.text.len(), original, is_copy });
            self.text.push_str(text);
        }
    }

    /// Where the byte at `offset` of the result came from; inside a replacement, the start of what it replaced.
    pub(super) fn original(&self, offset: usize) -> usize {
        let after = self.pieces.partition_point(|piece| piece.start <= offset);
        let Some(piece) = after.checked_sub(1).and_then(|index| self.pieces.get(index)) else { return 0 };
        if piece.is_copy {
            (piece.original.start + offset - piece.start).min(piece.original.end)
        } else {
            piece.original.start
        }
    }

    /// How far `offset` of the result lies behind the start of what took the place of `replaced`; nothing in front.
    pub(super) fn inside(&self, replaced: Span, offset: usize) -> usize {
        let piece = self.pieces.iter().find(|piece| !piece.is_copy && piece.original == replaced);
        piece.map_or(0, |piece| offset.saturating_sub(piece.start))
    }

    /// The byte offset of a line and column, both counted from one, columns in characters.
    pub(super) fn offset(&self, position: ron::error::Position) -> usize {
        let mut start = 0;
        for _ in 1..position.line {
            start += self.text.get(start..).and_then(|rest| rest.find('\n')).map_or(0, |end| end + 1);
        }
        let line = self.text.get(start..).unwrap_or_default();
        let column = position.col.saturating_sub(1);
        start + line.char_indices().nth(column).map_or(line.len(), |(offset, _)| offset)
    }
}
