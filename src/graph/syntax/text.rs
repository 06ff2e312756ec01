//! Strings, raw strings, characters, byte strings.

use super::{super::Problem, lexer::Lexer, tree::Span};

impl Lexer<'_> {
    /// How many `#` stand in front of the raw string that starts here, and how long its prefix is.
    pub(super) fn raw_string_ahead(&self) -> Option<(usize, usize)> {
        let rest = self.rest();
        let prefix = if rest.starts_with("br") { 2 } else { usize::from(rest.starts_with('r')) };
        if prefix == 0 {
            return None;
        }
        let behind = rest.get(prefix..)?;
        let hashes = behind.len() - behind.trim_start_matches('#').len();
        behind.get(hashes..)?.starts_with('"').then_some((hashes, prefix))
    }

    /// Reads `r#"…"#`, at which the position must be.
    pub(super) fn raw_string(&mut self, hashes: usize, prefix: usize) -> Result<String, Problem> {
        let start = self.position;
        self.position += prefix + hashes + 1;
        let opened = self.since(start);
        let close = format!("\"{}", "#".repeat(hashes));
        let Some(length) = self.rest().find(&close) else {
            return Err(Problem::at(opened, "a raw string is never closed", "the string starts here")
                .with_hint(format!("it ends at the first `{close}`")));
        };
        let content = Span::new(self.position, self.position + length).of(self.source).to_owned();
        self.position += length + close.len();
        Ok(content)
    }

    /// Reads `"…"`, at which the position must be.
    pub(super) fn string(&mut self) -> Result<String, Problem> {
        let opened = self.here();
        self.advance();
        let mut content = String::new();
        loop {
            let start = self.position;
            match self.advance() {
                None => {
                    return Err(Problem::at(opened, "a string is never closed", "the string starts here")
                        .with_hint("it ends at the next `\"` that has no `\\` in front"));
                }
                Some('"') => return Ok(content),
                Some('\\') => {
                    if let Some(next) = self.escape(start)? {
                        content.push(next);
                    }
                }
                Some(next) => content.push(next),
            }
        }
    }

    /// Passes `'x'`, at which the position must be.
    pub(super) fn character(&mut self) -> Result<(), Problem> {
        let start = self.position;
        self.advance();
        match self.advance() {
            Some('\\') => {
                self.escape(self.position - 1)?;
            }
            Some('\'') | None => return Err(self.no_character(start)),
            Some(_) => {}
        }
        if self.eat("'") { Ok(()) } else { Err(self.no_character(start)) }
    }

    fn no_character(&self, start: usize) -> Problem {
        Problem::at(self.since(start), "a character is not closed", "expected one character between `'` and `'`")
            .with_hint("strings are written with double quotes: \"text\"")
    }

    /// Resolves what is behind a backslash at `start`; nothing for a line that goes on.
    fn escape(&mut self, start: usize) -> Result<Option<char>, Problem> {
        let Some(next) = self.advance() else { return Ok(None) };
        let resolved = match next {
            '\'' | '"' | '\\' => Some(next),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            '0' => Some('\0'),
            'x' => self.hexadecimal(2),
            'u' if self.eat("{") => {
                let digits = self.rest().find(|next: char| !next.is_ascii_hexdigit()).unwrap_or(0);
                let resolved = self.hexadecimal(digits);
                if self.eat("}") { resolved } else { None }
            }
            '\n' | '\r' => {
                self.eat_while(|next| matches!(next, ' ' | '\t' | '\n' | '\r'));
                return Ok(None);
            }
            _ => None,
        };
        resolved.map(Some).ok_or_else(|| {
            let wrong = self.since(start);
            Problem::at(wrong, format!("`\\{}` is no escape in a string", next.escape_debug()), "unknown escape")
                .with_hint(r#"known are \n \r \t \0 \\ \" \' \x41 \u{41}; a raw string r"…" has none"#)
        })
    }

    fn hexadecimal(&mut self, digits: usize) -> Option<char> {
        let text = self.rest().get(..digits)?;
        let resolved = u32::from_str_radix(text, 16).ok().and_then(char::from_u32)?;
        self.position += digits;
        Some(resolved)
    }
}
