//! Documents of JSON lines.

use std::{
    fs::File,
    io::{BufRead, BufReader, Seek, SeekFrom},
    path::PathBuf,
};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    super::DataError,
    Content, CorpusFile, Document, DocumentPlace, Fact, Within,
    form::{Packed, Packing, read_line},
};

/// A line of a file that a stage wrote.
#[derive(Deserialize)]
struct WrittenLine {
    id: String,
    text: String,
    #[serde(default)]
    facts: Option<Vec<Fact>>,
}

/// A file of JSON lines, and where it is read.
pub(super) struct Lines {
    path: PathBuf,
    name: String,
    reader: Box<dyn BufRead + Send>,
    /// How it is packed, by name.
    packing: Option<&'static str>,
    packed: Option<Packed>,
    /// Bytes of the packed file that were counted.
    counted: u64,
    column: String,
    has_facts: bool,
    file: usize,
    offset: u64,
    /// Lines before the next one.
    before: usize,
}

/// Where lines come from.
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// What documents without an `id` are named after.
    pub(super) name: String,
    pub(super) reader: Box<dyn BufRead + Send>,
    /// How they are packed, by name.
    pub(super) packing: Option<&'static str>,
    /// The packed file, if it holds nothing else.
    pub(super) packed: Option<Packed>,
    /// The number of the corpus file.
    pub(super) file: usize,
}

impl Lines {
    /// Opens a file at its first line.
    pub(super) fn open(file: &CorpusFile, number: usize, column: &str) -> Result<Self, DataError> {
        let (reader, packed): (Box<dyn BufRead + Send>, _) = if file.form.packing == Packing::None {
            let open = File::open(&file.path).map_err(DataError::io("read", &file.path))?;
            (Box::new(BufReader::new(open)), None)
        } else {
            let (reader, packed) = file.form.packing.open(&file.path)?;
            (reader, Some(packed))
        };
        let (path, name, packing) = (file.path.clone(), file.name.clone(), file.form.packing.name());
        let source = Source { path, name, reader, packing, packed, file: number };
        Ok(Self::read_from(source, column, file.form.content == Content::Lines { facts: true }))
    }

    /// Whether a line comes only after what was read.
    pub(super) fn is_before(&self, offset: u64) -> bool {
        self.offset <= offset
    }

    /// The document of the line that begins at `offset`, with so many `lines` before it. Packed lines are read up to there.
    pub(super) fn find(&mut self, offset: u64, lines: usize) -> Result<Option<Document>, DataError> {
        if self.packing.is_none() {
            let mut open = File::open(&self.path).map_err(DataError::io("read", &self.path))?;
            open.seek(SeekFrom::Start(offset)).map_err(DataError::io("read", &self.path))?;
            self.reader = Box::new(BufReader::new(open));
            (self.offset, self.before) = (offset, lines);
        } else {
            let mut bytes = Vec::new();
            while self.offset < offset && self.read(&mut bytes)? > 0 {}
        }
        if self.offset == offset { self.advance() } else { Ok(None) }
    }

    /// Reads lines from the first one on. They may tell of planted facts if a stage has written them.
    pub(super) fn read_from(source: Source, column: &str, is_written: bool) -> Self {
        let Source { path, name, reader, packing, packed, file } = source;
        let has_facts = is_written && column == super::COLUMN;
        let column = column.to_owned();
        Self { path, name, reader, packing, packed, counted: 0, column, has_facts, file, offset: 0, before: 0 }
    }

    /// Reads a line and counts it.
    fn read(&mut self, bytes: &mut Vec<u8>) -> Result<usize, DataError> {
        bytes.clear();
        let read = read_line(&mut self.reader, bytes, &self.path, self.packing)?;
        self.offset += read as u64;
        self.before += usize::from(read > 0);
        Ok(read)
    }

    /// The next document.
    pub(super) fn advance(&mut self) -> Result<Option<Document>, DataError> {
        let mut bytes = Vec::new();
        loop {
            let within = Within::Line { offset: self.offset, lines: self.before };
            let read = self.read(&mut bytes)? as u64;
            if read == 0 {
                return Ok(None);
            }
            if bytes.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let (id, text, facts) = if self.has_facts { self.written(&bytes)? } else { self.foreign(&bytes)? };
            let taken = match &mut self.packed {
                Some(packed) => {
                    let before = std::mem::replace(&mut self.counted, packed.position());
                    self.counted - before
                }
                None => read,
            };
            let place = DocumentPlace { file: self.file, within };
            return Ok(Some(Document { id, text, facts, bytes: taken, place }));
        }
    }

    fn written(&self, bytes: &[u8]) -> Result<(String, String, Option<Vec<Fact>>), DataError> {
        let line: WrittenLine = self.parse(bytes)?;
        for (number, fact) in line.facts.iter().flatten().enumerate() {
            for (name, [from, to]) in [("planted", fact.planted), ("needed", fact.needed)] {
                if from >= to || line.text.get(from..to).is_none() {
                    let (at, length) = (self.before, line.text.len());
                    return Err(self.wrong(format!(
                        "line {at}, fact {number}: `{name}` [{from}, {to}] is no range of characters of a text of \
                         {length} bytes"
                    )));
                }
            }
        }
        Ok((line.id, line.text, line.facts))
    }

    /// A line of anybody's: an object with the text in one of its fields.
    fn foreign(&self, bytes: &[u8]) -> Result<(String, String, Option<Vec<Fact>>), DataError> {
        let mut line: Map<String, Value> = self.parse(bytes)?;
        let at = self.before;
        let text = match line.remove(&self.column) {
            Some(Value::String(text)) => text,
            Some(_) => return Err(self.wrong(format!("line {at}: the field `{}` is no text", self.column))),
            None => {
                let fields: Vec<String> = line.keys().map(|field| format!("`{field}`")).collect();
                return Err(self.wrong(format!(
                    "line {at}: no field `{}`; it has {}",
                    self.column,
                    if fields.is_empty() { "none".to_owned() } else { fields.join(", ") }
                )));
            }
        };
        let id = match line.remove("id") {
            Some(Value::String(id)) => id,
            _ => format!("{}:{at}", self.name),
        };
        Ok((id, text, None))
    }

    fn parse<'b, T: Deserialize<'b>>(&self, bytes: &'b [u8]) -> Result<T, DataError> {
        serde_json::from_slice(bytes).map_err(|error| {
            // The library counts lines from the start of what it was given, which is one line here.
            let what = error.to_string();
            let what = what.rsplit_once(" at line ").map_or(what.as_str(), |(what, _)| what);
            self.wrong(format!("line {}, column {}: no document ({what})", self.before, error.column()))
        })
    }

    fn wrong(&self, problem: String) -> DataError {
        DataError::content(&self.path, problem)
    }
}
