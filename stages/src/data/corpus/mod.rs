//! Text corpora: files of one document each, of one document a line (JSON), or with a column of documents (Parquet), and archives
//! of such files.

mod archive;
mod form;
mod lines;
mod rows;

use std::{
    fs, iter,
    path::{Path, PathBuf},
    vec,
};

use serde::{Deserialize, Serialize};
use walkdir::WalkDir;

use self::{
    archive::Archive,
    form::{Content, Form, read_text},
    lines::Lines,
    rows::Rows,
};
use super::DataError;

/// One document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its name: `id` of its line, if there is one; else the path of the file below the corpus folder, for a line or row
    /// with its number in the file, from 1. A member's path follows that of its archive.
    pub id: String,
    /// The text.
    pub text: String,
    /// Facts planted in the text; `None` if nothing is known of them.
    pub facts: Option<Vec<Fact>>,
    /// Bytes of the corpus file that it took, to show progress by.
    pub bytes: u64,
    /// Where it lies.
    pub place: DocumentPlace,
}

/// Where a document lies in its [`Corpus`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentPlace {
    /// The number of the file, in the order of the corpus.
    file: usize,
    /// Where in the file.
    within: Within,
}

/// Where a document lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Within {
    /// It is the file.
    Whole,
    /// A line: where it begins, in bytes of the unpacked file, and the lines before it.
    Line { offset: u64, lines: usize },
    /// A row: its row group, its number there, and the rows of the groups before.
    Row { group: usize, row: usize, before: usize },
}

/// A fact that one place of a document states and another place needs. Ranges are half-open, in bytes of the text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What the fact is about.
    pub key: String,
    /// What only the planted sentence tells.
    pub value: String,
    /// Where it is stated.
    pub planted: [usize; 2],
    /// The part of the value, where it is needed again, that nothing but the planted sentence tells.
    pub needed: [usize; 2],
}

/// The documents of some corpus folders, found but not yet read.
#[derive(Clone, Debug)]
pub struct Corpus {
    files: Vec<CorpusFile>,
    column: String,
}

#[derive(Clone, Debug)]
struct CorpusFile {
    path: PathBuf,
    name: String,
    form: Form,
    bytes: u64,
}

/// The field of JSON lines and the column of Parquet files that holds the text, if no other is named.
const COLUMN: &str = "text";

impl Corpus {
    /// Finds the documents below folders (or in single files), folder by folder, within one in byte order of the
    /// paths. Other files are passed over; a folder without any document is an error.
    pub fn open<P: AsRef<Path>>(folders: impl IntoIterator<Item = P>) -> Result<Self, DataError> {
        let mut files = Vec::new();
        for folder in folders {
            let folder = folder.as_ref();
            let mut found = Vec::new();
            for entry in WalkDir::new(folder).follow_links(true) {
                let entry = entry.map_err(|error| DataError::io("read", folder)(error.into()))?;
                let Some(form) = Form::of(entry.path()).filter(|_| entry.file_type().is_file()) else { continue };
                let path = entry.path().to_owned();
                let bytes = fs::metadata(&path).map_err(DataError::io("read", &path))?.len();
                let below = path.strip_prefix(folder).ok().filter(|below| !below.as_os_str().is_empty());
                let name = below.unwrap_or(Path::new(entry.file_name())).to_string_lossy().into_owned();
                found.push(CorpusFile { path, name, form, bytes });
            }
            if found.is_empty() {
                let problem = format!("no text found: expected files that end in {}", Form::NAMES);
                return Err(DataError::content(folder, problem));
            }
            found.sort_by(|left, right| left.name.as_bytes().cmp(right.name.as_bytes()));
            files.append(&mut found);
        }
        Ok(Self { files, column: COLUMN.to_owned() })
    }

    /// Takes the text from another field of JSON lines and column of Parquet files than `text`.
    #[must_use]
    pub fn with_column(self, column: &str) -> Self {
        Self { column: column.to_owned(), ..self }
    }

    /// The size of all files, to show progress by.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Whether [`Corpus::document`] finds each document without reading what is in front of it. Packed lines and archives have to
    /// be unpacked from the first on.
    pub fn has_direct_access(&self) -> bool {
        self.files.iter().all(|file| file.form.has_direct_access())
    }

    /// Reads the documents in order, one at a time.
    pub fn documents(&self) -> Documents {
        let files = self.files.clone().into_iter().enumerate();
        Documents { files, column: self.column.clone(), open: None, failed: false }
    }

    /// Reads one document, found by another look at the same corpus. Those of archives cannot be read alone.
    pub fn document(&self, place: DocumentPlace) -> Result<Document, DataError> {
        let gone = || DataError::content("corpus", format!("there is no document at {place:?} any more"));
        let file = self.files.get(place.file).ok_or_else(gone)?;
        match (file.form.content, place.within) {
            (Content::Text, Within::Whole) => whole(file, place.file),
            (Content::Lines { .. }, Within::Line { offset, lines }) => {
                Lines::open_at(file, place.file, &self.column, offset, lines)?.advance()?.ok_or_else(gone)
            }
            (Content::Rows, Within::Row { group, row, before }) => {
                Rows::open_at(file, place.file, &self.column, group, row, before)?.advance()?.ok_or_else(gone)
            }
            _ => Err(gone()),
        }
    }
}

/// Iterates over the documents of a [`Corpus`] and ends after the first error. It holds one document at a time, of a Parquet file
/// the page that the document lies in, and of a zip archive the directory.
pub struct Documents {
    files: iter::Enumerate<vec::IntoIter<CorpusFile>>,
    column: String,
    open: Option<Open>,
    failed: bool,
}

/// A file of several documents.
enum Open {
    Lines(Lines),
    Rows(Box<Rows>),
    Archive(Box<Archive>),
}

impl Iterator for Documents {
    type Item = Result<Document, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.advance().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

impl Documents {
    fn advance(&mut self) -> Result<Option<Document>, DataError> {
        loop {
            let document = match &mut self.open {
                Some(Open::Lines(lines)) => lines.advance()?,
                Some(Open::Rows(rows)) => rows.advance()?,
                Some(Open::Archive(archive)) => archive.advance()?,
                None => None,
            };
            if document.is_some() {
                return Ok(document);
            }
            self.open = None;
            let Some((number, file)) = self.files.next() else { return Ok(None) };
            match file.form.content {
                Content::Text => return whole(&file, number).map(Some),
                Content::Lines { .. } => {
                    self.open = Some(Open::Lines(Lines::open_at(&file, number, &self.column, 0, 0)?));
                }
                Content::Rows => {
                    self.open = Some(Open::Rows(Box::new(Rows::open_at(&file, number, &self.column, 0, 0, 0)?)));
                }
                Content::Archive(archived) => {
                    self.open = Some(Open::Archive(Box::new(Archive::open(&file, number, archived, &self.column)?)));
                }
            }
        }
    }
}

/// A file that is one document.
fn whole(file: &CorpusFile, number: usize) -> Result<Document, DataError> {
    let (reader, _) = file.form.packing.open(&file.path)?;
    let packing = file.form.packing.name();
    let text = read_text(reader, &file.path, packing)?;
    let place = DocumentPlace { file: number, within: Within::Whole };
    Ok(Document { id: file.name.clone(), text, facts: None, bytes: file.bytes, place })
}
