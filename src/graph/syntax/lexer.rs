//! Characters, white space, comments, words.

use super::{super::Problem, tree::Span};

/// A position in a text that only moves forward, at character boundaries.
pub(super) struct Lexer<'a> {
    pub(super) source: &'a str,
    pub(super) position: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(source: &'a str) -> Self {
        // Some editors put a byte order mark in front.
        Self { source, position: if source.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 } }
    }

    pub(super) fn rest(&self) -> &'a str {
        self.source.get(self.position..).unwrap_or_default()
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    pub(super) fn starts_with(&self, text: &str) -> bool {
        self.rest().starts_with(text)
    }

    pub(super) fn advance(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.position += next.len_utf8();
        Some(next)
    }

    pub(super) fn eat(&mut self, text: &str) -> bool {
        let found = self.starts_with(text);
        if found {
            self.position += text.len();
        }
        found
    }

    pub(super) fn eat_while(&mut self, fits: impl Fn(char) -> bool) {
        let rest = self.rest();
        self.position += rest.find(|next| !fits(next)).unwrap_or(rest.len());
    }

    /// The next character, or an empty span at the end.
    pub(super) fn here(&self) -> Span {
        Span::new(self.position, self.position + self.peek().map_or(0, char::len_utf8))
    }

    pub(super) fn since(&self, start: usize) -> Span {
        Span::new(start, self.position)
    }

    /// Passes white space and comments, which nest.
    pub(super) fn skip_space(&mut self) -> Result<(), Problem> {
        loop {
            self.eat_while(is_space);
            if self.starts_with("//") {
                self.eat_while(|next| next != '\n');
            } else if self.starts_with("/*") {
                self.skip_block_comment()?;
            } else {
                return Ok(());
            }
        }
    }

    fn skip_block_comment(&mut self) -> Result<(), Problem> {
        let start = self.position;
        let mut depth = 0_usize;
        loop {
            if self.eat("/*") {
                depth += 1;
            } else if self.eat("*/") {
                depth -= 1;
                if depth == 0 {
                    return Ok(());
                }
            } else if self.advance().is_none() {
                let opened = Span::new(start, start + 2);
                return Err(Problem::at(opened, "a comment is never closed", "the comment starts here")
                    .with_hint("block comments nest: each `/*` needs its own `*/`"));
            }
        }
    }

    /// Passes a number or a name, at which the position must be.
    pub(super) fn word(&mut self) -> Span {
        let start = self.position;
        let is_number = !self.peek().is_some_and(is_name_start);
        if self.eat("r#") {
            self.eat_while(|next| is_name(next) || matches!(next, '.' | '+' | '-'));
            return self.since(start);
        }
        let mut previous = '\0';
        while let Some(next) = self.peek() {
            let sign =
                matches!(next, '+' | '-') && (self.position == start || is_number && matches!(previous, 'e' | 'E'));
            if !(is_name(next) || is_number && next == '.' || sign) {
                break;
            }
            previous = next;
            self.advance();
        }
        self.since(start)
    }
}

pub(super) const fn is_space(next: char) -> bool {
    matches!(
        next,
        ' ' | '\t' | '\n' | '\r' | '\x0B' | '\x0C' | '\u{85}' | '\u{200E}' | '\u{200F}' | '\u{2028}' | '\u{2029}'
    )
}

pub(super) fn is_name_start(next: char) -> bool {
    next == '_' || next.is_alphabetic()
}

fn is_name(next: char) -> bool {
    next == '_' || next.is_alphanumeric()
}

pub(super) fn is_word_start(next: char) -> bool {
    is_name(next) || matches!(next, '+' | '-' | '.')
}
