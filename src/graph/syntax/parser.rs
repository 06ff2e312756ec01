//! Text to tree.

use super::{
    super::Problem,
    lexer::{Lexer, is_name_start, is_word_start},
    tree::{Field, Span, Value, ValueKind},
};

/// Deeper nesting is refused; as deep as the `ron` crate goes.
const DEPTH: usize = 100;

/// What was read.
#[derive(Debug)]
pub struct Parsed {
    /// The value; nothing if the text is too broken to go on.
    pub value: Option<Value>,
    /// What is wrong with the text.
    pub problems: Vec<Problem>,
    /// Where a comma is missing: the tree is read as if it stood there.
    pub commas: Vec<usize>,
    /// The extensions that `#![enable(…)]` lines ask for.
    pub extensions: Vec<Span>,
}

/// Reads one value from all of `source`.
pub fn parse(source: &str) -> Parsed {
    let mut parser = Parser {
        lexer: Lexer::new(source),
        commas: Vec::new(),
        problems: Vec::new(),
        extensions: Vec::new(),
        depth: 0,
    };
    let value = match parser.document() {
        Ok(value) => Some(value),
        Err(problem) => {
            parser.problems.push(problem);
            None
        }
    };
    Parsed { value, problems: parser.problems, commas: parser.commas, extensions: parser.extensions }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    commas: Vec<usize>,
    problems: Vec<Problem>,
    extensions: Vec<Span>,
    depth: usize,
}

/// What comes after an element.
enum Next {
    Element,
    End,
}

