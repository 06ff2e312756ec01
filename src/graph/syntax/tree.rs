//! The nodes of the tree.

use std::ops::Range;

/// A range of bytes in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// One behind the last byte.
    pub end: usize,
}

impl Span {
    /// From `start` up to `end`.
    pub const fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// The same as a range.
    pub const fn range(self) -> Range<usize> {
        self.start..self.end
    }

    /// The text that lies there; nothing if the span is not of this text.
    pub fn of(self, text: &str) -> &str {
        text.get(self.range()).unwrap_or_default()
    }

    /// Whether the byte at `offset` is in it.
    pub const fn contains(self, offset: usize) -> bool {
        self.start <= offset && offset < self.end
    }
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// From its first to its last character, without the white space around it.
    pub span: Span,
    /// What it is.
    pub kind: ValueKind,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// A number, `true`, or a name such as `BF16`; its text is what stands there.
    Word,
    /// A string, with its escapes resolved.
    Text(String),
    /// A character or a byte string.
    Literal,
    /// `Name(field: value)` or `(field: value)`.
    Struct {
        /// Where the name stands.
        name: Option<Span>,
        /// The fields in the order of the text.
        fields: Vec<Field>,
    },
    /// `Name(value, value)`, `(value, value)` or `()`.
    Tuple {
        /// Where the name stands.
        name: Option<Span>,
        /// The values in the order of the text.
        items: Vec<Value>,
    },
    /// `[value, value]`.
    List(Vec<Value>),
    /// `{key: value}`.
    Map(Vec<(Value, Value)>),
}

/// A named value inside a struct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Where the name stands.
    pub name: Span,
    /// What is behind the colon.
    pub value: Value,
}

impl Value {
    /// Where the name in front of the parentheses stands.
    pub fn name(&self) -> Option<Span> {
        match &self.kind {
            ValueKind::Struct { name, .. } | ValueKind::Tuple { name, .. } => *name,
            _ => None,
        }
    }

    /// The content of a string.
    pub fn as_text(&self) -> Option<&str> {
        match &self.kind {
            ValueKind::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Whether this is a call such as `param("x")`, rather than a type or a choice, whose names start with a capital.
    pub fn is_call(&self, source: &str) -> bool {
        self.name().is_some_and(|name| name.of(source).starts_with(|next: char| next.is_lowercase() || next == '_'))
    }

    /// What to underline when the value as a whole is meant: its name if it has one, else the value.
    pub fn head(&self) -> Span {
        self.name().unwrap_or(self.span)
    }

    /// The values directly inside, each with its place as [`SettingError`](twdag_stages::stage::SettingError) spells it.
    pub fn children(&self, source: &str) -> Vec<(String, &Value)> {
        match &self.kind {
            ValueKind::Word | ValueKind::Text(_) | ValueKind::Literal => Vec::new(),
            ValueKind::Struct { fields, .. } => {
                fields.iter().map(|field| (field_name(field.name, source).to_owned(), &field.value)).collect()
            }
            ValueKind::Tuple { items, .. } | ValueKind::List(items) => {
                items.iter().enumerate().map(|(index, item)| (index.to_string(), item)).collect()
            }
            ValueKind::Map(entries) => entries
                .iter()
                .map(|(key, value)| (key.as_text().unwrap_or_else(|| key.span.of(source)).to_owned(), value))
                .collect(),
        }
    }

    /// Calls `visit` for this value and everything inside, outermost first; map keys are not values.
    pub fn walk<'a>(&'a self, visit: &mut impl FnMut(&'a Value)) {
        visit(self);
        match &self.kind {
            ValueKind::Word | ValueKind::Text(_) | ValueKind::Literal => {}
            ValueKind::Struct { fields, .. } => fields.iter().for_each(|field| field.value.walk(visit)),
            ValueKind::Tuple { items, .. } | ValueKind::List(items) => items.iter().for_each(|item| item.walk(visit)),
            ValueKind::Map(entries) => entries.iter().for_each(|(_, value)| value.walk(visit)),
        }
    }

    /// The value at a path such as `shape.lambda`. If it does not stand in the text (a default), the innermost
    /// value on the way there and `false`.
    pub fn locate(&self, path: &str, source: &str) -> (&Value, bool) {
        if path.is_empty() {
            return (self, true);
        }
        // What a call stands for has no places here.
        if self.is_call(source) {
            return (self, false);
        }
        // A map's key may hold dots itself: the longest name that fits wins.
        let best = self
            .children(source)
            .into_iter()
            .filter_map(|(name, child)| {
                let rest = path.strip_prefix(name.as_str())?;
                let rest = if rest.is_empty() { rest } else { rest.strip_prefix('.')? };
                Some((name.len(), child, rest))
            })
            .max_by_key(|(length, ..)| *length);
        match (best, &self.kind) {
            (Some((_, child, rest)), _) => child.locate(rest, source),
            // `Name(value)` around a single value adds nothing to a path.
            (None, ValueKind::Tuple { items, .. }) if items.len() == 1 => {
                items.first().map_or((self, false), |item| item.locate(path, source))
            }
            _ => (self, false),
        }
    }
}

/// A field's name as a program knows it: without the `r#` in front of names that RON could not spell otherwise.
pub(in crate::graph) fn field_name(name: Span, source: &str) -> &str {
    let text = name.of(source);
    text.strip_prefix("r#").unwrap_or(text)
}