impl Parser<'_> {
    fn document(&mut self) -> Result<Value, Problem> {
        self.lexer.skip_space()?;
        while self.lexer.starts_with("#!") {
            self.attribute()?;
            self.lexer.skip_space()?;
        }
        let value = self.value()?;
        self.lexer.skip_space()?;
        if self.lexer.peek().is_some() {
            return Err(Problem::at(self.lexer.here(), "there is text behind the end", "nothing may follow here")
                .with_place(value.head(), "the value that ended before"));
        }
        Ok(value)
    }

    /// `#![enable(name, name)]`.
    fn attribute(&mut self) -> Result<(), Problem> {
        let start = self.lexer.position;
        for part in ["#!", "[", "enable", "("] {
            self.lexer.skip_space()?;
            if !self.lexer.eat(part) {
                return Err(self.no_attribute(start));
            }
        }
        loop {
            self.lexer.skip_space()?;
            if self.lexer.eat(")") {
                break;
            }
            if !self.lexer.peek().is_some_and(is_name_start) {
                return Err(self.no_attribute(start));
            }
            let name = self.lexer.word();
            self.extensions.push(name);
            self.lexer.skip_space()?;
            if !self.lexer.eat(",") && !self.lexer.starts_with(")") {
                return Err(self.no_attribute(start));
            }
        }
        self.lexer.skip_space()?;
        if self.lexer.eat("]") { Ok(()) } else { Err(self.no_attribute(start)) }
    }

    fn no_attribute(&self, start: usize) -> Problem {
        Problem::at(self.lexer.since(start), "this is no attribute", "expected `#![enable(implicit_some)]`")
            .with_hint("leave the line out: graph files need none")
    }

    fn value(&mut self) -> Result<Value, Problem> {
        let start = self.lexer.position;
        let kind = match self.lexer.peek() {
            Some('"') => ValueKind::Text(self.lexer.string()?),
            Some('\'') => {
                self.lexer.character()?;
                ValueKind::Literal
            }
            Some('b') if self.lexer.starts_with("b\"") || self.lexer.starts_with("b'") => {
                self.lexer.advance();
                if self.lexer.starts_with("'") {
                    self.lexer.character()?;
                } else {
                    self.lexer.string()?;
                }
                ValueKind::Literal
            }
            Some('(') => self.nested(|parser| parser.parentheses(None))?,
            Some('[') => self.nested(Self::list)?,
            Some('{') => self.nested(Self::map)?,
            Some(next) if is_word_start(next) => match self.lexer.raw_string_ahead() {
                Some((hashes, prefix)) => {
                    let content = self.lexer.raw_string(hashes, prefix)?;
                    if prefix == 1 { ValueKind::Text(content) } else { ValueKind::Literal }
                }
                None => return self.word(),
            },
            _ => return Err(self.unexpected("a value")),
        };
        Ok(Value { span: self.lexer.since(start), kind })
    }

    /// A number, a name, or a name with parentheses.
    fn word(&mut self) -> Result<Value, Problem> {
        let name = self.lexer.word();
        if name.of(self.lexer.source).starts_with(is_name_start) {
            let behind = self.lexer.position;
            self.lexer.skip_space()?;
            if self.lexer.peek() == Some('(') {
                let kind = self.nested(|parser| parser.parentheses(Some(name)))?;
                return Ok(Value { span: self.lexer.since(name.start), kind });
            }
            self.lexer.position = behind;
        }
        Ok(Value { span: name, kind: ValueKind::Word })
    }

    fn nested(&mut self, read: impl FnOnce(&mut Self) -> Result<ValueKind, Problem>) -> Result<ValueKind, Problem> {
        if self.depth == DEPTH {
            let message = format!("values are nested more than {DEPTH} deep");
            return Err(Problem::at(self.lexer.here(), message, "too deep"));
        }
        self.depth += 1;
        let kind = read(self);
        self.depth -= 1;
        kind
    }

    fn parentheses(&mut self, name: Option<Span>) -> Result<ValueKind, Problem> {
        let opened = self.lexer.here();
        self.lexer.advance();
        let (mut fields, mut items) = (Vec::<Field>::new(), Vec::<Value>::new());
        while let Next::Element = self.before_element(opened, ')')? {
            let field = self.field_name()?;
            match field {
                Some(name) if items.is_empty() => fields.push(Field { name, value: self.value()? }),
                None if fields.is_empty() => items.push(self.value()?),
                Some(found) => return Err(mixed(found)),
                None => {
                    let found = self.value()?;
                    let missing =
                        found.kind == ValueKind::Word && found.span.of(self.lexer.source).starts_with(is_name_start);
                    return Err(if missing { no_colon(found.span, self.lexer.source) } else { mixed(found.span) });
                }
            }
            if items.len() == 1 && fields.is_empty() {
                self.refuse_no_colon(items.first())?;
            }
            self.after_element(opened, ')')?;
        }
        Ok(if fields.is_empty() { ValueKind::Tuple { name, items } } else { ValueKind::Struct { name, fields } })
    }

    /// `(name value` or `(name = value` is a field whose colon is missing rather than a tuple whose comma is.
    fn refuse_no_colon(&mut self, item: Option<&Value>) -> Result<(), Problem> {
        let Some(Value { span, kind: ValueKind::Word }) = item else { return Ok(()) };
        let lower = span.of(self.lexer.source).starts_with(|next: char| next.is_lowercase() || next == '_');
        let behind = self.lexer.position;
        self.lexer.skip_space()?;
        let next = self.lexer.peek();
        self.lexer.position = behind;
        if lower && next.is_some_and(|next| !matches!(next, ',' | ')' | ']' | '}')) {
            return Err(no_colon(*span, self.lexer.source));
        }
        Ok(())
    }

    /// Passes `name:` if it is there.
    fn field_name(&mut self) -> Result<Option<Span>, Problem> {
        let start = self.lexer.position;
        if self.lexer.peek().is_some_and(is_name_start) && self.lexer.raw_string_ahead().is_none() {
            let name = self.lexer.word();
            self.lexer.skip_space()?;
            if self.lexer.eat(":") {
                self.lexer.skip_space()?;
                return Ok(Some(name));
            }
        }
        self.lexer.position = start;
        Ok(None)
    }

    fn list(&mut self) -> Result<ValueKind, Problem> {
        let opened = self.lexer.here();
        self.lexer.advance();
        let mut items = Vec::new();
        while let Next::Element = self.before_element(opened, ']')? {
            items.push(self.value()?);
            self.after_element(opened, ']')?;
        }
        Ok(ValueKind::List(items))
    }

    fn map(&mut self) -> Result<ValueKind, Problem> {
        let opened = self.lexer.here();
        self.lexer.advance();
        let mut entries = Vec::new();
        while let Next::Element = self.before_element(opened, '}')? {
            let key = self.value()?;
            self.lexer.skip_space()?;
            if !self.lexer.eat(":") {
                return Err(no_colon(key.span, self.lexer.source));
            }
            self.lexer.skip_space()?;
            entries.push((key, self.value()?));
            self.after_element(opened, '}')?;
        }
        Ok(ValueKind::Map(entries))
    }

    /// At an element, or behind the closing character.
    fn before_element(&mut self, opened: Span, close: char) -> Result<Next, Problem> {
        self.lexer.skip_space()?;
        match self.lexer.peek() {
            Some(next) if next == close => {
                self.lexer.advance();
                Ok(Next::End)
            }
            None | Some(')' | ']' | '}') => Err(self.not_closed(opened, close)),
            Some(_) => Ok(Next::Element),
        }
    }

    /// Passes the comma; goes on without it where the next element obviously starts.
    fn after_element(&mut self, opened: Span, close: char) -> Result<(), Problem> {
        let behind = self.lexer.position;
        self.lexer.skip_space()?;
        match self.lexer.peek() {
            Some(',') => {
                self.lexer.advance();
                Ok(())
            }
            Some(next) if next == close => Ok(()),
            None | Some(')' | ']' | '}') => Err(self.not_closed(opened, close)),
            Some(next) if is_word_start(next) || matches!(next, '"' | '\'' | '(' | '[' | '{') => {
                self.commas.push(behind);
                let place = Span::new(behind, behind);
                self.problems.push(
                    Problem::at(place, "a comma is missing", "expected `,` here")
                        .with_place(self.lexer.here(), "before this")
                        .with_patch("put a comma in", place, ","),
                );
                Ok(())
            }
            Some(_) => Err(self.unexpected(&format!("`,` or `{close}`"))),
        }
    }

    fn not_closed(&self, opened: Span, close: char) -> Problem {
        let open = opened.of(self.lexer.source);
        match self.lexer.peek() {
            Some(found) => Problem::at(
                self.lexer.here(),
                format!("`{found}` does not close `{open}`"),
                format!("expected `{close}`, found `{found}`"),
            )
            .with_place(opened, "opened here"),
            None => Problem::at(opened, format!("`{open}` is never closed"), "opened here")
                .with_hint(format!("the text ends where `{close}` is expected")),
        }
    }

    fn unexpected(&self, expected: &str) -> Problem {
        match self.lexer.peek() {
            Some(found) => Problem::at(
                self.lexer.here(),
                format!("`{}` is unexpected", found.escape_debug()),
                format!("expected {expected}"),
            ),
            None => Problem::at(self.lexer.here(), "the text ends too early", format!("expected {expected}")),
        }
    }
}

fn mixed(found: Span) -> Problem {
    Problem::at(found, "settings with and without a name are mixed", "expected `name: value` everywhere, or nowhere")
}

fn no_colon(name: Span, source: &str) -> Problem {
    let place = Span::new(name.end, name.end);
    let problem = Problem::at(place, format!("a colon is missing behind `{}`", name.of(source)), "expected `:` here");
    let behind = Span::new(name.end, source.len()).of(source);
    let space = behind.len() - behind.trim_start().len();
    if behind.trim_start().starts_with('=') {
        problem.with_patch("write it with a colon", Span::new(name.end, name.end + space + 1), ":")
    } else {
        problem.with_patch("put a colon in", place, ":")
    }
}
